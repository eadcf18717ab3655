/* ssd_grad_sm90: the gradient of the scan (ssd_bwd.cu has the formulas and the letters) by products
 * of warpgroups, on Hopper, for heads of P = 64 and N = 128 in 16-bit types with wide rows. A block
 * has a chunk of a group and goes through its heads. Two warpgroups have 64 tokens each as s: their
 * pairs, dx, and dB in registers; the third has all tokens as t: what S gives, and dC. They meet
 * once a head.
 *
 * Tiles come a head ahead, but for S and D, of which a head's D takes the place of the S before it,
 * and the next S that of D: D is used behind the pairs, S by the third warpgroup alone. */
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
    begin_pb(dc, a, s, p);
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
        meet(); /* x, dy and tokens are there, those before are free */
        fetch_tokens(w, o, at, i + 1);
        meet_for_state(); /* S is there */
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

/* Behind the last head: the pairs' part of dB, and what follows from the pulls. */
template <class T>
__device__ __forceinline__ void finish_s(grad_wg_smem<T> &w, const grad_args<T> &o,
                                         const chunk_at &at, float4 *sums, frag_c (&db)[N / 8],
                                         bool is_late)
{
    const int s0 = is_late ? HALF : 0, warp = (is_late ? 4 : 0) + warp_id();
    round_dcb(w, warp);
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
    for (int h = warp; h < at.heads; h += 8)
        finish<shape_of<T>>(&w, o, sums + h * QT, 1, at.first + h, at.chunk, at.row0, at.n);
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
        meet(); /* as above */
        const float skip = o.skip[at.first + i];
        frag_c acc[8]; /* of one product after the other */
        frag_c(&gram)[HALF / 8] = acc, (&dxs)[P / 8] = acc;
        frag_a<T> a[P / 16], m[HALF / 16], later[HALF / 16];
        pair_rows rows = {
            {head->cum[g], head->cum[g + 8]}, {head->delta[g], head->delta[g + 8]}, {0, 0}};
        begin_abt(gram, x, s0, dy, s0); /* x_s . dy_t */
        if (is_late) {
            fetch_state(d, o.D, o.H, at, i); /* where the S before was */
            if (i > 0)
                keep_pulls(sums + (i - 1) * QT, w, now ^ 1, at.n);
            copied<1>();
            meet_for_state();
        }
        wg_sync<2>(OF_S); /* what keep_pulls reads is free */
        wg_wait<0>();
        wg_pin(gram);
        leave_diagonal(w, gram, own);
        make_m<false>(m, rows, gram, w, head, own, s0, is_late ? w.late_slot[warp] : w.slot[warp]);
        if (is_late)
            copied();
        wg_sync<2>(OF_S); /* D is there */
        if (!is_late) {
            begin_abt(gram, x, 0, dy, HALF);
            wg_wait<0>();
            wg_pin(gram);
            make_m<true>(later, rows, gram, w, head, own, HALF, w.slot[warp] + HALF);
        }
        const float to_end[2] = {head->to_end[g] * rows.delta[0],
                                 head->to_end[g + 8] * rows.delta[1]};
        scaled_operand(a, x, to_end, row);
        begin_pb(db, a, d, 0);
        if (is_late) {
            const float through = warp_sum(dot_states(d, w.state[now]));
            if (lane_id() == 0)
                w.through[now][warp] = through * head->from_start[at.n - 1];
        }
        wg_wait<0>();
        wg_pin(a);
        wg_pin(db);
        begin_abt(dxs, w.b, s0, d, 0); /* D B, unscaled */
        wg_wait<0>();
        wg_pin(dxs);
        float behind[2];
        scale_behind(dxs, behind, head->to_end, x, row);
        wg_pin(m);
        wg_pin(dxs);
        wg_begin();
        wg_pb(dxs, m, dy, s0);
        if (!is_late)
            wg_pb(dxs, later, dy, HALF);
        wg_commit();
        wg_sync<2>(OF_S); /* D is free */
        if (is_late)
            fetch_state(d, o.S, o.H, at, i + 1);
        leave_token(w, rows, behind, own);
        wg_wait<0>();
        wg_pin(m);
        if (!is_late)
            wg_pin(later);
        wg_pin(dxs);
        finish_x(mat<T>{o.dx.p + (int64_t)at.row0 * o.dx.ld + (at.first + i) * P, o.dx.ld}, dxs, dy,
                 rows.delta, skip, row, at.n);
    }
    finish_s(w, o, at, sums, db, is_late);
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
        copy_commit();
        if (group == 1)
            fetch_state(w.state[0], o.S, o.H, at, 0);
    } else {
        fetch_channels(w.x[0], o.x, at, 0);
        fetch_channels(w.dy[0], o.dy, at, 0);
        copy_commit();
        if (warp == 8)
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
    if (!ssd_has_sm90(dev, o.P, o.N) || !o.is_wide)
        return false;
    launch(dev, "ssd_bwd", k_ssd_grad_wg<T>, dim3((unsigned)(B * o.Z), (unsigned)o.G), THREADS,
           sizeof(grad_wg_smem<T>), o);
    return true;
}
template bool ssd_grad_sm90<bf16>(struct dev *, const grad_args<bf16> &, int);
template bool ssd_grad_sm90<f16>(struct dev *, const grad_args<f16> &, int);
