/* xent: cross-entropy of logits against targets, and its gradient in place.
 *   lse = log sum exp(scale x);  loss = lse - scale x[target]
 *   dx = unit * (softmax (1 + 2 z lse) - onehot),  unit = fp16_scale * loss_scale * scale
 * A block takes a row. One of 16-bit logits that fits the block's registers is read once, others
 * twice, the second time perhaps out of the cache; maximum, sum and loss are f32. */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
constexpr int THREADS = 512, SUM_THREADS = 256;
constexpr int KEPT = 8; /* packs of 16-bit logits that a thread keeps: rows of 32768 */
constexpr float LOG2E = 1.4426950408889634f;

/* A running maximum and the sum of 2^(scale2 (x - max)), Milakov & Gimelshein 2018, algorithm 3.
 * The difference comes before the scale, so that logits near the largest float do no harm. */
struct running {
    float top, sum;
};

__device__ running join(running a, running b, float scale2)
{
    const float top = fmaxf(a.top, b.top);
    if (top == -INFINITY)
        return {top, 0};
    return {top,
            a.sum * exp2_fast((a.top - top) * scale2) + b.sum * exp2_fast((b.top - top) * scale2)};
}

/* Over the block, in every thread, always joined in the same order. */
__device__ running block_join(running r, float scale2)
{
    SHARED(running, part, [THREADS / 32]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        r = join(
            r,
            {__shfl_xor_sync(0xffffffffu, r.top, step), __shfl_xor_sync(0xffffffffu, r.sum, step)},
            scale2);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = r;
    __syncthreads();
    r = part[0];
    for (int i = 1; i < THREADS / 32; i++)
        r = join(r, part[i], scale2);
    return r;
}

/* Takes N logits in; scale2 is the scale times log2(e). */
template <int N> __device__ __forceinline__ void take(running &r, const float (&v)[N], float scale2)
{
    float top = r.top;
#pragma unroll
    for (int j = 0; j < N; j++)
        top = fmaxf(top, v[j]);
    if (top == -INFINITY)
        return;
    float sum = r.sum * exp2_fast((r.top - top) * scale2);
#pragma unroll
    for (int j = 0; j < N; j++)
        sum += exp2_fast((v[j] - top) * scale2);
    r = {top, sum};
}

/* What a logit becomes: factor * 2^(scale2 (x - top)), less unit at the target. */
struct gradient {
    int target;
    float scale2, top, factor, unit;

    /* N logits from i on. */
    template <int N> __device__ __forceinline__ void make(float (&v)[N], int i) const
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            v[j] = factor * exp2_fast((v[j] - top) * scale2);
        if ((unsigned)(target - i) < N)
#pragma unroll
            for (int j = 0; j < N; j++)
                v[j] -= i + j == target ? unit : 0.0f;
    }
};

/* How a block holds its row of V logits. Read again: N at a time, V a multiple of N. */
template <class T, int N> struct row_again {
    T *x;
    int V;

    __device__ __forceinline__ row_again(T *x, int V) : x(x), V(V)
    {
    }
    __device__ running terms(float scale2)
    {
        running r = {-INFINITY, 0};
        for (int i = threadIdx.x * N; i < V; i += THREADS * N) {
            float v[N];
            load<T, N>(v, x + i);
            take(r, v, scale2);
        }
        return r;
    }
    __device__ void put(const gradient &g)
    {
        for (int i = threadIdx.x * N; i < V; i += THREADS * N) {
            float v[N];
            load<T, N>(v, x + i);
            g.make(v, i);
            store<T, N>(x + i, v);
        }
    }
};

/* In registers, KEPT packs a thread, all read at once. */
template <class T, int N> struct row_kept {
    T *x;
    int V;
    packed<T, N> pk[KEPT];

    static __device__ __forceinline__ int place(int p)
    {
        return (p * THREADS + (int)threadIdx.x) * N;
    }
    __device__ __forceinline__ row_kept(T *x, int V) : x(x), V(V)
    {
#pragma unroll
        for (int p = 0; p < KEPT; p++)
            if (place(p) < V)
                pk[p].read(x + place(p));
    }
    __device__ __forceinline__ running terms(float scale2)
    {
        running r = {-INFINITY, 0};
#pragma unroll
        for (int p = 0; p < KEPT; p++)
            if (place(p) < V) {
                float v[N];
                pk[p].get(v);
                take(r, v, scale2);
            }
        return r;
    }
    __device__ __forceinline__ void put(const gradient &g)
    {
#pragma unroll
        for (int p = 0; p < KEPT; p++)
            if (place(p) < V) {
                float v[N];
                pk[p].forget();
                pk[p].get(v);
                g.make(v, place(p));
                store<T, N>(x + place(p), v);
            }
    }
};

template <class T, int N> __device__ void row_zero(T *__restrict__ x, int V)
{
    const float zero[N] = {};
    for (int i = threadIdx.x * N; i < V; i += THREADS * N)
        store<T, N>(x + i, zero);
}

/* One block a row of V logits, N at a time (V is a multiple of N), held as R. ctl NULL: only
 * losses. Reads V elements, and writes them with ctl; about 16 FLOPs an element. row_loss (M). */
template <class T, int N, class R>
__global__ void __launch_bounds__(THREADS, 2)
    k_xent(float *__restrict__ row_loss, mat<T> logits, const int32_t *__restrict__ target, int V,
           float scale, const struct step_ctl *__restrict__ ctl)
{
    T *x = logits.p + blockIdx.x * logits.ld;
    const int hit = target[blockIdx.x];
    if (hit < 0) {
        if (ctl)
            row_zero<T, N>(x, V);
        if (threadIdx.x == 0)
            row_loss[blockIdx.x] = 0;
        return;
    }
    R row(x, V);
    const float scale2 = scale * LOG2E, at_hit = to_f32(x[hit]);
    const running r = block_join(row.terms(scale2), scale2);
    const float log_sum = logf(r.sum);
    if (threadIdx.x == 0)
        row_loss[blockIdx.x] = (r.top - at_hit) * scale + log_sum;
    if (!ctl)
        return;
    const float fp16 = ctl->fp16_scale > 0 ? ctl->fp16_scale : 1.0f;
    const float unit = fp16 * ctl->loss_scale * scale;
    __syncthreads(); /* every thread has read x[hit] */
    const float factor = unit * (1.0f + 2.0f * ctl->z_coef * (r.top * scale + log_sum)) / r.sum;
    row.put({hit, scale2, r.top, factor, unit});
}

/* One block: adds the chunk's losses, rows in a fixed order. */
__global__ void __launch_bounds__(SUM_THREADS)
    k_add_losses(struct step_ctl *ctl, const float *__restrict__ row_loss,
                 const int32_t *__restrict__ target, int M)
{
    SHARED(double, sums, [SUM_THREADS]);
    SHARED(int, counts, [SUM_THREADS]);
    double sum = 0;
    int count = 0;
    for (int m = threadIdx.x; m < M; m += SUM_THREADS) {
        sum += (double)row_loss[m];
        count += target[m] >= 0;
    }
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    for (int half = SUM_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
            counts[threadIdx.x] += counts[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        ctl->loss_sum += sums[0];
        ctl->n_targets += counts[0];
    }
}

template <class T, int N, class R>
void run_xent(struct dev *dev, float *row_loss, const struct tensor *logits, const int32_t *target,
              float scale, const struct step_ctl *ctl)
{
    launch(dev, "xent", k_xent<T, N, R>, (unsigned)tensor_rows(logits), THREADS, 0, row_loss,
           mat_of<T>(logits), target, (int)tensor_cols(logits), scale, ctl);
}
} // namespace

size_t cuda_xent_plan(const struct dev *dev, const struct sizes *s)
{
    const int64_t rows = (int64_t)s->B * s->T;
    return (size_t)(rows > s->R ? rows : s->R) * sizeof(float);
}

/* Floor: each logit read once, and written once with ctl. */
void cuda_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
               float scale, struct step_ctl *ctl)
{
    const int M = (int)tensor_rows(logits);
    float *row_loss = loss ? loss : (float *)dev->work;
    with_type(logits->dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int N = wide<T>::n;
        if (!has_wide_rows(logits))
            return run_xent<T, 1, row_again<T, 1>>(dev, row_loss, logits, target, scale, ctl);
        if constexpr (sizeof(T) == 2)
            if (tensor_cols(logits) <= KEPT * THREADS * N)
                return run_xent<T, N, row_kept<T, N>>(dev, row_loss, logits, target, scale, ctl);
        run_xent<T, N, row_again<T, N>>(dev, row_loss, logits, target, scale, ctl);
    });
    if (ctl && M > 0)
        launch(dev, "xent", k_add_losses, 1, SUM_THREADS, 0, ctl, (const float *)row_loss, target,
               M);
}
