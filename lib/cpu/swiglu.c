/* swiglu: y = silu(gate) * up, where u holds gate and up side by side. */
#include "cpu_ops.h"
#include "local.h"
#include "vmath.h"

#include <assert.h>

struct swiglu_job {
    const struct tensor *y, *u, *dy, *du;
};

static void fwd_worker(void *arg, int worker, int n_workers)
{
    const struct swiglu_job *job = arg;
    const int64_t F = tensor_cols(job->y);
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->y), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const float *gate = row(job->u, (int64_t)m), *up = gate + F;
        float *restrict y = row(job->y, (int64_t)m);
        for (int64_t f = 0; f < F; f++)
            y[f] = vsilu(gate[f]) * up[f];
    }
}

void cpu_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
    assert(tensor_cols(u) == 2 * tensor_cols(y) && tensor_rows(u) == tensor_rows(y));
    struct swiglu_job job = {.y = y, .u = u};
    run_sized(dev, (int64_t)tensor_count(u), fwd_worker, &job);
}

static void bwd_worker(void *arg, int worker, int n_workers)
{
    const struct swiglu_job *job = arg;
    const int64_t F = tensor_cols(job->dy);
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->dy), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const float *gate = row(job->u, (int64_t)m), *up = gate + F, *dy = row(job->dy, (int64_t)m);
        float *dgate = row(job->du, (int64_t)m), *dup = dgate + F;
#pragma omp simd
        for (int64_t f = 0; f < F; f++) {
            const float s = vsigmoid(gate[f]), silu = gate[f] * s;
            const float by_gate = dy[f] * up[f] * (s + silu * (1 - s));
            dup[f] = dy[f] * silu;
            dgate[f] = by_gate;
        }
    }
}

/* y is made first: du may take u's place. */
void cpu_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y, const struct tensor *dy,
                    const struct tensor *u)
{
    assert(tensor_cols(u) == 2 * tensor_cols(dy) && tensor_cols(du) == tensor_cols(u));
    if (y)
        cpu_swiglu_fwd(dev, y, u);
    struct swiglu_job job = {.dy = dy, .u = u, .du = du};
    run_sized(dev, (int64_t)tensor_count(u), bwd_worker, &job);
}
