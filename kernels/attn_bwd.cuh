/* attn_bwd: what the backward kernels of attention share: what is kept of a row from one kernel to
 * the next, what a lane knows of its rows, and how scores become weights and gradients. */
#ifndef HM_ATTN_BWD_CUH
#define HM_ATTN_BWD_CUH

#include "attn.cuh"

/* Workspace: of each row, lse in units of log2 and delta, (B*H, padded T) f32 each; rows from T on
 * have lse infinite, which makes their weights 0. */
static constexpr int attn_row_pad = 128;

struct attn_row_stats {
    float *lse2, *delta;
    int ld;
};

static inline struct attn_row_stats attn_stats_of(const struct dev *dev, int B, int H, int T)
{
    struct attn_row_stats s;
    s.ld = (T + attn_row_pad - 1) / attn_row_pad * attn_row_pad;
    s.lse2 = (float *)dev->work;
    s.delta = s.lse2 + (int64_t)B * H * s.ld;
    return s;
}

/* What a lane knows of its rows m*16 + half*8 + lane/4. */
template <int M> struct attn_dq_rows {
    float lse2[M][2], delta[M][2];
    int first[M][2], last; /* keys [first,last] are seen; last: of row 0 */
};

/* The sum of dout times o over a lane's columns of a row, the eighth part of them. */
template <class T, int W>
__device__ __forceinline__ float attn_delta_part(const T *x, const T *y, int P, bool is_wide)
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
__device__ __forceinline__ void attn_make_delta(attn_dq_rows<C::M> &w, float *delta,
                                                mat<const T> dout, mat<const T> o, int row0,
                                                const attn_args<T> &in)
{
    const int quarter = lane_id() / 8, g = lane_id() / 4;
    float sum[4 * C::M];
#pragma unroll
    for (int i = 0; i < 4 * C::M; i++) {
        const int row = min(row0 + 4 * i + quarter, in.n_queries - 1);
        sum[i] =
            attn_delta_part<T, C::W>(dout.p + row * dout.ld, o.p + row * o.ld, in.P, in.is_wide);
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
__device__ __forceinline__ void attn_open_rows(attn_dq_rows<C::M> &w, const attn_args<T> &in,
                                               const int32_t *seg, const float *lse, float *lse2,
                                               int q0, int row0, int j_first)
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

/* Scores become weights. */
template <int M, int N>
__device__ __forceinline__ void attn_weights(frag_c (&s)[M][N], const attn_dq_rows<M> &w,
                                             float scale2)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[m][n].r[i] = exp2_fast(fmaf(s[m][n].r[i], scale2, -w.lse2[m][i / 2]));
}

/* Weights become ds, given dp. */
template <int M, int N>
__device__ __forceinline__ void attn_weigh(frag_c (&p)[M][N], const frag_c (&dp)[M][N],
                                           const attn_dq_rows<M> &w)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                p[m][n].r[i] *= dp[m][n].r[i] - w.delta[m][i / 2];
}

/* Queries that do not see their key get no weight. ends: where the documents of the warp's keys
 * end; row0: the first of them; i0: the stage's first query. */
template <int M, int N>
__device__ __forceinline__ void attn_mask_t(frag_c (&s)[M][N], const int *ends, int row0, int i0)
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
__device__ __forceinline__ void attn_weigh_t(frag_c (&s)[M][N], const float *lse2, float scale2)
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
__device__ __forceinline__ void attn_weigh_dp_t(frag_c (&dp)[M][N], const frag_c (&p)[M][N],
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

/* The pass as its launches take it. */
struct attn_bwd {
    struct dev *dev;
    struct tensor *dq, *dk, *dv;
    const struct tensor *dout, *o;
    const float *lse;
    const struct attn_in *in;
    struct attn_row_stats stats;
    bool is_wide;
};

/* attn_bwd_sm90.cu: the pass by products of a warpgroup, on Hopper, for heads of 64 columns in
 * 16-bit types; is_wide. */
static inline bool attn_bwd_has_sm90(const struct attn_bwd *f)
{
    return cuda_of(f->dev)->arch == 90 && f->dq->dtype != DT_F32 && f->in->P == 64 && f->is_wide;
}
void attn_bwd_sm90(const struct attn_bwd *f);

#endif
