/* conv1d: what the passes of the convolution share (conv1d.cu, conv1d_bwd.cu): runs of tokens, the
 * weights and the past of a thread's channels. The convolution, causal and depthwise, and SiLU over
 * (B,T,C), tap K-1 on the current token:
 *   pre_t = bias + sum_b w[K-1-b] x_{t-b},  y_t = silu(pre_t)
 * taps in another segment left out.
 *
 * A thread takes N neighbouring channels of a run of tokens and keeps the last K-1 tokens in
 * registers, so that a run reads each input once, and the K-1 before it (backward: also those
 * after). A warp takes 32 N channels of one run. Below, `b` counts tokens back.
 *
 * A segment is a stretch of tokens of one number. Where one begins, the window of past tokens is
 * emptied, so that taps need not be asked which segment they are of. */
#ifndef HM_CONV1D_CUH
#define HM_CONV1D_CUH

#include "rows.cuh"

namespace conv1d
{
constexpr int MAX_TAPS = 16;
constexpr int STEP = 4; /* tokens loaded at once */

/* Runs of `run` tokens cut from each of B rows of T. */
struct runs {
    int B, T, run, per_row;
};

static inline runs cut(int B, int T, int run)
{
    return {B, T, run, (T + run - 1) / run};
}

/* The weights of N channels by distance, and their bias; zeros beyond K and C. */
template <int KMAX, int N> struct filter {
    float w[KMAX][N], bias[N];

    /* For the block's 32 N channels from `first` on, by way of 128 N (KMAX+1) bytes of shared
     * memory: a thread's own lie too far apart to be read one by one. Every thread calls it. */
    __device__ __forceinline__ void read(const float *weight, const float *biases, int first, int C,
                                         int K)
    {
        SHARED(float, all, [KMAX + 1][32 * N]);
        for (int i = (int)threadIdx.x; i < 32 * N * (KMAX + 1); i += ROWS_THREADS) {
            const int b = i / (32 * N), at = i % (32 * N), c = first + at;
            float v = 0;
            if (c < C && b == KMAX)
                v = biases[c];
            else if (c < C && b < K)
                v = weight[(int64_t)c * K + K - 1 - b];
            all[b][at] = v;
        }
        __syncthreads();
        const int mine = (int)threadIdx.x % 32 * N;
#pragma unroll
        for (int b = 0; b < KMAX; b++)
            load_floats<N>(w[b], &all[b][mine]);
        load_floats<N>(bias, &all[KMAX][mine]);
    }
};

/* The KMAX-1 tokens before the one at hand, of N channels: x[b-1] lies b back. Zeros where they are
 * of another segment. */
template <int KMAX, int N> struct window {
    float x[KMAX - 1][N];

    __device__ __forceinline__ void clear()
    {
        keep_branch(); /* segments are rare */
#pragma unroll
        for (int b = 0; b < KMAX - 1; b++)
#pragma unroll
            for (int i = 0; i < N; i++)
                x[b][i] = 0;
    }
    __device__ __forceinline__ void push(const float (&now)[N])
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
#pragma unroll
            for (int b = KMAX - 2; b > 0; b--)
                x[b][i] = x[b - 1][i];
            x[0][i] = now[i];
        }
    }
    /* pre of the token at hand. */
    __device__ __forceinline__ void convolve(float (&pre)[N], const filter<KMAX, N> &f,
                                             const float (&now)[N], int K) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            pre[i] = f.bias[i];
#pragma unroll
        for (int b = KMAX - 1; b > 0; b--)
            if (b < K)
#pragma unroll
                for (int i = 0; i < N; i++)
                    pre[i] += f.w[b][i] * x[b - 1][i];
#pragma unroll
        for (int i = 0; i < N; i++)
            pre[i] += f.w[0][i] * now[i];
    }
};

/* What both directions read. */
template <class T> struct conv_in {
    mat<const T> x;
    const float *w, *bias;
    const int32_t *seg; /* NULL: one segment */
    int C, K;
    runs cut;
    /* of a read (ops.h), where the cut is the longest row's; or NULL: zeros before t = 0 */
    const float *taps;
    const int32_t *begin, *slot;
};

/* The thread's place: channel, row and first token. */
struct conv_at {
    bool is_in; /* there are such channels and such a run */
    int first;  /* channel of the block */
    int c, b, t;
    int64_t row; /* of t = 0 */
    int T;       /* tokens of the row */
    int slot;    /* of a read: whose taps */
};

template <int N, class T> __device__ __forceinline__ conv_at find_run(const conv_in<T> &in)
{
    const runs &o = in.cut;
    const int tiles = (in.C + 32 * N - 1) / (32 * N);
    const int unit = (int)(blockIdx.x / (unsigned)tiles) * ROWS_WARPS + (int)threadIdx.x / 32;
    const int b = unit / o.per_row, t = unit % o.per_row * o.run;
    const int first = (int)(blockIdx.x % (unsigned)tiles) * 32 * N;
    const int c = first + (int)threadIdx.x % 32 * N;
    conv_at at = {b < o.B && c < in.C, first, c, b, t, (int64_t)b * o.T, o.T, 0};
    if (in.begin && at.is_in) {
        at.row = in.begin[b];
        at.T = in.begin[b + 1] - in.begin[b];
        at.slot = in.slot[b];
        at.is_in = t < at.T;
    }
    return at;
}

/* The run's first token in m. */
template <class T> __device__ __forceinline__ T *run_in(const mat<T> &m, const conv_at &at)
{
    return m.p + (at.row + at.t) * m.ld + at.c;
}

template <int N> unsigned run_blocks(const runs &o, int C)
{
    return blocks_for((int64_t)o.B * o.per_row, ROWS_WARPS) * blocks_for(C, 32 * N);
}

/* Whether a segment begins at token t of the row, which follows another one. */
template <class T>
__device__ __forceinline__ bool begins_at(const conv_in<T> &in, const conv_at &at, int t)
{
    const int32_t *seg = in.seg + at.row + t;
    return seg[0] != seg[-1];
}

/* The tokens before the run's first; before t = 0 lie the history taps of a read, or zeros. */
template <class T, int KMAX, int N>
__device__ void read_before(window<KMAX, N> &win, const conv_in<T> &in, const conv_at &at)
{
    win.clear();
#pragma unroll
    for (int b = KMAX - 1; b > 0; b--) {
        const int t = at.t - b;
        float past[N] = {};
        if (t < 0 && t >= 1 - in.K && in.taps) {
#pragma unroll
            for (int i = 0; i < N; i++)
                past[i] = in.taps[((int64_t)at.slot * (in.K - 1) + in.K - 1 + t) * in.C + at.c + i];
        } else if (t >= 0) {
            packed<T, N> p;
            p.read(in.x.p + (at.row + t) * in.x.ld + at.c);
            p.get(past);
        }
        if (in.seg && t > 0 && begins_at(in, at, t))
            win.clear();
        win.push(past);
    }
}

/* A pack from where there is one, in its storage type, else zeros. */
template <class T, int N>
__device__ __forceinline__ void read_if(bool is_there, packed<T, N> &to, const T *from)
{
    if (is_there)
        to.read(from);
    else
        to.clear();
}

/* At which of STEP tokens a segment begins, bit k for token t + k of the run, of which n are there.
 * That of a row does not count. */
template <class T>
__device__ __forceinline__ uint32_t begins_from(const conv_in<T> &in, const conv_at &at, int t,
                                                int n)
{
    uint32_t bits = 0;
    if (in.seg)
#pragma unroll
        for (int k = 0; k < STEP; k++)
            if (t + k < n && at.t + t + k > 0)
                bits |= (uint32_t)begins_at(in, at, at.t + t + k) << k;
    return bits;
}

template <class T>
conv_in<T> make_in(const struct tensor *x, const struct tensor *w, const struct tensor *bias,
                   const int32_t *seg, const runs &cut)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS && tensor_is_dense(w));
    return {cmat_of<T>(x),
            (const float *)w->data,
            (const float *)bias->data,
            seg,
            (int)tensor_cols(x),
            (int)tensor_cols(w),
            cut,
            nullptr,
            nullptr,
            nullptr};
}
} // namespace conv1d

#endif
