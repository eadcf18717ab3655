/* sample: the next token of each row, by the rules of ops.h; lib/cpu/sample.c has the definitions.
 *
 * A block takes a row. What is left out of a distribution becomes -infinity. Top-k, typical and
 * top-p are one thing: keep the best tokens whose weights reach a mass. The key down to which they
 * reach it is found two bits at a time, not by sorting: a pass over the row sums the weights from
 * three keys upwards. Weights are integers in units of 2^-40, so that no sum depends on an order.
 * Equal keys, and the draw, go by ids: each thread takes a run of neighbours. */
#include "cuda_ops.cuh"
#include "vec.cuh"

extern "C" {
#include "rng.h"
}

namespace
{
typedef unsigned long long u64;

constexpr float UNIT = 0x1p40f, LOG2E = 1.44269504f;
constexpr int PART = 4096, PART_THREADS = 256; /* tokens of a row that a block tallies */
constexpr int FEW = 512, SOME = 8192;          /* vocabularies that a warp, 8 warps take */

/* Reductions over the block, in every thread; shared memory: 8 bytes a warp. */
template <int THREADS, class V, class F> __device__ V block_reduce(V v, F join)
{
    constexpr int WARPS = THREADS / 32;
    SHARED(V, part, [WARPS]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        v = join(v, __shfl_xor_sync(0xffffffffu, v, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[threadIdx.x % WARPS];
#pragma unroll
    for (int step = WARPS / 2; step > 0; step /= 2)
        v = join(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}
template <int THREADS, class V> __device__ V sum_of(V v)
{
    return block_reduce<THREADS>(v, [](V a, V b) { return a + b; });
}

/* Rises with x; equal zeros; NaN is least. */
__device__ uint32_t key_of(float x)
{
    const uint32_t bits = __float_as_uint(x + 0.0f);
    if (x != x)
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ bool is_finite(double x)
{
    return x - x == 0;
}

enum filter_kind { TOP_K, TYPICAL, TOP_P };

/* By what a filter judges a token. */
struct judge {
    filter_kind kind;
    float top, factor; /* weight = factor exp(x - top) */
    float middle;      /* typical: the x whose surprise is the entropy */

    __device__ uint32_t key(float x) const
    {
        return key_of(kind == TYPICAL ? -fabsf(middle - x) : x);
    }
    __device__ u64 weight(float x) const
    {
        return kind == TOP_K ? 1 : (u64)(expf(x - top) * factor * UNIT);
    }
};

/* A row at work. */
struct list {
    float *x; /* logit over temperature, -infinity for those left out */
    int V;
};

template <int THREADS> __device__ float top_of(const float *x, int V)
{
    float top = -INFINITY;
    for (int v = (int)threadIdx.x; v < V; v += THREADS)
        top = fmaxf(top, x[v]);
    return block_reduce<THREADS>(top, [](float a, float b) { return fmaxf(a, b); });
}

/* Sum of exp(x - top): in f32 over a thread's, in double over the block's. */
template <int THREADS> __device__ double exp_sum(const float *x, int V, float top)
{
    float sum = 0;
    for (int v = (int)threadIdx.x; v < V; v += THREADS)
        sum += expf(x[v] - top);
    return sum_of<THREADS>((double)sum);
}

/* The greatest key such that weights from it upwards reach the mass, 0 where all together do not;
 * *above: the weights of those beyond it. */
template <int THREADS>
__device__ uint32_t find_edge(const list &c, const judge &o, u64 mass, u64 *above)
{
    uint32_t edge = 0;
    *above = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        u64 sum[3] = {0, 0, 0};
        for (int v = (int)threadIdx.x; v < c.V; v += THREADS) {
            const uint32_t key = o.key(c.x[v]);
            if (key < (edge | 1u << shift))
                continue;
            const u64 weight = o.weight(c.x[v]);
            sum[0] += weight;
            sum[1] += key >= (edge | 2u << shift) ? weight : 0;
            sum[2] += key >= (edge | 3u << shift) ? weight : 0;
        }
        uint32_t digit = 0;
#pragma unroll
        for (int i = 0; i < 3; i++) {
            sum[i] = sum_of<THREADS>(sum[i]);
            if (sum[i] >= mass)
                digit = (uint32_t)i + 1;
            else if (digit == (uint32_t)i)
                *above = sum[i];
        }
        edge |= digit << shift;
    }
    return edge;
}

/* Keeps the tokens of greatest key whose weights reach the mass, the lower id first among equals;
 * at least one. */
template <int THREADS> __device__ void keep_best(const list &c, const judge &o, u64 mass)
{
    u64 above;
    mass = mass > 0 ? mass : 1;
    const uint32_t edge = find_edge<THREADS>(c, o, mass, &above);
    const int run = (c.V + THREADS - 1) / THREADS;
    const int begin = min((int)threadIdx.x * run, c.V), end = min(begin + run, c.V);
    u64 equal = 0;
    for (int v = begin; v < end; v++)
        equal += o.key(c.x[v]) == edge ? o.weight(c.x[v]) : 0;
    u64 before = above + sum_before<THREADS>(equal);
    for (int v = begin; v < end; v++) {
        const uint32_t key = o.key(c.x[v]);
        const bool is_in = key > edge || (key == edge && before < mass);
        if (key == edge)
            before += o.weight(c.x[v]);
        if (!is_in)
            c.x[v] = -INFINITY;
    }
    __syncthreads();
}

/* Those whose surprise is nearest to the expected one, the entropy. */
template <int THREADS> __device__ void keep_typical(const list &c, float mass)
{
    judge o = {TYPICAL, top_of<THREADS>(c.x, c.V), 0, 0};
    const double sum = exp_sum<THREADS>(c.x, c.V, o.top);
    const float lse = (float)((double)o.top + log(sum));
    o.factor = (float)(1 / sum);
    float part = 0;
    for (int v = (int)threadIdx.x; v < c.V; v += THREADS) {
        const float p = expf(c.x[v] - o.top) * o.factor;
        part += p > 0 ? p * (lse - c.x[v]) : 0.0f;
    }
    o.middle = lse - (float)sum_of<THREADS>((double)part);
    keep_best<THREADS>(c, o, (u64)((double)mass * (double)UNIT));
}

template <int THREADS> __device__ void keep_top_p(const list &c, float mass)
{
    judge o = {TOP_P, top_of<THREADS>(c.x, c.V), 0, 0};
    o.factor = (float)(1 / exp_sum<THREADS>(c.x, c.V, o.top));
    keep_best<THREADS>(c, o, (u64)((double)mass * (double)UNIT));
}

/* Those at least min_p as likely as the likeliest. */
template <int THREADS> __device__ void keep_min_p(const list &c, float min_p)
{
    const float edge = top_of<THREADS>(c.x, c.V) + logf(fminf(min_p, 1.0f));
    for (int v = (int)threadIdx.x; v < c.V; v += THREADS)
        if (c.x[v] < edge)
            c.x[v] = -INFINITY;
    __syncthreads();
}

/* The token in whose part of the cumulative distribution u of [0,1) falls. */
template <int THREADS> __device__ int pick(const list &c, double u)
{
    SHARED(int, chosen, [1]);
    const judge o = {TOP_P, top_of<THREADS>(c.x, c.V), 1, 0};
    const int run = (c.V + THREADS - 1) / THREADS;
    const int begin = min((int)threadIdx.x * run, c.V), end = min(begin + run, c.V);
    u64 mine = 0;
    for (int v = begin; v < end; v++)
        mine += o.weight(c.x[v]);
    u64 sum = sum_before<THREADS>(mine);
    const u64 aim = (u64)(u * (double)sum_of<THREADS>(mine));
    if (sum <= aim && aim < sum + mine)
        for (int v = begin; v < end; v++) {
            sum += o.weight(c.x[v]);
            if (sum > aim) {
                chosen[0] = v;
                break;
            }
        }
    __syncthreads();
    return chosen[0];
}

/* Orders by value, then by lowest id. */
__device__ u64 rank_of(float x, int v)
{
    return (u64)key_of(x) << 32 | (uint32_t)~v;
}
__device__ int id_of(u64 rank)
{
    return (int)~(uint32_t)rank;
}

/* Lowest id of the greatest value. */
template <int THREADS> __device__ int arg_max(const float *x, int V)
{
    u64 best = 0;
    for (int v = (int)threadIdx.x; v < V; v += THREADS)
        best = max(best, rank_of(x[v], v));
    return id_of(block_reduce<THREADS>(best, [](u64 a, u64 b) { return max(a, b); }));
}

/* Of some values: the greatest, the sum of exp(x - top), the first of the greatest. */
struct tally {
    float top, sum;
    u64 best;
};

/* A thread's values: x[i] is token v+i. */
template <int N> __device__ tally tally_of(const float (&x)[N], int v)
{
    tally t = {x[0], 0, 0};
#pragma unroll
    for (int i = 1; i < N; i++)
        t.top = fmaxf(t.top, x[i]);
#pragma unroll
    for (int i = 0; i < N; i++) {
        t.sum += x[i] == -INFINITY ? 0.0f : exp2_fast((x[i] - t.top) * LOG2E);
        t.best = max(t.best, rank_of(x[i], v + i));
    }
    return t;
}

/* Both; order counts for the last bits. */
__device__ tally join(const tally &a, const tally &b)
{
    const float top = fmaxf(a.top, b.top);
    const float sum_a = a.sum != 0 ? a.sum * exp2_fast((a.top - top) * LOG2E) : 0.0f;
    const float sum_b = b.sum != 0 ? b.sum * exp2_fast((b.top - top) * LOG2E) : 0.0f;
    return tally{top, sum_a + sum_b, max(a.best, b.best)};
}

/* Whether the id's first place in list is i. */
__device__ bool is_first(const int32_t *ids, int i)
{
    for (int j = 0; j < i; j++)
        if (ids[j] == ids[i])
            return false;
    return true;
}

/* Penalties, then bias; a thread takes a distinct id. */
template <int THREADS>
__device__ void adjust(const list &c, const struct sample_row &o, const int32_t *recent,
                       const int32_t *bias_id, const float *bias)
{
    for (int i = (int)threadIdx.x; i < o.n_recent; i += THREADS) {
        const int32_t id = recent[i];
        if (id < 0 || id >= c.V || !is_first(recent, i))
            continue;
        int count = 0;
        for (int j = i; j < o.n_recent; j++)
            count += recent[j] == id;
        const float x = c.x[id];
        c.x[id] = (x > 0 ? x / o.repeat_penalty : x * o.repeat_penalty) -
                  ((float)count * o.freq_penalty + o.pres_penalty);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < o.n_bias; i += THREADS) {
        const int32_t id = bias_id[i];
        if (id < 0 || id >= c.V || !is_first(bias_id, i))
            continue;
        for (int j = i; j < o.n_bias; j++)
            c.x[id] += bias_id[j] == id ? bias[j] : 0.0f;
    }
    __syncthreads();
}

template <int THREADS> __device__ int draw(const list &c, const struct sample_row &o)
{
    for (int v = (int)threadIdx.x; v < c.V; v += THREADS)
        c.x[v] /= o.temperature;
    __syncthreads();
    if (o.top_k > 0 && o.top_k < c.V)
        keep_best<THREADS>(c, {TOP_K, 0, 0, 0}, (u64)o.top_k);
    if (o.typical_p < 1)
        keep_typical<THREADS>(c, o.typical_p);
    if (o.top_p < 1)
        keep_top_p<THREADS>(c, o.top_p);
    if (o.min_p > 0)
        keep_min_p<THREADS>(c, o.min_p);
    const uint64_t stream = rng_stream(RNG_SAMPLE, o.prompt, o.position);
    return pick<THREADS>(c, (double)rng_unit(philox(o.seed, stream, 0).v[0]));
}

__host__ __device__ constexpr int parts_of(int V)
{
    return (V + PART - 1) / PART;
}

struct sample_args {
    int32_t *id;
    float *logp;
    mat<const float> logits;
    const struct sample_row *rows;
    struct sample_tables tables;
    float *work;  /* (R,V) */
    tally *parts; /* (R,parts) */
    int V;
    bool is_wide; /* rows of logits may be read 16 bytes at a time */
};

/* One block PART tokens of a row; grid (parts, R). Reads the logits once, 4 bytes a token, all of a
 * thread's at once. Some 4 FLOPs and an exponential a token. */
__global__ void __launch_bounds__(PART_THREADS) k_tally(sample_args a)
{
    constexpr int N = PART / PART_THREADS;
    SHARED(tally, part, [PART_THREADS / 32]);
    const int64_t r = blockIdx.y;
    const int begin = (int)blockIdx.x * PART, t = (int)threadIdx.x;
    const float *logits = a.logits.p + r * a.logits.ld;
    float x[N / 4][4];
    grid_release();
    grid_wait();
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const int v = begin + (i * PART_THREADS + t) * 4;
        if (a.is_wide && v < a.V)
            load<float, 4>(x[i], logits + v);
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (!a.is_wide || v >= a.V)
                x[i][j] = v + j < a.V ? logits[v + j] : -INFINITY;
    }
    tally all = tally_of(x[0], begin + t * 4);
#pragma unroll
    for (int i = 1; i < N / 4; i++)
        all = join(all, tally_of(x[i], begin + (i * PART_THREADS + t) * 4));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const tally other = {__shfl_xor_sync(0xffffffffu, all.top, step),
                             __shfl_xor_sync(0xffffffffu, all.sum, step),
                             __shfl_xor_sync(0xffffffffu, all.best, step)};
        all = join(all, other);
    }
    if (t % 32 == 0)
        part[t / 32] = all;
    __syncthreads();
    if (t != 0)
        return;
    for (int i = 1; i < PART_THREADS / 32; i++)
        all = join(all, part[i]);
    a.parts[r * gridDim.x + blockIdx.x] = all;
}

/* A block a row, after k_tally, which alone sees the whole row where the likeliest token is wanted.
 * Shared memory: some 40 bytes a warp. A draw moves 28 bytes a token, each filter some 70, out of
 * the cache; 50 FLOPs a token a filter. */
template <int THREADS>
__global__ void __launch_bounds__(THREADS, THREADS < 1024 ? 4 : 1) k_sample(sample_args a)
{
    const int64_t r = blockIdx.x;
    const float *logits = a.logits.p + r * a.logits.ld;
    const int n_parts = parts_of(a.V);
    const tally *parts = a.parts + r * n_parts;
    grid_wait();
    const struct sample_row o = a.rows[r];
    tally all = parts[0];
    for (int i = 1; i < n_parts; i++)
        all = join(all, parts[i]);
    const double lse = (double)all.top + log((double)all.sum);
    int id = id_of(all.best);
    if (!is_finite(lse)) {
        if (threadIdx.x == 0) {
            a.id[r] = 0;
            a.logp[r] = NAN;
        }
        return;
    }
    if (o.temperature > 0 || o.n_recent > 0 || o.n_bias > 0) {
        const list c = {a.work + r * a.V, a.V};
        for (int v = (int)threadIdx.x; v < a.V; v += THREADS)
            c.x[v] = logits[v];
        __syncthreads();
        adjust<THREADS>(c, o, a.tables.recent + r * a.tables.recent_cap,
                        a.tables.bias_id + r * a.tables.bias_cap,
                        a.tables.bias + r * a.tables.bias_cap);
        const float best = top_of<THREADS>(c.x, a.V);
        id = o.temperature > 0 && is_finite((double)(best / o.temperature))
                 ? draw<THREADS>(c, o)
                 : arg_max<THREADS>(c.x, a.V);
    }
    if (threadIdx.x == 0) {
        a.id[r] = id;
        a.logp[r] = (float)((double)logits[id] - lse);
    }
}

int64_t round4(int64_t n)
{
    return (n + 3) / 4 * 4;
}
size_t work_bytes(int64_t R, int64_t V)
{
    return (size_t)R *
           ((size_t)round4(V) * sizeof(float) + (size_t)parts_of((int)V) * sizeof(tally));
}
} // namespace

void cuda_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                 const struct sample_row *rows, const struct sample_tables *tables)
{
    const int64_t R = tensor_rows(logits), V = tensor_cols(logits);
    const int parts = parts_of((int)V);
    float *work = (float *)dev->work;
    assert(logits->dtype == DT_F32 && work_bytes(R, V) <= dev->work_bytes);
    const sample_args args = {id,
                              logp,
                              cmat_of<float>(logits),
                              rows,
                              *tables,
                              work,
                              (tally *)(work + R * round4(V)),
                              (int)V,
                              has_wide_rows(logits)};
    launch_early(dev, "sample", k_tally, dim3((unsigned)parts, (unsigned)R), PART_THREADS, 0, args);
    if (V <= FEW)
        launch_early(dev, "sample", k_sample<32>, (unsigned)R, 32, 0, args);
    else if (V <= SOME)
        launch_early(dev, "sample", k_sample<256>, (unsigned)R, 256, 0, args);
    else
        launch_early(dev, "sample", k_sample<1024>, (unsigned)R, 1024, 0, args);
}

size_t cuda_sample_plan(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    return work_bytes(s->R, s->V);
}
