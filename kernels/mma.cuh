/* mma: 16x8x16 products of a warp on fragments out of shared memory, for the three storage types:
 * tensor cores for f16 and bf16, plain f32 arithmetic (no TF32) in the same layout for float, so
 * that one kernel source serves all.
 *
 * `ld` is the row distance in elements. 16-bit tiles want rows of an odd number of 16-byte units
 * (pad columns + 8), so that ldmatrix meets no bank conflict; tiles start at multiples of 16
 * bytes. */
#ifndef HM_MMA_CUH
#define HM_MMA_CUH

#include "vec.cuh"

template <class T> struct frag_a {
    uint32_t r[4];
};
template <class T> struct frag_b {
    uint32_t r[2];
};
/* Floats stand where the pairs of 16-bit elements would: (g, 2t), (g, 2t+1), (g+8, 2t) ... */
template <> struct frag_a<float> {
    float r[8];
};
template <> struct frag_b<float> {
    float r[4];
};
struct frag_c {
    float r[4];
};

/* Row distance of a tile in shared memory with n columns, a multiple of 8. */
template <class T> __host__ __device__ constexpr int tile_ld(int n)
{
    return n + (sizeof(T) == 2 ? 8 : 4);
}

__device__ __forceinline__ int lane_id()
{
    return (int)(threadIdx.x % 32);
}

/* A from 16 rows of 16 columns (k). */
template <class T> __device__ __forceinline__ void load_a(frag_a<T> &a, const T *tile, int ld)
{
    const int lane = lane_id();
    ldmatrix_x4(a.r, tile + (lane % 16) * ld + (lane / 16) * 8);
}
template <>
__device__ __forceinline__ void load_a<float>(frag_a<float> &a, const float *tile, int ld)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
        a.r[i] = tile[(g + (i / 2 % 2) * 8) * ld + 2 * t + (i & 1) + (i / 4) * 8];
}

/* A from its transpose: 16 rows (k) of 16 columns. */
template <class T> __device__ __forceinline__ void load_a_t(frag_a<T> &a, const T *tile, int ld)
{
    const int lane = lane_id(), i = lane / 8;
    ldmatrix_x4_trans(a.r, tile + (lane % 8 + (i / 2) * 8) * ld + (i % 2) * 8);
}
template <>
__device__ __forceinline__ void load_a_t<float>(frag_a<float> &a, const float *tile, int ld)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
        a.r[i] = tile[(2 * t + (i & 1) + (i / 4) * 8) * ld + g + (i / 2 % 2) * 8];
}

/* Two B of neighbouring columns, from 16 rows (n) of 16 columns (k): B is the tile's transpose. */
template <class T> __device__ __forceinline__ void load_b2(frag_b<T> (&b)[2], const T *tile, int ld)
{
    const int lane = lane_id();
    uint32_t r[4];
    ldmatrix_x4(r, tile + (lane % 8 + (lane / 16) * 8) * ld + (lane / 8 % 2) * 8);
    b[0].r[0] = r[0];
    b[0].r[1] = r[1];
    b[1].r[0] = r[2];
    b[1].r[1] = r[3];
}
template <>
__device__ __forceinline__ void load_b2<float>(frag_b<float> (&b)[2], const float *tile, int ld)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            b[j].r[i] = tile[(g + j * 8) * ld + 2 * t + (i & 1) + (i / 2) * 8];
}

/* Two B of neighbouring columns, from 16 rows (k) of 16 columns (n). */
template <class T>
__device__ __forceinline__ void load_b2_t(frag_b<T> (&b)[2], const T *tile, int ld)
{
    const int lane = lane_id();
    uint32_t r[4];
    ldmatrix_x4_trans(r, tile + (lane % 16) * ld + (lane / 16) * 8);
    b[0].r[0] = r[0];
    b[0].r[1] = r[1];
    b[1].r[0] = r[2];
    b[1].r[1] = r[3];
}
template <>
__device__ __forceinline__ void load_b2_t<float>(frag_b<float> (&b)[2], const float *tile, int ld)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            b[j].r[i] = tile[(2 * t + (i & 1) + (i / 2) * 8) * ld + g + j * 8];
}

/* A (16x16) from two neighbouring C (16x8 each): what a product gave goes into the next one. */
template <class T>
__device__ __forceinline__ frag_a<T> a_of_c(const frag_c &left, const frag_c &right)
{
    frag_a<T> a;
    a.r[0] = pack2(left.r[0], left.r[1], T{});
    a.r[1] = pack2(left.r[2], left.r[3], T{});
    a.r[2] = pack2(right.r[0], right.r[1], T{});
    a.r[3] = pack2(right.r[2], right.r[3], T{});
    return a;
}
template <>
__device__ __forceinline__ frag_a<float> a_of_c<float>(const frag_c &left, const frag_c &right)
{
    frag_a<float> a;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a.r[i] = left.r[i];
        a.r[i + 4] = right.r[i];
    }
    return a;
}

/* B (16x8) of the transpose of two neighbouring C: k runs over their 16 columns; j 0: n are rows 0
 * to 7, j 1: rows 8 to 15. */
template <class T>
__device__ __forceinline__ frag_b<T> b_of_ct(const frag_c &left, const frag_c &right, int j)
{
    frag_b<T> b;
    b.r[0] = pack2(left.r[2 * j], left.r[2 * j + 1], T{});
    b.r[1] = pack2(right.r[2 * j], right.r[2 * j + 1], T{});
    return b;
}
template <>
__device__ __forceinline__ frag_b<float> b_of_ct<float>(const frag_c &left, const frag_c &right,
                                                        int j)
{
    frag_b<float> b;
    b.r[0] = left.r[2 * j];
    b.r[1] = left.r[2 * j + 1];
    b.r[2] = right.r[2 * j];
    b.r[3] = right.r[2 * j + 1];
    return b;
}

/* c += a b */
template <class T>
__device__ __forceinline__ void mma(frag_c &c, const frag_a<T> &a, const frag_b<T> &b)
{
    mma_16816(c.r, a.r, b.r, T{});
}
/* c + a b. Each lane fetches rows g, g+8 of A and columns 2t, 2t+1 of B from the lanes that hold
 * them. Never inlined: as many copies as a kernel has products take ptxas longer than all its
 * 16-bit instances together, and this one need not be fast. */
[[maybe_unused]] static __device__ __noinline__ frag_c mma_by_shuffles(frag_c c, frag_a<float> a,
                                                                       frag_b<float> b)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int k = 0; k < 16; k++) {
        const int holder = k % 8 / 2, at = (k & 1) + (k / 8) * 4;
        const float a0 = __shfl_sync(0xffffffffu, a.r[at], g * 4 + holder);
        const float a1 = __shfl_sync(0xffffffffu, a.r[at + 2], g * 4 + holder);
        const int bt = (k & 1) + (k / 8) * 2;
        const float b0 = __shfl_sync(0xffffffffu, b.r[bt], 2 * t * 4 + holder);
        const float b1 = __shfl_sync(0xffffffffu, b.r[bt], (2 * t + 1) * 4 + holder);
        c.r[0] = fmaf(a0, b0, c.r[0]);
        c.r[1] = fmaf(a0, b1, c.r[1]);
        c.r[2] = fmaf(a1, b0, c.r[2]);
        c.r[3] = fmaf(a1, b1, c.r[3]);
    }
    return c;
}

template <>
__device__ __forceinline__ void mma<float>(frag_c &c, const frag_a<float> &a,
                                           const frag_b<float> &b)
{
#ifdef CUDA_EMU /* the same bits, sooner */
    emu::mma<emu::op_mma_f32>(c.r, a.r, b.r, __FILE__, __LINE__);
#else
    c = mma_by_shuffles(c, a, b);
#endif
}

#endif
