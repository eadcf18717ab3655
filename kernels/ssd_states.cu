/* ssd_states: only the states of the scan (ssd.cuh has the letters): before each chunk, for the
 * backward; the gradients behind each chunk, which are the same scan with time reversed; and the
 * states before spans of tokens, which let the passes over few long rows fill a GPU: each span's
 * end from zero and its decay, a scan over spans, and then every span at once from its true
 * start. */
#include "ssd_sm90.cuh"

/* Shared memory: S::walk_stages of (x, B), 2 S::batch of steps. */
template <class S> struct walk_smem {
    using T = typename S::T;
    static constexpr int x = S::heads * S::Q * S::ldx, b = S::Q * S::ldb;
    static constexpr size_t bytes =
        sizeof(T) * (size_t)(S::walk_stages * (x + b)) + 2 * S::batch * sizeof(ssd_steps<S>);
};

/* One block S::heads heads of one group (x), one span (y), one sequence (z); shared memory
 * walk_smem. N P multiply-adds a head and token; in memory x and B once, and P N elements a chunk
 * and head written. IS_REVERSE: in.x is dy, in.b is C, chunks run from the end. Deterministic. */
template <class S, bool IS_REVERSE>
__global__ void __launch_bounds__(S::threads, S::blocks)
    k_ssd_walk(ssd_walk_out<typename S::T> out, ssd_view<typename S::T> in)
{
    using T = typename S::T;
    SHARED_DYN(unsigned char, all);
    ssd_steps<S> *steps = reinterpret_cast<ssd_steps<S> *>(all);
    T *const tiles = reinterpret_cast<T *>(steps + 2 * S::batch);
    const ssd_heads at = ssd_heads_of<S>(in);
    const int begin = (int)blockIdx.y * in.span, end = min(begin + in.span, at.len);
    if (!out.states && (IS_REVERSE ? begin == 0 : begin + in.span >= at.len))
        return; /* nothing lies behind it */
    const int Z = (at.len + out.chunk - 1) / out.chunk, n = (end - begin + S::Q - 1) / S::Q;
    const int64_t PN = (int64_t)in.P * in.N;
    const int64_t n_span = (int64_t)(at.n_span + (int)blockIdx.y) * in.H + at.h0;
    const int own = ssd_step_chunk<S>();
    auto token_of = [&](int i) {
        return i < n ? begin + (IS_REVERSE ? n - 1 - i : i) * S::Q : at.len;
    };
    constexpr int stages = S::walk_stages;
    auto tile_of = [&](int i) { return tiles + i % stages * (walk_smem<S>::x + walk_smem<S>::b); };
    auto fetch = [&](int i) {
        if (i < n) {
            T *const to = tile_of(i);
            ssd_load_x<S>(to, in.x, in, at, token_of(i));
            ssd_load_rows<S, S::NP>(to + walk_smem<S>::x, in.b, in, at, token_of(i), at.g * in.N,
                                    in.N);
        }
        copy_commit();
    };
    ssd_state<S> s;
    float decay = 1; /* of head threadIdx.x */
    ssd_load_state<S>(s, out.states && out.ends ? out.ends + n_span * PN : nullptr, in.P, in.N,
                      at.n_heads);
#pragma unroll
    for (int i = 0; i < max(stages - 1, 1); i++)
        fetch(i);
    ssd_scan<S>(steps + own, ssd_read_token<S>(in, at, token_of(own)), in, at, token_of(own),
                nullptr);
    ssd_token<T> next = {};
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        const ssd_steps<S> *now = steps + i % (2 * S::batch);
        const int t0 = token_of(i);
        const int after = i - i % S::batch + S::batch + own; /* its chunk of the next batch */
        const bool has_next = i + 1 < n;
        copy_wait<stages == 3 ? 1 : 0>();
        __syncthreads();
        if (stages > 1)
            fetch(i + stages - 1);
        if (i % S::batch == S::batch - 2)
            next = ssd_read_token<S>(in, at, token_of(after));
        /* the chunk's first step in walking order */
        if (out.states &&
            (((IS_REVERSE ? t0 + S::Q : t0) & (out.chunk - 1)) == 0 || (IS_REVERSE && i == 0)))
            ssd_store_state<S>(out.states +
                                   (((int64_t)at.b * Z + t0 / out.chunk) * in.H + at.h0) * PN,
                               s, in.P, in.N, at.n_heads, out.is_wide);
        if ((int)threadIdx.x < S::heads)
            decay *= now->through[threadIdx.x];
        const T *x = tile_of(i);
        ssd_advance<S>(s, x, x + walk_smem<S>::x, IS_REVERSE ? now->into : now->tail, now->through,
                       in.N);
        if (!has_next)
            break;
        if (i % S::batch == S::batch - 1)
            ssd_scan<S>(steps + after % (2 * S::batch), next, in, at, token_of(after), nullptr);
        if (stages == 1) {
            __syncthreads();
            fetch(i + 1);
        }
    }
    if (out.states)
        return;
    ssd_store_state<S>(out.ends + n_span * PN, s, in.P, in.N, at.n_heads, false);
    if ((int)threadIdx.x < at.n_heads)
        out.decays[n_span + threadIdx.x] = decay;
}

/* Sequences and their spans, see ssd_view. */
struct chain {
    const int32_t *begin, *slot;
    int span, n_spans;
};

/* ends (B,spans,H,PN), from zero, become the states before each span (behind it, is_reverse). One
 * thread an element (x) of one head (y) and sequence (z); n_spans multiply-adds; ends read and
 * written once. The last end and decay are not there, and not needed. */
__global__ void k_ssd_chain(float *ends, const float *decays, const float *first, chain c, int PN,
                            bool is_reverse)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x), H = (int)gridDim.y;
    const int b = (int)blockIdx.z, h = (int)blockIdx.y;
    if (i >= PN)
        return;
    const int64_t head = (int64_t)(c.begin ? c.slot[b] : b) * H + h;
    const int64_t n_span = c.begin ? c.begin[b] / c.span + b : (int64_t)b * c.n_spans;
    const int len = c.begin ? c.begin[b + 1] - c.begin[b] : c.n_spans * c.span;
    const int n_spans = (len + c.span - 1) / c.span;
    float s = first ? first[head * PN + i] : 0.0f;
    for (int k = 0; k < n_spans; k++) {
        const int64_t at = (n_span + (is_reverse ? n_spans - 1 - k : k)) * H + h;
        const bool has_next = k + 1 < n_spans;
        const float end = has_next ? ends[at * PN + i] : 0.0f;
        const float decay = has_next ? decays[at] : 0.0f;
        ends[at * PN + i] = s;
        s = decay * s + end;
    }
}

static size_t spans_bytes(size_t n, int H, int P, int N)
{
    return n * (size_t)H * ((size_t)P * (size_t)N + 1) * sizeof(float);
}

size_t ssd_spans_bytes(int B, int T, int H, int P, int N)
{
    const int span = ssd_span(B, T, H), n = (T + span - 1) / span;
    return n > 1 ? spans_bytes((size_t)B * (size_t)n, H, P, N) : 0;
}

/* Row b has places begin[b] / SSD_READ_SPAN + b and following, which are enough for it. */
static size_t read_spans(int R, int T)
{
    return T > SSD_READ_SPAN ? (size_t)T / SSD_READ_SPAN + (size_t)R : 0;
}

size_t ssd_read_spans_bytes(int R, int T, int H, int P, int N)
{
    return spans_bytes(read_spans(R, T), H, P, N);
}

template <class T, bool IS_REVERSE>
static void walk(struct dev *dev, ssd_walk_out<T> out, const ssd_view<T> &view)
{
    if constexpr (sizeof(T) == 2)
        if (ssd_has_sm90(dev, view, !out.states || out.is_wide, out.chunk)) {
            ssd_walk_sm90<T, IS_REVERSE>(dev, out, view);
            return;
        }
    with_ssd_tile<T>(view.P, view.N, [&](auto tile) {
        using S = decltype(tile);
        launch(dev, "ssd_states", k_ssd_walk<S, IS_REVERSE>,
               dim3(ssd_blocks<S>(view.H, view.G), (unsigned)view.n_spans, (unsigned)view.B),
               dim3(S::threads), walk_smem<S>::bytes, out, view);
    });
}

/* States before spans in work, of which it holds n_ends, ready for the pass that follows; false:
 * there is one span. */
template <class T, bool IS_REVERSE>
static bool start_spans(struct dev *dev, void *work, size_t n_ends, const float *first,
                        const ssd_view<T> &view)
{
    const int PN = view.P * view.N;
    if (view.n_spans == 1)
        return false;
    ssd_walk_out<T> out = {};
    out.ends = (float *)work;
    out.decays = out.ends + n_ends * (size_t)view.H * (size_t)PN;
    out.chunk = view.span;
    walk<T, IS_REVERSE>(dev, out, view);
    const chain c = {view.begin, view.slot, view.span, view.n_spans};
    launch(dev, "ssd_states", k_ssd_chain,
           dim3(blocks_for(PN, 256), (unsigned)view.H, (unsigned)view.B), dim3(256), 0, out.ends,
           out.decays, first, c, PN, IS_REVERSE);
    return true;
}

template <class T, bool IS_REVERSE>
static void all_states(struct dev *dev, void *states, int chunk, void *work,
                       const ssd_view<T> &view)
{
    ssd_walk_out<T> out = {};
    out.states = (T *)states;
    const size_t n_ends = (size_t)view.B * (size_t)view.n_spans;
    if (start_spans<T, IS_REVERSE>(dev, work, n_ends, nullptr, view))
        out.ends = (float *)work;
    out.chunk = chunk;
    out.is_wide = (size_t)view.N * sizeof(T) % 16 == 0;
    walk<T, IS_REVERSE>(dev, out, view);
}

const float *cuda_ssd_spans(struct dev *dev, void *work, const float *first,
                            const struct ssd_in *in, const struct read_rows *rows)
{
    const float *before = nullptr;
    with_type(in->x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const ssd_view<T> view = ssd_view_of<T>(in, rows);
        const size_t n_ends =
            rows ? read_spans(rows->R, in->T) : (size_t)view.B * (size_t)view.n_spans;
        if (start_spans<T, false>(dev, work, n_ends, first, view))
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
