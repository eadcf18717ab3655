/* optim: see optim.h. */
#include "optim.h"

#include <stdlib.h>

static void carve(struct optim *o, const struct params *p, struct arena *a)
{
    o->m = arena_take(a, p->count * sizeof(float), MEM_MOMENTS);
    o->v = arena_take(a, p->count * sizeof(float), MEM_MOMENTS);
}

void optim_plan(const struct params *p, struct arena *plan)
{
    struct optim none;
    struct arena a = {0};
    carve(&none, p, &a);
    plan->used += a.used;
    plan->by_kind[MEM_MOMENTS] += a.used;
}

/* Fewer, longer calls of adamw: parameters in a row with the same rule are one run. The padding
 * between them is zero and stays zero. */
static int find_runs(struct optim *o, const struct params *p, struct err *err)
{
    o->run = calloc((size_t)p->n, sizeof *o->run);
    if (!o->run)
        return err_oom(err, (size_t)p->n * sizeof *o->run);
    for (int i = 0; i < p->n; i++) {
        const struct param *q = &p->list[i];
        struct optim_run *last = o->n_runs ? &o->run[o->n_runs - 1] : NULL;
        if (last && last->has_decay == q->has_decay)
            last->count = q->offset + q->count - last->offset;
        else
            o->run[o->n_runs++] = (struct optim_run){q->offset, q->count, q->has_decay};
    }
    return 0;
}

int optim_open(struct optim *o, const struct params *p, struct dev *dev, struct err *err)
{
    *o = (struct optim){.dev = dev};
    struct arena a = {0};
    carve(o, p, &a);
    const size_t bytes = a.used;
    if (dev_alloc(dev, &o->block, bytes, err) != 0 || find_runs(o, p, err) != 0) {
        optim_close(o);
        return -1;
    }
    a = (struct arena){.base = o->block};
    carve(o, p, &a);
    dev_zero(dev, o->block, bytes);
    return 0;
}

void optim_close(struct optim *o)
{
    if (o->dev)
        dev_free(o->dev, o->block);
    free(o->run);
    *o = (struct optim){0};
}

void optim_step(struct optim *o, struct model *m)
{
    const struct ops *ops = o->dev->ops;
    ops->gnorm(o->dev, m->ctl, m->grad, m->params.count);
    for (int i = 0; i < o->n_runs; i++) {
        const size_t at = o->run[i].offset;
        ops->adamw(o->dev, m->master + at, o->m + at, o->v + at, m->grad + at, o->run[i].count,
                   o->run[i].has_decay, m->ctl);
    }
    model_refresh(m);
}
