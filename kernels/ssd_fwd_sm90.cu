/* ssd_fwd_sm90: the forward of the scan (ssd_fwd.cu has the formulas) on Hopper (ssd_sm90.cuh). y
 * is made as its transpose: the state is an operand as it lies in registers, x one as it lies in
 * shared memory, and only M, to whose diagonal skip is added, is laid out for its product. */
#include "cuda_ops.cuh"
#include "ssd_sm90.cuh"

namespace
{
using namespace ssd_sm90;

template <class T> struct fwd_smem {
    struct {
        wg_tile<T, Q, N> b;
        wg_tile<T, Q, P> x[HEADS];
    } stage[2];
    wg_tile<T, Q, N> c;        /* folded, */
    wg_tile<T, Q, Q> m[HEADS]; /* as are its t; then y, on its way out */
    steps step[HEADS][STEPS];
    float2 rates[HEADS];
    float skip[HEADS];
};
static_assert(BLOCKS * (sizeof(fwd_smem<bf16>) + 1024) <= 228 * 1024, "an SM's shared memory");

/* Of C_t . B_u of a lane's t on a side and 16 u from u0 on, M_tu, and skip where u is t. IS_NEAR:
 * some u may lie behind t. */
template <int SIDE, bool IS_NEAR, class T>
__device__ __forceinline__ void add_unit(frag_a<T> &m, const frag_c *cb, const steps *s, float cum,
                                         int t, int start, float skip, int u0)
{
    const int q2 = lane_id() % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        float from[2], v[2];
        load<float, 2>(from, s->from + u0 + j * 8 + q2);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            /* bits, not conditions: those would be branches */
            const int u = u0 + j * 8 + i + q2;
            const bool is_pair = (u >= start) & (!IS_NEAR | (u <= t));
            const float decay = exp2_fast(cum - from[i]);
            v[i] = cb[j].r[2 * SIDE + i] * (is_pair ? decay : 0.0f);
            if (IS_NEAR)
                v[i] += u == t ? skip : 0.0f;
        }
        m.r[2 * j + SIDE] = pack2(v[0], v[1], T{});
    }
}

/* M, skip on its diagonal, of C B^T: a warp's 16 folded rows. Front t have pairs in as many tiles
 * of u as back t lack. */
template <class T>
__device__ __forceinline__ void make_m(wg_tile<T, Q, Q> &m, const frag_c (&cb)[Q / 8],
                                       const steps *s, float skip, int warp)
{
    const int g = (int)(not_before(threadIdx.x) % 32 / 4), front = warp * 8 + g,
              back = Q - 8 - warp * 8 + g;
    const float cum[2] = {s->cum[front], s->cum[back]};
    const int start[2] = {s->start[front], s->start[back]};
    frag_a<T> v[Q / 16] = {};
    add_unit<0, true>(v[0], cb, s, cum[0], front, start[0], skip, 0);
    add_unit<1, false>(v[0], cb, s, cum[1], back, start[1], skip, 0);
    add_unit<1, false>(v[1], cb + 2, s, cum[1], back, start[1], skip, 16);
    add_unit<1, true>(v[2], cb + 4, s, cum[1], back, start[1], skip, 32);
    if (warp < 2)
        add_unit<1, true>(v[3], cb + 6, s, cum[1], back, start[1], skip, 48);
    else
        add_unit<0, true>(v[1], cb + 2, s, cum[0], front, start[0], skip, 16);
#pragma unroll
    for (int k = 0; k < Q / 16; k++)
        wg_store_a(m, warp * 16, k * 16, v[k]);
}

/* y^T = S C^T of the warpgroup's head. More columns of S at once as operands: no registers. */
template <class T>
__device__ __forceinline__ void before_chunk(frag_c (&y)[Q / 8], state &s,
                                             const wg_tile<T, Q, N> &c)
{
    wg_pin(s.r[0]); /* rounded anew each time: registers */
#pragma unroll
    for (int n = 0; n < N; n += 16) {
        frag_a<T> a[1] = {a_of_c<T>(s.r[0][n / 8], s.r[0][n / 8 + 1])};
        wg_pin(a);
        wg_begin();
        wg_mma(y, a[0], wg_along(c, 0, n), n == 0);
        wg_commit();
        wg_wait<0>();
        wg_pin(a);
        wg_pin(y);
    }
}

/* y^T = into y^T + x^T M^T. */
template <class T>
__device__ __forceinline__ void within_chunk(frag_c (&y)[Q / 8], const wg_tile<T, Q, P> &x,
                                             const wg_tile<T, Q, Q> &m, const float *into)
{
#pragma unroll
    for (int j = 0; j < Q / 8; j++) {
        float w[2];
        load<float, 2>(w, into + wg_unfolded<Q>(j * 8) + lane_id() % 4 * 2);
#pragma unroll
        for (int k = 0; k < 4; k++)
            y[j].r[k] *= w[k % 2];
    }
    wg_pin(y);
    wg_begin();
#pragma unroll
    for (int u = 0; u < Q; u += 16)
        wg_mma(y, wg_down(x, u, 0), wg_along(m, 0, u));
    wg_commit();
    wg_wait<0>();
    wg_pin(y);
}

/* y^T of tokens t0 .. from registers by way of `tile` to memory; the warpgroup. */
template <class T>
__device__ __forceinline__ void store_y(const ssd_fwd_out<T> &out, wg_tile<T, Q, Q> &tile,
                                        const frag_c (&y)[Q / 8], const ssd_heads &at, int group,
                                        int t0)
{
    const unsigned tid = not_before(threadIdx.x) % 128, row = tid / 8, c = tid % 8 * 8;
#pragma unroll
    for (int k = 0; k < Q / 16; k++)
        wg_store_a_t(tile, k * 16, (int)(tid / 32 * 16), a_of_c<T>(y[2 * k], y[2 * k + 1]));
    wg_sync(1 + group);
    const int n_rows = group < at.n_heads ? at.len - t0 : 0, ld = (int)out.y.ld;
    const int first = wg_unfolded<Q>(row), by = row < 8 ? 8 : -8;
    T *const to = out.y.p + (int64_t)(at.row0 + not_before(t0)) * ld + (at.h0 + group) * P +
                  first * ld + (int)c;
    const T *const from = tile.at(row, c);
#pragma unroll
    for (int i = 0; i < Q / 16; i++)
        if (first + i * by < n_rows)
            *reinterpret_cast<uint4 *>(to + i * by * ld) = load16_shared(from + i * 16 * 64);
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
    const int group = group_id(), warp = warp_id();
    const int begin = (int)blockIdx.y * in.span, end = min(begin + in.span, at.len);
    if (begin >= end)
        return;
    const int64_t n_before = at.n_span + (int)blockIdx.y;
    fetch_folded(w.c, in.c, at, begin);
    fetch_rows(w.stage[0].b, in.b, at, begin);
    fetch_x(w.stage[0].x[group], in.x, at, group, begin);
    copy_commit();
    const auto last = [&] {
        return out.last ? out.last + ((int64_t)at.slot * in.H + at.h0) * (P * N) : nullptr;
    };
    state s;
    ssd_load_state<shape>(s, out.before ? out.before + (n_before * in.H + at.h0) * (P * N) : last(),
                          P, N, at.n_heads);
    const auto token_of = [&](int i) { return begin + i * Q < end ? begin + i * Q : at.len; };
    const float2 rates = read_rates(in, at, group);
    if (threadIdx.x % 128 == 0) {
        w.rates[group] = rates;
        w.skip[group] = group < at.n_heads ? in.skip[at.h0 + group] : 0.0f;
    }
    scan(&w.step[group][warp], read_tokens(in, at, group, token_of(warp)), rates, in, at, group,
         token_of(warp), out.delta);
    tokens<T> next = read_tokens(in, at, group, token_of(BATCH + warp));
    int kept = kept_state(at, out.chunk, begin);
#pragma unroll 1
    for (int t0 = begin; t0 < end; t0 += Q) {
        const int i = (t0 - begin) / Q;
        const auto &now = w.stage[i % 2];
        const steps *const step = &w.step[group][i % STEPS];
        const bool has_next = t0 + Q < end;
        copy_wait<0>();
        wg_publish();
        __syncthreads();
        if (has_next) {
            fetch_rows(w.stage[(i + 1) % 2].b, in.b, at, t0 + Q);
            fetch_x(w.stage[(i + 1) % 2].x[group], in.x, at, group, t0 + Q);
            copy_commit();
        }
        if (out.states && (t0 & (out.chunk - 1)) == 0)
            ssd_store_state<shape>(out.states + ((int64_t)kept++ * in.H + at.h0) * (P * N), s, P, N,
                                   at.n_heads, true);
        frag_c y[Q / 8]; /* C B^T, then y^T */
        begin_abt(y, w.c, 0, now.b, 0);
        wg_wait<0>();
        wg_pin(y);
        make_m(w.m[group], y, step, w.skip[group], warp);
        wg_publish();
        before_chunk(y, s, w.c);
        __syncthreads(); /* M is there; C is free */
        if (has_next) {
            fetch_folded(w.c, in.c, at, t0 + Q);
            copy_commit();
        }
        within_chunk(y, now.x[group], w.m[group], step->into);
        wg_sync(1 + group); /* M has been read */
        store_y(out, w.m[group], y, at, group, t0);
        frag_a<T> a[Q / 16];
        begin_advance(a, s, now.x[group], now.b, step->tail, step->through);
        if (has_next && i % BATCH == BATCH - 1) {
            const int own = i + 1 + not_before(warp);
            scan(&w.step[group][own % STEPS], next, w.rates[group], in, at, group, token_of(own),
                 out.delta);
            next = read_tokens(in, at, group, token_of(own + BATCH));
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
