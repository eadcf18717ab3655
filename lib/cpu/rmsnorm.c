/* rmsnorm: y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps); Zhang & Sennrich 2019, equation 4.
 * With h = dy * w: dx = rstd * (h - x * rstd^2 * mean(h x)), dw = sum over rows of dy * x * rstd.
 * Each worker sums its rows' part of dw in the workspace; the parts are added in worker order. */
#include "cpu_ops.h"
#include "local.h"

#include <assert.h>
#include <math.h>

struct norm_job {
    const struct tensor *y, *x, *w, *dx, *dy;
    float *rstd;
    const float *kept_rstd;
    float *partial; /* (workers,D) */
    int n_partials;
    float eps;
};

static void fwd_worker(void *arg, int worker, int n_workers)
{
    const struct norm_job *job = arg;
    const int64_t D = tensor_cols(job->x);
    const float *w = job->w->data;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->x), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const float *x = row(job->x, (int64_t)m);
        float *y = row(job->y, (int64_t)m);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < D; d++)
            sum += x[d] * x[d];
        const float rstd = 1 / sqrtf(sum / (float)D + job->eps);
#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            y[d] = w[d] * (x[d] * rstd);
        if (job->rstd)
            job->rstd[m] = rstd;
    }
}

void cpu_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd, const struct tensor *x,
                     const struct tensor *w, float eps)
{
    assert(tensor_cols(y) == tensor_cols(x) && tensor_cols(w) == tensor_cols(x));
    struct norm_job job = {.y = y, .rstd = rstd, .x = x, .w = w, .eps = eps};
    run_sized(dev, (int64_t)tensor_count(x), fwd_worker, &job);
}

static void bwd_worker(void *arg, int worker, int n_workers)
{
    struct norm_job *job = arg;
    const int64_t D = tensor_cols(job->x);
    const float *w = job->w->data;
    float *dw = job->partial + worker * D;
    size_t begin, end;
    if (worker == 0)
        job->n_partials = n_workers;
    memset(dw, 0, (size_t)D * sizeof *dw);
    pool_share((size_t)tensor_rows(job->x), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const float *x = row(job->x, (int64_t)m), *dy = row(job->dy, (int64_t)m);
        float *dx = row(job->dx, (int64_t)m);
        const float rstd = job->kept_rstd[m];
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < D; d++)
            sum += dy[d] * w[d] * x[d];
        const float pull = rstd * rstd * rstd * sum / (float)D;
#pragma omp simd
        for (int64_t d = 0; d < D; d++) {
            dw[d] += dy[d] * (x[d] * rstd);
            dx[d] += rstd * (dy[d] * w[d]) - pull * x[d];
        }
    }
}

void cpu_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, const struct tensor *dy,
                     const struct tensor *x, const float *rstd, const struct tensor *w)
{
    const int64_t D = tensor_cols(x);
    assert(tensor_cols(dx) == D && tensor_cols(dy) == D && tensor_cols(w) == D);
    struct norm_job job = {
        .dx = dx, .dy = dy, .x = x, .w = w, .kept_rstd = rstd, .partial = dev->work};
    run_sized(dev, (int64_t)tensor_count(x), bwd_worker, &job);
    add_partials(dw->data, job.partial, job.n_partials, D);
}

size_t cpu_rmsnorm_plan(const struct dev *dev, const struct sizes *s)
{
    return (size_t)pool_size(pool_of(dev)) * (size_t)s->D * sizeof(float);
}
