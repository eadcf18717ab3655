/* adamw: Loshchilov & Hutter 2019, algorithm 2, with the learning rate on the decay as PyTorch has
 * it:
 *   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
 *   p = (1 - lr wd) p - lr / (1-beta1^t) * m / (sqrt(v / (1-beta2^t)) + eps)
 * with g clipped and t the steps applied, this one included. */
#include "cpu_ops.h"
#include "local.h"
#include "rng.h"

#include <assert.h>
#include <math.h>

struct adamw_job {
    float *p;
    const struct tensor *m, *v;
    const float *g;
    const struct adamw_runs *runs;
    size_t n;
    uint64_t seed, step;
    float beta1, beta2, eps, grad_scale;
    float rate;  /* lr / (1-beta1^t) */
    float root;  /* 1 / sqrt(1-beta2^t) */
    float decay; /* 1 - lr wd */
};

enum { PIECE = 512 }; /* elements whose bf16 moments are unpacked at once; a multiple of 4 */

/* The stream of random bits that rounds m (which 0) or v (1). */
static uint64_t stream_of(const struct adamw_job *job, uint32_t which)
{
    return rng_stream(RNG_ROUND, which, (uint32_t)job->step);
}

static void unpack(float *to, const struct tensor *from, size_t at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = bf16_to_f32(((const uint16_t *)from->data)[at + i]);
}

/* Rounds up with the probability that the bits cut off stand for: adds 16 random ones below. */
static void pack(const struct tensor *to, const float *from, size_t at, size_t n, uint64_t seed,
                 uint64_t stream)
{
    for (size_t i = 0; i < n; i++) {
        const struct philox r = philox(seed, stream, (at + i) / 4);
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        ((uint16_t *)to->data)[at + i] = (uint16_t)((bits + (r.v[(at + i) % 4] & 0xFFFFu)) >> 16);
    }
}

static void update(float *restrict p, float *restrict m, float *restrict v,
                   const float *restrict grad, size_t n, bool has_decay,
                   const struct adamw_job *job)
{
    const float beta1 = job->beta1, beta2 = job->beta2, scale = job->grad_scale;
    const float rest1 = 1 - beta1, rest2 = 1 - beta2, rate = job->rate, root = job->root;
    const float decay = has_decay ? job->decay : 1, eps = job->eps;
    for (size_t i = 0; i < n; i++) {
        const float g = grad[i] * scale;
        m[i] = beta1 * m[i] + rest1 * g;
        v[i] = beta2 * v[i] + rest2 * (g * g);
        p[i] = decay * p[i] - rate * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

/* Elements [begin, end) of one run. */
static void update_run(const struct adamw_job *job, size_t begin, size_t end, bool has_decay)
{
    if (job->m->dtype == DT_F32) {
        update(job->p + begin, (float *)job->m->data + begin, (float *)job->v->data + begin,
               job->g + begin, end - begin, has_decay, job);
        return;
    }
    float m[PIECE], v[PIECE];
    for (size_t at = begin; at < end; at += PIECE) {
        const size_t n = end - at < PIECE ? end - at : PIECE;
        unpack(m, job->m, at, n);
        unpack(v, job->v, at, n);
        update(job->p + at, m, v, job->g + at, n, has_decay, job);
        pack(job->m, m, at, n, job->seed, stream_of(job, 0));
        pack(job->v, v, at, n, job->seed, stream_of(job, 1));
    }
}

/* What products read of elements [begin, end) of p. */
static void copy_run(const struct adamw_run *run, const float *p, size_t begin, size_t end)
{
    const size_t first = (size_t)run->begin, last = first + (size_t)run->n_copy;
    assert(run->copy_dtype == DT_BF16);
    for (size_t i = begin; i < (end < last ? end : last); i++)
        ((uint16_t *)run->copy)[i - first] = bf16_from_f32(p[i]);
}

static void adamw_worker(void *arg, int worker, int n_workers)
{
    const struct adamw_job *job = arg;
    const struct adamw_run *runs = job->runs->run;
    size_t begin, end;
    pool_share(job->n, 16, worker, n_workers, &begin, &end);
    for (int r = 0; r < job->runs->n; r++) {
        const size_t run_begin = (size_t)runs[r].begin;
        const size_t run_end = r + 1 < job->runs->n ? (size_t)runs[r + 1].begin : job->n;
        const size_t from = run_begin > begin ? run_begin : begin;
        const size_t to = run_end < end ? run_end : end;
        if (from >= to)
            continue;
        update_run(job, from, to, runs[r].has_decay);
        if (runs[r].copy)
            copy_run(&runs[r], job->p, from, to);
    }
}

void cpu_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
               size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl)
{
    if (ctl->skip)
        return;
    assert(ctl->applied > 0 && m->dtype == v->dtype);
    const double t = (double)ctl->applied, lr = (double)ctl->lr;
    struct adamw_job job = {
        .p = p,
        .m = m,
        .v = v,
        .g = g,
        .runs = runs,
        .n = n,
        .seed = ctl->seed,
        .step = (uint64_t)ctl->step,
        .beta1 = ctl->beta1,
        .beta2 = ctl->beta2,
        .eps = ctl->eps,
        .grad_scale = ctl->grad_scale,
        .rate = (float)(lr / (1 - pow((double)ctl->beta1, t))),
        .root = (float)(1 / sqrt(1 - pow((double)ctl->beta2, t))),
        .decay = (float)(1 - lr * (double)ctl->weight_decay),
    };
    run_sized(dev, 2 * (int64_t)n, adamw_worker, &job);
}
