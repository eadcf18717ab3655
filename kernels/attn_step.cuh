/* attn_step: what both ways to attend to a cache share (attn_step.cu, attn_rows.cu): the positions
 * of a share, tiles of keys and values in rings, the sums of a warp and how sums are joined. */
#ifndef HM_ATTN_STEP_CUH
#define HM_ATTN_STEP_CUH

#include "cuda.cuh"
#include "mma.cuh"

/* Positions of a tile, and heads of a product. */
enum { TILE = 16 };
constexpr float LOWEST = -3e38f;

template <class T> struct attn_step {
    mat<const T> q, k, v; /* (R,H*P) (R,G*P) */
    mat<T> kcache, vcache, o;
    const int32_t *slot, *pos;
    float *parts; /* (R,H,n_blocks,P+2): sums, then m and l */
    float scale;  /* with log2 e */
    int S, H, P, G, n_blocks;
    bool is_wide;
};

/* How a block is laid out for rows of PT elements, P rounded up: long rows take few warps and few
 * STAGES of a warp's ring of tiles. The ring holds the warp's sums in the end. */
template <class T, int PT> struct layout {
    static constexpr int row = PT * (int)sizeof(T);
    static constexpr int WARPS = row <= 128 ? 4 : row <= 256 ? 2 : 1, THREADS = 32 * WARPS;
    static constexpr int STAGES = row <= 512 ? 2 : 1;
    static constexpr int LD = tile_ld<T>(PT), TILES = 2 * TILE * LD, ring = STAGES * TILES;
    static constexpr int SUM = PT + 2, WARP_LD = ring * (int)sizeof(T) / (int)sizeof(float);
    static constexpr int smem = (TILE * LD + WARPS * ring) * (int)sizeof(T);
    static_assert(WARP_LD >= TILE * SUM, "the sums fit");
    static_assert(smem <= 64 * 1024, "all GPUs have as much");
};

/* Which positions a block has: a run of tiles. */
struct share {
    int begin, end;
};
__device__ __forceinline__ share share_of(int pos, int n_blocks, int which)
{
    const int tiles = pos / TILE + 1, each = (tiles + n_blocks - 1) / n_blocks * TILE;
    return {which * each, min((which + 1) * each, pos + 1)};
}

/* A row of P elements, `chunk` of 16 bytes of it, to shared memory; zeros where !ok. */
template <class T>
__device__ __forceinline__ void copy_chunk(T *to, const T *from, int chunk, int P, bool is_wide,
                                           bool ok)
{
    constexpr int E = wide<T>::n;
    const int at = chunk * E;
    if (is_wide) {
        copy16_async(to + at, from + at, ok && at < P);
        return;
    }
#pragma unroll
    for (int e = 0; e < E; e++)
        to[at + e] = ok && at + e < P ? from[at + e] : from_f32<T>(0.0f);
}

/* A KV head of a row: where its keys and values are. */
template <class T> struct head_at {
    const T *keys, *values, *new_key, *new_value;
    int64_t ld_k, ld_v;
};
/* KV head g of row r, whose slot begins at row0 of the cache. */
template <class T>
__device__ __forceinline__ head_at<T> head_of(const attn_step<T> &in, int64_t row0, int r, int g)
{
    return {in.kcache.p + row0 * in.kcache.ld + g * in.P,
            in.vcache.p + row0 * in.vcache.ld + g * in.P,
            in.k.p + (int64_t)r * in.k.ld + g * in.P,
            in.v.p + (int64_t)r * in.v.ld + g * in.P,
            in.kcache.ld,
            in.vcache.ld};
}

/* The block's query heads h0 .. to shared memory, (TILE,PT); zeros where there is none. */
template <class T, int PT>
__device__ __forceinline__ void load_queries(T *q, const attn_step<T> &in, int r, int h0,
                                             int n_heads)
{
    constexpr int E = wide<T>::n, CHUNKS = PT / E;
    for (int i = (int)threadIdx.x; i < TILE * CHUNKS; i += layout<T, PT>::THREADS) {
        const int h = i / CHUNKS, chunk = i % CHUNKS;
        const T *from = in.q.p + (int64_t)r * in.q.ld + (h0 + h) * in.P;
        T *to = q + h * layout<T, PT>::LD;
        if (in.is_wide) {
            pack<T, E> some = {};
            if (h < n_heads && chunk * E < in.P)
                some = *reinterpret_cast<const pack<T, E> *>(from + chunk * E);
            *reinterpret_cast<pack<T, E> *>(to + chunk * E) = some;
        } else {
            copy_chunk(to, from, chunk, in.P, false, h < n_heads);
        }
    }
}

/* A warp copies TILE positions from j0 on, which are in the cache: keys, then values. */
template <class T, int PT>
__device__ __forceinline__ void copy_whole_tile(T *to, const head_at<T> &head, int j0, int P)
{
    constexpr int LD = layout<T, PT>::LD, CHUNKS = PT / wide<T>::n;
    constexpr int LANES = CHUNKS < 32 ? CHUNKS : 32, ROWS = 32 / LANES; /* of a row; at a time */
    const int row = lane_id() / LANES, first = lane_id() % LANES * wide<T>::n;
    const T *key = head.keys + (j0 + row) * head.ld_k;
    const T *value = head.values + (j0 + row) * head.ld_v;
    to += row * LD;
#pragma unroll
    for (int i = 0; i < TILE; i += ROWS) {
#pragma unroll
        for (int p = first; p < first + PT; p += LANES * wide<T>::n) {
            copy16_async(to + i * LD + p, key + p, p < P);
            copy16_async(to + (TILE + i) * LD + p, value + p, p < P);
        }
        key += ROWS * head.ld_k;
        value += ROWS * head.ld_v;
    }
}

/* A warp copies the tile of positions j0, j0+1 ... before end. The new token's is not in the cache
 * yet; has_new: it may be read. Its tile alone, the last, is not whole and takes the loop, which is
 * not unrolled: so much code would be fetched, and passed over, at every tile. */
template <class T, int PT>
__device__ __forceinline__ void copy_tile(T *to, const head_at<T> &head, int j0, int end, int pos,
                                          int P, bool is_wide, bool has_new)
{
    constexpr int LD = layout<T, PT>::LD, CHUNKS = PT / wide<T>::n;
    if (is_wide && j0 + TILE <= pos) {
        copy_whole_tile<T, PT>(to, head, j0, P);
        return;
    }
#pragma unroll 1
    for (int i = lane_id(); i < TILE * CHUNKS; i += 32) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, j = j0 + row;
        const bool is_new = j == pos;
        if (is_new && !has_new)
            continue;
        copy_chunk(to + row * LD, is_new ? head.new_key : head.keys + j * head.ld_k, chunk, P,
                   is_wide, j < end);
        copy_chunk(to + (TILE + row) * LD, is_new ? head.new_value : head.values + j * head.ld_v,
                   chunk, P, is_wide, j < end);
    }
}

/* Heads g and g+8 of a lane: what the warp has summed. */
template <int PT> struct warp_sums {
    float m[2], l[2];
    frag_c o[PT / 8];
};

/* Takes a tile in. */
template <class T, int PT>
__device__ __forceinline__ void take_tile(warp_sums<PT> &sum, const T *q, const T *tile, int j0,
                                          int end, float scale)
{
    constexpr int LD = layout<T, PT>::LD;
    frag_c s[2] = {};
#pragma unroll
    for (int k = 0; k < PT; k += 16) {
        frag_a<T> a;
        frag_b<T> b[2];
        load_a(a, q + k, LD);
        load_b2(b, tile + k, LD);
        mma(s[0], a, b[0]);
        mma(s[1], a, b[1]);
    }
    const int first = j0 + lane_id() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = sum.m[h];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &x = s[i / 2].r[2 * h + i % 2];
            x = first + i / 2 * 8 + i % 2 < end ? x * scale : LOWEST;
            m = fmaxf(m, x);
        }
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        const float left = exp2_fast(sum.m[h] - m);
        sum.m[h] = m;
        sum.l[h] *= left;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &x = s[i / 2].r[2 * h + i % 2];
            x = exp2_fast(x - m);
            sum.l[h] += x;
        }
#pragma unroll
        for (int n = 0; n < PT / 8; n++) {
            sum.o[n].r[2 * h] *= left;
            sum.o[n].r[2 * h + 1] *= left;
        }
    }
    const frag_a<T> a = a_of_c<T>(s[0], s[1]);
#pragma unroll
    for (int n = 0; n < PT / 16; n++) {
        frag_b<T> b[2];
        load_b2_t(b, tile + TILE * LD + n * 16, LD);
        mma(sum.o[2 * n], a, b[0]);
        mma(sum.o[2 * n + 1], a, b[1]);
    }
}

/* The warp's sums to shared memory, (16,PT+2): m, l, values. */
template <int PT>
__device__ __forceinline__ void leave_sums(float *to, warp_sums<PT> &sum, int n_heads)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float l = sum.l[h];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (g + 8 * h >= n_heads)
            continue;
        float *row = to + (g + 8 * h) * (PT + 2);
        if (t == 0) {
            row[0] = sum.m[h];
            row[1] = l;
        }
#pragma unroll
        for (int n = 0; n < PT / 8; n++) {
            row[2 + n * 8 + 2 * t] = sum.o[n].r[2 * h];
            row[2 + n * 8 + 2 * t + 1] = sum.o[n].r[2 * h + 1];
        }
    }
}

/* Sums of some positions for an element of a head. */
struct part {
    float m, l, acc;
};
/* Parts of a row's blocks that join looks at at once, which enters the bits. */
enum { JOINED = 9 };
/* Of n parts, read by get(i), in order. */
template <int N, class F> __device__ __forceinline__ part join(int n, F get)
{
    part sum = {LOWEST, 0, 0};
    for (int i0 = 0; i0 < n; i0 += N) {
        part p[N];
        float m = sum.m;
#pragma unroll
        for (int i = 0; i < N; i++) {
            p[i] = i0 + i < n ? get(i0 + i) : part{LOWEST, 0, 0};
            m = fmaxf(m, p[i].m);
        }
        const float left = exp2_fast(sum.m - m);
        sum = {m, __fmul_rn(sum.l, left), __fmul_rn(sum.acc, left)};
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float w = exp2_fast(p[i].m - m);
            sum.l = fmaf(p[i].l, w, sum.l);
            sum.acc = fmaf(p[i].acc, w, sum.acc);
        }
    }
    return sum;
}

/* For many rows, a block a KV head. false: it cannot, or rows are too few for that; nothing is
 * done. */
template <class T, int PT> bool attn_rows(struct dev *dev, const attn_step<T> &in, int R);

#endif
