/* attn_bwd_sm90: the gradient of attention (attn_bwd.cu has the formulas) for Hopper, heads of 64
 * columns in 16-bit types: the same two kernels, rows and order of sums, with products of a
 * warpgroup. A block is two warpgroups of 64 rows that share the tiles that pass. Both products
 * of a tile begin at once; weights are taken from the first while the second runs. */
#include "attn_bwd.cuh"
#include "cuda_ops.cuh"
#include "wgmma.cuh"

namespace
{
enum { GROUPS = 2, THREADS = 128 * GROUPS, ROWS = 64 * GROUPS, STEP = 64, W = 64 };
static_assert(attn_row_pad % ROWS == 0 && attn_row_pad % STEP == 0, "whole tiles");

struct rows_shape {
    static constexpr int W = 64, M = 1;
};

/* d = a b^T of the warpgroup's rows in one tile and STEP rows of another; begins, does not wait. */
template <class T>
__device__ __forceinline__ void begin_abt(frag_c (&d)[STEP / 8], const wg_tile<T, ROWS, W> &a,
                                          int group, const wg_tile<T, STEP, W> &b)
{
    wg_abt(d, a, group * 64, b, 0);
    wg_commit();
}
/* sum += p b, p what a product gave; the same. */
template <class T>
__device__ __forceinline__ void begin_pb(frag_c (&sum)[W / 8], const frag_a<T> (&p)[STEP / 16],
                                         const wg_tile<T, STEP, W> &b)
{
    wg_pb(sum, p, b, 0);
    wg_commit();
}
template <class T>
__device__ __forceinline__ void round_to(frag_a<T> (&p)[STEP / 16], const frag_c (&s)[STEP / 8])
{
#pragma unroll
    for (int k = 0; k < STEP / 16; k++)
        p[k] = a_of_c<T>(s[2 * k], s[2 * k + 1]);
}
/* Where a warp may lay out the 16 rows that it writes, in memory that nobody uses any more. */
template <class T> __device__ __forceinline__ T *room_of(void *all)
{
    return reinterpret_cast<T *>(all) + (int)threadIdx.x / 32 * 16 * tile_ld<T>(W);
}

/* --- dq --- */

template <class T> struct dq_smem {
    wg_tile<T, ROWS, W> q, dout;
    struct {
        wg_tile<T, STEP, W> k, v;
    } stage[2];
};

/* Grid, FLOPs, bytes as k_attn_dq's, tiles of ROWS queries; block: THREADS. */
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    k_attn_dq_wg(mat<T> dq, struct attn_row_stats stats, mat<const T> all_dout, mat<const T> all_o,
                 const float *lse, const attn_args<T> in)
{
    using C = rows_shape;
    SHARED_DYN(unsigned char, all);
    dq_smem<T> &w = *reinterpret_cast<dq_smem<T> *>(all);
    const int b = (int)blockIdx.x / in.H, h = (int)blockIdx.x % in.H, g = h / in.per_group;
    const int n = in.n_queries, q0 = (int)(gridDim.y - 1 - blockIdx.y) * ROWS;
    const int tid = (int)threadIdx.x, group = tid / 128, row0 = q0 + tid / 32 * 16;
    const int group_row = q0 + group * 64, group_last = min(group_row + 64, n) - 1;
    const int32_t *seg = in.seg ? in.seg + (int64_t)b * n : nullptr;
    const mat<const T> k = attn_head(in.k, b, n, g, W), v = attn_head(in.v, b, n, g, W);
    const mat<const T> q = attn_head(in.q, b, n, h, W), dout = attn_head(all_dout, b, n, h, W);
    const auto fetch = [&](int stage, int j) {
        wg_copy<THREADS>(w.stage[stage].k, k.p + j * k.ld, k.ld, n - j, tid);
        wg_copy<THREADS>(w.stage[stage].v, v.p + j * v.ld, v.ld, n - j, tid);
        copy_commit();
    };
    wg_copy<THREADS>(w.q, q.p + q0 * q.ld, q.ld, n - q0, tid);
    wg_copy<THREADS>(w.dout, dout.p + q0 * dout.ld, dout.ld, n - q0, tid);
    const int j_first = seg ? attn_find(seg, 0, q0, seg[q0]) : 0;
    const int j_begin = j_first / STEP * STEP, j_end = min(q0 + ROWS, n);
    fetch(0, j_begin);
    attn_dq_rows<1> rows;
    attn_make_delta<T, C>(rows, stats.delta + (int64_t)blockIdx.x * stats.ld, dout,
                          attn_head(all_o, b, n, h, W), row0, in);
    attn_open_rows<T, C>(rows, in, seg, lse + (int64_t)blockIdx.x * n,
                         stats.lse2 + (int64_t)blockIdx.x * stats.ld, q0, row0, j_first);
    const int first = seg ? attn_doc_begin(seg, min(group_row, group_last), q0, j_first) : 0;
    const int inner = seg ? attn_doc_begin(seg, max(group_last, q0), q0, j_first) : 0;
    frag_c sum[1][W / 8];
    attn_clear(sum);

    int stage = 0;
    for (int j0 = j_begin; j0 < j_end; j0 += STEP, stage ^= 1) {
        copy_wait<0>();
        wg_publish();
        __syncthreads();
        if (j0 + STEP < j_end)
            fetch(stage ^ 1, j0 + STEP);
        if (j0 > group_last || j0 + STEP <= first)
            continue;
        frag_c s[1][STEP / 8], dp[1][STEP / 8];
        frag_a<T> ds[STEP / 16];
        wg_begin();
        begin_abt(s[0], w.q, group, w.stage[stage].k);
        begin_abt(dp[0], w.dout, group, w.stage[stage].v);
        wg_wait<1>();
        wg_pin(s[0]);
        if (j0 + STEP - 1 > group_row || j0 < inner)
            attn_mask(s, rows.first, rows.last, j0);
        attn_weights(s, rows, in.scale * attn_log2e);
        wg_wait<0>();
        wg_pin(dp[0]);
        attn_weigh(s, dp, rows);
        round_to(ds, s[0]);
        wg_begin();
        begin_pb(sum[0], ds, w.stage[stage].k);
        wg_wait<0>();
        wg_pin(sum[0]);
        wg_pin(ds);
    }
    __syncthreads();
    attn_scale(sum, in.scale);
    attn_store<T, 1, W>(attn_head(dq, b, n, h, W), room_of<T>(&w.stage), sum, row0, n, W, true);
}

/* --- dk, dv --- */

template <class T> struct dkv_smem {
    wg_tile<T, ROWS, W> k, v;
    struct {
        wg_tile<T, STEP, W> q, dout;
        float lse2[STEP], delta[STEP];
    } stage[2];
    int ends[ROWS]; /* where the documents of the block's keys end */
};

/* Grid, FLOPs, bytes and order of sums as k_attn_dkv's, tiles of ROWS keys; block: THREADS. */
template <class T>
__global__ void __launch_bounds__(THREADS, 1)
    k_attn_dkv_wg(mat<T> dk, mat<T> dv, struct attn_row_stats stats, mat<const T> all_dout,
                  const attn_args<T> in)
{
    SHARED_DYN(unsigned char, all);
    dkv_smem<T> &w = *reinterpret_cast<dkv_smem<T> *>(all);
    const int G = in.H / in.per_group, b = (int)blockIdx.x / G, g = (int)blockIdx.x % G;
    const int n = in.n_queries, j0 = (int)blockIdx.y * ROWS, j_last = min(j0 + ROWS, n) - 1;
    const int tid = (int)threadIdx.x, group = tid / 128, warp_row = tid / 32 * 16;
    const int group_row = j0 + group * 64;
    const int32_t *seg = in.seg ? in.seg + (int64_t)b * n : nullptr;
    const mat<const T> k = attn_head(in.k, b, n, g, W), v = attn_head(in.v, b, n, g, W);
    const auto fetch = [&](int stage, int h, int i) {
        const mat<const T> q = attn_head(in.q, b, n, h, W), d = attn_head(all_dout, b, n, h, W);
        wg_copy<THREADS>(w.stage[stage].q, q.p + i * q.ld, q.ld, n - i, tid);
        wg_copy<THREADS>(w.stage[stage].dout, d.p + i * d.ld, d.ld, n - i, tid);
        const int64_t row = ((int64_t)b * in.H + h) * stats.ld + i;
        if (tid < STEP / 4) {
            copy16_async(w.stage[stage].lse2 + tid * 4, stats.lse2 + row + tid * 4);
            copy16_async(w.stage[stage].delta + tid * 4, stats.delta + row + tid * 4);
        }
        copy_commit();
    };
    wg_copy<THREADS>(w.k, k.p + j0 * k.ld, k.ld, n - j0, tid);
    wg_copy<THREADS>(w.v, v.p + j0 * v.ld, v.ld, n - j0, tid);
    int stage = 0, h = g * in.per_group, next = j0; /* h, next: the queries to load next */
    fetch(0, h, j0);
    const int i_end = seg ? attn_find(seg, j_last + 1, n, seg[j_last] + 1) : n;
    if (tid < ROWS)
        w.ends[tid] = seg ? attn_doc_end(seg, min(j0 + tid, j_last), j_last, i_end) : n;
    frag_c dk_sum[1][W / 8], dv_sum[1][W / 8];
    attn_clear(dk_sum);
    attn_clear(dv_sum);

    for (const int h_end = h + in.per_group; h < h_end; stage ^= 1) {
        const int i = next;
        next += STEP;
        if (next >= i_end) {
            next = j0;
            h++;
        }
        copy_wait<0>();
        wg_publish();
        __syncthreads();
        if (h < h_end)
            fetch(stage ^ 1, h, next);
        if (i + STEP <= group_row || i >= w.ends[group * 64 + 63])
            continue;
        const auto &now = w.stage[stage];
        frag_c s[1][STEP / 8], dp[1][STEP / 8];
        frag_a<T> p[STEP / 16], ds[STEP / 16];
        wg_begin();
        begin_abt(s[0], w.k, group, now.q);
        begin_abt(dp[0], w.v, group, now.dout);
        wg_wait<1>();
        wg_pin(s[0]);
        if (i < group_row + 63 || i + STEP > w.ends[group * 64])
            attn_mask_t(s, w.ends + warp_row, j0 + warp_row, i);
        attn_weigh_t(s, now.lse2, in.scale * attn_log2e);
        round_to(p, s[0]);
        wg_begin();
        begin_pb(dv_sum[0], p, now.dout);
        wg_wait<1>();
        wg_pin(dp[0]);
        attn_weigh_dp_t(dp, s, now.delta);
        round_to(ds, dp[0]);
        wg_begin();
        begin_pb(dk_sum[0], ds, now.q);
        wg_wait<0>();
        wg_pin(dv_sum[0]);
        wg_pin(dk_sum[0]);
        wg_pin(p);
        wg_pin(ds);
    }
    __syncthreads();
    attn_scale(dk_sum, in.scale);
    T *const room = room_of<T>(&w);
    attn_store<T, 1, W>(attn_head(dk, b, n, g, W), room, dk_sum, j0 + warp_row, n, W, true);
    attn_store<T, 1, W>(attn_head(dv, b, n, g, W), room, dv_sum, j0 + warp_row, n, W, true);
}

template <class T> void run(const struct attn_bwd *f)
{
    const struct attn_in *in = f->in;
    const unsigned tiles = blocks_for(in->T, ROWS);
    const attn_args<T> args = attn_args_of<T>(in, true);
    assert(tiles <= 65535);
    launch(f->dev, "attn_bwd", k_attn_dq_wg<T>, dim3((unsigned)(in->B * in->H), tiles), THREADS,
           sizeof(dq_smem<T>), mat_of<T>(f->dq), f->stats, cmat_of<T>(f->dout), cmat_of<T>(f->o),
           f->lse, args);
    launch(f->dev, "attn_bwd", k_attn_dkv_wg<T>, dim3((unsigned)(in->B * in->G), tiles), THREADS,
           sizeof(dkv_smem<T>), mat_of<T>(f->dk), mat_of<T>(f->dv), f->stats, cmat_of<T>(f->dout),
           args);
}
} // namespace

void attn_bwd_sm90(const struct attn_bwd *f)
{
    if (f->dq->dtype == DT_BF16)
        run<bf16>(f);
    else
        run<f16>(f);
}
