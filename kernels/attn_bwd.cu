/* attn_bwd: the gradient of attention (Dao 2023, "FlashAttention-2", algorithm 2), without scores
 * in memory and without atomics. With weights p = exp(s - lse), made again from the scores:
 *   delta_i = dout_i . o_i;  dp_ij = dout_i . v_j;  ds_ij = p_ij (dp_ij - delta_i)
 *   dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i;  dv_j = sum_i p_ij dout_i.
 * One kernel owns tiles of queries and gives delta and dq, the next owns tiles of keys, passes over
 * all query heads of their KV head and gives dk and dv: 7 products where 5 would do, for sums whose
 * order is fixed. The second kernel's scores are transposed (keys by queries), so that weights go
 * from one product to the next in registers in both. */
#include "attn.cuh"

#include "cuda_ops.cuh"

namespace
{

/* Workspace: of each row, lse in units of log2 and delta, (B*H, padded T) f32 each; rows from T on
 * have lse infinite, which makes their weights 0. */
constexpr int row_pad = 128;

struct row_stats {
    float *lse2, *delta;
    int ld;
};

struct row_stats stats_of(const struct dev *dev, int B, int H, int T)
{
    struct row_stats s;
    s.ld = (T + row_pad - 1) / row_pad * row_pad;
    s.lse2 = (float *)dev->work;
    s.delta = s.lse2 + (int64_t)B * H * s.ld;
    return s;
}

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
    static_assert(row_pad % rows == 0, "row_stats has whole tiles");
};

/* What a lane knows of its rows m*16 + half*8 + lane/4. */
template <int M> struct dq_rows {
    float lse2[M][2], delta[M][2];
    int first[M][2], last; /* keys [first,last] are seen; last: of row 0 */
};

/* The sum of dout times o over a lane's columns of a row, the eighth part of them. */
template <class T, int W>
__device__ __forceinline__ float delta_part(const T *x, const T *y, int P, bool is_wide)
{
    constexpr int n = W / 8 < wide<T>::n ? W / 8 : wide<T>::n; /* elements an access */
    float sum = 0;
#pragma unroll
    for (int at = 0; at < W; at += 8 * n) {
        const int c = at + lane_id() % 8 * n;
        if (c >= P)
            continue;
        if (is_wide) {
            float a[n], b[n];
            load(a, x + c);
            load(b, y + c);
#pragma unroll
            for (int i = 0; i < n; i++)
                sum = fmaf(a[i], b[i], sum);
        } else {
            for (int i = c; i < min(c + n, P); i++)
                sum = fmaf(to_f32(x[i]), to_f32(y[i]), sum);
        }
    }
    return sum;
}

/* delta of a warp's 16*M rows from row0 on, kept and written; rows past the last have 0. A quarter
 * of a warp takes each 4th row, all of its rows at once, and hands the sums to those who need them.
 */
template <class T, class C>
__device__ __forceinline__ void make_delta(dq_rows<C::M> &w, float *delta, mat<const T> dout,
                                           mat<const T> o, int row0, const attn_args<T> &in)
{
    const int quarter = lane_id() / 8, g = lane_id() / 4;
    float sum[4 * C::M];
#pragma unroll
    for (int i = 0; i < 4 * C::M; i++) {
        const int row = min(row0 + 4 * i + quarter, in.n_queries - 1);
        sum[i] = delta_part<T, C::W>(dout.p + row * dout.ld, o.p + row * o.ld, in.P, in.is_wide);
    }
#pragma unroll
    for (int i = 0; i < 4 * C::M; i++) {
        const int row = row0 + 4 * i + quarter;
#pragma unroll
        for (int step = 4; step > 0; step /= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
        sum[i] = row < in.n_queries ? sum[i] : 0.0f;
        if (lane_id() % 8 == 0)
            delta[row] = sum[i];
    }
#pragma unroll
    for (int i = 0; i < 2 * C::M; i++) {
        const float low = __shfl_sync(0xffffffffu, sum[2 * i], g % 4 * 8);
        const float high = __shfl_sync(0xffffffffu, sum[2 * i + 1], g % 4 * 8);
        w.delta[i / 2][i % 2] = g < 4 ? low : high;
    }
}

template <class T, class C>
__device__ __forceinline__ void open_rows(dq_rows<C::M> &w, const attn_args<T> &in,
                                          const int32_t *seg, const float *lse, float *lse2, int q0,
                                          int row0, int j_first)
{
    w.last = row0 + lane_id() / 4;
#pragma unroll
    for (int m = 0; m < C::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = w.last + m * 16 + half * 8, at = min(row, in.n_queries - 1);
            w.lse2[m][half] = row < in.n_queries ? lse[row] * attn_log2e : INFINITY;
            w.first[m][half] = seg ? attn_doc_begin(seg, at, q0, j_first) : 0;
            if (lane_id() % 4 == 0)
                lse2[row] = w.lse2[m][half];
        }
}

/* Scores become weights and then ds, given dp. */
template <int M, int N>
__device__ __forceinline__ void weigh(frag_c (&s)[M][N], const frag_c (&dp)[M][N],
                                      const dq_rows<M> &w, float scale2)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float p = exp2_fast(fmaf(s[m][n].r[i], scale2, -w.lse2[m][i / 2]));
                s[m][n].r[i] = p * (dp[m][n].r[i] - w.delta[m][i / 2]);
            }
}

/* Grid: (sequence and head, tile of queries), the longest first; block: C::threads. FLOPs: 6 P a
 * query and key that are seen, 3 B H T^2 P over whole rows. Bytes: q, dout, o and dq once; k and v
 * once a tile of queries, out of L2. Deterministic: a row belongs to one warp. */
template <class T, class C>
__global__ void __launch_bounds__(C::threads, C::min_blocks)
    k_attn_dq(mat<T> dq, struct row_stats stats, mat<const T> all_dout, mat<const T> all_o,
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
    dq_rows<M> w;
    make_delta<T, C>(w, delta, dout, attn_head(all_o, b, n, h, in.P), row0, in);
    open_rows<T, C>(w, in, seg, lse + (int64_t)blockIdx.x * n, lse2, q0, row0, j_first);
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
            weigh(s, dp, w, in.scale * attn_log2e);
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
    static_assert(row_pad % STEP == 0 && keys % STEP == 0, "row_stats has whole steps");
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
                                           mat<const T> dout, struct row_stats stats, int b, int h,
                                           int i0)
{
    const int n = in.n_queries, at = (int)threadIdx.x * 4;
    attn_load<T, C::step, C::W, C::threads>(to.q, attn_head(in.q, b, n, h, in.P), i0, n, in.P,
                                            in.is_wide);
    attn_load<T, C::step, C::W, C::threads>(to.dout, attn_head(dout, b, n, h, in.P), i0, n, in.P,
                                            in.is_wide);
    const int64_t row = ((int64_t)b * in.H + h) * stats.ld + i0;
    if (at < C::step) {
        copy16_async(to.lse2 + at, stats.lse2 + row + at, true);
        copy16_async(to.delta + at, stats.delta + row + at, true);
    }
    copy_commit();
}

/* Queries that do not see their key get no weight. ends: where the documents of the warp's keys
 * end; row0: the first of them; i0: the stage's first query. */
template <int M, int N>
__device__ __forceinline__ void mask_t(frag_c (&s)[M][N], const int *ends, int row0, int i0)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = m * 16 + half * 8 + lane_id() / 4, end = ends[row];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int at = 0; at < 2; at++) {
                    const int i = i0 + n * 8 + lane_id() % 4 * 2 + at;
                    if (i < row0 + row || i >= end)
                        s[m][n].r[half * 2 + at] = -INFINITY;
                }
        }
}

/* Transposed scores become weights. */
template <int M, int N>
__device__ __forceinline__ void weigh_t(frag_c (&s)[M][N], const float *lse2, float scale2)
{
#pragma unroll
    for (int n = 0; n < N; n++) {
        float bias[2];
        load(bias, lse2 + n * 8 + lane_id() % 4 * 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int at = 0; at < 4; at++)
                s[m][n].r[at] = exp2_fast(fmaf(s[m][n].r[at], scale2, -bias[at % 2]));
    }
}

/* dp, transposed, becomes ds. */
template <int M, int N>
__device__ __forceinline__ void weigh_dp_t(frag_c (&dp)[M][N], const frag_c (&p)[M][N],
                                           const float *delta)
{
#pragma unroll
    for (int n = 0; n < N; n++) {
        float row[2];
        load(row, delta + n * 8 + lane_id() % 4 * 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int at = 0; at < 4; at++)
                dp[m][n].r[at] = p[m][n].r[at] * (dp[m][n].r[at] - row[at % 2]);
    }
}

/* Grid: (sequence and KV head, tile of keys), the longest first; block: C::threads. FLOPs: 8 P a
 * query and key that are seen, 4 B H T^2 P over whole rows. Bytes: k, v, dk and dv once; q and dout
 * once a tile of keys, out of L2. Deterministic: a row belongs to one warp, which takes the group's
 * heads and their queries in order. */
template <class T, class C>
__global__ void __launch_bounds__(C::threads, C::min_blocks)
    k_attn_dkv(mat<T> dk, mat<T> dv, struct row_stats stats, mat<const T> dout,
               const attn_args<T> in)
{
    constexpr int M = C::M, W = C::W, keys = C::keys, step = C::step, ld = C::ld;
    SHARED_DYN(T, smem);
    SHARED(int, ends, [C::keys]);
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
    for (int i = lane_id(); i < 16 * M; i += 32)
        ends[warp_row + i] = seg ? attn_doc_end(seg, min(row0 + i, j_last), j_last, i_end) : n;
    __syncwarp();
    const int warp_end = ends[warp_row + 16 * M - 1];
    const int warp_inner = seg ? ends[warp_row] : INT32_MAX;
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
    for (const int h_end = h + in.per_group; h < h_end; stage ^= 1) {
        const int i0 = next_i0;
        next_i0 += step;
        if (next_i0 >= i_end) {
            next_i0 = j0;
            h++;
        }
        copy_wait<0>();
        __syncthreads();
        if (h < h_end)
            load_stage(stage_at<T, C>(smem, stage ^ 1), in, dout, stats, b, h, next_i0);
        const dkv_stage<T, C> now = stage_at<T, C>(smem, stage);
#pragma unroll 1
        for (int at = 0; at < step; at += C::sub) {
            const int i = i0 + at;
            if (i + C::sub <= row0 || i >= warp_end)
                continue;
            const T *q = now.q + at * ld, *d = now.dout + at * ld;
            frag_c s[M][C::sub / 8], dp[M][C::sub / 8];
            attn_abt<T, M, C::sub, W, C::has_kv>(s, ka, k_tile + warp_row * ld, q);
            if (i < row0 + 16 * M - 1 || i + C::sub > warp_inner)
                mask_t(s, ends + warp_row, row0, i);
            weigh_t(s, now.lse2 + at, in.scale * attn_log2e);
            attn_pb<T, M, C::sub, W>(dv_sum, s, d);
            attn_abt<T, M, C::sub, W, C::has_kv>(dp, va, v_tile + warp_row * ld, d);
            weigh_dp_t(dp, s, now.delta + at);
            attn_pb<T, M, C::sub, W>(dk_sum, dp, q);
        }
    }
    __syncthreads();
    attn_scale(dk_sum, in.scale);
    attn_store<T, M, W>(attn_head(dk, b, n, g, in.P), smem + warp_row * ld, dk_sum, row0, n, in.P,
                        in.is_wide);
    attn_store<T, M, W>(attn_head(dv, b, n, g, in.P), smem + warp_row * ld, dv_sum, row0, n, in.P,
                        in.is_wide);
}

/* --- launches --- */

struct bwd {
    struct dev *dev;
    struct tensor *dq, *dk, *dv;
    const struct tensor *dout, *o;
    const float *lse;
    const struct attn_in *in;
    struct row_stats stats;
    bool is_wide;
};

template <class T, class C> void run_dq(const struct bwd *f)
{
    const struct attn_in *in = f->in;
    const dim3 grid((unsigned)(in->B * in->H), blocks_for(in->T, C::rows));
    assert(grid.y <= 65535);
    launch(f->dev, "attn_bwd", k_attn_dq<T, C>, grid, C::threads, C::smem_bytes, mat_of<T>(f->dq),
           f->stats, cmat_of<T>(f->dout), cmat_of<T>(f->o), f->lse,
           attn_args_of<T>(in, f->is_wide));
}

template <class T, class C> void run_dkv(const struct bwd *f)
{
    const struct attn_in *in = f->in;
    const dim3 grid((unsigned)(in->B * in->G), blocks_for(in->T, C::keys));
    assert(grid.y <= 65535);
    launch(f->dev, "attn_bwd", k_attn_dkv<T, C>, grid, C::threads, C::smem_bytes, mat_of<T>(f->dk),
           mat_of<T>(f->dv), f->stats, cmat_of<T>(f->dout), attn_args_of<T>(in, f->is_wide));
}

template <class T, int W> void run(const struct bwd *f)
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
    const int64_t ld = (s->T + row_pad - 1) / row_pad * row_pad;
    return (size_t)(2 * s->B * s->H * ld) * sizeof(float);
}

void cuda_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                   const struct tensor *dout, const struct tensor *o, const float *lse,
                   const struct attn_in *in)
{
    const struct tensor *const all[] = {&in->q, &in->k, &in->v, dout, o, dq, dk, dv};
    struct bwd f = {dev, dq, dk, dv, dout, o, lse, in, stats_of(dev, in->B, in->H, in->T), true};
    for (const struct tensor *t : all)
        f.is_wide = f.is_wide && attn_is_wide(t, in->P);
    assert(in->scale > 0);
    with_type(dq->dtype, [&](auto zero) {
        using T = decltype(zero);
        with_width(in->P, [&](auto width) { run<T, decltype(width){}()>(&f); });
    });
}
