/* gatenorm: the gated RMSNorm of Mamba-2, gate before norm: v = y silu(z), out = w * v * rstd, over
 * all E channels. The backward is that of rmsnorm for v, then dy = dv silu(z), dz = dv y silu'(z).
 * Workspace of a worker: its part of dw (E), then v (E) and sigmoid(z) (E) of the row at hand. */
#include "cpu_ops.h"
#include "local.h"
#include "vmath.h"

#include <assert.h>

struct gate_job {
    const struct tensor *out, *y, *z, *w, *dy, *dz, *dout;
    float *rstd;
    const float *kept_rstd;
    float *work; /* (workers,E), then (workers,2,E) */
    int n_seats, n_partials;
    float eps;
};

static void fwd_worker(void *arg, int worker, int n_workers)
{
    const struct gate_job *job = arg;
    const int64_t E = tensor_cols(job->y);
    const float *w = job->w->data;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->y), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        const float *y = row(job->y, (int64_t)m), *z = row(job->z, (int64_t)m);
        float *out = row(job->out, (int64_t)m);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t e = 0; e < E; e++) {
            const float v = y[e] * vsilu(z[e]);
            out[e] = v;
            sum += v * v;
        }
        const float rstd = 1 / sqrtf(sum / (float)E + job->eps);
#pragma omp simd
        for (int64_t e = 0; e < E; e++)
            out[e] = w[e] * (out[e] * rstd);
        if (job->rstd)
            job->rstd[m] = rstd;
    }
}

void cpu_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd, const struct tensor *y,
                      const struct tensor *z, const struct tensor *w, float eps)
{
    assert(tensor_cols(out) == tensor_cols(y) && tensor_cols(z) == tensor_cols(y));
    struct gate_job job = {.out = out, .rstd = rstd, .y = y, .z = z, .w = w, .eps = eps};
    run_sized(dev, 4 * (int64_t)tensor_count(y), fwd_worker, &job);
}

static void bwd_row(const struct gate_job *job, int64_t m, float *dw, float *v, float *sig)
{
    const int64_t E = tensor_cols(job->y);
    const float *w = job->w->data, *dout = row(job->dout, m), *y = row(job->y, m);
    const float *z = row(job->z, m), rstd = job->kept_rstd[m];
    float *dy = row(job->dy, m), *dz = row(job->dz, m);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; e++) {
        sig[e] = vsigmoid(z[e]);
        v[e] = y[e] * (z[e] * sig[e]);
        sum += dout[e] * w[e] * v[e];
    }
    const float pull = rstd * rstd * rstd * sum / (float)E;
#pragma omp simd
    for (int64_t e = 0; e < E; e++) {
        const float dv = rstd * (dout[e] * w[e]) - pull * v[e];
        const float silu = z[e] * sig[e], dsilu = dv * y[e];
        dw[e] += dout[e] * (v[e] * rstd);
        dy[e] = dv * silu;
        dz[e] = dsilu * (sig[e] + silu * (1 - sig[e]));
    }
}

static void bwd_worker(void *arg, int worker, int n_workers)
{
    struct gate_job *job = arg;
    const int64_t E = tensor_cols(job->y);
    float *dw = job->work + worker * E;
    float *v = job->work + (job->n_seats + 2 * worker) * E, *sig = v + E;
    size_t begin, end;
    if (worker == 0)
        job->n_partials = n_workers;
    memset(dw, 0, (size_t)E * sizeof *dw);
    pool_share((size_t)tensor_rows(job->y), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++)
        bwd_row(job, (int64_t)m, dw, v, sig);
}

void cpu_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz, struct tensor *dw,
                      const struct tensor *dout, const struct tensor *y, const struct tensor *z,
                      const float *rstd, const struct tensor *w)
{
    const int64_t E = tensor_cols(y);
    assert(tensor_cols(dout) == E && tensor_cols(z) == E && tensor_cols(w) == E);
    struct gate_job job = {.dy = dy,
                           .dz = dz,
                           .dout = dout,
                           .y = y,
                           .z = z,
                           .w = w,
                           .kept_rstd = rstd,
                           .work = dev->work,
                           .n_seats = pool_size(pool_of(dev))};
    run_sized(dev, 4 * (int64_t)tensor_count(y), bwd_worker, &job);
    add_partials(dw->data, job.work, job.n_partials, E);
}

size_t cpu_gatenorm_plan(const struct dev *dev, const struct sizes *s)
{
    return (size_t)pool_size(pool_of(dev)) * 3 * (size_t)s->H * (size_t)s->P * sizeof(float);
}
