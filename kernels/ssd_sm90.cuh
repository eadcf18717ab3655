/* ssd_sm90: the scan of ssd.cuh by products of a warpgroup, on Hopper, for heads of P = 64 and N =
 * 128 in 16-bit types with wide rows. A block has two heads of a group, which share B and C, and
 * walks a span in chunks of 64 tokens; a warpgroup has a head, whose state lies in its registers.
 * Two blocks an SM: each waits where the other works. */
#ifndef HM_SSD_SM90_CUH
#define HM_SSD_SM90_CUH

#include "ssd.cuh"
#include "wgmma.cuh"

namespace ssd_sm90
{
enum { Q = 64, P = 64, N = 128, HEADS = 2, THREADS = 128 * HEADS, BLOCKS = 2 };

/* As ssd.cuh wants to be told. */
struct shape {
    static constexpr int PP = P, NP = N, slices = 1, warps = THREADS / 32, heads = HEADS;
};
using state = ssd_state<shape>;

/* Which head of the block a thread's warpgroup has, and which warp of it the thread's is: the same
 * in a warp, as the compiler is told. */
__device__ __forceinline__ int group_id()
{
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
}
__device__ __forceinline__ int warp_id()
{
    return __shfl_sync(0xffffffffu, (int)threadIdx.x / 32 % 4, 0);
}

/* Decays of a head in a chunk; cum and from as powers of 2. */
struct alignas(16) steps {
    float cum[Q], from[Q]; /* u reaches t by exp2(cum_t - from_u) where they share a document */
    float into[Q], tail[Q];
    int start[Q]; /* first token in the chunk of t's document */
    float through;
};

/* The steps of a head come BATCH chunks at once, one a warp, while the chunk before them is in use:
 * then no warp makes the others wait chunk by chunk. Chunk i of a walk has place i % STEPS. */
enum { BATCH = 4, STEPS = BATCH + 1 };

/* A lane's two tokens of its warp's head. Read early, used late. */
template <class T> struct tokens {
    T dt[2];
    bool is_first[2]; /* of its document, with another one before it */
};
template <class T>
__device__ __forceinline__ tokens<T> read_tokens(const ssd_view<T> &in, const ssd_heads &at,
                                                 int head, int t0)
{
    tokens<T> k;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int t = t0 + 2 * lane_id() + i;
        const int64_t r = at.row0 + t;
        k.dt[i] = from_f32<T>(0);
        k.is_first[i] = false;
        if (t >= at.len)
            continue;
        if (head < at.n_heads)
            k.dt[i] = in.dt.p[r * in.dt.ld + at.h0 + head];
        k.is_first[i] = in.seg && t > 0 && in.seg[r] != in.seg[r - 1];
    }
    return k;
}

/* A head's decay, as a power of 2, and bias of dt. */
template <class T>
__device__ __forceinline__ float2 read_rates(const ssd_view<T> &in, const ssd_heads &at, int head)
{
    if (head >= at.n_heads)
        return float2{0, 0};
    const int h = at.h0 + head;
    return float2{-expf(in.a_log[h]) * 1.44269504f, in.dt_bias[h]};
}

/* -1 where there is none. */
__device__ __forceinline__ int last_bit(unsigned bits)
{
    return 31 - __clz((int)bits);
}
/* Fills a head's steps from its tokens t0 ..; delta_out (B,len,H) or NULL. One warp; seen after a
 * barrier. */
template <class T>
__device__ __forceinline__ void scan(steps *to, const tokens<T> &k, const float2 &rates,
                                     const ssd_view<T> &in, const ssd_heads &at, int head, int t0,
                                     float *delta_out)
{
    const int lane = lane_id(), h = at.h0 + head;
    float delta[2] = {0, 0}, cum[2], tail[2], into[2];
    int start[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int t = t0 + 2 * lane + i;
        if (head < at.n_heads && t < at.len) {
            delta[i] = ssd_softplus(to_f32(k.dt[i]) + rates.y);
            if (delta_out)
                delta_out[(int64_t)(at.row0 + t) * in.H + h] = delta[i];
        }
        cum[i] = rates.x * delta[i];
    }
    const unsigned even = __ballot_sync(0xffffffffu, k.is_first[0]);
    const unsigned odd = __ballot_sync(0xffffffffu, k.is_first[1]);
    const unsigned upto = (2u << lane) - 1, edges = even | odd;
    const float sum =
        ssd_sum_from((k.is_first[1] ? 0.0f : cum[0]) + cum[1], max(last_bit(edges & upto), 0));
    const float before = __shfl_up_sync(0xffffffffu, sum, 1);
    cum[0] += lane == 0 || k.is_first[0] ? 0.0f : before;
    cum[1] += k.is_first[1] ? 0.0f : cum[0];
    /* that of the last token there is: sums further on are rounded otherwise */
    const int last = max(min((int)Q, at.len - t0) - 1, 0);
    const float end = __shfl_sync(0xffffffffu, last % 2 ? cum[1] : cum[0], last / 2);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const unsigned own = upto >> (1 - i); /* tokens 2 lane + 1 up to this one */
        start[i] = max(max(2 * last_bit(even & upto), 2 * last_bit(odd & own) + 1), 0);
        into[i] = (even & upto) | (odd & own) ? 0.0f : exp2_fast(cum[i]);
        tail[i] = (even & ~upto) | (odd & ~own) ? 0.0f : delta[i] * exp2_fast(end - cum[i]);
    }
    const float from[2] = {cum[0] - log2_fast(delta[0]), cum[1] - log2_fast(delta[1])};
    store<float, 2>(to->cum + 2 * lane, cum);
    store<float, 2>(to->from + 2 * lane, from);
    store<float, 2>(to->into + 2 * lane, into);
    store<float, 2>(to->tail + 2 * lane, tail);
    *reinterpret_cast<int2 *>(to->start + 2 * lane) = int2{start[0], start[1]};
    if (lane == 0)
        to->through = edges ? 0.0f : exp2_fast(end);
}

/* Number of the state before token t0, at which a chunk of kept states begins, of all sequences'.
 */
static __device__ __forceinline__ int kept_state(const ssd_heads &at, int chunk, int t0)
{
    return chunk ? at.b * ((at.len + chunk - 1) / chunk) + t0 / chunk : 0;
}

/* Tokens t0 .. of B or C, by the block; folded; and of a head's x, by its warpgroup. */
template <class T>
__device__ __forceinline__ void fetch_rows(wg_tile<T, Q, N> &to, mat<const T> from,
                                           const ssd_heads &at, int t0)
{
    t0 = not_before(t0);
    wg_copy<THREADS>(to, from.p + (int64_t)(at.row0 + t0) * from.ld + at.g * N, from.ld,
                     at.len - t0, not_before(threadIdx.x));
}
template <class T>
__device__ __forceinline__ void fetch_folded(wg_tile<T, Q, N> &to, mat<const T> from,
                                             const ssd_heads &at, int t0)
{
    t0 = not_before(t0);
    wg_copy_folded<THREADS>(to, from.p + (int64_t)(at.row0 + t0) * from.ld + at.g * N, (int)from.ld,
                            at.len - t0, not_before(threadIdx.x));
}
template <class T>
__device__ __forceinline__ void fetch_x(wg_tile<T, Q, P> &to, mat<const T> x, const ssd_heads &at,
                                        int head, int t0)
{
    t0 = not_before(t0);
    const bool is_there = head < at.n_heads;
    const int h = at.h0 + (is_there ? head : 0);
    wg_copy<128>(to, x.p + (int64_t)(at.row0 + t0) * x.ld + h * P, x.ld, is_there ? at.len - t0 : 0,
                 not_before(threadIdx.x) % 128);
}

/* wg_abt and wg_pb alone: begin. */
template <int N8, class T, int A_ROWS, int B_ROWS, int COLS>
__device__ __forceinline__ void begin_abt(frag_c (&d)[N8], const wg_tile<T, A_ROWS, COLS> &a,
                                          int a0, const wg_tile<T, B_ROWS, COLS> &b, int b0)
{
    wg_begin();
    wg_abt(d, a, a0, b, b0);
    wg_commit();
}
template <int N8, int K, class T, int ROWS, int COLS>
__device__ __forceinline__ void begin_pb(frag_c (&d)[N8], const frag_a<T> (&p)[K],
                                         const wg_tile<T, ROWS, COLS> &b, int b0)
{
    wg_begin();
    wg_pb(d, p, b, b0);
    wg_commit();
}

/* S <- through S + (w x)^T B: begins, and does not wait; a is its operand in registers, to be
 * pinned behind the wait. */
template <class T>
__device__ __forceinline__ void begin_advance(frag_a<T> (&a)[Q / 16], state &s,
                                              const wg_tile<T, Q, P> &x, const wg_tile<T, Q, N> &b,
                                              const float *w, float through)
{
    const int row = (int)threadIdx.x / 32 % 4 * 16;
#pragma unroll
    for (int u = 0; u < Q / 16; u++) {
        wg_load_a_t(a[u], x, u * 16, row);
        scale_a_columns<T>(a[u], w + u * 16);
    }
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s.r[0][j].r[i] *= through;
    wg_pin(a);
    wg_pin(s.r[0]);
    begin_pb(s.r[0], a, b, 0);
}
} // namespace ssd_sm90

/* Whether the device and the heads are for these kernels. */
static inline bool ssd_has_sm90(const struct dev *dev, int P, int N)
{
    return cuda_of(dev)->arch == 90 && P == ssd_sm90::P && N == ssd_sm90::N;
}
/* The same of a view (y or states wide, too); kept states, if any, are those of chunks of 64 tokens
 * or multiples. */
template <class T>
static inline bool ssd_has_sm90(const struct dev *dev, const ssd_view<T> &v, bool is_wide,
                                int chunk)
{
    return sizeof(T) == 2 && ssd_has_sm90(dev, v.P, v.N) && v.is_wide && is_wide &&
           chunk % ssd_sm90::Q == 0;
}

/* What the forward takes besides its inputs. */
template <class T> struct ssd_fwd_out {
    mat<T> y;
    float *delta, *last; /* last (B,H,P,N), of a read (slots,H,P,N), or NULL: the state before the
                            sequence, then behind it */
    const float *before; /* (B,spans,H,P,N) states before the spans; NULL: last is */
    T *states;           /* (B,Z,H,P,N) before each chunk of `chunk` tokens, or NULL */
    int chunk;           /* a power of 2 */
    bool is_wide;        /* y's rows */
    bool has_wide_states;
};
template <class T> struct ssd_walk_out {
    T *states;     /* (B,Z,H,P,N) before each chunk of `chunk` tokens; NULL: ends and decays */
    float *ends;   /* (B,spans,H,P,N): from zero (states NULL: written), else where to start */
    float *decays; /* (B,spans,H) */
    int chunk;     /* a power of 2 where there are states */
    bool is_wide;  /* states */
};

/* ssd_fwd_sm90.cu, ssd_walk_sm90.cu: bf16 and f16. */
template <class T>
void ssd_fwd_sm90(struct dev *dev, const ssd_fwd_out<T> &out, const ssd_view<T> &view);
template <class T, bool IS_REVERSE>
void ssd_walk_sm90(struct dev *dev, const ssd_walk_out<T> &out, const ssd_view<T> &view);

#endif
