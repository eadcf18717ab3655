/* attn_bwd: the gradient of attention (Dao 2023, "FlashAttention-2", algorithm 2), without scores
 * in memory and without atomics. With weights p = exp(s - lse), made again from the scores:
 *   delta_i = dout_i . o_i;  dp_ij = dout_i . v_j;  ds_ij = p_ij (dp_ij - delta_i)
 *   dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i;  dv_j = sum_i p_ij dout_i.
 * One kernel owns tiles of queries and gives delta and dq, the next owns tiles of keys, passes over
 * all query heads of their KV head and gives dk and dv: 7 products where 5 would do, for sums whose
 * order is fixed. The second kernel's scores are transposed (keys by queries), so that weights go
 * from one product to the next in registers in both. */
#include "attn_bwd.cuh"

#include "cuda_ops.cuh"

namespace
{

/* --- dq --- */

/* WARPS warps of 16*M queries each, KEYS keys a stage, two stages, SUB keys at a time. has_q: q
 * and dout stay in registers and pass through a stage's memory each; else they have their own. */
template <class T, int W_, int WARPS, int M_, int KEYS_, int SUB, int MIN_BLOCKS> struct dq_tile {
    static constexpr int W = W_, M = M_, keys = KEYS_, sub = SUB, rows = 16 * M_ * WARPS;
    static constexpr int threads = 32 * WARPS, min_blocks = MIN_BLOCKS, ld = tile_ld<T>(W_);
    static constexpr bool has_q = M_ * W_ <= 128 && sizeof(T) == 2;
    static constexpr int smem_rows = 4 * KEYS_ + (has_q ? 0 : 2 * rows);
    static constexpr size_t smem_bytes = (size_t)smem_rows * ld * sizeof(T);
    static_assert(!has_q || rows == 2 * KEYS_, "q and dout pass through a stage each");
    static_assert(attn_row_pad % rows == 0, "attn_row_stats has whole tiles");
};

/* Grid: (sequence and head, tile of queries), the longest first; block: C::threads. FLOPs: 6 P a
 * query and key that are seen, 3 B H T^2 P over whole rows. Bytes: q, dout, o and dq once; k and v
 * once a tile of queries, out of L2. Deterministic: a row belongs to one warp. */
template <class T, class C>
__global__ void __launch_bounds__(C::threads, C::min_blocks)
    k_attn_dq(mat<T> dq, struct attn_row_stats stats, mat<const T> all_dout, mat<const T> all_o,
              const float *lse, const attn_args<T> in)
{
    constexpr int M = C::M, W = C::W, keys = C::keys, ld = C::ld, threads = C::threads;
    SHARED_DYN(T, smem);
    const int b = (int)blockIdx.x / in.H, h = (int)blockIdx.x % in.H, g = h / in.per_group;
    const int n = in.n_queries, q0 = (int)(gridDim.y - 1 - blockIdx.y) * C::rows;
    const int warp_row = (int)threadIdx.x / 32 * 16 * M, row0 = q0 + warp_row;
    const int32_t *seg = in.seg ? in.seg + (int64_t)b * n : nullptr;
    const mat<const T> k = attn_head(in.k, b, n, g, in.P), v = attn_head(in.v, b, n, g, in.P);
    const mat<const T> dout = attn_head(all_dout, b, n, h, in.P);
    T *const q_tile = smem + (C::has_q ? 0 : 4 * keys) * ld, *const do_tile = q_tile + C::rows * ld;
    float *const lse2 = stats.lse2 + (int64_t)blockIdx.x * stats.ld;
    float *const delta = stats.delta + (int64_t)blockIdx.x * stats.ld;

    attn_load<T, C::rows, W, threads>(q_tile, attn_head(in.q, b, n, h, in.P), q0, n, in.P,
                                      in.is_wide);
    copy_commit();
    attn_load<T, C::rows, W, threads>(do_tile, dout, q0, n, in.P, in.is_wide);
    copy_commit();
    const int j_first = seg ? attn_find(seg, 0, q0, seg[q0]) : 0;
    const int j_begin = j_first / keys * keys, j_end = min(q0 + C::rows, n);
    frag_a<T> qa[M][W / 16], da[M][W / 16];
    if constexpr (C::has_q) {
        copy_wait<1>();
        __syncthreads();
        attn_load_a<T, M, W>(qa, q_tile + warp_row * ld);
        __syncthreads();
    }
    attn_load<T, keys, W, threads>(smem, k, j_begin, n, in.P, in.is_wide);
    attn_load<T, keys, W, threads>(smem + keys * ld, v, j_begin, n, in.P, in.is_wide);
    copy_commit();
    attn_dq_rows<M> w;
    attn_make_delta<T, C>(w, delta, dout, attn_head(all_o, b, n, h, in.P), row0, in);
    attn_open_rows<T, C>(w, in, seg, lse + (int64_t)blockIdx.x * n, lse2, q0, row0, j_first);
    const int warp_first = __shfl_sync(0xffffffffu, w.first[0][0], 0);
    const int warp_inner = __shfl_sync(0xffffffffu, w.first[M - 1][1], 31);
    if constexpr (C::has_q) {
        copy_wait<1>();
        __syncthreads();
        attn_load_a<T, M, W>(da, do_tile + warp_row * ld);
    }
    frag_c sum[M][W / 8];
    attn_clear(sum);

    int stage = 0;
    for (int j0 = j_begin; j0 < j_end; j0 += keys, stage ^= 1) {
        copy_wait<0>();
        __syncthreads();
        if (j0 + keys < j_end) {
            T *next = smem + (stage ^ 1) * 2 * keys * ld;
            attn_load<T, keys, W, threads>(next, k, j0 + keys, n, in.P, in.is_wide);
            attn_load<T, keys, W, threads>(next + keys * ld, v, j0 + keys, n, in.P, in.is_wide);
        }
        copy_commit();
#pragma unroll 1
        for (int at = 0; at < keys; at += C::sub) {
            const int j = j0 + at;
            if (j > row0 + 16 * M - 1 || j + C::sub <= warp_first)
                continue;
            const T *k_tile = smem + (stage * 2 * keys + at) * ld, *v_tile = k_tile + keys * ld;
            frag_c s[M][C::sub / 8], dp[M][C::sub / 8];
            attn_abt<T, M, C::sub, W, C::has_q>(s, qa, q_tile + warp_row * ld, k_tile);
            attn_abt<T, M, C::sub, W, C::has_q>(dp, da, do_tile + warp_row * ld, v_tile);
            if (j + C::sub - 1 > row0 || j < warp_inner)
                attn_mask(s, w.first, w.last, j);
            attn_weights(s, w, in.scale * attn_log2e);
            attn_weigh(s, dp, w);
            attn_pb<T, M, C::sub, W>(sum, s, k_tile);
        }
    }
    __syncthreads();
    attn_scale(sum, in.scale);
    attn_store<T, M, W>(attn_head(dq, b, n, h, in.P), smem + warp_row * ld, sum, row0, n, in.P,
                        in.is_wide);
}

/* --- dk, dv --- */

/* WARPS warps of 16*M keys each, STEP queries a stage, two stages, SUB queries at a time. has_kv: k
 * and v stay in registers and pass through the stages' memory; else they have their own. */
template <class T, int W_, int WARPS, int M_, int STEP, int SUB, int MIN_BLOCKS> struct dkv_tile {
    static constexpr int W = W_, M = M_, step = STEP, sub = SUB, keys = 16 * M_ * WARPS;
    static constexpr int threads = 32 * WARPS, min_blocks = MIN_BLOCKS, ld = tile_ld<T>(W_);
    static constexpr bool has_kv = sizeof(T) == 2;
    static constexpr int stages_at = has_kv ? 0 : 2 * keys; /* rows before the stages */
    static constexpr int rows = stages_at + 4 * STEP > 2 * keys ? stages_at + 4 * STEP : 2 * keys;
    static constexpr size_t smem_bytes = (size_t)rows * ld * sizeof(T) + 4 * STEP * sizeof(float);
    static_assert(attn_row_pad % STEP == 0 && keys % STEP == 0, "attn_row_stats has whole steps");
};

/* What a block needs once a stage or at its end, in shared memory: beside the sums, registers are
 * for what each product needs. */
struct dkv_block {
    int b, g, h_end; /* sequence, KV head, where its query heads end */
};

/* A stage: STEP queries with their dout, lse2 and delta. */
template <class T, class C> struct dkv_stage {
    T *q, *dout;
    float *lse2, *delta;
};
template <class T, class C> __device__ __forceinline__ dkv_stage<T, C> stage_at(T *smem, int i)
{
    T *tile = smem + (C::stages_at + i * 2 * C::step) * C::ld;
    float *rows = reinterpret_cast<float *>(smem + C::rows * C::ld) + i * 2 * C::step;
    return dkv_stage<T, C>{tile, tile + C::step * C::ld, rows, rows + C::step};
}

template <class T, class C>
__device__ __forceinline__ void load_stage(const dkv_stage<T, C> &to, const attn_args<T> &in,
                                           mat<const T> dout, struct attn_row_stats stats, int b,
                                           int h, int i0)
{
    const int n = not_before(in.n_queries), tid = not_before((int)threadIdx.x), at = tid * 4;
    attn_load<T, C::step, C::W, C::threads>(to.q, attn_head(in.q, b, n, h, in.P), i0, n, in.P,
                                            in.is_wide, tid);
    attn_load<T, C::step, C::W, C::threads>(to.dout, attn_head(dout, b, n, h, in.P), i0, n, in.P,
                                            in.is_wide, tid);
    const int64_t row = ((int64_t)b * in.H + h) * stats.ld + i0;
    if (at < C::step) {
        copy16_async(to.lse2 + at, stats.lse2 + row + at, true);
        copy16_async(to.delta + at, stats.delta + row + at, true);
    }
    copy_commit();
}

/* Grid: (sequence and KV head, tile of keys), the longest first; block: C::threads. FLOPs: 8 P a
 * query and key that are seen, 4 B H T^2 P over whole rows. Bytes: k, v, dk and dv once; q and dout
 * once a tile of keys, out of L2. Deterministic: a row belongs to one warp, which takes the group's
 * heads and their queries in order. */
template <class T, class C>
__global__ void __launch_bounds__(C::threads, C::min_blocks)
    k_attn_dkv(mat<T> dk, mat<T> dv, struct attn_row_stats stats, mat<const T> dout,
               const attn_args<T> in)
{
    constexpr int M = C::M, W = C::W, keys = C::keys, step = C::step, ld = C::ld;
    SHARED_DYN(T, smem);
    SHARED(int, ends, [C::keys]);
    SHARED(dkv_block, block, [1]);
    const int G = in.H / in.per_group, b = (int)blockIdx.x / G, g = (int)blockIdx.x % G;
    const int n = in.n_queries, j0 = (int)blockIdx.y * keys, j_last = min(j0 + keys, n) - 1;
    const int warp_row = (int)threadIdx.x / 32 * 16 * M, row0 = j0 + warp_row;
    const int32_t *seg = in.seg ? in.seg + (int64_t)b * n : nullptr;
    T *const k_tile = smem, *const v_tile = smem + keys * ld;

    attn_load<T, keys, W, C::threads>(k_tile, attn_head(in.k, b, n, g, in.P), j0, n, in.P,
                                      in.is_wide);
    attn_load<T, keys, W, C::threads>(v_tile, attn_head(in.v, b, n, g, in.P), j0, n, in.P,
                                      in.is_wide);
    copy_commit();
    if constexpr (!C::has_kv)
        load_stage(stage_at<T, C>(smem, 0), in, dout, stats, b, g * in.per_group, j0);
    const int i_end = seg ? attn_find(seg, j_last + 1, n, seg[j_last] + 1) : n;
    if (threadIdx.x == 0)
        *block = dkv_block{b, g, (g + 1) * in.per_group};
    for (int i = lane_id(); i < 16 * M; i += 32)
        ends[warp_row + i] = seg ? attn_doc_end(seg, min(row0 + i, j_last), j_last, i_end) : n;
    __syncwarp();
    frag_a<T> ka[M][W / 16], va[M][W / 16];
    if constexpr (C::has_kv) {
        copy_wait<0>();
        __syncthreads();
        attn_load_a<T, M, W>(ka, k_tile + warp_row * ld);
        attn_load_a<T, M, W>(va, v_tile + warp_row * ld);
        __syncthreads();
        load_stage(stage_at<T, C>(smem, 0), in, dout, stats, b, g * in.per_group, j0);
    }
    frag_c dk_sum[M][W / 8], dv_sum[M][W / 8];
    attn_clear(dk_sum);
    attn_clear(dv_sum);

    int stage = 0, h = g * in.per_group, next_i0 = j0; /* h, next_i0: the stage to load next */
    do {
        const int i0 = next_i0;
        copy_wait<0>();
        __syncthreads();
        next_i0 += step;
        if (next_i0 >= ends[keys - 1]) {
            next_i0 = j0;
            h++;
        }
        if (h < block->h_end)
            load_stage(stage_at<T, C>(smem, stage ^ 1), in, dout, stats, block->b, h, next_i0);
        const dkv_stage<T, C> now = stage_at<T, C>(smem, stage);
        const int warp_inner = ends[warp_row], warp_end = ends[warp_row + 16 * M - 1];
#pragma unroll 1
        for (int at = 0; at < step; at += C::sub) {
            const int i = i0 + at;
            if (i + C::sub <= row0 || i >= warp_end)
                continue;
            const T *q = now.q + at * ld, *d = now.dout + at * ld;
            frag_c s[M][C::sub / 8];
            attn_abt<T, M, C::sub, W, C::has_kv>(s, ka, k_tile + warp_row * ld, q);
            if (i < row0 + 16 * M - 1 || i + C::sub > warp_inner)
                attn_mask_t(s, ends + warp_row, row0, i);
            attn_weigh_t(s, now.lse2 + at, in.scale * attn_log2e);
            attn_pb<T, M, C::sub, W>(dv_sum, s, d);
            frag_c dp[M][C::sub / 8];
            attn_abt<T, M, C::sub, W, C::has_kv>(dp, va, v_tile + warp_row * ld, d);
            attn_weigh_dp_t(dp, s, now.delta + at);
            attn_pb<T, M, C::sub, W>(dk_sum, dp, q);
        }
        stage ^= 1;
    } while (h < block->h_end);
    __syncthreads();
    attn_scale(dk_sum, in.scale);
    const int tid = not_before((int)threadIdx.x), row = tid / 32 * 16 * M; /* not kept till here */
    T *const own = smem + row * ld;
    attn_store<T, M, W>(attn_head(dk, block->b, n, block->g, in.P), own, dk_sum, j0 + row, n, in.P,
                        in.is_wide, tid % 32);
    attn_store<T, M, W>(attn_head(dv, block->b, n, block->g, in.P), own, dv_sum, j0 + row, n, in.P,
                        in.is_wide, tid % 32);
}

/* --- launches --- */

template <class T, class C> void run_dq(const struct attn_bwd *f)
{
    const struct attn_in *in = f->in;
    const dim3 grid((unsigned)(in->B * in->H), blocks_for(in->T, C::rows));
    assert(grid.y <= 65535);
    launch(f->dev, "attn_bwd", k_attn_dq<T, C>, grid, C::threads, C::smem_bytes, mat_of<T>(f->dq),
           f->stats, cmat_of<T>(f->dout), cmat_of<T>(f->o), f->lse,
           attn_args_of<T>(in, f->is_wide));
}

template <class T, class C> void run_dkv(const struct attn_bwd *f)
{
    const struct attn_in *in = f->in;
    const dim3 grid((unsigned)(in->B * in->G), blocks_for(in->T, C::keys));
    assert(grid.y <= 65535);
    launch(f->dev, "attn_bwd", k_attn_dkv<T, C>, grid, C::threads, C::smem_bytes, mat_of<T>(f->dk),
           mat_of<T>(f->dv), f->stats, cmat_of<T>(f->dout), attn_args_of<T>(in, f->is_wide));
}

template <class T, int W> void run(const struct attn_bwd *f)
{
    if constexpr (sizeof(T) == 4) {
        constexpr int warps = W == 128 ? 1 : 4;
        run_dq<T, dq_tile<T, W, warps, 1, 16, 16, 1>>(f);
        run_dkv<T, dkv_tile<T, W, warps, 1, 16, 16, 1>>(f);
    } else if constexpr (W < 128) {
        run_dq<T, dq_tile<T, W, 4, 2, 64, 32, 2>>(f);
        run_dkv<T, dkv_tile<T, W, 4, 2, 64, 16, 2>>(f);
    } else {
        run_dq<T, dq_tile<T, W, 4, 1, 32, 32, 2>>(f);
        run_dkv<T, dkv_tile<T, W, 4, 1, 32, 16, 2>>(f);
    }
}

} // namespace

size_t cuda_attn_plan(const struct dev *, const struct sizes *s)
{
    const int64_t ld = (s->T + attn_row_pad - 1) / attn_row_pad * attn_row_pad;
    return (size_t)(2 * s->B * s->H * ld) * sizeof(float);
}

void cuda_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                   const struct tensor *dout, const struct tensor *o, const float *lse,
                   const struct attn_in *in)
{
    const struct tensor *const all[] = {&in->q, &in->k, &in->v, dout, o, dq, dk, dv};
    struct attn_bwd f = {dev, dq, dk, dv, dout, o, lse, in, attn_stats_of(dev, in->B, in->H, in->T),
                         true};
    for (const struct tensor *t : all)
        f.is_wide = f.is_wide && attn_is_wide(t, in->P);
    assert(in->scale > 0);
    if (attn_bwd_has_sm90(&f)) {
        attn_bwd_sm90(&f);
        return;
    }
    with_type(dq->dtype, [&](auto zero) {
        using T = decltype(zero);
        with_width(in->P, [&](auto width) { run<T, decltype(width){}()>(&f); });
    });
}
