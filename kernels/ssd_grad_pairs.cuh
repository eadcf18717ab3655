/* ssd_grad_pairs: what a warpgroup of ssd_grad_sm90.cu does with its 64 tokens as s: their pairs
 * with the t behind them, and dx. A warp has a strip of 16. */
#ifndef HM_SSD_GRAD_PAIRS_CUH
#define HM_SSD_GRAD_PAIRS_CUH

#include "ssd_grad_wg.cuh"

namespace ssd_grad_wg
{
/* B_s . C_t of the pairs of 64 s from s0 on, rounded to T, as fragments; no sums of dCB yet. A
 * warp's own alone. */
template <class T> __device__ __forceinline__ void pair_cb(grad_wg_smem<T> &w, int s0)
{
    const int lane = lane_id(), strip = s0 / 16 + warp_id();
#pragma unroll 1
    for (int t0 = s0; t0 < QT; t0 += HALF) {
        frag_c cb[HALF / 8];
        begin_abt(cb, w.b, s0, w.c, t0);
        wg_wait<0>();
        wg_pin(cb);
#pragma unroll
        for (int k = 0; k < HALF / 16; k++) {
            const int ts = t0 / 16 + k, tile = ts * (ts + 1) / 2 + strip;
            if (ts < strip)
                continue;
            w.cb[tile * 32 + lane].a = a_of_c<T>(cb[2 * k], cb[2 * k + 1]);
            w.dcb[tile * 64 + lane] = w.dcb[tile * 64 + 32 + lane] = float4{0, 0, 0, 0};
        }
    }
}

/* Sums of columns of 4 tiles over the lanes that share them, into slots: of tile (lane / 4 % 2) of
 * each two, the column that sum_columns leaves in the lane. */
__device__ __forceinline__ void leave_columns(float *slot, float (&v)[4][4])
{
    const int lane = lane_id(), column = lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2;
    float a[4][2], b[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            a[k][i] = sum_halves(v[k][i], v[k][2 + i], 16);
#pragma unroll
    for (int k = 0; k < 4; k++)
        b[k] = sum_halves(a[k][0], a[k][1], 8);
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const float sum = sum_halves(b[k], b[k + 1], 4);
        slot[(k + lane / 4 % 2) * 16 + column] = sum;
    }
}

/* Half a tile of pairs, s by 8 t: a lane's 2 by 2. From gram = x_s . dy_t, cb = B_s . C_t and what
 * is left at t of s: m; `sum`, that of dCB over heads; columns of pulls on t. */
__device__ __forceinline__ frag_c pair_terms(float4 &sum, float (&column)[2], pair_rows &rows,
                                             const frag_c &gram, const frag_c &cb,
                                             const float (&decay)[4])
{
    frag_c m;
    float dcb[4];
    column[0] = column[1] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        m.r[i] = cb.r[i] * decay[i];
        dcb[i] = gram.r[i] * (decay[i] * rows.delta[i / 2]);
        const float pair = gram.r[i] * m.r[i];
        rows.later[i / 2] += pair;
        column[i % 2] += pair * rows.delta[i / 2];
    }
    sum = float4{sum.x + dcb[0], sum.y + dcb[1], sum.z + dcb[2], sum.w + dcb[3]};
    return m;
}

/* m of a strip and the 64 t from t0 on. IS_LATER: they lie behind all 64 s; else they are the same,
 * and a pair whose t is before its s has no part in anything. */
template <bool IS_LATER, class T>
__device__ __forceinline__ void make_m(frag_a<T> (&m)[HALF / 16], pair_rows &rows,
                                       const frag_c (&gram)[HALF / 8], grad_wg_smem<T> &w,
                                       const head_tokens_of<shape_of<T>> *head, const place &at,
                                       int t0, float *slot)
{
    const int lane = lane_id(), s = at.strip * 16 + at.g, q2 = at.q * 2;
    float c[4][2] = {}, column[4][4];
#pragma unroll
    for (int k = 0; k < 4 && IS_LATER; k++) {
        const int t = t0 + k * 16;
        const float origin = head->cum[t];
        const int start = w.start[t];
#pragma unroll
        for (int i = 0; i < 2; i++)
            c[k][i] = s + 8 * i >= start ? exp2_fast(origin - rows.cum[i]) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int own = t0 / 16 + k, ts = IS_LATER ? own : max(own, at.strip);
        const int tile = ts * (ts + 1) / 2 + at.strip;
        float4 *const sum = w.dcb + tile * 64 + lane;
        float4 v[2] = {sum[0], sum[32]};
        const frag_a<T> cb = w.cb[tile * 32 + lane].a;
        frag_c part[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int t = t0 + k * 16 + j * 8 + q2;
            float rise[2], decay[4], two[2];
            load<float, 2>(rise, (IS_LATER ? head->rise : head->cum) + t);
            const int2 start = *reinterpret_cast<const int2 *>(w.start + t);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int u = s + i / 2 * 8;
                /* bits, not conditions: what would be branches costs more than what they skip */
                const bool is_pair = (u <= t + i % 2) & (u >= (i % 2 ? start.y : start.x));
                if (IS_LATER)
                    decay[i] = c[k][i / 2] * rise[i % 2];
                else
                    decay[i] = exp2_fast(is_pair ? rise[i % 2] - rows.cum[i / 2] : -INFINITY);
            }
            part[j] = pair_terms(v[j], two, rows, gram[2 * k + j], c_of_a(cb, j), decay);
            column[k][2 * j] = two[0];
            column[k][2 * j + 1] = two[1];
        }
        if (own >= at.strip) {
            sum[0] = v[0];
            sum[32] = v[1];
        }
        m[k] = a_of_c<T>(part[0], part[1]);
    }
    leave_columns(slot, column);
}

/* dy . x of the warp's tokens, for keep_pulls. */
template <class T>
__device__ __forceinline__ void leave_diagonal(grad_wg_smem<T> &w, const frag_c (&gram)[HALF / 8],
                                               const place &at)
{
    float dot[2] = {};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const frag_c own[2] = {gram[2 * k], gram[2 * k + 1]};
        float v[2];
        diagonal(v, own, at);
#pragma unroll
        for (int i = 0; i < 2; i++)
            dot[i] = k == at.strip % 4 ? v[i] : dot[i];
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (has_diagonal(at))
            w.token[at.strip * 16 + at.g + 8 * i].z = dot[i];
}

/* dxs *= to_end; by token, x . dxs. */
template <class T>
__device__ __forceinline__ void scale_behind(frag_c (&dxs)[P / 8], float (&behind)[2],
                                             const float *to_end, const wg_tile<T, QT, P> &x,
                                             int row)
{
    const int g = lane_id() / 4;
    const float w[2] = {to_end[row + g], to_end[row + g + 8]};
    behind[0] = behind[1] = 0;
#pragma unroll
    for (int k = 0; k < P / 16; k++) {
        frag_a<T> own;
        wg_load_a(own, x, row, k * 16);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const frag_c v = c_of_a(own, j);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float &to = dxs[2 * k + j].r[i];
                to *= w[i / 2];
                behind[i / 2] += v.r[i] * to;
            }
        }
    }
}

/* dx = delta dxs + skip dy of the warp's 16 tokens from row on. */
template <class T>
__device__ __forceinline__ void finish_x(mat<T> dx, const frag_c (&dxs)[P / 8],
                                         const wg_tile<T, QT, P> &dy, const float (&delta)[2],
                                         float skip, int row, int n)
{
#pragma unroll
    for (int k = 0; k < P / 16; k++) {
        frag_a<T> own;
        frag_c to[2];
        wg_load_a(own, dy, row, k * 16);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const frag_c v = c_of_a(own, j);
#pragma unroll
            for (int i = 0; i < 4; i++)
                to[j].r[i] = delta[i / 2] * dxs[2 * k + j].r[i] + skip * v.r[i];
        }
        store_c2<T>(dx.p + (int64_t)row * dx.ld + k * 16, dx.ld, to[0], to[1], n - row, P - k * 16,
                    true);
    }
}

/* What else is known of them. */
template <class T>
__device__ __forceinline__ void leave_token(grad_wg_smem<T> &w, const pair_rows &rows,
                                            const float (&behind)[2], const place &at)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float first = sum_of_4(behind[i]), all = first + sum_of_4(rows.later[i]);
        float4 &to = w.token[at.strip * 16 + at.g + 8 * i];
        if (has_diagonal(at)) {
            to.x = -rows.delta[i] * all;
            to.y = all;
            to.w = rows.delta[i] * first;
        }
    }
}

/* What pulls at the tokens of an item, for finish (ssd_pull.cuh): a thread a token. */
template <class T>
__device__ __forceinline__ void keep_pulls(float4 *sums, const grad_wg_smem<T> &w, int parity,
                                           int n)
{
    const int t = (int)threadIdx.x % 128;
    if (t >= n)
        return;
    float4 v = w.token[t];
    v.x += w.before[parity][t];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        v.x += k <= t / 16 ? w.slot[k][t] : 0.0f;
        v.x += k + 4 <= t / 16 ? w.late_slot[k][t - HALF] : 0.0f;
    }
    if (t == n - 1)
#pragma unroll
        for (int i = 0; i < 4; i++)
            v.w += w.through[parity][i];
    sums[t] = v;
}
} // namespace ssd_grad_wg

#endif
