/* ssd: what the kernels of the chunked scan share (ops.h has the formula; Dao & Gu 2024, section
 * 6). A block walks the chunks of Q tokens of a few heads of one group in order. The state S (P x
 * N, a head) never leaves registers: a warp owns slices of 16 of its rows, as accumulators of the
 * update S += (x tail)^T B, which serve as the other operand of y = C S^T just as they lie.
 *
 * Within a chunk, with la_t = -exp(a_log) delta_t and cum its sums since the chunk's start or the
 * last document edge in it, doc the number of edges from the chunk's start to t:
 *   u reaches t       by exp(cum_t - cum_u) where doc_t = doc_u, u <= t
 *   the state before  by into_t = exp(cum_t) where doc_t = 0
 *   the state behind  from u by tail_u = delta_u exp(cum_last - cum_u) where doc_u = doc_last
 *                     and from the state before by `through` = into_last.
 * An edge at the chunk's first token counts. Tokens behind the sequence have delta 0.
 *
 * P and N are padded to the instance's (zeros in shared memory), so any P <= 128 and N <= 256
 * run. */
#ifndef HM_SSD_CUH
#define HM_SSD_CUH

#include "cuda.cuh"
#include "mma.cuh"

/* --- rows in spans, where there are too few of them to fill a GPU --- */

enum {
    SSD_SPAN = 128,     /* spans are multiples of it, chunks of states divide it */
    SSD_READ_SPAN = 256 /* of a read, whatever is read beside a row */
};

/* Tokens of a span: T where the sequences alone are enough. */
static inline int ssd_span(int B, int T, int H)
{
    const int64_t blocks = ((int64_t)B * H + 1) / 2, want = blocks >= 96 ? 1 : 256 / blocks;
    const int64_t per_span = (T + want - 1) / want;
    return (int)((per_span + SSD_SPAN - 1) / SSD_SPAN * SSD_SPAN);
}

/* ssd_in as kernels take it. */
template <class T> struct ssd_view {
    mat<const T> x, dt, b, c;
    const float *dt_bias, *a_log, *skip;
    const int32_t *seg;
    int B, len, H, P, N, G;      /* len: tokens of a sequence */
    bool is_wide;                /* x, b, c and each head's part of them: 16 bytes at a time */
    int span, n_spans;           /* tokens, whole chunks, and how many of them cover len */
    const int32_t *begin, *slot; /* of a read (ops.h), where len is the longest row's; or NULL */
};

/* rows NULL: in->B sequences. */
template <class T>
static inline ssd_view<T> ssd_view_of(const struct ssd_in *in,
                                      const struct read_rows *rows = nullptr)
{
    ssd_view<T> v = {};
    v.x = cmat_of<T>(&in->x);
    v.dt = cmat_of<T>(&in->dt);
    v.b = cmat_of<T>(&in->bmat);
    v.c = cmat_of<T>(&in->cmat);
    v.dt_bias = (const float *)in->dt_bias.data;
    v.a_log = (const float *)in->a_log.data;
    v.skip = (const float *)in->skip.data;
    v.seg = in->seg;
    v.B = in->B;
    v.len = in->T;
    v.H = in->H;
    v.P = in->P;
    v.N = in->N;
    v.G = in->G;
    v.is_wide = has_wide_rows(&in->x) && has_wide_rows(&in->bmat) && has_wide_rows(&in->cmat) &&
                (size_t)in->P * sizeof(T) % 16 == 0 && (size_t)in->N * sizeof(T) % 16 == 0;
    if (rows) {
        v.B = rows->R;
        v.len = rows->T;
        v.begin = rows->begin;
        v.slot = rows->slot;
    }
    v.span = rows ? SSD_READ_SPAN : ssd_span(v.B, v.len, v.H);
    v.n_spans = (v.len + v.span - 1) / v.span;
    return v;
}

/* An instance: P and N at most PP and NP. */
template <class T_, int PP_, int NP_> struct ssd_tile {
    using T = T_;
    static constexpr int PP = PP_, NP = NP_;
    static constexpr int Q = sizeof(T) == 4 && NP == 256 ? 16 : 32; /* tokens of a chunk */
    static constexpr int slices = 1; /* of 16 rows of states, a warp */
    static constexpr int warps = PP == 64 && NP == 256 ? 4 : 8;
    static constexpr int threads = warps * 32;
    static constexpr int blocks = PP == 128 && NP == 256 ? 1 : 2; /* of an SM */
    static constexpr int heads = warps * slices * 16 / PP;        /* a block */
    /* chunks whose decays are made at once, a head of one a warp: for so many there is room */
    static constexpr int batch = PP == 64 && (NP == 256 || sizeof(T) == 4) ? 2 : 4;
    /* buffers of x and B: what 64 KB of shared memory hold beside C and M */
    static constexpr int stages = sizeof(T) == 4 || (PP == 128 && NP == 256) ? 1 : 2;
    static constexpr int walk_stages = sizeof(T) == 4 ? 1 : NP == 256 ? 2 : 3; /* without them */
    static constexpr int ldx = tile_ld<T>(PP), ldb = tile_ld<T>(NP), ldm = tile_ld<T>(Q);
    static_assert(warps * slices * 16 % PP == 0 && heads <= warps, "whole heads, a warp for each");
};

/* Calls f with the instance for P and N. */
template <class T, int PP, class F> static inline void with_ssd_n(int N, F f)
{
    if (N <= 128)
        f(ssd_tile<T, PP, 128>{});
    else
        f(ssd_tile<T, PP, 256>{});
}
template <class T, class F> static inline void with_ssd_tile(int P, int N, F f)
{
    assert(P <= 128 && N <= 256);
    if (P <= 64)
        with_ssd_n<T, 64>(N, f);
    else
        with_ssd_n<T, 128>(N, f);
}

template <class S> static inline unsigned ssd_blocks(int H, int G)
{
    return (unsigned)(G * ((H / G + S::heads - 1) / S::heads));
}

/* A block's part: heads [h0, h0 + n_heads) of group g of sequence b, whose len tokens begin at row0
 * of the matrices. Its first and last states are number `slot`, those before spans number n_span
 * and following. */
struct ssd_heads {
    int b, g, h0, n_heads, row0, len, slot, n_span;
};
/* blockIdx.x counts the heads within a sequence, blockIdx.z is the sequence. */
template <class S, class T> __device__ __forceinline__ ssd_heads ssd_heads_of(const ssd_view<T> &in)
{
    const int per_group = in.H / in.G, blocks = (per_group + S::heads - 1) / S::heads;
    const int g = (int)blockIdx.x / blocks, first = (int)blockIdx.x % blocks * S::heads;
    const int b = (int)blockIdx.z;
    ssd_heads at = {b,      g, g * per_group + first, min(S::heads, per_group - first), b * in.len,
                    in.len, b, b * in.n_spans};
    if (in.begin) {
        at.row0 = in.begin[b];
        at.len = in.begin[b + 1] - at.row0;
        at.slot = in.slot[b];
        at.n_span = at.row0 / in.span + b;
    }
    return at;
}

/* Which head of the block and which of its rows p a warp's slice is. */
template <class S> __device__ __forceinline__ int ssd_slice_head(int slice)
{
    return ((int)threadIdx.x / 32 + slice * S::warps) / (S::PP / 16);
}
template <class S> __device__ __forceinline__ int ssd_slice_row(int slice)
{
    return ((int)threadIdx.x / 32 + slice * S::warps) % (S::PP / 16) * 16;
}

/* --- tiles in shared memory --- */

/* ROWS x COLS elements, of which n_rows x n_cols come from `from` and the others are 0; copies end
 * with a wait. All threads of the block call it; 16 bytes number i are copied by thread i %
 * THREADS. A tile's elements lie within 2^31 of each other. */
template <int ROWS, int COLS, int THREADS, class T>
__device__ __forceinline__ void ssd_load(T *to, const T *from, int64_t ld, int n_rows, int n_cols,
                                         bool is_wide)
{
    constexpr int w = wide<T>::n, per_row = COLS / w, step = THREADS / per_row;
    constexpr int to_ld = tile_ld<T>(COLS), rounds = (ROWS + step - 1) / step;
    const int r0 = (int)threadIdx.x / per_row, c = (int)threadIdx.x % per_row * w;
    static_assert(THREADS % per_row == 0, "a thread stays in its column");
    static_assert(ROWS % step == 0 || rounds == 1, "whole rounds");
    if (rounds == 1 && ROWS < step && r0 >= ROWS)
        return;
    to += r0 * to_ld + c;
    from += r0 * (int)ld + c;
    const int stride = step * (int)ld;
    if (is_wide && n_rows >= ROWS && n_cols >= COLS) {
#pragma unroll
        for (int i = 0; i < rounds; i++)
            copy16_async(to + i * step * to_ld, from + i * stride);
    } else if (is_wide) {
#pragma unroll
        for (int i = 0; i < rounds; i++)
            copy16_async(to + i * step * to_ld, from + i * stride,
                         r0 + i * step < n_rows && c < n_cols);
    } else {
#pragma unroll 1
        for (int i = 0; i < rounds * w; i++) {
            const int r = i / w * step, e = i % w;
            const bool ok = r0 + r < n_rows && c + e < n_cols;
            to[r * to_ld + e] = ok ? from[r * (int)ld + e] : from_f32<T>(0);
        }
    }
}

/* Tokens t0 .. of the block's sequence; columns [begin, begin + n_cols) are wanted. */
template <class S, int COLS, class T>
__device__ __forceinline__ void ssd_load_rows(T *to, mat<const T> from, const ssd_view<T> &in,
                                              const ssd_heads &at, int t0, int begin, int n_cols)
{
    ssd_load<S::Q, COLS, S::threads>(to, from.p + (int64_t)(at.row0 + t0) * from.ld + begin,
                                     from.ld, at.len - t0, n_cols, in.is_wide);
}

/* x of the block's heads: S::heads tiles of Q x PP; 0 where a head is missing. */
template <class S, class T>
__device__ __forceinline__ void ssd_load_x(T *to, mat<const T> x, const ssd_view<T> &in,
                                           const ssd_heads &at, int t0)
{
#pragma unroll
    for (int i = 0; i < S::heads; i++) {
        const bool is_there = i < at.n_heads;
        ssd_load_rows<S, S::PP>(to + i * S::Q * S::ldx, x, in, at, t0,
                                is_there ? (at.h0 + i) * in.P : 0, is_there ? in.P : 0);
    }
}

/* --- step sizes and decays --- */

/* Of the block's heads in a chunk; in shared memory, where chunk i of a walk has place i % (2
 * S::batch): a warp makes those of one head and chunk of a batch, while the batch before is in
 * use. */
template <class S> struct alignas(16) ssd_steps {
    float cum[S::heads][S::Q], delta[S::heads][S::Q], into[S::heads][S::Q], tail[S::heads][S::Q];
    int doc[S::Q];
    float through[4];
};
template <class S> __device__ __forceinline__ int ssd_step_head()
{
    return (int)threadIdx.x / 32 % S::heads;
}
template <class S> __device__ __forceinline__ int ssd_step_chunk() /* of the batch */
{
    return (int)threadIdx.x / 32 / S::heads;
}

__device__ __forceinline__ float ssd_exp(float v, float)
{
    return expf(v);
}
template <class T> __device__ __forceinline__ float ssd_exp(float v, T)
{
    return exp2_fast(v * 1.44269504f);
}
/* log(1 + e^v) = max(v, 0) + log1p(e^-|v|), the latter by the series of 2 artanh(e / (2 + e)),
 * whose terms fall by 9 at least: within 1e-6 of it. */
__device__ __forceinline__ float ssd_softplus(float v)
{
    const float e = exp2_fast(-fabsf(v) * 1.44269504f), s = __fdividef(e, 2.0f + e), q = s * s;
    float sum = 1.0f / 13;
#pragma unroll
    for (int k = 11; k > 0; k -= 2)
        sum = sum * q + 1.0f / (float)k;
    return fmaxf(v, 0.0f) + 2.0f * s * sum;
}
/* The sum of v over the lanes from `first` to this one, the last before it where sums begin. */
__device__ __forceinline__ float ssd_sum_from(float v, int first)
{
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float left = __shfl_up_sync(0xffffffffu, v, step);
        v += lane_id() - step >= first ? left : 0.0f;
    }
    return v;
}

/* A lane's token of its warp's head, before the scan. Read early, used late. */
template <class T> struct ssd_token {
    T dt;
    bool is_first; /* of its document, with another one before it */
};
template <class S, class T>
__device__ __forceinline__ ssd_token<T> ssd_read_token(const ssd_view<T> &in, const ssd_heads &at,
                                                       int t0)
{
    const int lane = lane_id(), i = ssd_step_head<S>(), t = t0 + lane;
    ssd_token<T> k = {from_f32<T>(0), false};
    if (lane >= S::Q || t >= at.len)
        return k;
    const int64_t r = at.row0 + t;
    if (i < at.n_heads)
        k.dt = in.dt.p[r * in.dt.ld + at.h0 + i];
    k.is_first = in.seg && t > 0 && in.seg[r] != in.seg[r - 1];
    return k;
}

/* Fills a head's part of steps from a warp's tokens, t0 .. ; delta_out (B,len,H) or NULL. Seen
 * after a barrier. */
template <class S, class T>
__device__ __forceinline__ void ssd_scan(ssd_steps<S> *steps, const ssd_token<T> &k,
                                         const ssd_view<T> &in, const ssd_heads &at, int t0,
                                         float *delta_out)
{
    const int lane = lane_id(), i = ssd_step_head<S>(), t = t0 + lane;
    if (ssd_step_chunk<S>() >= S::batch)
        return;
    float delta = 0, cum = 0;
    if (i < at.n_heads && lane < S::Q && t < at.len) {
        const int h = at.h0 + i;
        delta = ssd_softplus(to_f32(k.dt) + in.dt_bias[h]);
        cum = -expf(in.a_log[h]) * delta;
        if (delta_out)
            delta_out[(int64_t)(at.row0 + t) * in.H + h] = delta;
    }
    const unsigned edges = __ballot_sync(0xffffffffu, k.is_first);
    const unsigned upto = edges & ((2u << lane) - 1);
    const int doc = __popc(upto), doc_last = __popc(edges);
    cum = ssd_sum_from(cum, upto ? 31 - __clz((int)upto) : 0);
    /* that of the last token there is: sums further on, over zeros, are rounded otherwise */
    const float last = __shfl_sync(0xffffffffu, cum, max(min(S::Q, at.len - t0) - 1, 0));
    if (lane < S::Q) {
        steps->cum[i][lane] = cum;
        steps->delta[i][lane] = delta;
        steps->into[i][lane] = doc == 0 ? ssd_exp(cum, T{}) : 0.0f;
        steps->tail[i][lane] = doc == doc_last ? delta * ssd_exp(last - cum, T{}) : 0.0f;
        if (i == 0)
            steps->doc[lane] = doc;
    }
    if (lane == 0)
        steps->through[i] = doc_last == 0 ? ssd_exp(last, T{}) : 0.0f;
}

/* --- fragments --- */

/* Column k of a multiplied with w[k], 16 floats in shared memory. */
template <class T> __device__ __forceinline__ void scale_a_columns(frag_a<T> &a, const float *w)
{
    const float *mine = w + 2 * (lane_id() % 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float lo, hi;
        unpack2(lo, hi, a.r[i], T{});
        a.r[i] = pack2(lo * mine[i / 2 * 8], hi * mine[i / 2 * 8 + 1], T{});
    }
}
template <> __device__ __forceinline__ void scale_a_columns<float>(frag_a<float> &a, const float *w)
{
    const float *mine = w + 2 * (lane_id() % 4);
#pragma unroll
    for (int i = 0; i < 8; i++)
        a.r[i] *= mine[i / 4 * 8 + i % 2];
}

/* Writes a row's 16 elements, of which the four lanes that share it have two pairs each, 2t and 8 +
 * 2t: they swap, and write 8 bytes each. `to` is at 16 bytes; a whole warp calls it. */
template <class T>
__device__ __forceinline__ void store_row16(T *to, uint32_t low, uint32_t high, bool is_there)
{
    const int t = lane_id() % 4;
    const uint32_t got = __shfl_xor_sync(0xffffffffu, t % 2 ? low : high, 1);
    if (is_there)
        *reinterpret_cast<uint2 *>(to + (t % 2 ? 6 + 2 * t : 2 * t)) =
            t % 2 ? uint2{got, high} : uint2{low, got};
}
/* Writes 16x16 elements (two neighbouring C) to rows at `to`, of which n_rows x n_cols are there.
 * is_wide: rows are aligned to 16 bytes; then a row's 16 elements leave in one access of the warp.
 * A whole warp calls it. */
template <class T>
__device__ __forceinline__ void store_c2(T *to, int64_t ld, const frag_c &left, const frag_c &right,
                                         int n_rows, int n_cols, bool is_wide)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    if constexpr (sizeof(T) == 2) {
        if (is_wide) {
            const frag_a<T> v = a_of_c<T>(left, right);
            const int c = t % 2 ? 6 + 2 * t : 2 * t;
#pragma unroll
            for (int half = 0; half < 2; half++)
                store_row16(to + (g + half * 8) * (int)ld, v.r[half], v.r[2 + half],
                            g + half * 8 < n_rows && c < n_cols);
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) { /* pairs: row g, g + 8; columns 2t, 8 + 2t */
        const int r = g + i % 2 * 8, c = i / 2 * 8 + 2 * t;
        const frag_c &from = i / 2 ? right : left;
        const float v[2] = {from.r[i % 2 * 2], from.r[i % 2 * 2 + 1]};
        if (is_wide && r < n_rows && c < n_cols)
            store<T, 2>(to + r * (int)ld + c, v);
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (!is_wide && r < n_rows && c + k < n_cols)
                to[r * (int)ld + c + k] = from_f32<T>(v[k]);
    }
}

/* --- the state, a warp's slices --- */

/* Whether columns n .. need not be multiplied. Tensor cores are faster than the question; the f32
 * instance is not. */
template <class T> __device__ __forceinline__ bool ssd_is_pad(int n, int N)
{
    return sizeof(T) == 4 && n >= N;
}

template <class S> struct ssd_state {
    frag_c r[S::slices][S::NP / 8];
};

/* From or to (P,N) f32 of each head, head i of the block at p + i*P*N; NULL: zero. */
template <class S>
__device__ __forceinline__ void ssd_load_state(ssd_state<S> &s, const float *p, int P, int N,
                                               int n_heads)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < S::slices; i++) {
        const int head = ssd_slice_head<S>(i), row = ssd_slice_row<S>(i) + g;
#pragma unroll
        for (int j = 0; j < S::NP / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int pp = row + k / 2 * 8, n = j * 8 + 2 * t + k % 2;
                const bool ok = p && head < n_heads && pp < P && n < N;
                s.r[i][j].r[k] = ok ? p[((int64_t)head * P + pp) * N + n] : 0.0f;
            }
    }
}
template <class S, class T>
__device__ __forceinline__ void ssd_store_state(T *p, const ssd_state<S> &s, int P, int N,
                                                int n_heads, bool is_wide)
{
#pragma unroll
    for (int i = 0; i < S::slices; i++) {
        const int head = ssd_slice_head<S>(i), row = ssd_slice_row<S>(i);
        if (head >= n_heads)
            continue;
#pragma unroll
        for (int j = 0; j < S::NP / 16; j++)
            store_c2<T>(p + ((int64_t)head * P + row) * N + j * 16, N, s.r[i][2 * j],
                        s.r[i][2 * j + 1], P - row, N - j * 16, is_wide);
    }
}

/* S <- through S + (x w)^T B over the chunk in shared memory; w (heads,Q) is steps->tail, or
 * steps->into for gradients, which run from the end with dy and C. */
template <class S, class T>
__device__ __forceinline__ void ssd_advance(ssd_state<S> &s, const T *x, const T *b,
                                            const float (*w)[S::Q], const float *through, int N)
{
#pragma unroll
    for (int i = 0; i < S::slices; i++) {
        const float decay = through[ssd_slice_head<S>(i)];
#pragma unroll
        for (int j = 0; j < S::NP / 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                s.r[i][j].r[k] *= decay;
    }
#pragma unroll
    for (int u = 0; u < S::Q; u += 16) {
        frag_a<T> a[S::slices];
#pragma unroll
        for (int i = 0; i < S::slices; i++) {
            const int head = ssd_slice_head<S>(i);
            load_a_t<T>(a[i], x + (head * S::Q + u) * S::ldx + ssd_slice_row<S>(i), S::ldx);
            scale_a_columns<T>(a[i], w[head] + u);
        }
#pragma unroll
        for (int j = 0; j < S::NP / 16; j++) {
            if (ssd_is_pad<T>(j * 16, N))
                break;
            frag_b<T> to[2];
            load_b2_t<T>(to, b + u * S::ldb + j * 16, S::ldb);
#pragma unroll
            for (int i = 0; i < S::slices; i++) {
                mma<T>(s.r[i][2 * j], a[i], to[0]);
                mma<T>(s.r[i][2 * j + 1], a[i], to[1]);
            }
        }
    }
}

/* Tokens of a chunk of kept states: those of the gradient, which a chunk of the forward divides. */
int ssd_states_chunk(const struct dev *dev, enum dtype dtype, int P, int N);

/* ssd_states.cu. Workspace of the three below. */
size_t ssd_spans_bytes(int B, int T, int H, int P, int N);
/* That of a read of R rows with T tokens in all. */
size_t ssd_read_spans_bytes(int R, int T, int H, int P, int N);
/* The state before each span, from `first` (B,H,P,N; NULL: zero), into work as f32
 * (B,n_spans,H,P,N), which is returned; NULL where there is one span only. rows: of a read, whose
 * first states are those of its slots, or NULL. */
const float *cuda_ssd_spans(struct dev *dev, void *work, const float *first,
                            const struct ssd_in *in, const struct read_rows *rows);
/* The state before each chunk of `chunk` tokens (32, 64 or 128), from zero, rounded to x's type:
 * (B,ceil(T/chunk),H,P,N), dense, aligned to 16 bytes. work as ssd_spans_bytes says. */
void cuda_ssd_states(struct dev *dev, void *states, int chunk, void *work, const struct ssd_in *in);
/* The gradient of the state behind each chunk, from zero behind T: the same with time reversed, dy
 * for x, C for B, into for tail. */
void cuda_ssd_dstates(struct dev *dev, void *dstates, const struct tensor *dy, int chunk,
                      void *work, const struct ssd_in *in);

/* Workspace of either direction; OP_SSD's plan is the greater (and that of mamba_step). */
size_t cuda_ssd_fwd_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_ssd_bwd_plan(const struct dev *dev, const struct sizes *s);

#endif
