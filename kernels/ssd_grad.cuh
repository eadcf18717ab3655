/* ssd_grad: one chunk of the gradient of the SSD scan: its tile sizes, its shared memory and the
 * phases that the heads of a group go through; ssd_bwd.cu says what is computed and in which order.
 *
 * A strip is 16 tokens and belongs to WC warps: dx, dB and dC of its tokens are made there from
 * fragments that stay in registers, so that warps meet only where a tile in shared memory changes
 * hands. WC warps of a strip share out the columns of B and C, and channels, in blocks of 16. Pairs
 * (s, t) of tokens, s not after t, come in tiles of 16x16, s by t, which belong to the strip of s;
 * what is kept of them lies in shared memory as fragments: tile, lane, element. */
#ifndef HM_SSD_GRAD_CUH
#define HM_SSD_GRAD_CUH

#include "ssd.cuh"

template <class Type, int TOKENS, int STATE, int SLICE, int COLUMNS> struct grad_shape {
    using T = Type;
    static constexpr int QT = TOKENS, NT = STATE, PS = SLICE, WC = COLUMNS;
    static constexpr int NS = QT / 16, WARPS = NS * WC, THREADS = 32 * WARPS;
    static constexpr int NB = NT / 16 / WC;          /* column blocks of B and C a warp */
    static constexpr int PB = PS / 16;               /* blocks of channels, */
    static constexpr int CB = PB > WC ? PB / WC : 1; /* of which a warp has so many */
    static constexpr int LDN = tile_ld<T>(NT), LDP = tile_ld<T>(PS), LDQ = tile_ld<T>(QT);
    static constexpr int TILES = NS * (NS + 1) / 2;
    static constexpr int PER = QT > 32 ? QT / 32 : 1; /* tokens of a lane */
    /* States in shared memory: D and S of a head, and the next D where 64 KB need not do. */
    static constexpr int RING = sizeof(T) == 2 && NT == 256 ? 2 : 3;
    static_assert(NT % (16 * WC) == 0 && QT % 16 == 0, "whole fragments");
    static_assert(PS * NT % (wide<T>::n * THREADS) == 0, "whole packs");
    static_assert(2 * LDP >= LDQ, "the sum over heads fits where x and dy were");
};

/* Inputs and outputs as in ops.h. S: state before each chunk, D: gradient of the state behind it,
 * both (B,Z,H,P,N). Of a chunk, head (and slice of PS channels): tokens, what head_tokens makes;
 * sums, what finish makes of them. dparam (B*Z,H,3): a chunk's shares of dt_bias, a_log, skip. */
template <class T> struct grad_args {
    mat<T> dx, ddt, db, dc;
    mat<const T> dy, x, b, c;
    const T *S, *D;
    const float *delta, *a_log, *skip;
    const int32_t *seg;
    float *tokens, *dparam;
    float4 *sums;
    int n_tokens, Z, H, P, N, G;
    bool is_wide; /* 16 bytes at a time: rows of all of these, and each head's part of them */
};

/* What a head's tokens are multiplied with; see head_tokens. */
template <class S> struct alignas(16) head_tokens_of {
    float cum[S::QT], rise[S::QT], delta[S::QT], from_start[S::QT], to_end[S::QT];

    __device__ __forceinline__ void set(int t, float step, float upto, float from_origin,
                                        float before, float behind)
    {
        cum[t] = upto;
        rise[t] = from_origin;
        delta[t] = step;
        from_start[t] = before;
        to_end[t] = behind;
    }
};

/* A fragment that is kept in shared memory. */
template <class T> struct alignas(16) kept_a {
    frag_a<T> a;
};

/* Shared memory. */
template <class S> struct grad_smem {
    using T = typename S::T;
    alignas(16) T b[S::QT * S::LDN], c[S::QT * S::LDN];
    T x[S::QT * S::LDP], dy[S::QT * S::LDP]; /* then the sum of dCB over heads */
    T state[S::RING][S::PS * S::LDN];        /* D, S, D, S ... in turn */
    kept_a<T> cb[S::TILES * 32];
    float4 dcb[S::TILES * 64];
    head_tokens_of<S> head[2];
    float slot[S::NS][S::QT];   /* pulls of pairs on t, by the strip of s */
    float diag[S::QT];          /* dy_t . x_t */
    float later[S::QT];         /* sum over t > s of m(t,s) dy_t . x_s */
    float same[S::QT];          /* m(s,s) dy_s . x_s */
    float kept_delta[S::QT];    /* of the head that these are of */
    float before[S::WC][S::QT]; /* pulls of what S gave */
    float behind[S::WC][S::QT]; /* x_s . (to_end D B_s) */
    float through[2][S::WARPS]; /* S . D as it pulls, of two items */
    int start[S::QT];           /* first token of t's document, -1: before the chunk */
    int n_live, n_cut;
};

/* Where a thread stands. Strips are dealt out so that the triangles of the warps of one scheduler
 * (every fourth) weigh the same. */
struct place {
    int tid, warp, wc, g, q, strip;
};
template <class S> __device__ __forceinline__ place place_of(int tid = (int)threadIdx.x)
{
    const int warp = tid / 32, lane = tid % 32, wr = warp / S::WC;
    const int strip = wr < (S::NS + 1) / 2 ? wr : S::NS - 1 - (wr - (S::NS + 1) / 2);
    return place{tid, warp, warp % S::WC, lane / 4, lane % 4, strip};
}

__device__ __forceinline__ float sum_of_4(float v) /* over the lanes that share a row */
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
/* Of two values of each lane, one each: lanes without the bit get the sum of low over them and
 * their partners with it, those get that of high. */
__device__ __forceinline__ float sum_halves(float low, float high, int bit)
{
    const bool is_high = lane_id() & bit;
    return (is_high ? high : low) + __shfl_xor_sync(0xffffffffu, is_high ? low : high, bit);
}
/* v[2j+e] of column (j,e) of a lane's quad, summed over the lanes that share a column; the sum is
 * that of j = lane / 16, e = lane / 8 % 2. */
__device__ __forceinline__ float sum_columns(const float (&v)[4])
{
    const float a = sum_halves(v[0], v[2], 16), b = sum_halves(v[1], v[3], 16);
    const float c = sum_halves(a, b, 8);
    return c + __shfl_xor_sync(0xffffffffu, c, 4);
}

/* Where documents begin; one warp. */
template <class S, class W>
__device__ __forceinline__ void find_documents(W *w, const int32_t *seg, int t_first, int n)
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
 * before the chunk, rise from the first token of t's strip, to_end from t to the chunk's end; rise
 * is 0 where a document begins between. One warp. */
template <class S, class To, class W>
__device__ __forceinline__ void head_tokens(To *to, const W *w, const float *delta, int H, float a,
                                            int n)
{
    const int lane = lane_id();
    float d[S::PER], cum[S::PER], sum = 0;
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        d[i] = t < n ? delta[(int64_t)t * H] : 0.0f;
        sum += d[i];
        cum[i] = sum;
    }
    const float upto = ssd_sum_from(sum, 0), before = upto - sum;
    const float a2 = a * 1.44269504f, end = a2 * __shfl_sync(0xffffffffu, upto, 31);
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
        to->set(t, d[i], cum[i], w->start[t] <= t / 16 * 16 ? exp2_fast(cum[i] - origin) : 0.0f,
                t < w->n_live ? exp2_fast(cum[i]) : 0.0f,
                t >= w->n_cut ? exp2_fast(end - cum[i]) : 0.0f);
    }
}

/* B_s . C_t of a strip's pairs, rounded to T: what products read of it is. */
template <class S> __device__ void pair_cb(grad_smem<S> *w, const place &at, int N, int strips)
{
    using T = typename S::T;
    const int lane = at.tid % 32, ss = at.strip;
    for (int ts = ss + at.wc; ts < strips; ts += S::WC) {
        const int tile = ts * (ts + 1) / 2 + ss;
        frag_c c[2] = {};
        for (int k = 0; k < N; k += 16) {
            frag_a<T> a;
            frag_b<T> b[2];
            load_a<T>(a, w->b + ss * 16 * S::LDN + k, S::LDN);
            load_b2<T>(b, w->c + ts * 16 * S::LDN + k, S::LDN);
            mma<T>(c[0], a, b[0]);
            mma<T>(c[1], a, b[1]);
        }
        w->cb[tile * 32 + lane].a = a_of_c<T>(c[0], c[1]);
        w->dcb[tile * 64 + lane] = w->dcb[tile * 64 + 32 + lane] = float4{0, 0, 0, 0};
    }
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

/* sum += a c^T of 16x16 elements, of which only the diagonal is wanted: dot products of rows, by
 * tensor cores. */
template <class T>
__device__ __forceinline__ void add_dots(frag_c (&sum)[2], const frag_a<T> &a, const frag_c (&c)[2])
{
    mma<T>(sum[0], a, b_of_ct<T>(c[0], c[1], 0));
    mma<T>(sum[1], a, b_of_ct<T>(c[0], c[1], 1));
}
/* Elements (g,g) and (g+8,g+8), in the lane that has them: has_diagonal. */
__device__ __forceinline__ bool has_diagonal(const place &at)
{
    return at.q == at.g / 2;
}
__device__ __forceinline__ void diagonal(float (&v)[2], const frag_c (&sum)[2], const place &at)
{
    v[0] = at.g % 2 ? sum[0].r[1] : sum[0].r[0];
    v[1] = at.g % 2 ? sum[1].r[3] : sum[1].r[2];
}

/* A block of channels, k, of a strip, is number c of this warp's. */
template <class S> __device__ __forceinline__ bool is_own(const place &at, int k, int c)
{
    return at.wc * S::CB + c == k;
}

/* A strip's rows of pairs: where its tokens stand in the decays. */
struct pair_rows {
    float cum[2], delta[2];
    float later[2]; /* sums of pairs, over those that end behind s */
};

/* A tile of a strip's pairs, s by t of strip ts: m; the sum of dCB over heads; pulls, those on t
 * into their slot. IS_DIAGONAL: ts is the strip itself, else it lies behind. */
template <class S, bool IS_DIAGONAL>
__device__ __forceinline__ frag_a<typename S::T>
pair_tile(pair_rows &rows, grad_smem<S> *w, const head_tokens_of<S> *head,
          const frag_a<typename S::T> (&x)[S::PB], const place &at, int ts, int tile)
{
    using T = typename S::T;
    const int lane = at.tid % 32, s0 = at.strip * 16 + at.g, t0 = ts * 16 + at.q * 2;
    frag_c gram[2] = {}, odd[2] = {}, m[2]; /* sums over even and odd k: shorter chains */
#pragma unroll
    for (int k = 0; k < S::PB; k++) {
        frag_b<T> b[2];
        load_b2<T>(b, w->dy + ts * 16 * S::LDP + k * 16, S::LDP);
        mma<T>(k % 2 ? odd[0] : gram[0], x[k], b[0]);
        mma<T>(k % 2 ? odd[1] : gram[1], x[k], b[1]);
    }
#pragma unroll
    for (int i = 0; i < 8 && S::PB > 1; i++)
        gram[i / 4].r[i % 4] += odd[i / 4].r[i % 4];
    const frag_a<T> cb = w->cb[tile * 32 + lane].a;
    float c[2], column[4] = {};
    if (!IS_DIAGONAL) {
        const float origin = head->cum[ts * 16];
        const int start = w->start[ts * 16];
#pragma unroll
        for (int i = 0; i < 2; i++)
            c[i] = s0 + 8 * i >= start ? exp2_fast(origin - rows.cum[i]) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const frag_c cb_j = c_of_a(cb, j);
        float rise[2], dcb[4];
        load<float, 2>(rise, (IS_DIAGONAL ? head->cum : head->rise) + t0 + j * 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int s = s0 + i / 2 * 8, t = t0 + j * 8 + i % 2;
            float decay;
            if (IS_DIAGONAL)
                decay = s <= t && s >= w->start[t] ? exp2_fast(rise[i % 2] - rows.cum[i / 2]) : 0;
            else
                decay = c[i / 2] * rise[i % 2];
            m[j].r[i] = cb_j.r[i] * decay;
            dcb[i] = gram[j].r[i] * (decay * rows.delta[i / 2]);
            const float pair = IS_DIAGONAL && s == t ? 0.0f : gram[j].r[i] * m[j].r[i];
            rows.later[i / 2] += pair;
            column[2 * j + i % 2] += pair * rows.delta[i / 2];
        }
        if (at.wc == 0) {
            float4 *const sum = &w->dcb[tile * 64 + j * 32 + lane];
            const float4 old = *sum;
            *sum = float4{old.x + dcb[0], old.y + dcb[1], old.z + dcb[2], old.w + dcb[3]};
        }
    }
    if (IS_DIAGONAL && at.wc == 0 && has_diagonal(at)) {
        float dot[2], one[2];
        diagonal(dot, gram, at);
        diagonal(one, m, at);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            w->diag[s0 + 8 * i] = dot[i];
            w->same[s0 + 8 * i] = one[i] * dot[i];
        }
    }
    const float sum = sum_columns(column);
    if (at.wc == 0 && lane % 8 < 4)
        w->slot[at.strip][ts * 16 + lane / 16 * 8 + at.q * 2 + lane / 8 % 2] = sum;
    return a_of_c<T>(m[0], m[1]);
}

/* A strip's pairs: dxs += m dy, and what pair_tile says. */
template <class S>
__device__ __forceinline__ void
pairs(frag_c (&dxs)[S::CB][2], pair_rows &rows, grad_smem<S> *w, const head_tokens_of<S> *head,
      const frag_a<typename S::T> (&x)[S::PB], const place &at, int strips)
{
    using T = typename S::T;
    const auto add = [&](const frag_a<T> &m, int ts) {
#pragma unroll
        for (int c = 0; c < S::CB; c++) {
            frag_b<T> b[2];
            load_b2_t<T>(b, w->dy + ts * 16 * S::LDP + (at.wc * S::CB + c) * 16, S::LDP);
            mma<T>(dxs[c][0], m, b[0]);
            mma<T>(dxs[c][1], m, b[1]);
        }
    };
    int ts = not_before(at.strip), tile = ts * (ts + 1) / 2 + ts;
    if (ts >= strips)
        return;
    add(pair_tile<S, true>(rows, w, head, x, at, ts, tile), ts);
#pragma unroll 1
    for (tile += ++ts; ts < strips; tile += ++ts)
        add(pair_tile<S, false>(rows, w, head, x, at, ts, tile), ts);
}

/* dxs = D B, unscaled. */
template <class S>
__device__ __forceinline__ void grad_x_behind(frag_c (&dxs)[S::CB][2], const grad_smem<S> *w,
                                              const typename S::T *d, const place &at, int N)
{
    using T = typename S::T;
#pragma unroll 4
    for (int n = 0; n < S::NT; n += 16) {
        if (ssd_is_pad<T>(n, N))
            break;
        frag_a<T> a;
        load_a<T>(a, w->b + at.strip * 16 * S::LDN + n, S::LDN);
#pragma unroll
        for (int c = 0; c < S::CB; c++) {
            frag_b<T> b[2];
            load_b2<T>(b, d + (at.wc * S::CB + c) * 16 * S::LDN + n, S::LDN);
            mma<T>(dxs[c][0], a, b[0]);
            mma<T>(dxs[c][1], a, b[1]);
        }
    }
}

/* Rows g and g+8 of a times w[0] and w[1]. */
template <class T>
__device__ __forceinline__ frag_a<T> scaled_rows(const frag_a<T> &a, const float (&w)[2])
{
    frag_c c[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        c[j] = c_of_a(a, j);
#pragma unroll
        for (int i = 0; i < 4; i++)
            c[j].r[i] *= w[i / 2];
    }
    return a_of_c<T>(c[0], c[1]);
}

/* dB += (scale x) D */
template <class S>
__device__ __forceinline__ void
grad_b_behind(frag_c (&db)[S::NB][2], const frag_a<typename S::T> (&x)[S::PB],
              const float (&scale)[2], const typename S::T *d, const place &at, int N)
{
    using T = typename S::T;
#pragma unroll
    for (int k = 0; k < S::PB; k++) {
        const frag_a<T> a = scaled_rows<T>(x[k], scale);
#pragma unroll
        for (int block = 0; block < S::NB; block++) {
            const int n0 = (at.wc * S::NB + block) * 16;
            frag_b<T> b[2];
            if (ssd_is_pad<T>(n0, N))
                break;
            load_b2_t<T>(b, d + k * 16 * S::LDN + n0, S::LDN);
            mma<T>(db[block][0], a, b[0]);
            mma<T>(db[block][1], a, b[1]);
        }
    }
}

/* dC += scale (dy S); by token (has_diagonal), scale C . (dy S). */
template <class S>
__device__ __forceinline__ void grad_c_before(frag_c (&dc)[S::NB][2], float (&pull)[2],
                                              const frag_a<typename S::T> (&dy)[S::PB],
                                              const float (&scale)[2], const grad_smem<S> *w,
                                              const typename S::T *state, const place &at, int N)
{
    using T = typename S::T;
    frag_c dots[2] = {};
    constexpr int two = sizeof(T) == 2 ? 2 : 1; /* blocks at once: their chains overlap */
    static_assert(S::NB % two == 0, "whole pairs");
#pragma unroll
    for (int block = 0; block < S::NB; block += two) {
        const int n0 = (at.wc * S::NB + block) * 16;
        frag_c v[two][2] = {};
        if (ssd_is_pad<T>(n0, N))
            break;
#pragma unroll
        for (int k = 0; k < S::PB; k++)
#pragma unroll
            for (int i = 0; i < two; i++) {
                frag_b<T> b[2];
                load_b2_t<T>(b, state + k * 16 * S::LDN + n0 + i * 16, S::LDN);
                mma<T>(v[i][0], dy[k], b[0]);
                mma<T>(v[i][1], dy[k], b[1]);
            }
#pragma unroll
        for (int i = 0; i < two; i++) {
            frag_a<T> c;
            load_a<T>(c, w->c + not_before(at.strip) * 16 * S::LDN + n0 + i * 16, S::LDN);
            add_dots<T>(dots, c, v[i]);
#pragma unroll
            for (int k = 0; k < 8; k++)
                dc[block + i][k / 4].r[k % 4] += scale[k % 4 / 2] * v[i][k / 4].r[k % 4];
        }
    }
    diagonal(pull, dots, at);
#pragma unroll
    for (int i = 0; i < 2; i++)
        pull[i] *= scale[i];
}

#endif
