/* ssd_states: only the states of the scan (ssd.cuh has the letters): before each chunk, for the
 * backward; the gradients behind each chunk, which are the same scan with time reversed; and the
 * states before spans of tokens, which let the passes over few long rows fill a GPU: each span's
 * end from zero and its decay, a scan over spans, and then every span at once from its true
 * start. */
#include "ssd.cuh"

template <class T> struct walk_out {
    T *states;     /* (B,Z,H,P,N) before each chunk of `chunk` tokens; NULL: ends and decays */
    float *ends;   /* (B,spans,H,P,N): from zero (states NULL: written), else where to start */
    float *decays; /* (B,spans,H) */
    int chunk, span;
    bool is_wide; /* states */
};

/* Shared memory: S::stages of (x, B), two of steps. */
template <class S> struct walk_smem {
    using T = typename S::T;
    static constexpr int x = S::heads * S::Q * S::ldx, b = S::Q * S::ldb;
    static constexpr size_t bytes =
        sizeof(T) * (size_t)(S::stages * (x + b)) + 2 * sizeof(ssd_steps<S>);
};

/* One block S::heads heads of one group (x), one span (y), one sequence (z); shared memory
 * walk_smem. N P multiply-adds a head and token; in memory x and B once, and P N elements a chunk
 * and head written. IS_REVERSE: in.x is dy, in.b is C, chunks run from the end. Deterministic. */
template <class S, bool IS_REVERSE>
__global__ void __launch_bounds__(S::threads, S::warps == 4 ? 2 : 1)
    k_ssd_walk(walk_out<typename S::T> out, ssd_view<typename S::T> in)
{
    using T = typename S::T;
    SHARED_DYN(unsigned char, all);
    ssd_steps<S> *steps = reinterpret_cast<ssd_steps<S> *>(all);
    T *const tiles = reinterpret_cast<T *>(steps + 2);
    const ssd_heads at = ssd_heads_of<S>(in.H, in.G);
    const int begin = (int)blockIdx.y * out.span, end = min(begin + out.span, in.len);
    const int Z = (in.len + out.chunk - 1) / out.chunk, n = (end - begin + S::Q - 1) / S::Q;
    const int64_t PN = (int64_t)in.P * in.N;
    const int64_t n_span = ((int64_t)at.b * gridDim.y + blockIdx.y) * in.H + at.h0;
    auto token_of = [&](int i) { return begin + (IS_REVERSE ? n - 1 - i : i) * S::Q; };
    auto fetch = [&](int i, int stage) {
        T *const to = tiles + stage * (walk_smem<S>::x + walk_smem<S>::b);
        ssd_load_x<S>(to, in.x, in, at, token_of(i));
        ssd_load_rows<S, S::NP>(to + walk_smem<S>::x, in.b, in, at.b, token_of(i), at.g * in.N,
                                in.N);
        copy_commit();
    };
    ssd_state<S> s;
    float decay = 1; /* of head threadIdx.x */
    ssd_load_state<S>(s, out.states && out.ends ? out.ends + n_span * PN : nullptr, in.P, in.N,
                      at.n_heads);
    fetch(0, 0);
    ssd_scan<S>(steps, ssd_read_token<S>(in, at, token_of(0)), in, at, token_of(0), nullptr);
    for (int i = 0; i < n; i++) {
        const int now = i % 2, stage = S::stages == 2 ? now : 0, t0 = token_of(i);
        const bool has_next = i + 1 < n;
        copy_wait<0>();
        __syncthreads();
        if (has_next && S::stages == 2)
            fetch(i + 1, now ^ 1);
        const ssd_token next = ssd_read_token<S>(in, at, has_next ? token_of(i + 1) : in.len);
        /* the chunk's first step in walking order */
        if (out.states &&
            ((IS_REVERSE ? t0 + S::Q : t0) % out.chunk == 0 || (IS_REVERSE && i == 0)))
            ssd_store_state<S>(out.states +
                                   (((int64_t)at.b * Z + t0 / out.chunk) * in.H + at.h0) * PN,
                               s, in.P, in.N, at.n_heads, out.is_wide);
        if ((int)threadIdx.x < S::heads)
            decay *= steps[now].through[threadIdx.x];
        const T *x = tiles + stage * (walk_smem<S>::x + walk_smem<S>::b);
        ssd_advance<S>(s, x, x + walk_smem<S>::x, IS_REVERSE ? steps[now].into : steps[now].tail,
                       steps[now].through, in.N);
        if (!has_next)
            break;
        ssd_scan<S>(steps + (now ^ 1), next, in, at, token_of(i + 1), nullptr);
        if (S::stages == 1) {
            __syncthreads();
            fetch(i + 1, 0);
        }
    }
    if (out.states)
        return;
    ssd_store_state<S>(out.ends + n_span * PN, s, in.P, in.N, at.n_heads, false);
    if ((int)threadIdx.x < at.n_heads)
        out.decays[n_span + threadIdx.x] = decay;
}

/* ends (B,spans,H,PN), from zero, become the states before each span (behind it, is_reverse). One
 * thread an element (x) of one head (y) and sequence (z); n_spans multiply-adds; ends read and
 * written once. */
__global__ void k_ssd_chain(float *ends, const float *decays, const float *first, int n_spans,
                            int PN, bool is_reverse)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), H = (int)gridDim.y;
    if (i >= PN)
        return;
    const int64_t head = (int64_t)blockIdx.z * H + blockIdx.y;
    float s = first ? first[head * PN + i] : 0.0f;
    for (int k = 0; k < n_spans; k++) {
        const int span = is_reverse ? n_spans - 1 - k : k;
        const int64_t at = ((int64_t)blockIdx.z * n_spans + span) * H + blockIdx.y;
        const float end = ends[at * PN + i];
        ends[at * PN + i] = s;
        s = decays[at] * s + end;
    }
}

size_t ssd_spans_bytes(int B, int T, int H, int P, int N)
{
    const size_t n = (size_t)ssd_n_spans(B, T, H);
    return n > 1 ? (size_t)B * n * (size_t)H * ((size_t)P * (size_t)N + 1) * sizeof(float) : 0;
}

template <class T, bool IS_REVERSE>
static void walk(struct dev *dev, walk_out<T> out, const ssd_view<T> &view)
{
    with_ssd_tile<T>(view.P, view.N, [&](auto tile) {
        using S = decltype(tile);
        const int n_spans = (view.len + out.span - 1) / out.span;
        launch(dev, "ssd_states", k_ssd_walk<S, IS_REVERSE>,
               dim3(ssd_blocks<S>(view.H, view.G), (unsigned)n_spans, (unsigned)view.B),
               dim3(S::threads), walk_smem<S>::bytes, out, view);
    });
}

/* States before spans in work, ready for the pass that follows; false: there is one span. */
template <class T, bool IS_REVERSE>
static bool start_spans(struct dev *dev, void *work, const float *first, const ssd_view<T> &view)
{
    const int n_spans = ssd_n_spans(view.B, view.len, view.H), PN = view.P * view.N;
    if (n_spans == 1)
        return false;
    walk_out<T> out = {};
    out.ends = (float *)work;
    out.decays = out.ends + (size_t)view.B * (size_t)n_spans * (size_t)view.H * (size_t)PN;
    out.span = out.chunk = ssd_span(view.B, view.len, view.H);
    walk<T, IS_REVERSE>(dev, out, view);
    launch(dev, "ssd_states", k_ssd_chain,
           dim3(blocks_for(PN, 256), (unsigned)view.H, (unsigned)view.B), dim3(256), 0, out.ends,
           out.decays, first, n_spans, PN, IS_REVERSE);
    return true;
}

template <class T, bool IS_REVERSE>
static void all_states(struct dev *dev, void *states, int chunk, void *work,
                       const ssd_view<T> &view)
{
    walk_out<T> out = {};
    out.states = (T *)states;
    out.ends = start_spans<T, IS_REVERSE>(dev, work, nullptr, view) ? (float *)work : nullptr;
    out.chunk = chunk;
    out.span = ssd_span(view.B, view.len, view.H);
    out.is_wide = (size_t)view.N * sizeof(T) % 16 == 0;
    walk<T, IS_REVERSE>(dev, out, view);
}

const float *cuda_ssd_spans(struct dev *dev, void *work, const float *first,
                            const struct ssd_in *in)
{
    const float *before = nullptr;
    with_type(in->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (start_spans<T, false>(dev, work, first, ssd_view_of<T>(in)))
            before = (const float *)work;
    });
    return before;
}

void cuda_ssd_states(struct dev *dev, void *states, int chunk, void *work, const struct ssd_in *in)
{
    with_type(in->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        all_states<T, false>(dev, states, chunk, work, ssd_view_of<T>(in));
    });
}

void cuda_ssd_dstates(struct dev *dev, void *dstates, const struct tensor *dy, int chunk,
                      void *work, const struct ssd_in *in)
{
    with_type(in->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        struct ssd_in reversed = *in;
        reversed.x = *dy;
        reversed.bmat = in->cmat;
        all_states<T, true>(dev, dstates, chunk, work, ssd_view_of<T>(&reversed));
    });
}
