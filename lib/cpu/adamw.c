/* adamw: Loshchilov & Hutter 2019, algorithm 2, with the learning rate on the decay as PyTorch has
 * it:
 *   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
 *   p = (1 - lr wd) p - lr / (1-beta1^t) * m / (sqrt(v / (1-beta2^t)) + eps)
 * with g clipped and t the steps applied, this one included. */
#include "cpu_ops.h"
#include "local.h"

#include <assert.h>
#include <math.h>

struct adamw_job {
    float *p, *m, *v;
    const float *g;
    size_t n;
    float beta1, beta2, eps, grad_scale;
    float rate;  /* lr / (1-beta1^t) */
    float root;  /* 1 / sqrt(1-beta2^t) */
    float decay; /* 1 - lr wd */
};

static void adamw_worker(void *arg, int worker, int n_workers)
{
    const struct adamw_job job = *(const struct adamw_job *)arg;
    const float rest1 = 1 - job.beta1, rest2 = 1 - job.beta2;
    float *restrict p = job.p, *restrict m = job.m, *restrict v = job.v;
    const float *restrict grad = job.g;
    size_t begin, end;
    pool_share(job.n, 16, worker, n_workers, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const float g = grad[i] * job.grad_scale;
        m[i] = job.beta1 * m[i] + rest1 * g;
        v[i] = job.beta2 * v[i] + rest2 * (g * g);
        p[i] = job.decay * p[i] - job.rate * m[i] / (sqrtf(v[i]) * job.root + job.eps);
    }
}

void cpu_adamw(struct dev *dev, float *p, float *m, float *v, const float *g, size_t n, bool decay,
               const struct step_ctl *ctl)
{
    if (ctl->skip)
        return;
    assert(ctl->applied > 0);
    const double t = (double)ctl->applied, lr = (double)ctl->lr;
    struct adamw_job job = {
        .p = p,
        .m = m,
        .v = v,
        .g = g,
        .n = n,
        .beta1 = ctl->beta1,
        .beta2 = ctl->beta2,
        .eps = ctl->eps,
        .grad_scale = ctl->grad_scale,
        .rate = (float)(lr / (1 - pow((double)ctl->beta1, t))),
        .root = (float)(1 / sqrt(1 - pow((double)ctl->beta2, t))),
        .decay = decay ? (float)(1 - lr * (double)ctl->weight_decay) : 1,
    };
    run_sized(dev, 2 * (int64_t)n, adamw_worker, &job);
}
