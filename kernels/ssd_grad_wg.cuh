/* ssd_grad_wg: what the warpgroups of ssd_grad_sm90.cu share: sizes, shared memory, barriers,
 * copies, and the sums dB and dC. */
#ifndef HM_SSD_GRAD_WG_CUH
#define HM_SSD_GRAD_WG_CUH

#include "ssd_grad.cuh"
#include "ssd_sm90.cuh"

namespace ssd_grad_wg
{
using ssd_sm90::begin_abt;
using ssd_sm90::begin_pb;
using ssd_sm90::group_id;
using ssd_sm90::N;
using ssd_sm90::P;
using ssd_sm90::warp_id;

enum {
    QT = 128, /* tokens of a chunk */
    HALF = QT / 2,
    UNITS = 9,       /* of pairs, 8 s by 16 t, of a warp */
    MOST_HEADS = 64, /* of a group: their deltas lie where dcb will */
    THREADS = 3 * 128,
    S_REGS = 160, /* registers: 3 * 168 in all */
    T_REGS = 184,
};
/* Barriers: what is so behind them. */
enum barrier {
    TOKENS_THERE = 1, /* x, dy and tokens of a head; those before are free */
    PULLS_KEPT,       /* what they were made of is free */
    D_THERE,
    D_FREE,
    S_THERE, /* the third warpgroup's alone */
    ALL_SUMMED,
};
template <class T> using shape_of = grad_shape<T, QT, N, P, 1>;

/* head_tokens' as they are wanted here: s reaches t by exp2(cum_t - from_s), delta_s included; tail
 * is to_end times delta. */
struct alignas(16) head_steps {
    float cum[QT], rise[QT], from[QT], from_start[QT], tail[QT];

    __device__ __forceinline__ void set(int t, float step, float upto, float from_origin,
                                        float before, float behind)
    {
        cum[t] = upto;
        rise[t] = from_origin;
        from[t] = upto - log2f(step);
        from_start[t] = before;
        tail[t] = step * behind;
    }
};

/* A block's chunk: n tokens from row0 on. */
struct chunk_at {
    int row0, n, group;
    int first, heads; /* of the group */
};
/* Where the chunk's part of the group's first head lies; head i P columns, P N elements, QT tokens
 * further on. In shared memory: registers are short, and what is spilled is waited for as long as
 * the copies before it. */
template <class T> struct head_places {
    const T *x, *dy, *S, *D;
    T *dx;
    head_steps *steps;
    float4 *sums;
    int x_ld, dy_ld, dx_ld;
};

template <class T> struct grad_wg_smem {
    wg_tile<T, QT, N> b, c; /* b, x and sum: folded */
    union {
        wg_tile<T, QT, P> x[2]; /* of an item and the next */
        wg_tile<T, QT, QT> sum; /* of dCB over heads, in the end */
    };
    wg_tile<T, QT, P> dy[2];
    wg_tile<T, P, N> state[2]; /* S and D of an item in turn: the next S comes where D was */
    uint2 cb[8][UNITS][32];    /* by warp and lane: t 2q, 2q+1, 8+2q, 8+2q+1 */
    union {
        float4 dcb[8][UNITS][32];
        float delta[MOST_HEADS][QT + 1]; /* at first */
    };
    head_steps head[2];
    float4 token[QT];  /* what keep_pulls begins with */
    float slot[8][QT]; /* pulls of pairs on t, by the warp of s */
    float before[QT];  /* pulls of what S gave */
    float through[4];  /* D . S, the parts of warps */
    head_places<T> at;
    int start[QT];
    int n_live, n_cut;
};
static_assert(sizeof(grad_wg_smem<bf16>) <= 227 * 1024, "a block's shared memory");

/* A warp's pairs are in UNITS of 8 of its s by 16 t, a tile, of which a lane has one s and four t.
 * Front s have units from the tile of the first of the 32 that the warpgroup has, back s likewise;
 * but in both of these first tiles a warp has pairs on one side only, and one place for them: what
 * the other side adds to it is 0. */
template <int SIDE> __device__ __forceinline__ int first_tile(unsigned group)
{
    return SIDE ? 6 - 2 * (int)group : 2 * (int)group;
}
template <int SIDE> __device__ __forceinline__ bool has_first(unsigned warp)
{
    return (warp % 4 < 2) == (SIDE == 0);
}
template <int SIDE> __device__ __forceinline__ int place_of_unit(unsigned group, int tile)
{
    return tile == first_tile<SIDE>(group) ? 0 : SIDE ? tile + 1 : tile - first_tile<SIDE>(group);
}
template <int SIDE> __device__ __forceinline__ bool has_unit(unsigned warp, int tile)
{
    return tile >= first_tile<SIDE>(warp / 4) + !has_first<SIDE>(warp);
}

/* Where warpgroups meet from different places in the source. */
__device__ __forceinline__ void meet(barrier which)
{
    wg_sync<3>(which);
}

/* --- copies, by the third warpgroup; of item i, head at.first + i --- */

/* x and dy. */
template <class T>
__device__ __forceinline__ void fetch_channels(grad_wg_smem<T> &w, const head_places<T> &at, int i,
                                               int n)
{
    const unsigned thread = not_before(threadIdx.x) % 128;
    const T *const x = at.x + i * P, *const dy = at.dy + i * P;
    const int x_ld = at.x_ld, dy_ld = at.dy_ld;
    wg_copy_folded<128>(w.x[i % 2], x, x_ld, n, thread);
    wg_copy<128>(w.dy[i % 2], dy, dy_ld, n, thread);
}
template <class T>
__device__ __forceinline__ void fetch_steps(grad_wg_smem<T> &w, const head_places<T> &at, int i)
{
    const int own = 16 * (int)(not_before(threadIdx.x) % 128);
    const auto *from = reinterpret_cast<const char *>(at.steps + i) + own;
    auto *to = reinterpret_cast<char *>(&w.head[i % 2]) + own;
    copy16_async(to, from);
    if (own + 16 * 128 < (int)sizeof w.head[0])
        copy16_async(to + 16 * 128, from + 16 * 128);
}
/* S or D, of which `first` is the first head's. */
template <class T>
__device__ __forceinline__ void fetch_state(wg_tile<T, P, N> &to, const T *first, int i)
{
    wg_copy<128>(to, first + i * (P * N), N, P, not_before(threadIdx.x) % 128);
}
/* What the thread copied, but for the last KEEP commits, is there for all behind a barrier. */
template <int KEEP = 0> __device__ __forceinline__ void copied()
{
    copy_wait<KEEP>();
    wg_publish();
}

/* --- dB and dC --- */

/* Rows of 64 channels of a tile, times w[row], as operands. */
template <class T>
__device__ __forceinline__ void
scaled_operand(frag_a<T> (&a)[P / 16], const wg_tile<T, QT, P> &tile, const float (&w)[2], int row)
{
#pragma unroll
    for (int k = 0; k < P / 16; k++) {
        frag_a<T> raw;
        wg_load_a(raw, tile, row, k * 16);
        a[k] = scaled_rows<T>(raw, w);
    }
    wg_pin(a);
}

/* A thread's part of D . S, which lie alike; of a warpgroup's threads. */
template <class T>
__device__ __forceinline__ float dot_states(const wg_tile<T, P, N> &d, const wg_tile<T, P, N> &s)
{
    const unsigned own = not_before(threadIdx.x) % 128 * 8;
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < P * N; i += 8 * 128) {
        const uint4 a = load16_shared(d.e + i + own), b = load16_shared(s.e + i + own);
        const uint32_t u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float p[2], q[2];
            unpack2(p[0], p[1], u[k], T{});
            unpack2(q[0], q[1], v[k], T{});
            sum[0] += p[0] * q[0];
            sum[1] += p[1] * q[1];
        }
    }
    return sum[0] + sum[1];
}

/* 16 columns of tokens t[0] and t[1] to `to`, column 0 of the chunk's first; n tokens are there. */
template <class T>
__device__ __forceinline__ void write_two(mat<T> to, const frag_c &left, const frag_c &right,
                                          const int (&t)[2], int n)
{
    const frag_a<T> v = a_of_c<T>(left, right);
#pragma unroll
    for (int i = 0; i < 2; i++)
        store_row16(to.p + t[i] * (int)to.ld, v.r[i], v.r[2 + i], t[i] < n);
}
/* A thread's rows of dB or dC, those of tokens t. */
template <class T>
__device__ __forceinline__ void write_sum(mat<T> to, const frag_c (&sum)[N / 8], const chunk_at &at,
                                          const int (&t)[2])
{
    T *const p = to.p + (int64_t)at.row0 * to.ld + (int64_t)at.group * N;
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        write_two(mat<T>{p + k * 16, to.ld}, sum[2 * k], sum[2 * k + 1], t, at.n);
}

/* The sum of dCB over heads, as a tile (s,t) where x was, when it is free; all warps, of which this
 * is number `warp`. */
template <class T> __device__ __forceinline__ void round_dcb(grad_wg_smem<T> &w, int warp)
{
    meet(TOKENS_THERE); /* no more of them: all heads are done */
    for (int i = warp; i < 64; i += THREADS / 32) {
        const int s = i / 8, t = i % 8, lane = lane_id();
        const float4 none = {};
        const float4 f = has_unit<0>(s, t) ? w.dcb[s][place_of_unit<0>(s / 4, t)][lane] : none;
        const float4 b = has_unit<1>(s, t) ? w.dcb[s][place_of_unit<1>(s / 4, t)][lane] : none;
        const frag_c left = {{f.x, f.y, b.x, b.y}}, right = {{f.z, f.w, b.z, b.w}};
        wg_store_a(w.sum, s * 16, t * 16, a_of_c<T>(left, right));
    }
    wg_publish();
    meet(ALL_SUMMED);
}
} // namespace ssd_grad_wg

#endif
