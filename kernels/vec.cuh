/* vec: elements of the three storage types, several at a time, and sums over warps and blocks. */
#ifndef HM_VEC_CUH
#define HM_VEC_CUH

#include "ptx.cuh"

__device__ __forceinline__ float to_f32(float v)
{
    return v;
}
__device__ __forceinline__ float to_f32(__half v)
{
    return __half2float(v);
}
__device__ __forceinline__ float to_f32(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

/* Round to nearest even. */
template <class T> __device__ __forceinline__ T from_f32(float v);
template <> __device__ __forceinline__ float from_f32<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ __half from_f32<__half>(float v)
{
    return __float2half_rn(v);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}

/* N elements that are moved as one aligned access of sizeof(T)*N bytes, 16 at most. */
template <class T, int N> struct alignas(sizeof(T) * N) pack {
    T v[N];
};

/* Elements in 16 bytes. */
template <class T> struct wide {
    static constexpr int n = 16 / (int)sizeof(T);
};

template <class T, int N> __device__ __forceinline__ void load(float (&to)[N], const T *from)
{
    const pack<T, N> p = *reinterpret_cast<const pack<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = to_f32(p.v[i]);
}

template <class T, int N> __device__ __forceinline__ void store(T *to, const float (&from)[N])
{
    pack<T, N> p;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = from_f32<T>(from[i]);
    *reinterpret_cast<pack<T, N> *>(to) = p;
}

/* Two elements in one register, lo in the low half. */
__device__ __forceinline__ uint32_t pack2(float lo, float hi, __half)
{
    return (uint32_t)__half_as_ushort(__float2half_rn(lo)) |
           (uint32_t)__half_as_ushort(__float2half_rn(hi)) << 16;
}
__device__ __forceinline__ uint32_t pack2(float lo, float hi, __nv_bfloat16)
{
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(lo)) |
           (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(hi)) << 16;
}

/* The two elements that pack2 put into one register. */
__device__ __forceinline__ void unpack2(float &lo, float &hi, uint32_t pair, __nv_bfloat16)
{
    lo = __uint_as_float(pair << 16);
    hi = __uint_as_float(pair & 0xFFFF0000u);
}
__device__ __forceinline__ void unpack2(float &lo, float &hi, uint32_t pair, __half)
{
    lo = __half2float(__ushort_as_half((unsigned short)pair));
    hi = __half2float(__ushort_as_half((unsigned short)(pair >> 16)));
}

__device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}
__device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* The sum over a block of THREADS threads, in all of them, the same order each time. Every thread
 * calls it; it begins and ends with a barrier, so it may be called again at once. */
template <int THREADS> __device__ __forceinline__ float block_sum(float v)
{
    SHARED(float, part, [THREADS / 32]);
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++)
        sum += part[i];
    return sum;
}

/* The sum of v over the threads before this one, of integers. Begins with a barrier; shared memory:
 * sizeof(V) a warp. */
template <int THREADS, class V> __device__ V sum_before(V v)
{
    SHARED(V, sums, [THREADS / 32]);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    V sum = v;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const V below = __shfl_up_sync(0xffffffffu, sum, (unsigned)step);
        sum += lane >= step ? below : 0;
    }
    __syncthreads();
    if (lane == 31)
        sums[warp] = sum;
    __syncthreads();
    for (int i = 0; i < warp; i++)
        sum += sums[i];
    return sum - v;
}

/* x / (1 + exp(-x)), by way of 1 / (1 + exp(-x)). */
__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
__device__ __forceinline__ float silu(float x)
{
    return x * sigmoid(x);
}

#endif
