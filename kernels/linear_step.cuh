/* linear_step: what the kernels of a decode product share. y = [resid + scale *] f(x) w^T, and
 * every element of y is the same chain of operations whichever kernel makes it:
 *
 * - x' = f(x) without RMSNorm's 1/rms, rounded to the type of the product;
 * - k is cut into segments (step_segment: by k alone); a segment's sum runs over its 32-wide blocks
 *   in order, two 16-deep products each (octet.cuh); the segments' sums are added in order;
 * - times 1/rms, which multiplies a whole row of x' and so may wait until here; its sum of squares
 *   is taken by the quad that holds the row's octets, segment by segment as above;
 * - times scale, plus resid.
 *
 * So neither the rows beside a row nor their number enter its bits. */
#ifndef HM_LINEAR_STEP_CUH
#define HM_LINEAR_STEP_CUH

#include "cuda.cuh"
#include "octet.cuh"

#include <type_traits>

/* What products of weights TW with activations TX are made in. */
template <class TW, class TX>
using step_type = typename std::conditional<std::is_same<TW, TX>::value, TX, float>::type;

enum step_prologue { STEP_PLAIN, STEP_NORM, STEP_SWIGLU };

/* What a product reads. */
template <class TX> struct step_x {
    const TX *p; /* (R,k), (R,2k) with SwiGLU */
    int64_t ld;
    const float *norm_w; /* (k), STEP_NORM */
    int R, k, seg;
};

/* What it makes. */
template <class TX> struct step_y {
    void *p; /* (R,n) TX, or float */
    int64_t ld;
    const TX *resid; /* (R,n) or NULL; may be p itself */
    int64_t ld_resid;
    float scale, eps;
    int n;
    bool is_f32;
};

/* Positions of k that one warp sums: at most 16 segments, multiples of 64. */
static inline int step_segment(int k)
{
    return (k + 1023) / 1024 * 64;
}
static inline int step_segments(int k)
{
    const int seg = step_segment(k);
    return (k + seg - 1) / seg;
}

__device__ __forceinline__ float inverse_rms(float squares, int k, float eps)
{
    return 1.0f / sqrtf(squares / (float)k + eps);
}

/* In 16-bit types the last bits of an exponential are lost anyway. */
template <class T> __device__ __forceinline__ float step_silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}
template <> __device__ __forceinline__ float step_silu<float>(float x)
{
    return silu(x);
}

/* Adds the squares of the values, multiplies them with their weights: 8 of norm_w, as far as there
 * are `left`. */
template <bool WIDE>
__device__ __forceinline__ void norm_octet(float (&f)[8], float &squares, const float *norm_w,
                                           int left)
{
    float w[8];
    unpack(w, load_octet<float, WIDE>(norm_w, left));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        squares = fmaf(f[i], f[i], squares);
        f[i] = __fmul_rn(f[i], w[i]);
    }
}

/* gate becomes silu(gate) up. */
template <class T>
__device__ __forceinline__ void swiglu_octet(float (&gate)[8], const float (&up)[8])
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        gate[i] = __fmul_rn(step_silu<T>(gate[i]), up[i]);
}

/* The sum over a quad, in all four lanes. */
__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

template <class TX>
__device__ __forceinline__ void step_store(const step_y<TX> &y, int r, int col, float sum,
                                           float rstd)
{
    float v = __fmul_rn(sum, rstd);
    if (y.resid)
        v = fmaf(y.scale, v, to_f32(y.resid[(int64_t)r * y.ld_resid + col]));
    if (y.is_f32)
        reinterpret_cast<float *>(y.p)[(int64_t)r * y.ld + col] = v;
    else
        reinterpret_cast<TX *>(y.p)[(int64_t)r * y.ld + col] = from_f32<TX>(v);
}

/* linear_tile.cu: the product for many rows of 16-bit elements. x' (R,k) as step_x without a
 * prologue, k a multiple of 64, rows and w aligned to 16 bytes; squares (S,R): sums of squares of
 * each segment, or NULL: no 1/rms. */
template <class T>
void linear_tile(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w,
                 const float *squares);

#endif
