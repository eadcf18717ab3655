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
    THREADS = 3 * 128,
    S_REGS = 160, /* registers: 3 * 168 in all */
    T_REGS = 184,
    /* barriers: of all, of the first two warpgroups, of the last two */
    OF_ALL = 1,
    OF_S,
    OF_STATE,
};
template <class T> using shape_of = grad_shape<T, QT, N, P, 1>;

template <class T> struct grad_wg_smem {
    using S = shape_of<T>;
    wg_tile<T, QT, N> b, c;
    union {
        wg_tile<T, QT, P> x[2]; /* of an item and the next */
        wg_tile<T, QT, QT> sum; /* of dCB over heads, in the end */
    };
    wg_tile<T, QT, P> dy[2];
    wg_tile<T, P, N> state[2]; /* S and D of an item in turn: the next S comes where D was */
    kept_a<T> cb[S::TILES * 32];
    float4 dcb[S::TILES * 64];
    head_tokens_of<S> head[2];
    float4 token[QT];         /* what keep_pulls begins with */
    float slot[4][QT];        /* pulls of pairs on t, by the warp of s: of the first 64 s, */
    float late_slot[4][HALF]; /* and of the others, on the other t */
    float before[2][QT];      /* pulls of what S gave */
    float through[2][4];      /* D . S, the parts of warps */
    int start[QT];
    int n_live, n_cut;
};
static_assert(sizeof(grad_wg_smem<bf16>) <= 227 * 1024, "a block's shared memory");

/* A block's chunk. */
struct chunk_at {
    int chunk, row0, n, group; /* n tokens from row0 on */
    int first, heads;          /* of the group */
};

template <class T>
__device__ __forceinline__ head_tokens_of<shape_of<T>> *tokens_of(const grad_args<T> &o,
                                                                  const chunk_at &at, int i)
{
    return reinterpret_cast<head_tokens_of<shape_of<T>> *>(o.tokens) +
           ((int64_t)at.chunk * o.H + at.first + i);
}

/* Barriers at which warpgroups meet from different places in the source. */
__device__ __forceinline__ void meet()
{
    wg_sync<3>(OF_ALL);
}
__device__ __forceinline__ void meet_for_state()
{
    wg_sync<2>(OF_STATE);
}

/* --- copies; i: an item, head at.first + i --- */

/* The third warpgroup: tokens' numbers. */
template <class T>
__device__ __forceinline__ void fetch_channels(wg_tile<T, QT, P> &to, mat<const T> from,
                                               const chunk_at &at, int i)
{
    wg_copy<128>(to, from.p + (int64_t)not_before(at.row0) * from.ld + not_before(at.first + i) * P,
                 not_before((int)from.ld), at.n, not_before((int)threadIdx.x) % 128);
}
template <class T>
__device__ __forceinline__ void fetch_tokens(grad_wg_smem<T> &w, const grad_args<T> &o,
                                             const chunk_at &at, int i)
{
    if (i < at.heads) {
        if (i > 0) { /* those of the first come earlier */
            fetch_channels(w.x[i % 2], o.x, at, i);
            fetch_channels(w.dy[i % 2], o.dy, at, i);
        }
        const auto *from = reinterpret_cast<const char *>(tokens_of(o, at, i));
        auto *to = reinterpret_cast<char *>(&w.head[i % 2]);
        const int own = 16 * (not_before((int)threadIdx.x) % 128);
        copy16_async(to + own, from + own);
        if (own + 16 * 128 < (int)sizeof w.head[0])
            copy16_async(to + own + 16 * 128, from + own + 16 * 128);
    }
    copy_commit();
}
/* The second: S or D. */
template <class T>
__device__ __forceinline__ void fetch_state(wg_tile<T, P, N> &to, const T *from, int H,
                                            const chunk_at &at, int i)
{
    if (i < at.heads)
        wg_copy<128>(
            to, from + ((int64_t)not_before(at.chunk) * H + not_before(at.first + i)) * (P * N), N,
            P, not_before((int)threadIdx.x) % 128);
    copy_commit();
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

/* A thread's part of D . S, which lie alike. */
template <class T>
__device__ __forceinline__ float dot_states(const wg_tile<T, P, N> &d, const wg_tile<T, P, N> &s)
{
    const int tid = (int)threadIdx.x % 128;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < P * N; i += 8 * 128) {
        const uint4 a = load16_shared(d.e + i + 8 * tid);
        const uint4 b = load16_shared(s.e + i + 8 * tid);
        const uint32_t u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float p[2], q[2];
            unpack2(p[0], p[1], u[k], T{});
            unpack2(q[0], q[1], v[k], T{});
            sum += p[0] * q[0] + p[1] * q[1];
        }
    }
    return sum;
}

/* A warpgroup's rows of dB or dC, from `first` on. */
template <class T>
__device__ __forceinline__ void write_sum(mat<T> to, const frag_c (&sum)[N / 8],
                                          const grad_args<T> &o, const chunk_at &at, int first)
{
    const int row = first + warp_id() * 16;
    T *const p = to.p + (int64_t)(at.row0 + row) * to.ld + (int64_t)at.group * N;
#pragma unroll
    for (int k = 0; k < N / 16; k++)
        store_c2<T>(p + k * 16, to.ld, sum[2 * k], sum[2 * k + 1], at.n - row, N - k * 16, true);
}

/* The sum of dCB over heads, as a tile (s,t) where x was, when it is free; all warps, of which this
 * is number `warp`. */
template <class T> __device__ __forceinline__ void round_dcb(grad_wg_smem<T> &w, int warp)
{
    meet();
    for (int i = warp; i < 64; i += THREADS / 32) {
        const int s = i / 8, t = i % 8, tile = t * (t + 1) / 2 + s;
        frag_c v[2] = {};
        for (int j = 0; j < 2 && s <= t; j++) {
            const float4 f = w.dcb[tile * 64 + j * 32 + lane_id()];
            v[j] = frag_c{{f.x, f.y, f.z, f.w}};
        }
        wg_store_a(w.sum, s * 16, t * 16, a_of_c<T>(v[0], v[1]));
    }
    wg_publish();
    meet();
}
} // namespace ssd_grad_wg

#endif
