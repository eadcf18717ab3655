/* linear_step: what the kernels of a decode product share. y = [resid + scale *] g(f(x) w^T), f
 * RMSNorm or nothing, g SwiGLU (of the product's two halves) or nothing, and every element of y is
 * the same chain of operations whichever kernel makes it:
 *
 * - x' = f(x) without RMSNorm's 1/rms, rounded to the type of the product;
 * - k is cut into segments (step_segment: by k alone); a segment's sum runs over its 32-wide blocks
 *   in order, two 16-deep products each (octet.cuh); the segments' sums are added in order;
 * - times 1/rms, which multiplies a whole row of x' and so may wait until here; its sum of squares
 *   is taken by the quad that holds the row's octets, segment by segment as above;
 * - g, of f32 values;
 * - times scale, plus resid.
 *
 * So neither the rows beside a row nor their number enter its bits.
 *
 * Where g is SwiGLU, fragments of 8 rows of w come in pairs, gate and up, so that the lane that has
 * a gate has what it gates. */
#ifndef HM_LINEAR_STEP_CUH
#define HM_LINEAR_STEP_CUH

#include "cuda.cuh"
#include "octet.cuh"

#include <type_traits>

/* What products of weights TW with activations TX are made in. */
template <class TW, class TX>
using step_type = typename std::conditional<std::is_same<TW, TX>::value, TX, float>::type;

/* What a product reads. */
template <class TX> struct step_x {
    const TX *p; /* (R,k) */
    int64_t ld;
    const float *norm_w; /* (k) or NULL */
    int R, k, seg;
};

/* What it makes. */
template <class TX> struct step_y {
    void *p; /* (R,n) TX, or float */
    int64_t ld;
    const TX *resid; /* (R,n) or NULL; may be p itself */
    int64_t ld_resid;
    float scale, eps;
    int n; /* columns; w has 2 n rows where is_glu */
    bool is_f32, is_glu;
    bool is_paired; /* two neighbouring columns from an even one on may be one access */
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

/* x' of RMSNorm: adds the squares of the values, multiplies them with their weights. */
template <class T, class TX>
__device__ __forceinline__ octet<T> norm_octet(const octet<TX> &x, const octet<float> &w,
                                               float &squares)
{
    float f[8];
    unpack(f, x);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        squares = fmaf(f[i], f[i], squares);
        f[i] = __fmul_rn(f[i], w.v[i]);
    }
    return to_octet<T>(f);
}

/* The sum over a quad, in all four lanes. */
__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

/* Row of w that is row i of the tile which makes columns n0 ... of y; past the end, the last. */
template <class TX> __device__ __forceinline__ int weight_row(const step_y<TX> &y, int n0, int i)
{
    if (!y.is_glu)
        return min(n0 + i, y.n - 1);
    return min(n0 + i / 16 * 8 + i % 8, y.n - 1) + i / 8 % 2 * y.n;
}

template <class T> __device__ __forceinline__ float glu(float gate, float up)
{
    return __fmul_rn(step_silu<T>(gate), up);
}

template <class TX>
__device__ __forceinline__ void step_store(const step_y<TX> &y, int r, int col, float v)
{
    if (y.resid)
        v = fmaf(y.scale, v, to_f32(y.resid[(int64_t)r * y.ld_resid + col]));
    if (y.is_f32)
        reinterpret_cast<float *>(y.p)[(int64_t)r * y.ld + col] = v;
    else
        reinterpret_cast<TX *>(y.p)[(int64_t)r * y.ld + col] = from_f32<TX>(v);
}

/* linear_tile.cu: the product for many rows of 16-bit elements. k is a multiple of 64, rows of x
 * and w are aligned to 16 bytes. */
template <class T>
void linear_tile(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w);

/* linear_split.cu: the same, plain, for rows of w so few that tiles of w do not fill the GPU.
 * false: not a product for it, nothing is done. */
template <class T>
bool linear_split(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w);

#endif
