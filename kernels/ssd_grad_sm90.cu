/* ssd_grad_sm90: the gradient of the scan (ssd_bwd.cu has the formulas and the letters) by products
 * of warpgroups, on Hopper, for heads of P = 64 and N = 128 in 16-bit types with wide rows. A block
 * has a chunk of a group and goes through its heads. Two warpgroups have 64 tokens each as s: their
 * pairs, dx, and dB in registers; the third has all tokens as t: what S gives, and dC. They meet
 * once a head. */
#include "cuda_ops.cuh"
#include "ssd_grad_sm90.cuh"
#include "ssd_pull.cuh"
#include "ssd_sm90.cuh"

namespace
{
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
    /* barriers */
    OF_ALL = 1,
    OF_S,
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

/* A barrier of all, at one place in the source for all. */
__device__ __forceinline__ void meet()
{
    wg_sync<3>(OF_ALL);
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
        fetch_channels(w.x[i % 2], o.x, at, i);
        fetch_channels(w.dy[i % 2], o.dy, at, i);
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
/* What the thread copied is there for all behind a barrier. */
__device__ __forceinline__ void copied()
{
    copy_wait<0>();
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

/* sum (64 x N) += a tile: begins. */
template <class T>
__device__ __forceinline__ void begin_sum(frag_c (&sum)[N / 8], const frag_a<T> (&a)[P / 16],
                                          const wg_tile<T, P, N> &tile)
{
    wg_begin();
#pragma unroll
    for (int k = 0; k < P / 16; k++)
        wg_mma(sum, a[k], wg_down(tile, k * 16, 0));
    wg_commit();
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

/* Of 64 t from t0 on and 32 channels: dC += (from_start dy) S, which begins; by token, from_start
 * dy . (S C), into pull. Waits for what was begun before. */
template <class T>
__device__ __forceinline__ void grad_c(frag_c (&dc)[N / 8], frag_a<T> (&a)[2], float (&pull)[2],
                                       const grad_wg_smem<T> &w, const wg_tile<T, P, N> &s,
                                       const wg_tile<T, QT, P> &dy, const float (&from_start)[2],
                                       int t0, int p)
{
    frag_c y[4];
    wg_begin();
#pragma unroll
    for (int n = 0; n < N; n += 16)
        wg_mma(y, wg_along(w.c, t0, n), wg_along(s, p, n), n == 0);
    wg_commit();
    wg_wait<0>();
    wg_pin(y);
    wg_pin(a);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        frag_a<T> raw;
        wg_load_a(raw, dy, t0 + not_before((int)threadIdx.x) % 128 / 32 * 16, p + k * 16);
        a[k] = scaled_rows<T>(raw, from_start);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const frag_c v = c_of_a(a[k], j);
#pragma unroll
            for (int i = 0; i < 4; i++)
                pull[i / 2] += v.r[i] * y[2 * k + j].r[i];
        }
    }
    wg_pin(a);
    wg_begin();
#pragma unroll
    for (int k = 0; k < 2; k++)
        wg_mma(dc, a[k], wg_down(s, p + k * 16, 0));
    wg_commit();
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

/* The third warpgroup: all tokens as t. */
template <class T>
__device__ __forceinline__ void go_through_t(grad_wg_smem<T> &w, const grad_args<T> &o,
                                             const chunk_at &at)
{
    frag_c dc[2][N / 8] = {};
#pragma unroll 1
    for (int i = 0; i < at.heads; i++) {
        const int now = i % 2;
        const auto &head = w.head[now];
        const auto &dy = w.dy[now];
        const auto &s = w.state[now];
        frag_a<T> a[2];
        copied();
        meet(); /* x, dy, S and tokens are there, those before are free */
        fetch_tokens(w, o, at, i + 1);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int t = half * HALF + not_before((int)threadIdx.x) % 128 / 32 * 16 +
                          not_before(lane_id()) / 4;
            const float from_start[2] = {head.from_start[t], head.from_start[t + 8]};
            float pull[2] = {};
            grad_c(dc[half], a, pull, w, s, dy, from_start, half * HALF, 0);
            grad_c(dc[half], a, pull, w, s, dy, from_start, half * HALF, 32);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float sum = sum_of_4(pull[j]);
                if (lane_id() % 4 == 0)
                    w.before[now][t + 8 * j] = sum;
            }
        }
        wg_wait<0>();
        wg_pin(a);
        wg_pin(dc[0]);
        wg_pin(dc[1]);
    }
    round_dcb(w, 8 + warp_id());
    wg_begin();
#pragma unroll
    for (int half = 0; half < 2; half++)
        for (int s = 0; s < (half + 1) * HALF; s += 16)
            wg_mma(dc[half], wg_down(w.sum, s, half * HALF), wg_down(w.b, s, 0));
    wg_commit();
    wg_wait<0>();
    wg_pin(dc[0]);
    wg_pin(dc[1]);
    write_sum(o.dc, dc[0], o, at, 0);
    write_sum(o.dc, dc[1], o, at, HALF);
}

/* --- pairs, and dx --- */

/* B_s . C_t of the pairs of 64 s from s0 on, rounded to T, as fragments; no sums of dCB yet. A
 * warp's own alone. */
template <class T> __device__ __forceinline__ void pair_cb(grad_wg_smem<T> &w, int s0)
{
    const int lane = lane_id(), strip = s0 / 16 + warp_id();
#pragma unroll 1
    for (int t0 = s0; t0 < QT; t0 += HALF) {
        frag_c cb[HALF / 8];
        wg_begin();
#pragma unroll
        for (int n = 0; n < N; n += 16)
            wg_mma(cb, wg_along(w.b, s0, n), wg_along(w.c, t0, n), n == 0);
        wg_commit();
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

/* gram = x_s . dy_t of 64 s by 64 t: begins. */
template <class T>
__device__ __forceinline__ void begin_gram(frag_c (&gram)[HALF / 8], const wg_tile<T, QT, P> &x,
                                           const wg_tile<T, QT, P> &dy, int s0, int t0)
{
    wg_begin();
#pragma unroll
    for (int p = 0; p < P; p += 16)
        wg_mma(gram, wg_along(x, s0, p), wg_along(dy, t0, p), p == 0);
    wg_commit();
}

/* Sums of columns of 4 tiles over the lanes that share them, into slots: of tile (lane / 4 % 2) of
 * each two, the column that sum_columns leaves in the lane. */
__device__ __forceinline__ void leave_columns(float *slot, float (&v)[4][4])
{
    const int lane = lane_id(), column = lane / 16 * 8 + lane % 4 * 2 + lane / 8 % 2;
    const auto halve = [](float low, float high, int bit) {
        const bool is_high = lane_id() & bit;
        return (is_high ? high : low) + __shfl_xor_sync(0xffffffffu, is_high ? low : high, bit);
    };
    float a[4][2], b[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            a[k][i] = halve(v[k][i], v[k][2 + i], 16);
#pragma unroll
    for (int k = 0; k < 4; k++)
        b[k] = halve(a[k][0], a[k][1], 8);
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const float sum = halve(b[k], b[k + 1], 4);
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

/* dy_s . x_s of two tokens, in the lanes that have it (has_diagonal). */
__device__ __forceinline__ void find_diagonal(float (&dot)[2], const frag_c (&gram)[HALF / 8],
                                              const place &at)
{
    dot[0] = dot[1] = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const frag_c own[2] = {gram[2 * k], gram[2 * k + 1]};
        float v[2];
        diagonal(v, own, at);
#pragma unroll
        for (int i = 0; i < 2; i++)
            dot[i] = k == at.strip % 4 ? v[i] : dot[i];
    }
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

/* dxs += m dy of the 64 t from t0 on, between wg_begin and wg_commit. */
template <class T>
__device__ __forceinline__ void add_within(frag_c (&dxs)[P / 8], const frag_a<T> (&m)[HALF / 16],
                                           const wg_tile<T, QT, P> &dy, int t0)
{
#pragma unroll
    for (int k = 0; k < HALF / 16; k++)
        wg_mma(dxs, m[k], wg_down(dy, t0 + k * 16, 0));
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

/* What is known of the warp's tokens, for keep_pulls; dot: dy . x. */
template <class T>
__device__ __forceinline__ void leave_token(grad_wg_smem<T> &w, const pair_rows &rows,
                                            const float (&behind)[2], const float (&dot)[2],
                                            const place &at)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float first = sum_of_4(behind[i]), all = first + sum_of_4(rows.later[i]);
        if (has_diagonal(at))
            w.token[at.strip * 16 + at.g + 8 * i] =
                float4{-rows.delta[i] * all, all, dot[i], rows.delta[i] * first};
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

/* Warpgroup 0 or 1 (is_late): its tokens as s. is_late: the others' t lie behind none of them. */
template <class T>
__device__ __forceinline__ void go_through_s(grad_wg_smem<T> &w, const grad_args<T> &o,
                                             const chunk_at &at, float4 *sums, bool is_late)
{
    const int s0 = is_late ? HALF : 0;
    const int warp = warp_id(), row = s0 + warp * 16, g = row + lane_id() / 4;
    const place own = {(int)threadIdx.x, warp, 0, lane_id() / 4, lane_id() % 4, row / 16};
    frag_c db[N / 8] = {};
    pair_cb(w, s0);
#pragma unroll 1
    for (int i = 0; i < at.heads; i++) {
        const int now = i % 2;
        const auto &x = w.x[now], &dy = w.dy[now];
        auto &d = w.state[now ^ 1];
        const auto *head = &w.head[now];
        if (is_late)
            copied();
        meet(); /* as above */
        const float skip = o.skip[at.first + i];
        frag_c gram[HALF / 8], dxs[P / 8];
        frag_a<T> a[P / 16], m[HALF / 16], later[HALF / 16];
        pair_rows rows = {
            {head->cum[g], head->cum[g + 8]}, {head->delta[g], head->delta[g + 8]}, {0, 0}};
        begin_gram(gram, x, dy, s0, s0);
        if (is_late) {
            fetch_state(d, o.D, o.H, at, i); /* where the S before was */
            if (i > 0)
                keep_pulls(sums + (i - 1) * QT, w, now ^ 1, at.n);
        }
        wg_sync<2>(OF_S); /* what keep_pulls reads is free */
        wg_wait<0>();
        wg_pin(gram);
        float dot[2];
        find_diagonal(dot, gram, own);
        make_m<false>(m, rows, gram, w, head, own, s0, is_late ? w.late_slot[warp] : w.slot[warp]);
        if (is_late)
            copied();
        wg_sync<2>(OF_S); /* D is there */
        if (!is_late) {
            begin_gram(gram, x, dy, 0, HALF);
            wg_wait<0>();
            wg_pin(gram);
            make_m<true>(later, rows, gram, w, head, own, HALF, w.slot[warp] + HALF);
        }
        const float to_end[2] = {head->to_end[g] * rows.delta[0],
                                 head->to_end[g + 8] * rows.delta[1]};
        scaled_operand(a, x, to_end, row);
        begin_sum(db, a, d);
        if (is_late) {
            const float through = warp_sum(dot_states(d, w.state[now]));
            if (lane_id() == 0)
                w.through[now][warp] = through * head->from_start[at.n - 1];
        }
        wg_wait<0>();
        wg_pin(a);
        wg_pin(db);
        wg_begin();
#pragma unroll
        for (int n = 0; n < N; n += 16)
            wg_mma(dxs, wg_along(w.b, s0, n), wg_along(d, 0, n), n == 0);
        wg_commit();
        wg_wait<0>();
        wg_pin(dxs);
        float behind[2];
        scale_behind(dxs, behind, head->to_end, x, row);
        wg_pin(m);
        wg_pin(dxs);
        wg_begin();
        add_within(dxs, m, dy, s0);
        if (!is_late)
            add_within(dxs, later, dy, HALF);
        wg_commit();
        wg_sync<2>(OF_S); /* D is free */
        if (is_late)
            fetch_state(d, o.S, o.H, at, i + 1);
        leave_token(w, rows, behind, dot, own);
        wg_wait<0>();
        wg_pin(m);
        if (!is_late)
            wg_pin(later);
        wg_pin(dxs);
        finish_x(mat<T>{o.dx.p + (int64_t)at.row0 * o.dx.ld + (at.first + i) * P, o.dx.ld}, dxs, dy,
                 rows.delta, skip, row, at.n);
    }
    round_dcb(w, (is_late ? 4 : 0) + warp);
    if (is_late)
        keep_pulls(sums + (at.heads - 1) * QT, w, (at.heads - 1) % 2, at.n);
    wg_begin();
    for (int t = s0; t < QT; t += 16)
        wg_mma(db, wg_along(w.sum, s0, t), wg_down(w.c, t, 0));
    wg_commit();
    wg_wait<0>();
    wg_pin(db);
    write_sum(o.db, db, o, at, s0);
    wg_sync<2>(OF_S); /* sums are there */
    for (int h = (is_late ? 4 : 0) + warp; h < at.heads; h += 8)
        finish<shape_of<T>>(&w, o, sums + h * QT, 1, at.first + h, at.chunk, at.row0, at.n);
}

/* Chunk blockIdx.x of all sequences, group blockIdx.y. Block: 384 threads, one an SM; shared memory
 * grad_wg_smem. FLOPs and bytes as k_ssd_grad's, and 2 QT P N FLOPs a head. Deterministic. */
template <class T> __global__ void __launch_bounds__(THREADS, 1) k_ssd_grad_wg(grad_args<T> o)
{
    using S = shape_of<T>;
    SHARED_DYN(unsigned char, bytes);
    grad_wg_smem<T> &w = *reinterpret_cast<grad_wg_smem<T> *>(bytes);
    const int group = group_id(), warp = group * 4 + warp_id(), chunk = (int)blockIdx.x;
    const int b = chunk / o.Z, t_first = chunk % o.Z * QT, heads = o.H / o.G;
    const chunk_at at = {
        chunk,           b * o.n_tokens + t_first, min((int)QT, o.n_tokens - t_first),
        (int)blockIdx.y, (int)blockIdx.y * heads,  heads};
    const int64_t row0 = at.row0, col = (int64_t)at.group * N;
    if (group < 2) {
        wg_copy<256>(w.b, o.b.p + row0 * o.b.ld + col, o.b.ld, at.n, (int)threadIdx.x);
        wg_copy<256>(w.c, o.c.p + row0 * o.c.ld + col, o.c.ld, at.n, (int)threadIdx.x);
        if (group == 1)
            fetch_state(w.state[0], o.S, o.H, at, 0);
    } else if (warp == 8) {
        find_documents<S>(&w, o.seg ? o.seg + row0 : NULL, t_first, at.n);
    }
    __syncthreads();
    for (int i = warp; i < heads; i += THREADS / 32) {
        const int h = at.first + i;
        head_tokens<S>(tokens_of(o, at, i), &w, o.delta + row0 * o.H + h, o.H, -expf(o.a_log[h]),
                       at.n);
    }
    copied();
    __syncthreads();
    float4 *const sums = o.sums + ((int64_t)chunk * o.H + at.first) * QT;
    if (group == 2)
        fetch_tokens(w, o, at, 0);
    if (group < 2) {
        wg_leave_registers<S_REGS>();
        go_through_s(w, o, at, sums, group == 1);
    } else {
        wg_take_registers<T_REGS>();
        go_through_t(w, o, at);
    }
}
} // namespace

template <class T> bool ssd_grad_sm90(struct dev *dev, const grad_args<T> &o, int B)
{
    if (cuda_of(dev)->arch != 90 || o.P != P || o.N != N || !o.is_wide)
        return false;
    launch(dev, "ssd_bwd", k_ssd_grad_wg<T>, dim3((unsigned)(B * o.Z), (unsigned)o.G), THREADS,
           sizeof(grad_wg_smem<T>), o);
    return true;
}
template bool ssd_grad_sm90<bf16>(struct dev *, const grad_args<bf16> &, int);
template bool ssd_grad_sm90<f16>(struct dev *, const grad_args<f16> &, int);
