/* ptx: the inline PTX that every GPU knows (wgmma.cuh has that of sm_90a): asynchronous copies,
 * ldmatrix, tensor-core products, exp2, and where shared memory comes from. Each has a twin for the
 * emulation of tests/emu (CUDA_EMU).
 *
 * Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16". A lane's g is lane / 4, its t is
 * lane % 4. A (16x16, rows by k): registers hold (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8,
 * 2t+8..), two elements each. B (16x8, k by n): (2t.., g), (2t+8.., g). C (16x8): (g, 2t), (g,
 * 2t+1), (g+8, 2t), (g+8, 2t+1). */
#ifndef HM_PTX_CUH
#define HM_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#include <cstdint>

#ifdef CUDA_EMU
#define PTX_AT_ALONE const char *at_file = __builtin_FILE(), int at_line = __builtin_LINE()
#define PTX_AT       , PTX_AT_ALONE
#define PTX_HERE     , at_file, at_line
#else
#define PTX_AT_ALONE
#define PTX_AT
#define PTX_HERE
/* SHARED(float, sum, [4][32]): an array in shared memory. SHARED_DYN(float, all): the launch's
 * dynamic shared memory; one untyped symbol, so that kernels of several types fit one file. */
#define SHARED(T, name, dims) __shared__ __align__(16) T name dims
extern __shared__ __align__(1024) unsigned char hm_dyn_smem[];
#define SHARED_DYN(T, name)   T *name = reinterpret_cast<T *>(hm_dyn_smem)
#endif

/* 16 bytes from global to shared memory, seen after the wait that covers their group and a
 * barrier. !ok: zeros, and from is not read. A plain copy before sm_80. */
__device__ __forceinline__ void copy16_async(void *to, const void *from, bool ok)
{
    __pipeline_memcpy_async(to, from, 16, ok ? 0 : 16);
}
__device__ __forceinline__ void copy16_async(void *to, const void *from)
{
    __pipeline_memcpy_async(to, from, 16);
}
/* Ends a group of copies. */
__device__ __forceinline__ void copy_commit()
{
    __pipeline_commit();
}
/* Waits until at most KEEP of the last groups are under way. */
template <int KEEP> __device__ __forceinline__ void copy_wait()
{
    __pipeline_wait_prior(KEEP);
}

/* log2 x, off by 2^-22 at most where that is near 0, else by 2 units of the last place. */
__device__ __forceinline__ float log2_fast(float x)
{
#ifdef CUDA_EMU
    return log2f(x);
#else
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}
/* 2^x within 2 units of the last place; results below the normal numbers are 0. */
__device__ __forceinline__ float exp2_fast(float x)
{
#ifdef CUDA_EMU
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* Makes the compiler forget what it derived from the register: packed elements are then converted
 * again where they are used again, instead of staying in twice the registers. */
__device__ __forceinline__ void forget_register(uint32_t &r)
{
#ifdef CUDA_EMU
    (void)r;
#else
    asm volatile("" : "+r"(r));
#endif
}

/* v, from which nothing is derived earlier than here: addresses made before a long loop may cost
 * more registers than there are. */
template <class I> __device__ __forceinline__ I not_before(I v)
{
    uint32_t r = (uint32_t)v;
    forget_register(r);
    return (int)r;
}

/* What is within the branch that this stands in stays in a branch: its instructions are jumped over
 * where they could have been carried out without effect. */
__device__ __forceinline__ void keep_branch()
{
#ifndef CUDA_EMU
    asm volatile("");
#endif
}

/* For kernels that launch_early (cuda.cuh) starts. grid_wait: returns when the kernels before have
 * ended and what they wrote is seen. grid_release: the next kernel may start as far as this block
 * is concerned. */
__device__ __forceinline__ void grid_wait()
{
#if !defined(CUDA_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void grid_release()
{
#if !defined(CUDA_EMU) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* 16 bytes of shared memory in one access: where the compiler has the choice it may take four,
 * which meet the same banks. */
__device__ __forceinline__ uint4 load16_shared(const void *from)
{
#ifdef CUDA_EMU
    return *static_cast<const uint4 *>(from);
#else
    uint4 v;
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(from);
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(a)
                 : "memory");
    return v;
#endif
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l%8 of matrix l/8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row PTX_AT)
{
#ifdef CUDA_EMU
    emu::ldmatrix<4, false>(r, row PTX_HERE);
#else
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row PTX_AT)
{
#ifdef CUDA_EMU
    emu::ldmatrix<4, true>(r, row PTX_HERE);
#else
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a)
                 : "memory");
#endif
}

/* Four 8x8 matrices of 16-bit elements to shared memory; lane l gives the address of row l%8 of
 * matrix l/8. sm_90. */
__device__ __forceinline__ void stmatrix_x4(void *row, const uint32_t (&r)[4] PTX_AT)
{
#if defined(CUDA_EMU)
    emu::stmatrix<false>(row, r PTX_HERE);
#elif __CUDA_ARCH__ >= 900
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#endif
}
__device__ __forceinline__ void stmatrix_x4_trans(void *row, const uint32_t (&r)[4] PTX_AT)
{
#if defined(CUDA_EMU)
    emu::stmatrix<true>(row, r PTX_HERE);
#elif __CUDA_ARCH__ >= 900
    const uint32_t a = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
#endif
}

/* c += a b on tensor cores, 16x8x16, sums in f32. */
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2], __nv_bfloat16 PTX_AT)
{
#if defined(CUDA_EMU)
    emu::mma<emu::op_mma_bf16>(c, a, b PTX_HERE);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap(); /* a device opened with bf16 has sm_80 at least */
#endif
}
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4],
                                          const uint32_t (&b)[2], __half PTX_AT)
{
#if defined(CUDA_EMU)
    emu::mma<emu::op_mma_f16>(c, a, b PTX_HERE);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else /* sm_75 knows k = 8 only */
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

#endif
