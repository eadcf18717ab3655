/* mamba_step: what both ways to take a step share (mamba_step.cu, mamba_flow.cu): the convolution
 * of one token, what drives a row of the state, the gated norm. */
#ifndef HM_MAMBA_STEP_CUH
#define HM_MAMBA_STEP_CUH

#include "cuda.cuh"
#include "mma.cuh"

/* KEPT: the newest inputs of a channel, which have registers. */
enum { MAMBA_THREADS = 512, KEPT = 3 };

template <class T> struct conv_in {
    mat<const T> x; /* (R,C) */
    float *taps;    /* (slots,K-1,C) */
    const float *w, *bias;
    int C, K;
};

/* Weights of the KEPT inputs and the token, and the bias. */
struct filter {
    float w[KEPT], last_w, bias;
};
/* The inputs of a channel: the KEPT newest of its history, and the token. */
struct window {
    float past[KEPT], token;
};

template <class T> __device__ __forceinline__ filter filter_of(const conv_in<T> &in, int c)
{
    const float *w = in.w + c * in.K + in.K - 1 - KEPT;
    filter f = {{}, w[KEPT], in.bias[c]};
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        f.w[i] = in.K - 1 - KEPT + i >= 0 ? w[i] : 0.0f;
    return f;
}

template <class T>
__device__ __forceinline__ window window_of(const conv_in<T> &in, int r, int slot, int c)
{
    const int old = in.K - 1 - KEPT; /* where the newest begin */
    const float *past = in.taps + ((int64_t)slot * (in.K - 1) + old) * in.C + c;
    window x = {{}, to_f32(in.x.p[(int64_t)r * in.x.ld + c])};
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        x.past[i] = old + i >= 0 ? past[(int64_t)i * in.C] : 0.0f;
    return x;
}

/* silu of channel c's convolution. */
template <class T>
__device__ __forceinline__ float convolve(const conv_in<T> &in, const filter &f, const window &x,
                                          int slot, int c)
{
    float sum = f.bias;
    for (int j = 0; j < in.K - 1 - KEPT; j++)
        sum = fmaf(in.w[c * in.K + j], in.taps[((int64_t)slot * (in.K - 1) + j) * in.C + c], sum);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        sum = fmaf(f.w[i], x.past[i], sum);
    return to_f32(from_f32<T>(silu(fmaf(f.last_w, x.token, sum))));
}

/* The token enters the history of channel c. */
template <class T>
__device__ __forceinline__ void shift(const conv_in<T> &in, const window &x, int slot, int c)
{
    const int old = in.K - 1 - KEPT;
    float *past = in.taps + (int64_t)slot * (in.K - 1) * in.C + c;
    for (int j = 0; j < old; j++)
        past[(int64_t)j * in.C] = past[(int64_t)(j + 1) * in.C];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (old + i >= 0)
            past[(int64_t)(old + i) * in.C] = i + 1 < KEPT ? x.past[i + 1] : x.token;
}

template <class T> struct step_in {
    mat<const T> x, dt, bmat, cmat; /* x, bmat, cmat: not in the fused kernel */
    const float *dt_bias, *a_log, *skip;
    float *state; /* (slots,H,P,N) */
    const int32_t *slots;
    int H, P, N, G, per_block; /* per_block: channels of a block, all of one group */
};

/* What the fused kernel has besides. */
template <class T> struct gate_in {
    mat<const T> z;
    const float *norm_w;
    float eps;
    float *v; /* (R,H*P) */
};

/* Sums over LN lanes of N values each, N a power of 2: each N/LN-th part of the lanes gets one, in
 * order. */
template <int LN, int N> __device__ __forceinline__ float lanes_sums(float (&v)[N])
{
#pragma unroll
    for (int n = N, step = LN / 2; step > 0; step /= 2) {
        const bool is_upper = (lane_id() & step) != 0;
        n /= 2;
#pragma unroll
        for (int i = 0; i < (n > 0 ? n : 1); i++) {
            const float kept = n > 0 && is_upper ? v[(i + n) % N] : v[i];
            const float given = n > 0 && !is_upper ? v[(i + n) % N] : v[i];
            v[i] = kept + __shfl_xor_sync(0xffffffffu, given, step);
        }
    }
    return v[0];
}

/* S <- decay S + dx B for a pack, and its product with C added to sum. */
template <int V>
__device__ __forceinline__ float advance(float (&s)[V], float decay, float dx, const float *b,
                                         const float *c, float sum)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        s[i] = fmaf(decay, s[i], __fmul_rn(dx, b[i]));
        sum = fmaf(s[i], c[i], sum);
    }
    return sum;
}

/* What a channel of the block does to its row of the state. */
struct drive {
    float decay, dx; /* dx: delta x */
};

template <class T>
__device__ __forceinline__ drive drive_of(const step_in<T> &in, int r, int e, float x)
{
    const int h = e / in.P;
    const float pre = to_f32(in.dt.p[(int64_t)r * in.dt.ld + h]) + in.dt_bias[h];
    const float delta = pre > 20.0f ? pre : log1pf(expf(pre));
    return {expf(-delta * expf(in.a_log[h])), __fmul_rn(delta, x)};
}

/* out of a row from its v. */
template <class T>
__device__ __forceinline__ void put_norm(mat<T> out, const float *v, const gate_in<T> &gate, int r,
                                         int E)
{
    float sum = 0;
    for (int e = (int)threadIdx.x; e < E; e += MAMBA_THREADS)
        sum = fmaf(v[e], v[e], sum);
    const float rstd = 1.0f / sqrtf(block_sum<MAMBA_THREADS>(sum) / (float)E + gate.eps);
    for (int e = (int)threadIdx.x; e < E; e += MAMBA_THREADS)
        out.p[(int64_t)r * out.ld + e] =
            from_f32<T>(__fmul_rn(__fmul_rn(v[e], rstd), gate.norm_w[e]));
}

/* out, with rows of v in gate.v, by blocks that each have few channels of a row or all: for many
 * rows. How many blocks a row has had: 0, nothing is done, rows are too few; 1, all is done; else
 * the norm is left, and the history of B and C. */
template <class T>
int mamba_flow(struct dev *dev, mat<T> out, const step_in<T> &in, const conv_in<T> &conv,
               const gate_in<T> &gate, int R);

#endif
