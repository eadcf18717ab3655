/* ssd_walk_sm90: only the states of the scan (ssd_states.cu) on Hopper (ssd_sm90.cuh). */
#include "ssd_sm90.cuh"

namespace
{
using namespace ssd_sm90;

enum { STAGES = 2 };

template <class T> struct walk_smem {
    struct {
        wg_tile<T, Q, N> b;
        wg_tile<T, Q, P> x[HEADS];
    } stage[STAGES];
    steps step[HEADS][STEPS];
    float2 rates[HEADS];
    float decay[HEADS]; /* of the span, as far as it went */
};
static_assert(BLOCKS * (sizeof(walk_smem<bf16>) + 1024) <= 228 * 1024, "an SM's shared memory");

/* The block's states to p, as ssd_store_state, but with places made here: in this kernel those cost
 * a register all along. */
template <class T> __device__ __forceinline__ void store_state(T *p, const state &s, int n_heads)
{
    const unsigned tid = not_before(threadIdx.x) % THREADS;
    if ((int)(tid / 128) < n_heads)
#pragma unroll
        for (int j = 0; j < N / 16; j++)
            store_c2<T>(p + tid / 32 * (16 * N) + j * 16, N, s.r[0][2 * j], s.r[0][2 * j + 1], 16,
                        16, true);
}

/* One block HEADS heads of one group (x), one span (y), one sequence (z); shared memory walk_smem.
 * FLOPs and bytes as k_ssd_walk's. Deterministic. */
template <class T, bool IS_REVERSE>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    k_ssd_walk_wg(ssd_walk_out<T> out, ssd_view<T> in)
{
    SHARED_DYN(unsigned char, all);
    walk_smem<T> &w = *reinterpret_cast<walk_smem<T> *>(all);
    const ssd_heads at = ssd_heads_of<shape>(in);
    const int group = group_id(), warp = warp_id();
    const int begin = (int)blockIdx.y * in.span, end = min(begin + in.span, at.len);
    if (!out.states && (IS_REVERSE ? begin == 0 : begin + in.span >= at.len))
        return; /* nothing lies behind it */
    const int n = (end - begin + Q - 1) / Q;
    const int64_t n_span = (int64_t)(at.n_span + (int)blockIdx.y) * in.H + at.h0;
    const auto token_of = [&](int i) {
        return i < n ? begin + (IS_REVERSE ? n - 1 - i : i) * Q : at.len;
    };
    const auto fetch = [&](int i) {
        if (i < n) {
            fetch_rows(w.stage[i % STAGES].b, in.b, at, token_of(i));
            fetch_x(w.stage[i % STAGES].x[group], in.x, at, group, token_of(i));
        }
        copy_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++)
        fetch(i);
    state s;
    ssd_load_state<shape>(s, out.states && out.ends ? out.ends + n_span * (P * N) : nullptr, P, N,
                          at.n_heads);
    const float2 rates = read_rates(in, at, group);
    if (threadIdx.x % 128 == 0) {
        w.rates[group] = rates;
        w.decay[group] = 1;
    }
    scan(&w.step[group][warp], read_tokens(in, at, group, token_of(warp)), rates, in, at, group,
         token_of(warp), (float *)nullptr);
    tokens<T> next = read_tokens(in, at, group, token_of(BATCH + warp));
    int kept = kept_state(at, out.chunk, token_of(0));
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        const auto &now = w.stage[i % STAGES];
        const steps *const step = &w.step[group][i % STEPS];
        const int t0 = token_of(i);
        copy_wait<STAGES - 2>();
        wg_publish();
        __syncthreads();
        fetch(i + STAGES - 1);
        /* the chunk's first step in walking order */
        if (out.states &&
            (((IS_REVERSE ? t0 + Q : t0) & (out.chunk - 1)) == 0 || (IS_REVERSE && i == 0))) {
            store_state(out.states + ((int64_t)kept * in.H + at.h0) * (P * N), s, at.n_heads);
            kept += IS_REVERSE ? -1 : 1;
        }
        if (!out.states && threadIdx.x % 128 == 0)
            w.decay[group] *= step->through;
        frag_a<T> a[Q / 16];
        begin_advance(a, s, now.x[group], now.b, IS_REVERSE ? step->into : step->tail,
                      step->through);
        if (i % BATCH == BATCH - 1) {
            const int own = i + 1 + not_before(warp);
            scan(&w.step[group][own % STEPS], next, w.rates[group], in, at, group, token_of(own),
                 (float *)nullptr);
            next = read_tokens(in, at, group, token_of(own + BATCH));
        }
        wg_wait<0>();
        wg_pin(a);
        wg_pin(s.r[0]);
    }
    if (out.states)
        return;
    store_state(out.ends + n_span * (P * N), s, at.n_heads);
    if (threadIdx.x % 128 == 0 && group < at.n_heads)
        out.decays[n_span + group] = w.decay[group];
}
} // namespace

template <class T, bool IS_REVERSE>
void ssd_walk_sm90(struct dev *dev, const ssd_walk_out<T> &out, const ssd_view<T> &view)
{
    launch(dev, "ssd_states", k_ssd_walk_wg<T, IS_REVERSE>,
           dim3(ssd_blocks<shape>(view.H, view.G), (unsigned)view.n_spans, (unsigned)view.B),
           dim3(THREADS), sizeof(walk_smem<T>), out, view);
}
template void ssd_walk_sm90<bf16, false>(struct dev *, const ssd_walk_out<bf16> &,
                                         const ssd_view<bf16> &);
template void ssd_walk_sm90<bf16, true>(struct dev *, const ssd_walk_out<bf16> &,
                                        const ssd_view<bf16> &);
template void ssd_walk_sm90<f16, false>(struct dev *, const ssd_walk_out<f16> &,
                                        const ssd_view<f16> &);
template void ssd_walk_sm90<f16, true>(struct dev *, const ssd_walk_out<f16> &,
                                       const ssd_view<f16> &);
