/* cuda: what the files of this folder share on the host's side: the device behind struct dev,
 * launches, and the choice of an element type. Everything here runs natively (nvcc) and, with the
 * same sources, under the emulation of tests/emu (g++). */
#ifndef HM_CUDA_CUH
#define HM_CUDA_CUH

extern "C" {
#include "dev.h"
#include "ops.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstddef>
#include <cstdint>

typedef __nv_bfloat16 bf16;
typedef __half f16;

struct cuda_gemm;   /* gemm.cu: handle and descriptors of the library behind products */
struct cuda_graphs; /* graph.cu: what run has recorded */
struct cuda_stage;  /* stage.cu: page-locked memory that uploads and downloads pass through */

/* What dev->impl points to. */
struct cuda {
    cudaStream_t stream;
    int arch;              /* 75, 80, 86, 89, 90, 100, 120 */
    int n_sm;              /* multiprocessors */
    size_t smem_bytes;     /* the most dynamic shared memory a block can ask for */
    bool is_plan_only;     /* there is no GPU: only plan and weight_bytes may be called */
    cudaError_t failed;    /* the first failure, cudaSuccess: none */
    const char *failed_at; /* which op; static */
    struct cuda_gemm *gemm;
    struct cuda_graphs *graphs;
    struct cuda_stage *stage;
};

static inline struct cuda *cuda_of(const struct dev *dev)
{
    return (struct cuda *)dev->impl;
}

/* Keeps the first failure for ops->status. */
static inline void cuda_note(struct dev *dev, cudaError_t e, const char *at)
{
    struct cuda *c = cuda_of(dev);
    if (e != cudaSuccess && c->failed == cudaSuccess) {
        c->failed = e;
        c->failed_at = at;
    }
}

/* Runs kernel k on the device's stream; at is the op's name, for the error message. Arguments are
 * converted and counted at compile time. is_early: as launch_early says. */
template <class... P, class... A>
static inline void launch_as(struct dev *dev, const char *at, bool is_early, void (*k)(P...),
                             dim3 grid, dim3 block, size_t smem_bytes, A &&...args)
{
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return;
    cudaError_t e = cudaSuccess;
    if (smem_bytes > 48 * 1024)
        e = cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem_bytes);
    if (e == cudaSuccess) {
        cudaLaunchConfig_t config = {};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = smem_bytes;
        config.stream = cuda_of(dev)->stream;
#ifndef CUDA_EMU
        cudaLaunchAttribute early = {};
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
        config.attrs = &early;
        config.numAttrs = is_early ? 1 : 0;
#endif
        e = cudaLaunchKernelEx(&config, k, static_cast<A &&>(args)...);
    }
    cuda_note(dev, e, at);
}
template <class... P, class... A>
static inline void launch(struct dev *dev, const char *at, void (*k)(P...), dim3 grid, dim3 block,
                          size_t smem_bytes, A &&...args)
{
    launch_as(dev, at, false, k, grid, block, smem_bytes, static_cast<A &&>(args)...);
}

/* The kernel may start while the one before it on the stream still runs, once each of that one's
 * blocks has called grid_release or ended (programmatic dependent launch; sm_90, elsewhere as
 * launch). Until it has called grid_wait, it may read only what no kernel of the same chain of
 * early launches writes (parameters, slots and positions; a copy or a plain launch ends a chain),
 * and write nothing; every block that does something calls it. */
template <class... P, class... A>
static inline void launch_early(struct dev *dev, const char *at, void (*k)(P...), dim3 grid,
                                dim3 block, size_t smem_bytes, A &&...args)
{
    launch_as(dev, at, cuda_of(dev)->arch >= 90, k, grid, block, smem_bytes,
              static_cast<A &&>(args)...);
}

static inline unsigned blocks_for(int64_t n, int64_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

/* A matrix as kernels take it: row r at p + r*ld. */
template <class T> struct mat {
    T *p;
    int64_t ld;
};

template <class T> static inline mat<T> mat_of(const struct tensor *t)
{
    return mat<T>{(T *)t->data, t->ld};
}
template <class T> static inline mat<const T> cmat_of(const struct tensor *t)
{
    return mat<const T>{(const T *)t->data, t->ld};
}

/* Whether every row can be read and written 16 bytes at a time: start, row distance and columns. */
static inline bool has_wide_rows(const struct tensor *t)
{
    const size_t size = dtype_size(t->dtype);
    return (uintptr_t)t->data % 16 == 0 && (size_t)t->ld * size % 16 == 0 &&
           (size_t)tensor_cols(t) * size % 16 == 0;
}

/* Calls f with a value of the element type that dtype stands for: with_type(y->dtype, [&](auto
 * zero) { using T = decltype(zero); ... }). */
template <class F> static inline void with_type(enum dtype dtype, F f)
{
    switch (dtype) {
    case DT_F32:
        f(float{});
        break;
    case DT_BF16:
        f(bf16{});
        break;
    case DT_F16:
        f(f16{});
        break;
    default:
        assert(!"an element type that no kernel has");
    }
}

#endif
