/* resid: y = x + scale * drop(branch) and its gradient. The mask is a pure function of (seed, site,
 * step, element), so forward, recompute and backward make it again instead of keeping it. */
#include "cpu_ops.h"
#include "local.h"
#include "rng.h"

#include <assert.h>

enum { CHUNK = 128 }; /* columns whose factors are made at once */

struct resid_job {
    const struct tensor *y, *x, *branch; /* x NULL: y = scale * drop(branch) */
    float scale, p;
    uint64_t key, stream, first;
};

/* factor[j] = scale / (1-p) or 0 for the elements at.. of the mask's stream. One Philox call makes
 * four. */
static void make_factors(float *factor, const struct resid_job *job, uint64_t at, int64_t n)
{
    uint32_t bits[CHUNK + 4];
    const uint64_t first = at / 4, n_calls = (at + (uint64_t)n - 1) / 4 - first + 1;
    const uint64_t key = job->key, stream = job->stream;
#pragma omp simd
    for (uint64_t i = 0; i < n_calls; i++) {
        const struct philox r = philox(key, stream, first + i);
        for (int j = 0; j < 4; j++)
            bits[4 * i + (uint64_t)j] = r.v[j];
    }
    const float kept = job->scale / (1 - job->p);
    const uint32_t *mine = bits + (at - 4 * first);
    const float p = job->p;
    for (int64_t j = 0; j < n; j++)
        factor[j] = rng_unit(mine[j]) >= p ? kept : 0;
}

static void resid_row(const struct resid_job *job, int64_t m)
{
    const int64_t D = tensor_cols(job->y);
    float *y = row(job->y, m), factor[CHUNK];
    const float *branch = row(job->branch, m), *x = job->x ? row(job->x, m) : NULL;
    for (int64_t d0 = 0; d0 < D; d0 += CHUNK) {
        const int64_t n = D - d0 < CHUNK ? D - d0 : CHUNK;
        if (job->p > 0)
            make_factors(factor, job, job->first + (uint64_t)(m * D + d0), n);
        else
            for (int64_t j = 0; j < n; j++)
                factor[j] = job->scale;
        if (x)
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                y[d0 + j] = x[d0 + j] + factor[j] * branch[d0 + j];
        else
#pragma omp simd
            for (int64_t j = 0; j < n; j++)
                y[d0 + j] = factor[j] * branch[d0 + j];
    }
}

static void resid_worker(void *arg, int worker, int n_workers)
{
    const struct resid_job *job = arg;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->y), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++)
        resid_row(job, (int64_t)m);
}

static void resid(struct dev *dev, struct resid_job *job, const struct drop *drop,
                  const struct step_ctl *ctl)
{
    if (drop && drop->p > 0) {
        job->p = drop->p;
        job->key = ctl->seed;
        job->stream = rng_stream(RNG_DROPOUT, drop->site, (uint32_t)ctl->step);
        job->first = (uint64_t)ctl->micro * tensor_count(job->y);
    }
    run_sized(dev, (int64_t)tensor_count(job->y), resid_worker, job);
}

void cpu_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                   const struct tensor *branch, float scale, const struct drop *drop,
                   const struct step_ctl *ctl)
{
    assert(tensor_cols(y) == tensor_cols(x) && tensor_cols(y) == tensor_cols(branch));
    struct resid_job job = {.y = y, .x = x, .branch = branch, .scale = scale};
    resid(dev, &job, drop, ctl);
}

void cpu_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy, float scale,
                   const struct drop *drop, const struct step_ctl *ctl)
{
    assert(tensor_cols(dbranch) == tensor_cols(dy));
    struct resid_job job = {.y = dbranch, .branch = dy, .scale = scale};
    resid(dev, &job, drop, ctl);
}
