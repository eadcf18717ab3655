/* ssd_grad: one chunk of the gradient of the SSD scan: its tile sizes, its shared memory and the
 * phases that the heads of a group go through; ssd_bwd.cu says what is computed and in which order.
 *
 * A block's warps stand in WR rows and WC columns. Rows of a product (tokens) are dealt out in
 * strips of 16, strip wr and its mirror image to a row of warps, so that triangles weigh the same
 * everywhere; columns in blocks of 16. Pairs (s, t) of tokens, s not after t, are dealt out in
 * tiles of 16x16, which lie in shared memory as fragments: tile, lane, element. */
#ifndef HM_SSD_GRAD_CUH
#define HM_SSD_GRAD_CUH

#include "ssd.cuh"

template <class Type, int TOKENS, int STATE, int SLICE, int COLUMNS> struct grad_shape {
    using T = Type;
    static constexpr int QT = TOKENS, NT = STATE, PS = SLICE, WC = COLUMNS;
    static constexpr int NS = QT / 16, RT = NS > 1 ? 2 : 1, WR = NS / RT;
    static constexpr int WARPS = WR * WC, THREADS = 32 * WARPS;
    static constexpr int NB = NT / 16 / WC; /* column blocks of B and C a warp */
    static constexpr int LDN = tile_ld<T>(NT), LDP = tile_ld<T>(PS), LDQ = tile_ld<T>(QT);
    static constexpr int TILES = NS * (NS + 1) / 2;
    static constexpr int PER = QT > 32 ? QT / 32 : 1; /* tokens of a lane */
    static_assert(NT % (16 * WC) == 0 && QT % (16 * RT) == 0, "whole fragments");
    static_assert(PS * NT % (wide<T>::n * THREADS) == 0, "whole packs");
    static_assert(3 * LDP >= LDQ, "the sum over heads fits where x and dy were");
};

/* Inputs and outputs as in ops.h. S: state before each chunk, D: gradient of the state behind it,
 * both (B,Z,H,P,N). dparam (B*Z,H,3): a chunk's shares of dt_bias, a_log, skip. */
template <class T> struct grad_args {
    mat<T> dx, ddt, db, dc;
    mat<const T> dy, x, b, c;
    const T *S, *D;
    const float *delta, *a_log, *skip;
    const int32_t *seg;
    float *dparam;
    int n_tokens, Z, H, P, N, G;
    bool is_wide; /* 16 bytes at a time: rows of all of these, and each head's part of them */
};

/* What a head's tokens are multiplied with; see head_tokens. */
template <class S> struct head_tokens_of {
    float cum[S::QT], rise[S::QT], delta[S::QT], from_start[S::QT], to_end[S::QT];
};

/* A fragment that is kept in shared memory. */
template <class T> struct alignas(16) kept_a {
    frag_a<T> a;
};

/* Shared memory. */
template <class S> struct grad_smem {
    using T = typename S::T;
    alignas(16) T b[S::QT * S::LDN], c[S::QT * S::LDN];
    T x[S::QT * S::LDP], dy[2][S::QT * S::LDP]; /* then the sum of dCB over heads */
    T d[S::PS * S::LDN];
    union {
        T s[S::PS * S::LDN];
        kept_a<T> m[S::TILES * 32];
    };
    kept_a<T> cb[S::TILES * 32];
    float4 dcb[S::TILES * 64];
    head_tokens_of<S> head[2];
    float slot[S::NS][S::QT]; /* pulls of pairs: of t by strips before it, of s by strips behind */
    float diag[S::QT];        /* dy_t . x_t */
    float pull[S::QT], dyx[S::QT]; /* sums of the two, kept for finish */
    float direct[S::WC][S::QT], ends[S::WC][S::QT], begins[S::WC][S::QT];
    float sum_pull[S::QT], sum_direct[S::QT], sum_dyx[S::QT]; /* over slices of a head */
    float through[S::WARPS];
    int start[S::QT]; /* first token of t's document, -1: before the chunk */
    int n_live, n_cut;
};

/* Where a thread stands. */
struct place {
    int tid, warp, wr, wc, g, q;
};
template <class S> __device__ __forceinline__ place place_of()
{
    const int tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32;
    return place{tid, warp, warp / S::WC, warp % S::WC, lane / 4, lane % 4};
}
/* Strip number rt of a warp. */
template <class S> __device__ __forceinline__ int strip_of(const place &at, int rt)
{
    return rt == 0 ? at.wr : S::NS - 1 - at.wr;
}

__device__ __forceinline__ float sum_of_4(float v) /* over the lanes that share a row */
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
__device__ __forceinline__ float sum_of_8(float v) /* over the lanes that share a column */
{
    v += __shfl_xor_sync(0xffffffffu, v, 4);
    v += __shfl_xor_sync(0xffffffffu, v, 8);
    return v + __shfl_xor_sync(0xffffffffu, v, 16);
}

/* Where documents begin; the first warp. */
template <class S>
__device__ __forceinline__ void find_documents(grad_smem<S> *w, const int32_t *seg, int t_first,
                                               int n)
{
    const int lane = lane_id();
    int last = -1, first = n;
    for (int t = 0; t < S::QT; t += 32) {
        const int u = t + lane;
        const bool is_first = seg && u < n && t_first + u > 0 && seg[u] != seg[u - 1];
        const unsigned all = __ballot_sync(0xffffffffu, is_first);
        const unsigned upto = all & (0xffffffffu >> (31 - lane));
        if (u < S::QT)
            w->start[u] = upto ? t + 31 - __clz((int)upto) : last;
        if (all && first == n)
            first = t + __ffs((int)all) - 1;
        if (all)
            last = t + 31 - __clz((int)all);
    }
    if (lane == 0) {
        w->n_live = first;
        w->n_cut = last > 0 ? last : 0;
    }
}

/* Step sizes of a head and decays, as powers of 2: cum_t = log2 of what is left at t of the state
 * before the chunk, rise from the first token of t's strip, to_end from t to the chunk's end. One
 * warp. */
template <class S>
__device__ __forceinline__ void head_tokens(grad_smem<S> *w, int parity, const float *delta, int H,
                                            float a, int n)
{
    const int lane = lane_id();
    head_tokens_of<S> *to = &w->head[parity];
    float d[S::PER], cum[S::PER], sum = 0;
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        d[i] = t < n ? delta[(int64_t)t * H] : 0.0f;
        sum += d[i];
        cum[i] = sum;
    }
    float before = sum; /* of lanes before this one */
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float v = __shfl_up_sync(0xffffffffu, before, step);
        before += lane >= step ? v : 0.0f;
    }
    const float a2 = a * 1.44269504f, end = a2 * __shfl_sync(0xffffffffu, before, 31);
    before -= sum;
#pragma unroll
    for (int i = 0; i < S::PER; i++)
        cum[i] = a2 * (before + cum[i]);
    constexpr int LANES = 16 / S::PER; /* of a strip */
    const float origin = __shfl_sync(0xffffffffu, cum[0], lane / LANES * LANES);
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        if (t >= S::QT)
            continue;
        to->delta[t] = d[i];
        to->cum[t] = cum[i];
        to->rise[t] = exp2_fast(cum[i] - origin);
        to->from_start[t] = t < w->n_live ? exp2_fast(cum[i]) : 0.0f;
        to->to_end[t] = t >= w->n_cut ? exp2_fast(end - cum[i]) : 0.0f;
    }
}

/* Calls f(tile, ts, ss) for the tiles of a warp, over `strips` strips of tokens. */
template <class S, class F> __device__ __forceinline__ void for_tiles(int warp, int strips, F f)
{
    int ts = 0, ss = warp;
    for (int tile = warp;; tile += S::WARPS, ss += S::WARPS) {
        while (ss > ts)
            ss -= ++ts;
        if (ts >= strips)
            return;
        f(tile, ts, ss);
    }
}

/* B_s . C_t of all pairs, rounded to T: what products read of it is. */
template <class S> __device__ void pair_cb(grad_smem<S> *w, const place &at, int N, int strips)
{
    using T = typename S::T;
    for_tiles<S>(at.warp, strips, [&](int tile, int ts, int ss) {
        frag_c c[2] = {};
        for (int k = 0; k < N; k += 16) {
            frag_a<T> a;
            frag_b<T> b[2];
            load_a<T>(a, w->b + ss * 16 * S::LDN + k, S::LDN);
            load_b2<T>(b, w->c + ts * 16 * S::LDN + k, S::LDN);
            mma<T>(c[0], a, b[0]);
            mma<T>(c[1], a, b[1]);
        }
        const int lane = at.tid % 32;
        w->cb[tile * 32 + lane].a = a_of_c<T>(c[0], c[1]);
        w->dcb[tile * 64 + lane] = w->dcb[tile * 64 + 32 + lane] = float4{0, 0, 0, 0};
    });
}

/* Elements 4j .. 4j+3 of an A fragment that two neighbouring C made: those of the j-th. */
__device__ __forceinline__ frag_c c_of_a(const frag_a<float> &a, int j)
{
    return frag_c{{a.r[4 * j], a.r[4 * j + 1], a.r[4 * j + 2], a.r[4 * j + 3]}};
}
template <class T> __device__ __forceinline__ frag_c c_of_a(const frag_a<T> &a, int j)
{
    frag_c c;
    unpack2(c.r[0], c.r[1], a.r[2 * j], T{});
    unpack2(c.r[2], c.r[3], a.r[2 * j + 1], T{});
    return c;
}

/* A tile's decays from s (rows) to t; 0 where s is after t or in another document. */
template <class S>
__device__ __forceinline__ void decays(frag_c (&d)[2], const grad_smem<S> *w,
                                       const head_tokens_of<S> *head, const place &at, int ts,
                                       int ss)
{
    const int s0 = ss * 16 + at.g;
    const float origin = head->cum[ts * 16];
    float c[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        c[i] = ss < ts ? exp2_fast(origin - head->cum[s0 + 8 * i]) : head->cum[s0 + 8 * i];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int t = ts * 16 + j * 8 + at.q * 2 + e;
            const float rise = head->rise[t], cum = head->cum[t];
            const int start = w->start[t];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int s = s0 + 8 * i;
                const float v = ss < ts ? c[i] * rise : s <= t ? exp2_fast(cum - c[i]) : 0.0f;
                d[j].r[2 * i + e] = s >= start ? v : 0.0f;
            }
        }
}

/* Sums of a tile's pulls over its rows and columns into their slots. Of a tile on the diagonal both
 * meet in one. */
template <class S>
__device__ __forceinline__ void add_pulls(grad_smem<S> *w, const frag_c (&v)[2], const place &at,
                                          int ts, int ss)
{
    float row[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        row[i] = sum_of_4(v[0].r[2 * i] + v[0].r[2 * i + 1] + v[1].r[2 * i] + v[1].r[2 * i + 1]);
    if (at.q == 0)
#pragma unroll
        for (int i = 0; i < 2; i++)
            w->slot[ts][ss * 16 + at.g + 8 * i] = -row[i];
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float column = sum_of_8(v[j].r[e] + v[j].r[2 + e]);
            float *to = &w->slot[ss][ts * 16 + j * 8 + at.q * 2 + e];
            if (at.g == 0)
                *to = ss == ts ? *to + column : column;
        }
}

/* The chunk's pairs: m, the sum of dCB over heads, pulls. */
template <class S>
__device__ __forceinline__ void pairs(grad_smem<S> *w, const typename S::T *dy, int parity,
                                      const place &at, int strips)
{
    using T = typename S::T;
    const head_tokens_of<S> *head = &w->head[parity];
    for_tiles<S>(at.warp, strips, [&](int tile, int ts, int ss) {
        frag_c gram[2] = {}, d[2];
#pragma unroll
        for (int k = 0; k < S::PS; k += 16) {
            frag_a<T> a;
            frag_b<T> b[2];
            load_a<T>(a, w->x + ss * 16 * S::LDP + k, S::LDP);
            load_b2<T>(b, dy + ts * 16 * S::LDP + k, S::LDP);
            mma<T>(gram[0], a, b[0]);
            mma<T>(gram[1], a, b[1]);
        }
        decays(d, w, head, at, ts, ss);
        const int lane = at.tid % 32, s0 = ss * 16 + at.g;
        const frag_a<T> cb = w->cb[tile * 32 + lane].a;
        const float delta[2] = {head->delta[s0], head->delta[s0 + 8]};
        frag_c m[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float4 *sum = &w->dcb[tile * 64 + j * 32 + lane];
            float4 dcb = *sum;
            const frag_c cb_j = c_of_a(cb, j);
            float *const to[4] = {&dcb.x, &dcb.y, &dcb.z, &dcb.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int s = s0 + i / 2 * 8, t = ts * 16 + j * 8 + at.q * 2 + i % 2;
                const float v = gram[j].r[i] * d[j].r[i] * delta[i / 2];
                *to[i] += v;
                m[j].r[i] = cb_j.r[i] * d[j].r[i];
                if (s == t)
                    w->diag[t] = gram[j].r[i];
                gram[j].r[i] = s == t ? 0.0f : v * cb_j.r[i];
            }
            *sum = dcb;
        }
        w->m[tile * 32 + lane].a = a_of_c<T>(m[0], m[1]);
        add_pulls(w, gram, at, ts, ss);
    });
}

/* From dxs, columns col0 .. : dx and, added by token, x . dxs. */
template <class S>
__device__ __forceinline__ void
finish_x(float (&direct)[S::RT][2], frag_c (&dxs)[S::RT][2], const grad_smem<S> *w,
         const typename S::T *dy, const head_tokens_of<S> *head, mat<typename S::T> dx, float skip,
         const place &at, int col0, int n, int n_cols, bool is_wide)
{
    using T = typename S::T;
#pragma unroll
    for (int r = 0; r < S::RT; r++) {
        const int s0 = strip_of<S>(at, r) * 16;
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int s = s0 + at.g + 8 * i, col = col0 + j * 8 + at.q * 2;
                float *v = dxs[r][j].r + 2 * i, x[2], y[2];
                load<T, 2>(x, w->x + s * S::LDP + col);
                load<T, 2>(y, dy + s * S::LDP + col);
                direct[r][i] += x[0] * v[0] + x[1] * v[1];
                v[0] = head->delta[s] * v[0] + skip * y[0];
                v[1] = head->delta[s] * v[1] + skip * y[1];
            }
        store_c2<T>(dx.p + s0 * dx.ld + col0, dx.ld, dxs[r][0], dxs[r][1], n - s0, n_cols - col0,
                    is_wide);
    }
}

/* dxs = to_end D B + m dy of a warp's strips and columns; dx and, by token, x . dxs. */
template <class S>
__device__ __forceinline__ void grad_x(grad_smem<S> *w, const typename S::T *dy, int parity,
                                       mat<typename S::T> dx, float skip, const place &at, int n,
                                       int n_cols, int N, int strips, bool is_wide)
{
    using T = typename S::T;
    const head_tokens_of<S> *head = &w->head[parity];
    float direct[S::RT][2] = {};
#pragma unroll 1
    for (int col0 = at.wc * 16; col0 < S::PS; col0 += S::WC * 16) {
        frag_c acc[S::RT][2] = {};
#pragma unroll 4
        for (int k = 0; k < N; k += 16) {
            frag_b<T> b[2];
            load_b2<T>(b, w->d + col0 * S::LDN + k, S::LDN);
#pragma unroll
            for (int r = 0; r < S::RT; r++) {
                frag_a<T> a;
                load_a<T>(a, w->b + strip_of<S>(at, r) * 16 * S::LDN + k, S::LDN);
                mma<T>(acc[r][0], a, b[0]);
                mma<T>(acc[r][1], a, b[1]);
            }
        }
#pragma unroll
        for (int r = 0; r < S::RT; r++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                acc[r][i / 4].r[i % 4] *=
                    head->to_end[strip_of<S>(at, r) * 16 + at.g + i % 4 / 2 * 8];
        for (int ts = at.wr; ts < strips; ts++) {
            frag_b<T> b[2];
            load_b2_t<T>(b, dy + ts * 16 * S::LDP + col0, S::LDP);
#pragma unroll
            for (int r = 0; r < S::RT; r++) {
                const int ss = strip_of<S>(at, r);
                if (ss > ts)
                    continue;
                const frag_a<T> a = w->m[(ts * (ts + 1) / 2 + ss) * 32 + at.tid % 32].a;
                mma<T>(acc[r][0], a, b[0]);
                mma<T>(acc[r][1], a, b[1]);
            }
        }
        finish_x<S>(direct, acc, w, dy, head, dx, skip, at, col0, n, n_cols, is_wide);
    }
#pragma unroll
    for (int r = 0; r < S::RT; r++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float sum = sum_of_4(direct[r][i]);
            if (at.q == 0)
                w->direct[at.wc][strip_of<S>(at, r) * 16 + at.g + 8 * i] = sum;
        }
}

/* sum += scale_t (row_t . state) over a warp's strips and columns of N, and, by token, the dot
 * product of what was added with other_t. */
template <class S>
__device__ __forceinline__ void
through_state(frag_c (&sum)[S::RT][S::NB][2], float *dots, const typename S::T *rows,
              const typename S::T *state, const typename S::T *other,
              const float (&scale)[S::RT][2], const place &at, int N)
{
    using T = typename S::T;
    frag_a<T> a[S::RT][S::PS / 16];
    float dot[S::RT][2] = {};
#pragma unroll
    for (int r = 0; r < S::RT; r++)
#pragma unroll
        for (int k = 0; k < S::PS / 16; k++)
            load_a<T>(a[r][k], rows + strip_of<S>(at, r) * 16 * S::LDP + k * 16, S::LDP);
#pragma unroll
    for (int block = 0; block < S::NB; block++) {
        const int n0 = (at.wc * S::NB + block) * 16;
        frag_b<T> b[S::PS / 16][2];
        if (n0 >= N)
            continue;
#pragma unroll
        for (int k = 0; k < S::PS / 16; k++)
            load_b2_t<T>(b[k], state + k * 16 * S::LDN + n0, S::LDN);
#pragma unroll
        for (int r = 0; r < S::RT; r++) {
            frag_c v[2] = {};
#pragma unroll
            for (int k = 0; k < S::PS / 16; k++) {
                mma<T>(v[0], a[r][k], b[k][0]);
                mma<T>(v[1], a[r][k], b[k][1]);
            }
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int t = strip_of<S>(at, r) * 16 + at.g + 8 * i;
                    float o[2];
                    load<T, 2>(o, other + t * S::LDN + n0 + j * 8 + at.q * 2);
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        const float fresh = v[j].r[2 * i + e];
                        sum[r][block][j].r[2 * i + e] += scale[r][i] * fresh;
                        dot[r][i] += o[e] * fresh;
                    }
                }
        }
    }
#pragma unroll
    for (int r = 0; r < S::RT; r++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float v = scale[r][i] * sum_of_4(dot[r][i]);
            if (at.q == 0)
                dots[strip_of<S>(at, r) * 16 + at.g + 8 * i] = v;
        }
}

#endif
