/* octet: eight neighbouring elements of a row in registers, the unit in which decode products read
 * weights and activations. A 32-wide block of k is four octets, lane t of a quad takes the t-th; as
 * operands of two 16-deep products its first four elements stand where k = 2t, 2t+1, 2t+8, 2t+9 of
 * the first would, and its last four in the second. A and B are permuted alike, so the sum is the
 * same, and fragments come straight from memory, 16 bytes a load, with no shuffle between. */
#ifndef HM_OCTET_CUH
#define HM_OCTET_CUH

#include "mma.cuh"

template <class T> struct alignas(16) octet {
    uint32_t w[4];
};
template <> struct alignas(16) octet<float> {
    float v[8];
};

template <class T> __device__ __forceinline__ void unpack(float (&f)[8], const octet<T> &o)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        unpack2(f[2 * i], f[2 * i + 1], o.w[i], T{});
}
template <> __device__ __forceinline__ void unpack<float>(float (&f)[8], const octet<float> &o)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        f[i] = o.v[i];
}

template <class T> __device__ __forceinline__ octet<T> to_octet(const float (&f)[8])
{
    octet<T> o;
#pragma unroll
    for (int i = 0; i < 4; i++)
        o.w[i] = pack2(f[2 * i], f[2 * i + 1], T{});
    return o;
}
template <> __device__ __forceinline__ octet<float> to_octet<float>(const float (&f)[8])
{
    octet<float> o;
#pragma unroll
    for (int i = 0; i < 8; i++)
        o.v[i] = f[i];
    return o;
}

/* The same elements in another type. */
template <class To, class T> struct octet_cast {
    static __device__ __forceinline__ octet<To> of(const octet<T> &o)
    {
        float f[8];
        unpack(f, o);
        return to_octet<To>(f);
    }
};
template <class T> struct octet_cast<T, T> {
    static __device__ __forceinline__ octet<T> of(const octet<T> &o)
    {
        return o;
    }
};

/* WIDE: all eight at an address that is a multiple of 16 bytes. Else `left` of them, then zeros;
 * none where left is not positive. */
template <class T, bool WIDE>
__device__ __forceinline__ octet<T> load_octet(const T *from, int left)
{
    octet<T> o;
    if (WIDE) {
        if (left > 0) {
            constexpr int n = (int)sizeof(o) / 16;
            uint4 *to = reinterpret_cast<uint4 *>(&o);
#pragma unroll
            for (int i = 0; i < n; i++)
                to[i] = reinterpret_cast<const uint4 *>(from)[i];
            return o;
        }
        left = 0;
    }
    float f[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        f[i] = !WIDE && i < left ? to_f32(from[i]) : 0.0f;
    return to_octet<T>(f);
}

template <class T> __device__ __forceinline__ void store_octet(T *to, const octet<T> &o)
{
    constexpr int n = (int)sizeof(o) / 16;
#pragma unroll
    for (int i = 0; i < n; i++)
        reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(&o)[i];
}

/* c (16x8) += the 32-deep product of rows g (lo) and g+8 (hi) of A with column g of B. */
template <class T>
__device__ __forceinline__ void mma_octets(frag_c &c, const octet<T> &lo, const octet<T> &hi,
                                           const octet<T> &b)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const frag_a<T> fa = {{lo.w[2 * i], hi.w[2 * i], lo.w[2 * i + 1], hi.w[2 * i + 1]}};
        const frag_b<T> fb = {{b.w[2 * i], b.w[2 * i + 1]}};
        mma(c, fa, fb);
    }
}
template <>
__device__ __forceinline__ void mma_octets<float>(frag_c &c, const octet<float> &lo,
                                                  const octet<float> &hi, const octet<float> &b)
{
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const frag_a<float> fa = {{lo.v[i], lo.v[i + 1], hi.v[i], hi.v[i + 1], lo.v[i + 2],
                                   lo.v[i + 3], hi.v[i + 2], hi.v[i + 3]}};
        const frag_b<float> fb = {{b.v[i], b.v[i + 1], b.v[i + 2], b.v[i + 3]}};
        mma(c, fa, fb);
    }
}

#endif
