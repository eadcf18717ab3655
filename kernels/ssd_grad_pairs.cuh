/* ssd_grad_pairs: what a warpgroup of ssd_grad_sm90.cu does with its 64 tokens as s: their pairs
 * with the t behind them, and dx. A warp has 16 of them, 8 front and 8 back ones, and their pairs
 * in units of 8 s by 16 t. */
#ifndef HM_SSD_GRAD_PAIRS_CUH
#define HM_SSD_GRAD_PAIRS_CUH

#include "ssd_grad_wg.cuh"

namespace ssd_grad_wg
{
/* A thread's tokens as s, front and back, and its places of units; warp: of those of both
 * warpgroups. */
struct own_tokens {
    unsigned warp;
    int s[2];
    uint2 *cb;
    float4 *dcb;
};
/* What is the head's of them; later: sums over the t of pairs; dot: dy . x, has_diagonal. */
struct own_rows {
    float from[2], later[2], dot[2];
};

/* B_s . C_t of a warp's pairs, rounded to T; no sums of dCB yet. */
template <class T>
__device__ __forceinline__ void pair_cb(const grad_wg_smem<T> &w, const own_tokens &own)
{
    const unsigned group = own.warp / 4;
#pragma unroll 1
    for (int t0 = 0; t0 < QT; t0 += HALF) {
        frag_c cb[HALF / 8];
        begin_abt(cb, w.b, group * HALF, w.c, t0);
        wg_wait<0>();
        wg_pin(cb);
#pragma unroll
        for (int k = 0; k < HALF / 16; k++) {
            const frag_a<T> v = a_of_c<T>(cb[2 * k], cb[2 * k + 1]);
            const int tile = t0 / 16 + k;
            if (has_unit<0>(own.warp, tile))
                own.cb[place_of_unit<0>(group, tile) * 32] = uint2{v.r[0], v.r[2]};
            if (has_unit<1>(own.warp, tile))
                own.cb[place_of_unit<1>(group, tile) * 32] = uint2{v.r[1], v.r[3]};
        }
    }
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        own.dcb[i * 32] = float4{0, 0, 0, 0};
}

/* Sums of columns of 2 tiles over the lanes that share them, into slots. */
__device__ __forceinline__ void leave_columns(float *slot, const float (&v)[2][4])
{
    const int lane = lane_id(), column = lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2;
    float b[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const float even = sum_halves(v[k][0], v[k][2], 16), odd = sum_halves(v[k][1], v[k][3], 16);
        b[k] = sum_halves(even, odd, 8);
    }
    slot[lane / 4 % 2 * 16 + column] = sum_halves(b[0], b[1], 4);
}

/* What is left at a lane's four t of its s, delta included. c (IS_FAR): what is left where the tile
 * begins; else pairs whose t is before its s get nothing. */
template <bool IS_FAR, class T>
__device__ __forceinline__ void decay_of(float (&decay)[4], const grad_wg_smem<T> &w,
                                         const head_steps *head, int s, float from, int t0)
{
    const int q2 = lane_id() % 4 * 2;
    float c = 0;
    if (IS_FAR)
        c = s >= w.start[t0] ? exp2_fast(head->cum[t0] - from) : 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const int t = t0 + j * 4 + q2;
        float v[2];
        load<float, 2>(v, (IS_FAR ? head->rise : head->cum) + t);
        const int2 start = *reinterpret_cast<const int2 *>(w.start + t);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            /* bits, not conditions: what would be branches costs more than what they skip */
            const bool is_pair = (s <= t + i) & (s >= (i ? start.y : start.x));
            decay[j + i] = IS_FAR ? c * v[i] : exp2_fast(is_pair ? v[i] - from : -INFINITY);
        }
    }
}

/* Units of a side's s and two tiles, the first t of which is t0. From gram = x_s . dy_t and B_s .
 * C_t: m = B_s . C_t times what is left, and skip where t is s; sums of dCB over heads; columns of
 * pulls on t. IS_FAR: all t lie behind all s. place: of the units. */
template <int SIDE, bool IS_FAR, class T>
__device__ __forceinline__ void add_units(frag_a<T> *m, float (&column)[2][4], own_rows &rows,
                                          const frag_c *gram, const grad_wg_smem<T> &w,
                                          const head_steps *head, const own_tokens &own, int t0,
                                          const int (&place)[2], float skip)
{
    const int s = own.s[SIDE], q2 = lane_id() % 4 * 2;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        float4 *const kept = own.dcb + place[k] * 32;
        const uint2 packed = own.cb[place[k] * 32];
        float decay[4], cb[4], out[4], dcb[4] = {kept->x, kept->y, kept->z, kept->w};
        unpack2(cb[0], cb[1], packed.x, T{});
        unpack2(cb[2], cb[3], packed.y, T{});
        decay_of<IS_FAR>(decay, w, head, s, rows.from[SIDE], t0 + k * 16);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float of = gram[2 * k + i / 2].r[2 * SIDE + i % 2];
            out[i] = cb[i] * decay[i];
            dcb[i] += of * decay[i];
            const float pair = of * out[i];
            rows.later[SIDE] += pair;
            column[k][i] += pair;
            if (!IS_FAR) {
                const bool is_same = s == t0 + k * 16 + i / 2 * 8 + i % 2 + q2;
                out[i] += is_same ? skip : 0.0f;
                rows.dot[SIDE] = is_same ? of : rows.dot[SIDE];
            }
        }
        if (IS_FAR || k > 0 || has_first<SIDE>(own.warp)) /* 0 times what is not finite is not 0 */
            *kept = float4{dcb[0], dcb[1], dcb[2], dcb[3]};
        m[k].r[SIDE] = pack2(out[0], out[1], T{});
        m[k].r[2 + SIDE] = pack2(out[2], out[3], T{});
    }
}

/* m of the first 64 t, and of the others; gram: of these. */
template <class T>
__device__ __forceinline__ void
make_first(frag_a<T> (&m)[QT / 16], own_rows &rows, const frag_c (&gram)[HALF / 8],
           grad_wg_smem<T> &w, const head_steps *head, const own_tokens &own, float skip)
{
    float *const slot = w.slot[own.warp];
    float column[2][4] = {};
    if (own.warp < 4) {
        float first[2][4] = {};
        add_units<0, false>(m, first, rows, gram, w, head, own, 0, {0, 1}, skip);
        leave_columns(slot, first);
        add_units<0, true>(m + 2, column, rows, gram + 4, w, head, own, 32, {2, 3}, skip);
    } else {
        add_units<0, false>(m + 2, column, rows, gram + 4, w, head, own, 32, {0, 1}, skip);
    }
    leave_columns(slot + 32, column);
}
template <class T>
__device__ __forceinline__ void
make_second(frag_a<T> (&m)[QT / 16], own_rows &rows, const frag_c (&gram)[HALF / 8],
            grad_wg_smem<T> &w, const head_steps *head, const own_tokens &own, float skip)
{
    float *const slot = w.slot[own.warp];
    const int first = first_tile<0>(own.warp / 4);
    float column[2][2][4] = {};
    add_units<0, true>(m + 4, column[0], rows, gram, w, head, own, 64, {4 - first, 5 - first},
                       skip);
    if (own.warp >= 4)
        add_units<1, false>(m + 4, column[0], rows, gram, w, head, own, 64, {0, 6}, skip);
    leave_columns(slot + 64, column[0]);
    add_units<0, true>(m + 6, column[1], rows, gram + 4, w, head, own, 96, {6 - first, 7 - first},
                       skip);
    if (own.warp >= 4)
        add_units<1, true>(m + 6, column[1], rows, gram + 4, w, head, own, 96, {7, 8}, skip);
    else
        add_units<1, false>(m + 6, column[1], rows, gram + 4, w, head, own, 96, {0, 8}, skip);
    leave_columns(slot + 96, column[1]);
}

/* dxs *= w; by token, x . dxs. */
template <class T>
__device__ __forceinline__ void scale_behind(frag_c (&dxs)[P / 8], float (&behind)[2],
                                             const float (&w)[2], const wg_tile<T, QT, P> &x,
                                             int row)
{
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

/* dx of a warp's tokens; n of the chunk's are there. */
template <class T>
__device__ __forceinline__ void write_x(mat<T> dx, const frag_c (&dxs)[P / 8],
                                        const own_tokens &own, int n)
{
#pragma unroll
    for (int k = 0; k < P / 16; k++)
        write_two(mat<T>{dx.p + k * 16, dx.ld}, dxs[2 * k], dxs[2 * k + 1], own.s, n);
}

/* What is known of them. */
template <class T>
__device__ __forceinline__ void leave_token(grad_wg_smem<T> &w, const own_rows &rows,
                                            const float (&behind)[2], const head_steps *head,
                                            const own_tokens &own)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float first = sum_of_4(behind[i]), all = first + sum_of_4(rows.later[i]);
        /* 1 / delta; where that is none, all is 0 */
        const float per_step = exp2_fast(fminf(rows.from[i] - head->cum[own.s[i]], 100.0f));
        if (lane_id() % 4 == lane_id() / 8)
            w.token[own.s[i]] = float4{-all, all * per_step, rows.dot[i], first};
    }
}

/* What pulls at the tokens of an item, for finish (ssd_pull.cuh): a thread a token. */
template <class T>
__device__ __forceinline__ void keep_pulls(float4 *sums, const grad_wg_smem<T> &w, int n)
{
    const int t = (int)threadIdx.x % 128;
    if (t >= n)
        return;
    float4 v = w.token[t];
    v.x += w.before[t];
#pragma unroll
    for (int k = 0; k < 8; k++)
        v.x += k <= t / 8 ? w.slot[k][t] : 0.0f;
    if (t == n - 1)
#pragma unroll
        for (int i = 0; i < 4; i++)
            v.w += w.through[i];
    sums[t] = v;
}
} // namespace ssd_grad_wg

#endif
