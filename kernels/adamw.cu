/* adamw: Loshchilov & Hutter 2019, algorithm 2, with the learning rate on the decay as PyTorch has
 * it:
 *   m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2
 *   p = (1 - lr wd) p - lr / (1-beta1^t) * m / (sqrt(v / (1-beta2^t)) + eps)
 * over all parameters in one launch. Moments in bf16 are rounded stochastically: 16 random bits are
 * added below the bits that stay, so that small changes count on average. */
#include "cuda_ops.cuh"
#include "vec.cuh"

extern "C" {
#include "rng.h"
}

namespace
{
constexpr int THREADS = 256;

/* What the step multiplies with; the same in every thread. */
struct factors {
    float rate;  /* lr / (1-beta1^t) */
    float root;  /* 1 / sqrt(1-beta2^t) */
    float decay; /* 1 - lr wd */
};

__device__ factors make_factors(const struct step_ctl *ctl)
{
    const float t = (float)ctl->applied;
    const float rest1 = -expm1f(t * logf(ctl->beta1)), rest2 = -expm1f(t * logf(ctl->beta2));
    return {ctl->lr / rest1, 1.0f / sqrtf(rest2), 1.0f - ctl->lr * ctl->weight_decay};
}

/* The run of elements i to i+3: runs begin at multiples of 16. */
__device__ const struct adamw_run *run_of(const struct adamw_run *__restrict__ runs, int n_runs,
                                          int64_t i)
{
    int low = 0, high = n_runs; /* the run lies in [low, high) */
    while (high - low > 1) {
        const int mid = (low + high) / 2;
        if (runs[mid].begin <= i)
            low = mid;
        else
            high = mid;
    }
    return runs + low;
}

/* Elements `at` and following of a run, to where products read them. */
template <class T, int N>
__device__ void store_copy(const struct adamw_run *run, int64_t at, const float (&p)[N])
{
    T *to = (T *)run->copy + at;
    if (at + N <= run->n_copy)
        store<T, N>(to, p);
    else
#pragma unroll
        for (int j = 0; j < N; j++)
            if (at + j < run->n_copy)
                to[j] = from_f32<T>(p[j]);
}

template <int N>
__device__ void store_moments(float *to, const float (&v)[N], const struct step_ctl *, int, size_t)
{
    store<float, N>(to, v);
}
template <int N>
__device__ void store_moments(bf16 *to, const float (&v)[N], const struct step_ctl *ctl, int which,
                              size_t i)
{
    const uint64_t stream = rng_stream(RNG_ROUND, (uint32_t)which, (uint32_t)ctl->step);
    const struct philox r = philox(ctl->seed, stream, i / 4);
    pack<bf16, N> p;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const uint32_t random = N == 4 ? r.v[j] : r.v[i % 4];
        const uint32_t bits = __float_as_uint(v[j]) + (random & 0xFFFFu);
        p.v[j] = __ushort_as_bfloat16((unsigned short)(bits >> 16));
    }
    *reinterpret_cast<pack<bf16, N> *>(to) = p;
}

/* A thread moves N neighbouring elements, 4 or 1; n is a multiple of N. Moves 12 + 4 sizeof(M)
 * bytes an element (28 with f32 moments, 20 with bf16), and 2 for each that is copied; 14 FLOPs. */
template <class M, int N>
__global__ void __launch_bounds__(THREADS)
    k_adamw(float *__restrict__ p, M *__restrict__ m, M *__restrict__ v,
            const float *__restrict__ g, size_t n, const struct adamw_run *__restrict__ runs,
            int n_runs, const struct step_ctl *__restrict__ ctl)
{
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
    if (i >= n || ctl->skip)
        return;
    const factors f = make_factors(ctl);
    const struct adamw_run *run = run_of(runs, n_runs, (int64_t)i);
    const float decay = run->has_decay ? f.decay : 1.0f;
    const float beta1 = ctl->beta1, beta2 = ctl->beta2;
    float pi[N], mi[N], vi[N], gi[N];
    load<float, N>(gi, g + i);
    load<M, N>(mi, m + i);
    load<M, N>(vi, v + i);
    load<float, N>(pi, p + i);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float grad = gi[j] * ctl->grad_scale;
        mi[j] = beta1 * mi[j] + (1.0f - beta1) * grad;
        vi[j] = beta2 * vi[j] + (1.0f - beta2) * (grad * grad);
        pi[j] = decay * pi[j] - f.rate * mi[j] / (sqrtf(vi[j]) * f.root + ctl->eps);
    }
    store<float, N>(p + i, pi);
    store_moments<N>(m + i, mi, ctl, 0, i);
    store_moments<N>(v + i, vi, ctl, 1, i);
    if (run->copy && run->copy_dtype == DT_BF16)
        store_copy<bf16>(run, (int64_t)i - run->begin, pi);
    else if (run->copy)
        store_copy<f16>(run, (int64_t)i - run->begin, pi);
}

template <class M, int N>
void run_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
               size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl)
{
    launch(dev, "adamw", k_adamw<M, N>, blocks_for((int64_t)n, N * THREADS), THREADS, 0, p,
           (M *)m->data, (M *)v->data, g, n, runs->run, runs->n, ctl);
}
} // namespace

/* Floor: the bytes above; the step's other launches wait for nothing on the host. */
void cuda_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
                size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl)
{
    assert(m->dtype == v->dtype && m->dtype != DT_F16);
    const bool is_bf16 = m->dtype == DT_BF16;
    if (n % 4 == 0 && is_bf16)
        run_adamw<bf16, 4>(dev, p, m, v, g, n, runs, ctl);
    else if (n % 4 == 0)
        run_adamw<float, 4>(dev, p, m, v, g, n, runs, ctl);
    else if (is_bf16)
        run_adamw<bf16, 1>(dev, p, m, v, g, n, runs, ctl);
    else
        run_adamw<float, 1>(dev, p, m, v, g, n, runs, ctl);
}
