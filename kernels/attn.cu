/* attn: attention, forward: o = softmax(scale q k^T) v without scores in memory (Dao et al. 2022,
 * "FlashAttention", algorithm 1; Dao 2023, "FlashAttention-2", section 3.1). A block owns a tile of
 * queries of one head and lets the tiles of keys pass; each row keeps a score near the greatest so
 * far, the sum of exponentials against it and the weighted sum of values, which are rescaled when a
 * far greater score comes. Key tiles before the first document of the tile and above the diagonal
 * are never loaded, and only tiles on an edge are masked. */
#include "attn.cuh"

#include "cuda_ops.cuh"

namespace
{

/* WARPS warps of 16*M queries each, KEYS keys a stage, two stages. Where queries fit registers,
 * they pass through the second stage's memory; else they have their own. MIN_BLOCKS: blocks that
 * share a multiprocessor. */
template <class T, int W_, int WARPS, int M_, int KEYS_, int MIN_BLOCKS> struct fwd_tile {
    static constexpr int W = W_, M = M_, keys = KEYS_, rows = 16 * M_ * WARPS;
    static constexpr int threads = 32 * WARPS, min_blocks = MIN_BLOCKS, ld = tile_ld<T>(W_);
    static constexpr bool has_q = M_ * W_ <= 128 && sizeof(T) == 2;
    static constexpr int smem_rows = 4 * KEYS_ + (has_q ? 0 : rows);
    static constexpr size_t smem_bytes = (size_t)smem_rows * ld * sizeof(T);
    static_assert(!has_q || rows <= 2 * KEYS_, "queries pass through a stage");
};

/* What a warp carries from tile to tile. Rows of a lane: m*16 + half*8 + lane/4. */
template <class C> struct fwd_rows {
    frag_c o[C::M][C::W / 8];
    float top[C::M][2], sum[C::M][2]; /* sum: the lane's share */
    int first[C::M][2];               /* keys [first, last] are seen */
    int last;                         /* of the lane's row 0 */
};

/* A row's top follows its scores only where one lies so many powers of 2 above it: most tiles are
 * spared the rescaling, and weights up to 2^SLACK are as exact as those below 1. */
constexpr float SLACK = 8;

/* The greatest of a lane's scores in a row. */
template <int N> __device__ __forceinline__ float lane_max(const frag_c (&s)[N], int half)
{
    float top = fmaxf(s[0].r[2 * half], s[0].r[2 * half + 1]);
#pragma unroll
    for (int n = 1; n < N; n++)
        top = fmaxf(top, fmaxf(s[n].r[2 * half], s[n].r[2 * half + 1]));
    return top;
}

/* Raises the tops of rows that have a score far above, and rescales what was summed before. Each
 * row by its own scores, whatever the others of the warp do. */
template <class C>
__device__ __forceinline__ void raise_tops(const frag_c (&s)[C::M][C::keys / 8], fwd_rows<C> &w,
                                           float scale2)
{
    float most[C::M][2];
    bool is_far = false;
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[m][half] = lane_max(s[m], half);
            is_far |= (most[m][half] - w.top[m][half]) * scale2 > SLACK;
        }
    if (!__any_sync(0xffffffffu, is_far))
        return;
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float was = w.top[m][half], seen = attn_row_max(most[m][half]);
            const float top = (seen - was) * scale2 > SLACK ? seen : was;
            const float left = exp2_fast((was - top) * scale2);
            w.top[m][half] = top;
            w.sum[m][half] *= left;
#pragma unroll
            for (int n = 0; n < C::W / 8; n++) {
                w.o[m][n].r[2 * half] *= left;
                w.o[m][n].r[2 * half + 1] *= left;
            }
        }
}

/* Scores become weights against the row's top. */
template <class C>
__device__ __forceinline__ void soften(frag_c (&s)[C::M][C::keys / 8], fwd_rows<C> &w, float scale2)
{
    raise_tops<C>(s, w, scale2);
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int n = 0; n < C::keys / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float bias = -w.top[m][i / 2] * scale2;
                s[m][n].r[i] = exp2_fast(fmaf(s[m][n].r[i], scale2, bias));
                w.sum[m][i / 2] += s[m][n].r[i];
            }
}

/* Sequence b: its queries and keys, and their first rows. */
struct place {
    int q_at, n_queries, n_keys;
    int64_t k_at;
};
template <class T> __device__ __forceinline__ place place_of(const attn_args<T> &in, int b)
{
    if (!in.begin)
        return {b * in.n_queries, in.n_queries, in.n_queries, (int64_t)b * in.n_queries};
    const int q_at = in.begin[b], n = in.begin[b + 1] - q_at;
    return {q_at, n, in.pos[b] + n, (int64_t)in.slot[b] * in.S};
}

/* Rows start empty: no top (finite, so that its difference to itself is 0), and the keys they see.
 * q0: the tile's first query; j_first: the first key that it sees; row0: the warp's first. */
template <class C>
__device__ __forceinline__ void open_rows(fwd_rows<C> &w, const place &at, const int32_t *seg,
                                          int q0, int row0, int j_first)
{
    attn_clear(w.o);
    w.last = at.n_keys - at.n_queries + row0 + lane_id() / 4;
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(row0 + m * 16 + half * 8 + lane_id() / 4, at.n_queries - 1);
            w.top[m][half] = -1e30f;
            w.sum[m][half] = 0;
            w.first[m][half] = seg ? attn_doc_begin(seg, row, q0, j_first) : 0;
        }
}

/* Divides by the sums; lse of the head's rows, or NULL. */
template <class C>
__device__ __forceinline__ void close_rows(fwd_rows<C> &w, int n_queries, float scale, float *lse,
                                           int row0)
{
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = row0 + m * 16 + half * 8 + lane_id() / 4;
            const float sum = attn_row_sum(w.sum[m][half]), left = 1.0f / sum;
            if (lse && row < n_queries && lane_id() % 4 == 0)
                lse[row] = fmaf(w.top[m][half], scale, logf(sum));
#pragma unroll
            for (int n = 0; n < C::W / 8; n++) {
                w.o[m][n].r[2 * half] *= left;
                w.o[m][n].r[2 * half + 1] *= left;
            }
        }
}

/* Head `head` of a matrix from row `row` on. */
template <class T>
__device__ __forceinline__ mat<T> head_from(mat<T> x, int64_t row, int head, int P)
{
    return mat<T>{x.p + row * x.ld + (int64_t)head * P, x.ld};
}

/* Grid: (sequence and head, tile of queries), the last tiles first since they are the longest;
 * block: C::threads. FLOPs: 4 P a query and key that are seen, so 2 B H T^2 P over whole rows.
 * Bytes: q and o once; k and v once for each tile of queries, mostly out of L2. Deterministic: a
 * row's sums belong to one warp. */
template <class T, class C>
__global__ void __launch_bounds__(C::threads, C::min_blocks)
    k_attn_fwd(mat<T> o, float *lse, const attn_args<T> in)
{
    constexpr int M = C::M, W = C::W, keys = C::keys, ld = C::ld;
    SHARED_DYN(T, smem);
    const int b = (int)blockIdx.x / in.H, h = (int)blockIdx.x % in.H, g = h / in.per_group;
    const int q0 = (int)(gridDim.y - 1 - blockIdx.y) * C::rows;
    const place at = place_of(in, b);
    if (q0 >= at.n_queries)
        return;
    const int warp_row = (int)threadIdx.x / 32 * 16 * M, row0 = q0 + warp_row;
    const int n_keys = at.n_keys, past = n_keys - at.n_queries;
    const int32_t *seg = in.seg ? in.seg + at.q_at : nullptr;
    const mat<const T> q = head_from(in.q, at.q_at, h, in.P);
    const mat<const T> k = head_from(in.k, at.k_at, g, in.P), v = head_from(in.v, at.k_at, g, in.P);
    T *const q_tile = smem + (C::has_q ? 2 : 4) * keys * ld;

    attn_load<T, C::rows, W, C::threads>(q_tile, q, q0, at.n_queries, in.P, in.is_wide);
    copy_commit();
    const int j_first = seg ? attn_find(seg, 0, q0, seg[q0]) : 0;
    const int j_begin = j_first / keys * keys, j_end = min(past + q0 + C::rows, n_keys);
    attn_load<T, keys, W, C::threads>(smem, k, j_begin, n_keys, in.P, in.is_wide);
    attn_load<T, keys, W, C::threads>(smem + keys * ld, v, j_begin, n_keys, in.P, in.is_wide);
    copy_commit();
    fwd_rows<C> w;
    open_rows(w, at, seg, q0, row0, j_first);
    const int warp_first = __shfl_sync(0xffffffffu, w.first[0][0], 0);
    const int warp_inner = __shfl_sync(0xffffffffu, w.first[M - 1][1], 31);
    copy_wait<1>();
    __syncthreads();
    frag_a<T> qa[M][W / 16];
    if constexpr (C::has_q)
        attn_load_a<T, M, W>(qa, q_tile + warp_row * ld);

    int stage = 0;
    for (int j0 = j_begin; j0 < j_end; j0 += keys, stage ^= 1) {
        copy_wait<0>();
        __syncthreads();
        if (j0 + keys < j_end) {
            T *next = smem + (stage ^ 1) * 2 * keys * ld;
            attn_load<T, keys, W, C::threads>(next, k, j0 + keys, n_keys, in.P, in.is_wide);
            attn_load<T, keys, W, C::threads>(next + keys * ld, v, j0 + keys, n_keys, in.P,
                                              in.is_wide);
        }
        copy_commit();
        if (j0 > past + row0 + 16 * M - 1 || j0 + keys <= warp_first)
            continue;
        const T *tile = smem + stage * 2 * keys * ld;
        frag_c s[M][keys / 8];
        attn_abt<T, M, keys, W, C::has_q>(s, qa, q_tile + warp_row * ld, tile);
        if (j0 + keys - 1 > past + row0 || j0 < warp_inner)
            attn_mask(s, w.first, w.last, j0);
        soften<C>(s, w, in.scale * attn_log2e);
        attn_pb<T, M, keys, W>(w.o, s, tile + keys * ld);
    }
    __syncthreads();
    const place again = place_of(in, b); /* so that it need not be kept all along */
    close_rows(w, again.n_queries, in.scale,
               lse ? lse + (int64_t)blockIdx.x * in.n_queries : nullptr, row0);
    attn_store<T, M, W>(head_from(o, again.q_at, h, in.P), smem + warp_row * ld, w.o, row0,
                        again.n_queries, in.P, in.is_wide);
}

template <class T, class C>
void run(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in,
         const struct read_rows *rows, bool is_wide)
{
    const unsigned n_tiles = blocks_for(in->T, C::rows);
    attn_args<T> args = attn_args_of<T>(in, is_wide);
    assert(n_tiles <= 65535);
    if (rows) {
        args.begin = rows->begin;
        args.slot = rows->slot;
        args.pos = rows->pos;
        args.S = (int)in->k.dim[1];
    }
    launch(dev, "attn_fwd", k_attn_fwd<T, C>, dim3((unsigned)(in->B * in->H), n_tiles), C::threads,
           C::smem_bytes, mat_of<T>(o), lse, args);
}

/* in->B sequences of at most in->T queries. */
void forward(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in,
             const struct read_rows *rows)
{
    const bool is_wide = attn_is_wide(&in->q, in->P) && attn_is_wide(&in->k, in->P) &&
                         attn_is_wide(&in->v, in->P) && attn_is_wide(o, in->P);
    assert(in->scale > 0);
    with_type(o->dtype, [&](auto zero) {
        using T = decltype(zero);
        with_width(in->P, [&](auto width) {
            constexpr int W = decltype(width){}();
            if constexpr (sizeof(T) == 4)
                run<T, fwd_tile<T, W, W == 128 ? 2 : 4, 1, W == 128 ? 16 : 32, 1>>(dev, o, lse, in,
                                                                                   rows, is_wide);
            else if constexpr (W < 128)
                run<T, fwd_tile<T, W, 4, 2, 64, 2>>(dev, o, lse, in, rows, is_wide);
            else if (cuda_of(dev)->smem_bytes > 70000)
                run<T, fwd_tile<T, W, 4, 2, 32, 2>>(dev, o, lse, in, rows, is_wide);
            else
                run<T, fwd_tile<T, W, 4, 1, 32, 2>>(dev, o, lse, in, rows, is_wide);
        });
    });
}

enum { STORE_THREADS = 256, STORE_TOKENS = 8 };

/* The new keys and values of a read go into the caches. Grid: (STORE_TOKENS tokens, row); N
 * elements at a time, which divide the width GP. Moves 4 GP elements a token. */
template <class T, int N>
__global__ void __launch_bounds__(STORE_THREADS)
    k_attn_store(mat<T> kcache, mat<T> vcache, mat<const T> k, mat<const T> v,
                 struct read_rows rows, int S, int GP)
{
    const int row = (int)blockIdx.y, per_token = GP / N, t0 = (int)blockIdx.x * STORE_TOKENS;
    const int64_t begin = rows.begin[row], to = (int64_t)rows.slot[row] * S + rows.pos[row];
    const int n = min(rows.begin[row + 1] - rows.begin[row] - t0, (int)STORE_TOKENS) * per_token;
    for (int i = (int)threadIdx.x; i < n; i += STORE_THREADS) {
        const int t = t0 + i / per_token, c = i % per_token * N;
        *(pack<T, N> *)(kcache.p + (to + t) * kcache.ld + c) =
            *(const pack<T, N> *)(k.p + (begin + t) * k.ld + c);
        *(pack<T, N> *)(vcache.p + (to + t) * vcache.ld + c) =
            *(const pack<T, N> *)(v.p + (begin + t) * v.ld + c);
    }
}

template <class T, int N>
void store(struct dev *dev, struct tensor *kcache, struct tensor *vcache, const struct tensor *k,
           const struct tensor *v, const struct read_rows *rows)
{
    launch(dev, "attn_read", k_attn_store<T, N>,
           dim3(blocks_for(rows->T, STORE_TOKENS), (unsigned)rows->R), STORE_THREADS, 0,
           mat_of<T>(kcache), mat_of<T>(vcache), cmat_of<T>(k), cmat_of<T>(v), *rows,
           (int)kcache->dim[1], (int)tensor_cols(k));
}

} // namespace

void cuda_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
    forward(dev, o, lse, in, nullptr);
}

void cuda_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                    const struct tensor *q, const struct tensor *k, const struct tensor *v,
                    float scale, int H, int P, int G, const struct read_rows *rows)
{
    struct attn_in in = {};
    in.q = *q;
    in.k = *kcache;
    in.v = *vcache;
    in.scale = scale;
    in.B = rows->R;
    in.T = rows->T;
    in.H = H;
    in.P = P;
    in.G = G;
    with_type(o->dtype, [&](auto zero) {
        using T = decltype(zero);
        if (has_wide_rows(k) && has_wide_rows(v) && has_wide_rows(kcache) && has_wide_rows(vcache))
            store<T, wide<T>::n>(dev, kcache, vcache, k, v, rows);
        else
            store<T, 1>(dev, kcache, vcache, k, v, rows);
    });
    forward(dev, o, nullptr, &in, rows);
}
