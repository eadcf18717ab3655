/* ssd_grad_sm90: the gradient of the scan (ssd_bwd.cu has the formulas and the letters) by products
 * of warpgroups, on Hopper, for heads of P = 64 and N = 128 in 16-bit types with wide rows. A block
 * has a chunk of a group and goes through its heads. Two warpgroups have 64 tokens each as s, of
 * the front and of the back: their pairs, dx, and dB in registers; the third has all tokens as t:
 * what S gives, and dC. They meet four times a head.
 *
 * Tiles come a head ahead, but for S and D, of which a head's D takes the place of the S before it,
 * and the next S that of D: D is used behind the pairs, S by the third warpgroup alone. That copies
 * for all, and keeps pulls. */
#include "cuda_ops.cuh"
#include "ssd_grad_pairs.cuh"
#include "ssd_grad_sm90.cuh"
#include "ssd_pull.cuh"

namespace
{
using namespace ssd_grad_wg;

/* Of 64 t from t0 on and 32 channels: dC += (from_start dy) S, which begins; by token, from_start
 * dy . (S C), into pull. Waits for what was begun before. */
template <class T>
__device__ __forceinline__ void grad_c(frag_c (&dc)[N / 8], frag_a<T> (&a)[2], float (&pull)[2],
                                       const grad_wg_smem<T> &w, const wg_tile<T, P, N> &s,
                                       const wg_tile<T, QT, P> &dy, const float (&from_start)[2],
                                       int t0, int p)
{
    frag_c y[4];
    begin_abt(y, w.c, t0, s, p);
    wg_wait<0>();
    wg_pin(y);
    wg_pin(a);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        frag_a<T> raw;
        frag_c v[2];
        wg_load_a(raw, dy, t0 + not_before(threadIdx.x) % 128 / 32 * 16, p + k * 16);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            v[j] = c_of_a(raw, j);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[j].r[i] *= from_start[i / 2];
                pull[i / 2] += v[j].r[i] * y[2 * k + j].r[i];
            }
        }
        a[k] = a_of_c<T>(v[0], v[1]);
    }
    wg_pin(a);
    begin_pb(dc, a, s, p);
}

/* What S gives: dC, and pulls. */
template <class T>
__device__ __forceinline__ void add_before(frag_c (&dc)[2][N / 8], grad_wg_smem<T> &w,
                                           const head_steps &head, const wg_tile<T, P, N> &s,
                                           const wg_tile<T, QT, P> &dy)
{
    frag_a<T> a[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const unsigned tid = not_before(threadIdx.x) % 128;
        const int t = half * HALF + (int)(tid / 32 * 16 + tid % 32 / 4);
        const float from_start[2] = {head.from_start[t], head.from_start[t + 8]};
        float pull[2] = {};
        grad_c(dc[half], a, pull, w, s, dy, from_start, half * HALF, 0);
        grad_c(dc[half], a, pull, w, s, dy, from_start, half * HALF, 32);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float sum = sum_of_4(pull[j]);
            if (lane_id() % 4 == 0)
                w.before[t + 8 * j] = sum;
        }
    }
    wg_wait<0>();
    wg_pin(a);
    wg_pin(dc[0]);
    wg_pin(dc[1]);
}

/* Behind the last head: the pairs' part of dC. */
template <class T>
__device__ __forceinline__ void finish_t(grad_wg_smem<T> &w, const grad_args<T> &o,
                                         const chunk_at &at, frag_c (&dc)[2][N / 8])
{
    round_dcb(w, 8 + warp_id());
    keep_pulls(w.at.sums + (at.heads - 1) * QT, w, at.n);
    wg_begin();
#pragma unroll
    for (int half = 0; half < 2; half++)
        for (int s = 0; s < QT; s += 16)
            wg_mma(dc[half], wg_down(w.sum, s, half * HALF), wg_down(w.b, s, 0));
    wg_commit();
    wg_wait<0>();
    wg_pin(dc[0]);
    wg_pin(dc[1]);
    const int t = warp_id() * 16 + lane_id() / 4, low[2] = {t, t + 8},
              high[2] = {t + HALF, t + HALF + 8};
    write_sum(o.dc, dc[0], at, low);
    write_sum(o.dc, dc[1], at, high);
    meet(PULLS_KEPT);
}

/* The third warpgroup: all tokens as t. It copies for all, and keeps pulls. */
template <class T>
__device__ __forceinline__ void go_through_t(grad_wg_smem<T> &w, const grad_args<T> &o,
                                             const chunk_at &at)
{
    frag_c dc[2][N / 8] = {};
    fetch_steps(w, w.at, 0);
    copy_commit();
    copy_commit(); /* in the place of the first S, which is there */
#pragma unroll 1
    for (int i = 0; i < at.heads; i++) {
        const int now = i % 2;
        const auto &head = w.head[now];
        const auto &s = w.state[now];
        auto &d = w.state[now ^ 1];
        copied<1>();
        meet(TOKENS_THERE);
        if (i > 0)
            keep_pulls(w.at.sums + (i - 1) * QT, w, at.n);
        meet(PULLS_KEPT);
        fetch_state(d, w.at.D, i); /* where the S before was */
        copy_commit();
        copied<1>();
        wg_sync(S_THERE);
        add_before(dc, w, head, s, w.dy[now]);
        if (i + 1 < at.heads) {
            fetch_steps(w, w.at, i + 1);
            fetch_channels(w, w.at, i + 1, at.n);
        }
        copy_commit();
        copied<1>();
        meet(D_THERE);
        const float through = warp_sum(dot_states(d, s));
        if (lane_id() == 0)
            w.through[threadIdx.x % 128 / 32] = through * head.from_start[at.n - 1];
        meet(D_FREE);
        if (i + 1 < at.heads)
            fetch_state(d, w.at.S, i + 1);
        copy_commit();
    }
    finish_t(w, o, at, dc);
}

/* The same of dB, and what follows from the pulls. */
template <class T>
__device__ __forceinline__ void finish_s(grad_wg_smem<T> &w, const grad_args<T> &o,
                                         const chunk_at &at, frag_c (&db)[N / 8],
                                         const own_tokens &own)
{
    round_dcb(w, own.warp);
    wg_begin();
    for (int t = 0; t < QT; t += 16)
        wg_mma(db, wg_along(w.sum, own.warp / 4 * HALF, t), wg_down(w.c, t, 0));
    wg_commit();
    wg_wait<0>();
    wg_pin(db);
    write_sum(o.db, db, at, own.s);
    meet(PULLS_KEPT); /* the last head's, too */
    for (int h = own.warp; h < at.heads; h += 8)
        finish<shape_of<T>>(&w, o, w.at.sums + h * QT, 1, at.first + h, (int)blockIdx.x, at.row0,
                            at.n);
}

/* Warpgroup 0 or 1: its tokens as s. */
template <class T>
__device__ __forceinline__ void go_through_s(grad_wg_smem<T> &w, const grad_args<T> &o,
                                             const chunk_at &at, int group)
{
    const int s0 = group * HALF, row = s0 + warp_id() * 16, g = row + lane_id() / 4;
    const own_tokens own = {(unsigned)row / 16,
                            {wg_unfolded<QT>(g), wg_unfolded<QT>(g + 8)},
                            w.cb[row / 16][0] + lane_id(),
                            w.dcb[row / 16][0] + lane_id()};
    frag_c db[N / 8] = {};
    pair_cb(w, own);
#pragma unroll 1
    for (int i = 0; i < at.heads; i++) {
        const int now = i % 2;
        const auto &x = w.x[now], &dy = w.dy[now];
        const auto &d = w.state[now ^ 1];
        const head_steps *const head = &w.head[now];
        meet(TOKENS_THERE);
        const float skip = o.skip[at.first + i];
        frag_c acc[8]; /* of one product after the other */
        frag_c(&gram)[HALF / 8] = acc, (&dxs)[P / 8] = acc;
        frag_a<T> a[P / 16], m[QT / 16] = {};
        own_rows rows = {{head->from[own.s[0]], head->from[own.s[1]]}, {0, 0}, {0, 0}};
        begin_abt(gram, x, s0, dy, 0); /* x_s . dy_t */
        meet(PULLS_KEPT);
        wg_wait<0>();
        wg_pin(gram);
        make_first(m, rows, gram, w, head, own, skip);
        begin_abt(gram, x, s0, dy, HALF);
        wg_wait<0>();
        wg_pin(gram);
        make_second(m, rows, gram, w, head, own, skip);
        const float tail[2] = {head->tail[own.s[0]], head->tail[own.s[1]]};
        scaled_operand(a, x, tail, row);
        meet(D_THERE);
        begin_pb(db, a, d, 0);
        wg_wait<0>();
        wg_pin(a);
        wg_pin(db);
        begin_abt(dxs, w.b, s0, d, 0); /* D B, unscaled */
        wg_wait<0>();
        wg_pin(dxs);
        float behind[2];
        scale_behind(dxs, behind, tail, x, row);
        wg_pin(m);
        wg_pin(dxs);
        begin_pb(dxs, m, dy, 0);
        meet(D_FREE);
        leave_token(w, rows, behind, head, own);
        wg_wait<0>();
        wg_pin(m);
        wg_pin(dxs);
        write_x(mat<T>{w.at.dx + i * P, w.at.dx_ld}, dxs, own, at.n);
    }
    finish_s(w, o, at, db, own);
}

/* The deltas of the group's heads. A warp has every twelfth token, all of whose heads it reads at
 * once. */
template <class T>
__device__ __forceinline__ void read_deltas(grad_wg_smem<T> &w, const grad_args<T> &o,
                                            const chunk_at &at, int warp)
{
    constexpr int WARPS = THREADS / 32, EACH = (QT + WARPS - 1) / WARPS;
    const float *const from = o.delta + (int64_t)at.row0 * o.H + at.first;
    for (int h = lane_id(); h < at.heads; h += 32) {
        float v[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++)
            v[k] = warp + k * WARPS < at.n ? from[(warp + k * WARPS) * o.H + h] : 0.0f;
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if (warp + k * WARPS < QT)
                w.delta[h][warp + k * WARPS] = v[k];
    }
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
    const chunk_at at = {b * o.n_tokens + t_first, min((int)QT, o.n_tokens - t_first),
                         (int)blockIdx.y, (int)blockIdx.y * heads, heads};
    const int64_t row0 = at.row0, col = (int64_t)at.group * N;
    const int64_t head0 = (int64_t)chunk * o.H + at.first;
    const head_places<T> places = {o.x.p + row0 * o.x.ld + at.first * P,
                                   o.dy.p + row0 * o.dy.ld + at.first * P,
                                   o.S + head0 * (P * N),
                                   o.D + head0 * (P * N),
                                   o.dx.p + row0 * o.dx.ld + at.first * P,
                                   reinterpret_cast<head_steps *>(o.tokens) + head0,
                                   o.sums + head0 * QT,
                                   (int)o.x.ld,
                                   (int)o.dy.ld,
                                   (int)o.dx.ld};
    if (threadIdx.x == 0)
        w.at = places;
    read_deltas(w, o, at, warp); /* before the copies, or they would come behind them */
    if (group < 2) {
        wg_copy_folded<256>(w.b, o.b.p + row0 * o.b.ld + col, (int)o.b.ld, at.n, threadIdx.x);
        wg_copy<256>(w.c, o.c.p + row0 * o.c.ld + col, o.c.ld, at.n, threadIdx.x);
    } else {
        fetch_channels(w, places, 0, at.n);
        fetch_state(w.state[0], places.S, 0);
        if (warp == 8)
            find_documents<S>(&w, o.seg ? o.seg + row0 : NULL, t_first, at.n);
    }
    copy_commit();
    __syncthreads();
    for (int i = warp; i < heads; i += THREADS / 32)
        head_tokens<S>(places.steps + i, &w, w.delta[i], 1, -expf(o.a_log[at.first + i]), at.n);
    copied();
    __syncthreads();
    if (group < 2) {
        wg_leave_registers<S_REGS>();
        go_through_s(w, o, at, group);
    } else {
        wg_take_registers<T_REGS>();
        go_through_t(w, o, at);
    }
}
} // namespace

template <class T> bool ssd_grad_sm90(struct dev *dev, const grad_args<T> &o, int B)
{
    if (!ssd_has_sm90(dev, o.P, o.N) || !o.is_wide || o.H / o.G > MOST_HEADS)
        return false;
    launch(dev, "ssd_bwd", k_ssd_grad_wg<T>, dim3((unsigned)(B * o.Z), (unsigned)o.G), THREADS,
           sizeof(grad_wg_smem<T>), o);
    return true;
}
template bool ssd_grad_sm90<bf16>(struct dev *, const grad_args<bf16> &, int);
template bool ssd_grad_sm90<f16>(struct dev *, const grad_args<f16> &, int);
