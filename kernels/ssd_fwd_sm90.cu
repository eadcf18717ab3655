/* ssd_fwd_sm90: the forward of the scan (ssd_fwd.cu has the formulas) on Hopper (ssd_sm90.cuh). y
 * is made as its transpose: the state is an operand as it lies in registers, x one as it lies in
 * shared memory, and only M, to whose diagonal skip is added, is laid out for its product. */
#include "cuda_ops.cuh"
#include "ssd_sm90.cuh"

namespace
{
using namespace ssd_sm90;

enum {
    HALF = Q,  /* tokens whose y is in registers at once */
    PART = Q,  /* columns of C B^T that are */
    STEP = 16, /* columns of the state that are as operands */
};

template <class T> struct fwd_smem {
    struct {
        wg_tile<T, Q, N> b;
        wg_tile<T, Q, P> x[HEADS];
    } stage[2];
    wg_tile<T, Q, N> c;
    wg_tile<T, Q, Q> m[HEADS]; /* then y, on its way out */
    steps step[HEADS][2];      /* of the chunk and of the next */
};
static_assert(BLOCKS * (sizeof(fwd_smem<bf16>) + 1024) <= 228 * 1024, "an SM's shared memory");

/* C_t . B_u becomes M_tu + (t = u) skip, for the warp's 16 rows from `row` on and PART columns from
 * u_first on. */
template <class T>
__device__ __forceinline__ void make_m(wg_tile<T, Q, Q> &m, const frag_c (&cb)[PART / 8],
                                       const steps *s, float skip, int row, int u_first)
{
    const int lane = not_before(lane_id()), g = lane / 4, q = lane % 4 * 2;
    const float cum[2] = {s->cum[row + g], s->cum[row + g + 8]};
    const bool has_edges = s->n_edges > 0;
#pragma unroll
    for (int k = 0; k < PART / 16; k++) {
        const int u_tile = u_first + k * 16;
        frag_c v[2] = {};
        if (u_tile <= row) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int u0 = u_tile + j * 8 + q;
                float from[2];
                load<float, 2>(from, s->from + u0);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int t = row + g + i / 2 * 8, u = u0 + i % 2;
                    float w = exp2_fast(cum[i / 2] - from[i % 2]);
                    if (u_tile == row && u > t)
                        w = 0;
                    if (has_edges && s->doc[u] != s->doc[t])
                        w = 0;
                    v[j].r[i] = w * cb[2 * k + j].r[i];
                    if (u_tile == row && u == t)
                        v[j].r[i] += skip;
                }
            }
        }
        wg_store_a(m, row, u_tile, a_of_c<T>(v[0], v[1]));
    }
}

/* y^T = S C^T of the warpgroup's head, HALF tokens from t on. */
template <class T>
__device__ __forceinline__ void before_chunk(frag_c (&y)[HALF / 8], state &s,
                                             const wg_tile<T, Q, N> &c, int t)
{
    wg_pin(s.r[0]); /* rounded anew each time: registers */
#pragma unroll
    for (int n = 0; n < N; n += STEP) {
        frag_a<T> a[STEP / 16];
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            a[k] = a_of_c<T>(s.r[0][n / 8 + 2 * k], s.r[0][n / 8 + 2 * k + 1]);
        wg_pin(a);
        wg_begin();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            wg_mma(y, a[k], wg_along(c, t, n + k * 16), n + k == 0);
        wg_commit();
        wg_wait<0>();
        wg_pin(a);
        wg_pin(y);
    }
}

/* y^T = into y^T + x^T M^T, of tokens from t on, none of which sees one behind them. */
template <class T>
__device__ __forceinline__ void within_chunk(frag_c (&y)[HALF / 8], const wg_tile<T, Q, P> &x,
                                             const wg_tile<T, Q, Q> &m, const float *into, int t)
{
#pragma unroll
    for (int j = 0; j < HALF / 8; j++) {
        float w[2];
        load<float, 2>(w, into + t + j * 8 + lane_id() % 4 * 2);
#pragma unroll
        for (int k = 0; k < 4; k++)
            y[j].r[k] *= w[k % 2];
    }
    wg_pin(y);
    wg_begin();
#pragma unroll
    for (int u = 0; u < t + HALF; u += 16)
        wg_mma(y, wg_down(x, u, 0), wg_along(m, t, u));
    wg_commit();
    wg_wait<0>();
    wg_pin(y);
}

/* y^T of tokens t0 + t .. from registers by way of `tile` to memory; the warpgroup. */
template <class T>
__device__ __forceinline__ void store_y(const ssd_fwd_out<T> &out, wg_tile<T, Q, Q> &tile,
                                        const frag_c (&y)[HALF / 8], const ssd_heads &at, int group,
                                        int t0, int t)
{
    const int row = (int)threadIdx.x / 32 % 4 * 16;
#pragma unroll
    for (int k = 0; k < HALF / 16; k++)
        wg_store_a_t(tile, t + k * 16, row, a_of_c<T>(y[2 * k], y[2 * k + 1]));
    wg_sync(1 + group);
    const int tid = not_before((int)threadIdx.x), r0 = t + tid % 128 / 8, c = tid % 8 * 8;
    const int n_rows = group < at.n_heads ? at.len - t0 : 0;
    T *const to =
        out.y.p + (int64_t)(at.row0 + not_before(t0)) * out.y.ld + (at.h0 + group) * P + c;
#pragma unroll
    for (int r = r0; r < r0 + HALF; r += 16)
        if (r < n_rows)
            *reinterpret_cast<uint4 *>(to + r * (int)out.y.ld) = load16_shared(tile.at(r, c));
}

/* One block HEADS heads of one group (x), one span (y), one sequence (z); shared memory fwd_smem. A
 * head and token: (2 N P + Q P + Q N) multiply-adds and, in memory, x and y (P elements each) and
 * 1/H of B and C (2 G N). Deterministic: each sum has one owner and a fixed order.
 *
 * A chunk: C B^T and M, S C^T | barrier | x^T M^T, while the state moves on and y leaves. Copies of
 * the next x and B run all the while, that of C from the barrier on. */
template <class T>
__global__ void __launch_bounds__(THREADS, BLOCKS) k_ssd_fwd_wg(ssd_fwd_out<T> out, ssd_view<T> in)
{
    SHARED_DYN(unsigned char, all);
    fwd_smem<T> &w = *reinterpret_cast<fwd_smem<T> *>(all);
    const ssd_heads at = ssd_heads_of<shape>(in);
    const int group = group_id(), warp = warp_id(), row = warp * 16;
    const int begin = (int)blockIdx.y * in.span, end = min(begin + in.span, at.len);
    if (begin >= end)
        return;
    const int64_t n_before = at.n_span + (int)blockIdx.y;
    fetch_rows(w.c, in.c, at, begin);
    fetch_rows(w.stage[0].b, in.b, at, begin);
    fetch_x(w.stage[0].x[group], in.x, at, group, begin);
    copy_commit();
    const auto last = [&] {
        return out.last ? out.last + ((int64_t)at.slot * in.H + at.h0) * (P * N) : nullptr;
    };
    state s;
    ssd_load_state<shape>(s, out.before ? out.before + (n_before * in.H + at.h0) * (P * N) : last(),
                          P, N, at.n_heads);
    tokens<T> next = read_tokens(in, at, group, begin + (warp == 0 ? 4 : warp) * Q);
    if (warp == 0)
        scan(&w.step[group][0], read_tokens(in, at, group, begin), in, at, group, begin, out.delta);
    const float skip = group < at.n_heads ? in.skip[at.h0 + group] : 0.0f;
#pragma unroll 1
    for (int t0 = begin; t0 < end; t0 += Q) {
        const int i = (t0 - begin) / Q;
        const auto &now = w.stage[i % 2];
        const steps *const step = &w.step[group][i % 2];
        const bool has_next = t0 + Q < end;
        copy_wait<0>();
        wg_publish();
        __syncthreads();
        if (has_next) {
            fetch_rows(w.stage[(i + 1) % 2].b, in.b, at, t0 + Q);
            fetch_x(w.stage[(i + 1) % 2].x[group], in.x, at, group, t0 + Q);
            copy_commit();
        }
        if (out.states && (t0 & (out.chunk - 1)) == 0) {
            const int Z = (at.len + out.chunk - 1) / out.chunk;
            ssd_store_state<shape>(
                out.states + (((int64_t)at.b * Z + t0 / out.chunk) * in.H + at.h0) * (P * N), s, P,
                N, at.n_heads, true);
        }
#pragma unroll
        for (int u = 0; u < Q; u += PART) {
            frag_c cb[PART / 8];
            begin_abt(cb, w.c, 0, now.b, u);
            wg_wait<0>();
            wg_pin(cb);
            make_m(w.m[group], cb, step, skip, row, u);
        }
        wg_publish();
#pragma unroll
        for (int t = 0; t < Q; t += HALF) {
            frag_c y[HALF / 8];
            before_chunk(y, s, w.c, t);
            if (t + HALF < Q) {
                wg_sync(1 + group); /* M is there */
            } else {
                __syncthreads(); /* M is there; C is free */
                if (has_next) {
                    fetch_rows(w.c, in.c, at, t0 + Q);
                    copy_commit();
                }
            }
            within_chunk(y, now.x[group], w.m[group], step->into, t);
            wg_sync(1 + group); /* these rows of M have been read */
            store_y(out, w.m[group], y, at, group, t0, t);
        }
        frag_a<T> a[Q / 16];
        begin_advance(a, s, now.x[group], now.b, step->tail, step->through);
        if (has_next && warp == (i + 1) % 4) { /* warps take turns: the next chunk now */
            scan(&w.step[group][(i + 1) % 2], next, in, at, group, t0 + Q, out.delta);
            next = read_tokens(in, at, group, t0 + 5 * Q);
        }
        wg_wait<0>();
        wg_pin(a);
        wg_pin(s.r[0]);
    }
    if (out.last && end == at.len)
        ssd_store_state<shape>(last(), s, P, N, at.n_heads, false);
}
} // namespace

template <class T>
void ssd_fwd_sm90(struct dev *dev, const ssd_fwd_out<T> &out, const ssd_view<T> &view)
{
    launch(dev, "ssd_fwd", k_ssd_fwd_wg<T>,
           dim3(ssd_blocks<shape>(view.H, view.G), (unsigned)view.n_spans, (unsigned)view.B),
           dim3(THREADS), sizeof(fwd_smem<T>), out, view);
}
template void ssd_fwd_sm90<bf16>(struct dev *, const ssd_fwd_out<bf16> &, const ssd_view<bf16> &);
template void ssd_fwd_sm90<f16>(struct dev *, const ssd_fwd_out<f16> &, const ssd_view<f16> &);
