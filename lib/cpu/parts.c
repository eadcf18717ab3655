/* parts: see parts.h. */
#include "parts.h"

#include <string.h>

/* So many that n_units groups keep all workers busy; 1 where there are groups enough. */
static int n_parts(int n_workers, int n_units, int heads)
{
    const int parts = (n_workers + n_units - 1) / n_units;
    return parts < heads ? parts : heads;
}

/* Bound of n_units * n_parts over all n_units up to the given one, where n_parts is above 1. */
static size_t max_part_units(int n_workers, int n_units, int heads)
{
    const size_t by_workers = 2 * (size_t)n_workers, by_heads = (size_t)n_units * (size_t)heads;
    if (n_workers < 2)
        return 0;
    return by_workers < by_heads ? by_workers : by_heads;
}

size_t parts_plan(int n_workers, int n_units, int heads, int T, int width)
{
    struct scratch s = {0};
    scratch_floats(&s, max_part_units(n_workers, n_units, heads) * 2 * (size_t)T * (size_t)width);
    return s.used;
}

void parts_carve(struct parts *p, struct scratch *s, int n_workers, int n_units, int T)
{
    p->n = n_parts(n_workers, n_units, p->heads);
    if (p->n > 1)
        p->sums =
            scratch_floats(s, (size_t)n_units * (size_t)p->n * 2 * (size_t)T * (size_t)p->width);
}

struct mat parts_at(const struct parts *p, int part, int which, int64_t r, int g)
{
    const struct tensor *to = p->to[which];
    const int64_t first = (int64_t)g * p->width, cols = tensor_cols(to);
    if (p->n == 1)
        return (struct mat){row(to, r) + first, to->ld};
    return (struct mat){p->sums + ((part * 2 + which) * tensor_rows(to) + r) * cols + first, cols};
}

static void add_share(void *arg, int worker, int n_workers)
{
    const struct parts *p = arg;
    const int64_t cols = tensor_cols(p->to[0]);
    size_t begin, end;
    pool_share((size_t)tensor_rows(p->to[0]), 1, worker, n_workers, &begin, &end);
    for (int which = 0; which < 2; which++)
        for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
            float *restrict to = row(p->to[which], r);
            memcpy(to, parts_at(p, 0, which, r, 0).p, sizeof(float) * (size_t)cols);
            for (int part = 1; part < p->n; part++) {
                const float *restrict from = parts_at(p, part, which, r, 0).p;
                for (int64_t i = 0; i < cols; i++)
                    to[i] += from[i];
            }
        }
}

void parts_add(struct parts *p, struct dev *dev)
{
    if (p->n > 1)
        pool_run(pool_of(dev), add_share, p);
}
