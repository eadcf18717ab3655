/* attn_step: attention of one new token a row over the keys and values in its slot of the cache,
 * o = softmax(scale q K^T) V, split over the cache (Dao et al. 2023, "Flash-Decoding").
 *
 * A piece is a run of positions whose length follows from the size of the cache alone, so that
 * neither the rows beside a row nor their number enter its bits. Each piece leaves the greatest
 * score m, the sum l of exp(score - m), and the values' sum under these weights; a second launch
 * adds the pieces in order. A cache of one piece needs no second launch.
 *
 * Query heads that share a KV head are computed from the same load of its keys and values, up to
 * HEADS of them. */
#include "cuda_ops.cuh"
#include "mma.cuh"
#include "step_plan.cuh"

namespace
{
/* A piece has SHORTEST positions at least, a cache PIECES pieces at most. */
enum { THREADS = 256, WARPS = THREADS / 32, SHORTEST = 128, PIECES = 64 };
constexpr float LOWEST = -3e38f;

template <class T> struct attn_step {
    mat<const T> q, k, v; /* (R,H*P) (R,G*P) */
    mat<T> kcache, vcache, o;
    const int32_t *slot, *pos;
    float *parts; /* (R,H,n_pieces,P+2): sums, then m and l; NULL: one piece, o is written */
    float scale;
    int S, H, P, G, piece, n_pieces;
};

/* Elements a lane holds of a row of P. */
template <class T> __host__ __device__ constexpr int per_lane()
{
    return wide<T>::n;
}

template <class T, bool WIDE>
__device__ __forceinline__ void load_part(float (&to)[wide<T>::n], const T *from, int left)
{
    if (WIDE && left > 0) {
        load(to, from);
        return;
    }
#pragma unroll
    for (int i = 0; i < wide<T>::n; i++)
        to[i] = !WIDE && i < left ? to_f32(from[i]) : 0.0f;
}

/* A lane's part of a row of the cache as it lies in memory, zeros where !ok. */
template <class T, bool WIDE>
__device__ __forceinline__ pack<T, wide<T>::n> fetch(const T *from, int left, bool ok)
{
    pack<T, wide<T>::n> p;
    if (WIDE && ok && left > 0)
        return *reinterpret_cast<const pack<T, wide<T>::n> *>(from);
#pragma unroll
    for (int i = 0; i < wide<T>::n; i++)
        p.v[i] = !WIDE && ok && i < left ? from[i] : from_f32<T>(0.0f);
    return p;
}

/* Greatest score, sum of weights and weighted values of some keys, for HEADS heads; a lane has its
 * part of the row of values. */
template <int HEADS, int E> struct partial {
    float m[HEADS], l[HEADS], acc[HEADS][E];
};

/* The score of a key under each head, the same in the LK lanes of its row. */
template <int HEADS, int E, int LK, class T>
__device__ __forceinline__ void score(float (&s)[HEADS], const float (&q)[HEADS][E],
                                      const pack<T, E> &key)
{
    float k[E];
#pragma unroll
    for (int e = 0; e < E; e++)
        k[e] = to_f32(key.v[e]);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        s[h] = 0;
#pragma unroll
        for (int e = 0; e < E; e++)
            s[h] = fmaf(q[h][e], k[e], s[h]);
#pragma unroll
        for (int step = LK / 2; step > 0; step /= 2)
            s[h] += __shfl_xor_sync(0xffffffffu, s[h], step);
    }
}

/* Takes UNROLL keys with their values in; scores of keys that are not there are LOWEST. */
template <int HEADS, int E, int UNROLL, class T>
__device__ __forceinline__ void take(partial<HEADS, E> &sum, const float (&s)[UNROLL][HEADS],
                                     const pack<T, E> (&value)[UNROLL])
{
    float weight[UNROLL][HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float m = sum.m[h];
#pragma unroll
        for (int i = 0; i < UNROLL; i++)
            m = fmaxf(m, s[i][h]);
        const float left = expf(sum.m[h] - m);
        sum.m[h] = m;
        sum.l[h] *= left;
#pragma unroll
        for (int e = 0; e < E; e++)
            sum.acc[h][e] *= left;
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            weight[i][h] = s[i][h] == LOWEST ? 0.0f : expf(s[i][h] - m);
            sum.l[h] += weight[i][h];
        }
    }
#pragma unroll
    for (int i = 0; i < UNROLL; i++)
#pragma unroll
        for (int e = 0; e < E; e++) {
            const float v = to_f32(value[i].v[e]);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                sum.acc[h][e] = fmaf(weight[i][h], v, sum.acc[h][e]);
        }
}

/* Joins the sums of the warp's lanes that hold the same part of other keys' rows. */
template <int HEADS, int E, int LK>
__device__ __forceinline__ void join_lanes(partial<HEADS, E> &sum)
{
#pragma unroll
    for (int step = LK; step < 32; step *= 2)
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            const float m = fmaxf(sum.m[h], __shfl_xor_sync(0xffffffffu, sum.m[h], step));
            const float left = expf(sum.m[h] - m);
            const float l = __fmul_rn(sum.l[h], left);
            sum.m[h] = m;
            sum.l[h] = l + __shfl_xor_sync(0xffffffffu, l, step);
#pragma unroll
            for (int e = 0; e < E; e++) {
                const float a = __fmul_rn(sum.acc[h][e], left);
                sum.acc[h][e] = a + __shfl_xor_sync(0xffffffffu, a, step);
            }
        }
}

/* Where a key or value of the row lies: the new token's is not in the cache yet. */
template <class T>
__device__ __forceinline__ const T *key_at(const mat<const T> &cache, const T *fresh, int64_t row0,
                                           int j, int pos, int col)
{
    return j == pos ? fresh : cache.p + (row0 + j) * cache.ld + col;
}

/* The warps' sums (WARPS,HEADS,LD) of one block, added in order: head h's element p. */
__device__ __forceinline__ float join_warps(const float *sums, int h, int p, int HEADS, int LD,
                                            float &m, float &l)
{
    m = LOWEST;
    for (int w = 0; w < WARPS; w++)
        m = fmaxf(m, sums[(w * HEADS + h) * LD]);
    float acc = 0;
    l = 0;
    for (int w = 0; w < WARPS; w++) {
        const float *from = sums + (w * HEADS + h) * LD, left = expf(from[0] - m);
        l = fmaf(from[1], left, l);
        acc = fmaf(from[2 + p], left, acc);
    }
    return acc;
}

/* One block a piece (blockIdx.x) of one row (blockIdx.z), HEADS query heads of one KV head
 * (blockIdx.y = KV head * (blocks a KV head) + which). LK lanes share a row of P elements, 16 bytes
 * each; a warp has 32/LK keys at a time, UNROLL such loads of keys and of values before any is
 * used. Shared memory: WARPS * HEADS * (LK * elements a lane + 2) floats. Blocks past the row's
 * position end at once. Reads 2 (pos+1) P elements a KV head, 4 (pos+1) P FLOPs a query head. */
template <class T, int LK, int HEADS, bool WIDE>
__global__ void __launch_bounds__(THREADS) k_attn_step(attn_step<T> in)
{
    constexpr int E = wide<T>::n, KEYS = 32 / LK, UNROLL = 4, LD = LK * E + 2;
    SHARED(float, sums, [WARPS * HEADS * LD]);
    const int per_group = in.H / in.G, blocks = (per_group + HEADS - 1) / HEADS;
    const int g = (int)blockIdx.y / blocks, r = (int)blockIdx.z, P = in.P;
    const int h0 = g * per_group + (int)blockIdx.y % blocks * HEADS;
    const int n_heads = min(HEADS, (g + 1) * per_group - h0);
    const int pos = in.pos[r], begin = (int)blockIdx.x * in.piece;
    const int end = min(begin + in.piece, pos + 1);
    grid_release();
    if (begin > pos)
        return;
    grid_wait();
    const int warp = (int)threadIdx.x / 32, lane = lane_id(), at = lane % LK * E, left = P - at;
    const int64_t row0 = (int64_t)in.slot[r] * in.S;
    const T *new_k = in.k.p + (int64_t)r * in.k.ld + g * P + at;
    const T *new_v = in.v.p + (int64_t)r * in.v.ld + g * P + at;
    float q[HEADS][E];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        load_part<T, WIDE>(q[h], in.q.p + (int64_t)r * in.q.ld + (h0 + h) * P + at,
                           h < n_heads ? left : 0);
#pragma unroll
        for (int e = 0; e < E; e++)
            q[h][e] *= in.scale;
    }
    partial<HEADS, E> sum;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        sum.m[h] = LOWEST;
        sum.l[h] = 0;
#pragma unroll
        for (int e = 0; e < E; e++)
            sum.acc[h][e] = 0;
    }
    const mat<const T> kcache = {in.kcache.p, in.kcache.ld}, vcache = {in.vcache.p, in.vcache.ld};
    for (int j0 = begin; j0 < end; j0 += WARPS * KEYS * UNROLL) {
        const int first = j0 + warp * KEYS * UNROLL + lane / LK;
        pack<T, E> key[UNROLL], value[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            const int j = first + i * KEYS;
            key[i] = fetch<T, WIDE>(key_at(kcache, new_k, row0, j, pos, g * P + at), left, j < end);
        }
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            const int j = first + i * KEYS;
            value[i] =
                fetch<T, WIDE>(key_at(vcache, new_v, row0, j, pos, g * P + at), left, j < end);
        }
        float s[UNROLL][HEADS];
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            score<HEADS, E, LK>(s[i], q, key[i]);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                s[i][h] = first + i * KEYS < end ? s[i][h] : LOWEST;
        }
        take<HEADS, E, UNROLL>(sum, s, value);
    }
    join_lanes<HEADS, E, LK>(sum);
    if (lane < LK)
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float *to = sums + (warp * HEADS + h) * LD;
            to[0] = sum.m[h];
            to[1] = sum.l[h];
#pragma unroll
            for (int e = 0; e < E; e++)
                to[2 + at + e] = sum.acc[h][e];
        }
    if (end == pos + 1 && (int)blockIdx.y % blocks == 0)
        for (int p = (int)threadIdx.x; p < P; p += THREADS) {
            in.kcache.p[(row0 + pos) * in.kcache.ld + g * P + p] =
                in.k.p[(int64_t)r * in.k.ld + g * P + p];
            in.vcache.p[(row0 + pos) * in.vcache.ld + g * P + p] =
                in.v.p[(int64_t)r * in.v.ld + g * P + p];
        }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n_heads * P; i += THREADS) {
        const int h = i / P, p = i % P;
        float m, l;
        const float acc = join_warps(sums, h, p, HEADS, LD, m, l);
        if (!in.parts) {
            in.o.p[(int64_t)r * in.o.ld + (h0 + h) * P + p] = from_f32<T>(acc / l);
            continue;
        }
        float *to = in.parts + (((int64_t)r * in.H + h0 + h) * in.n_pieces + blockIdx.x) * (P + 2);
        to[p] = acc;
        if (p == 0) {
            to[P] = m;
            to[P + 1] = l;
        }
    }
}

/* o of one head of one row from its pieces. One block a head (blockIdx.x) and row, a thread an
 * element. Reads (P + 2) floats a piece that holds positions. */
template <class T> __global__ void __launch_bounds__(128) k_attn_join(attn_step<T> in)
{
    const int h = (int)blockIdx.x, r = (int)blockIdx.y, P = in.P, n = in.pos[r] / in.piece + 1;
    const float *parts = in.parts + ((int64_t)r * in.H + h) * in.n_pieces * (P + 2);
    grid_release();
    grid_wait();
    for (int p = (int)threadIdx.x; p < P; p += (int)blockDim.x) {
        float m = LOWEST, l = 0, acc = 0;
        for (int i = 0; i < n; i++)
            m = fmaxf(m, parts[i * (P + 2) + P]);
        for (int i = 0; i < n; i++) {
            const float *from = parts + i * (P + 2), left = expf(from[P] - m);
            l = fmaf(from[P + 1], left, l);
            acc = fmaf(from[p], left, acc);
        }
        in.o.p[(int64_t)r * in.o.ld + h * P + p] = from_f32<T>(acc / l);
    }
}

/* Positions of a piece, by the cache's size alone. */
int piece_of(int S)
{
    return S <= SHORTEST ? SHORTEST : (S + PIECES * SHORTEST - 1) / (PIECES * SHORTEST) * SHORTEST;
}

size_t parts_bytes(int R, int H, int n_pieces, int P)
{
    return sizeof(float) * (size_t)R * (size_t)H * (size_t)n_pieces * (size_t)(P + 2);
}

template <class T, int LK, int HEADS, bool WIDE>
void run(struct dev *dev, const attn_step<T> &in, int R)
{
    const int per_group = in.H / in.G, blocks = (per_group + HEADS - 1) / HEADS;
    launch_early(dev, "attn_step", k_attn_step<T, LK, HEADS, WIDE>,
                 dim3((unsigned)in.n_pieces, (unsigned)(in.G * blocks), (unsigned)R), THREADS, 0,
                 in);
    if (in.parts)
        launch_early(dev, "attn_step", k_attn_join<T>, dim3((unsigned)in.H, (unsigned)R), 128, 0,
                     in);
}

template <class T, int LK>
void run_heads(struct dev *dev, const attn_step<T> &in, int R, bool is_wide)
{
    if (!is_wide)
        run<T, LK, 4, false>(dev, in, R);
    else if (in.H == in.G)
        run<T, LK, 1, true>(dev, in, R);
    else
        run<T, LK, 4, true>(dev, in, R);
}

/* As many lanes a row as its elements take. */
template <class T> void run_typed(struct dev *dev, const attn_step<T> &in, int R, bool is_wide)
{
    const int lanes = (in.P + wide<T>::n - 1) / wide<T>::n;
    if (lanes <= 2)
        run_heads<T, 2>(dev, in, R, is_wide);
    else if (lanes <= 4)
        run_heads<T, 4>(dev, in, R, is_wide);
    else if (lanes <= 8)
        run_heads<T, 8>(dev, in, R, is_wide);
    else if (lanes <= 16)
        run_heads<T, 16>(dev, in, R, is_wide);
    else
        run_heads<T, 32>(dev, in, R, is_wide);
}
} /* namespace */

size_t cuda_attn_step_plan(const struct sizes *s)
{
    const int n_pieces = s->S > SHORTEST * PIECES ? PIECES : (s->S + SHORTEST - 1) / SHORTEST;
    return n_pieces <= 1 ? 0 : parts_bytes(s->R, s->H, n_pieces, s->P);
}

void cuda_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                    const struct tensor *q, const struct tensor *k, const struct tensor *v,
                    float scale, int H, int P, int G, const struct step_rows *rows)
{
    const int S = (int)kcache->dim[1], piece = piece_of(S), n_pieces = (S + piece - 1) / piece;
    const bool is_wide = P % 8 == 0 && has_wide_rows(q) && has_wide_rows(k) && has_wide_rows(v) &&
                         has_wide_rows(kcache) && has_wide_rows(vcache);
    assert(n_pieces <= 1 || dev->work_bytes >= parts_bytes(rows->R, H, n_pieces, P));
    with_type(o->dtype, [&](auto zero) {
        using T = decltype(zero);
        const attn_step<T> in = {cmat_of<T>(q),
                                 cmat_of<T>(k),
                                 cmat_of<T>(v),
                                 mat_of<T>(kcache),
                                 mat_of<T>(vcache),
                                 mat_of<T>(o),
                                 rows->slot,
                                 rows->pos,
                                 n_pieces > 1 ? (float *)dev->work : NULL,
                                 scale,
                                 S,
                                 H,
                                 P,
                                 G,
                                 piece,
                                 n_pieces};
        run_typed(dev, in, rows->R, is_wide);
    });
}
