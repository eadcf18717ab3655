/* emu_launch: from a kernel and its arguments to a closure that a thread of the grid calls. */
#ifndef HM_EMU_LAUNCH_H
#define HM_EMU_LAUNCH_H

#include "emu_api.h"

#include <functional>
#include <tuple>
#include <utility>

namespace emu
{
struct launch_shape {
    const void *kernel;
    dim3 grid, block;
    size_t smem_bytes;
    bool is_cooperative;
};
cudaError_t launch_grid(const launch_shape &shape, cudaStream_t s, std::function<void()> body);
cudaError_t set_smem_limit(const void *kernel, int bytes);
cudaError_t enqueue(cudaStream_t s, std::function<void()> work);
cudaError_t refuse_argument(int i);
/* Whether a kernel may follow p: device memory, or page-locked memory of the host. */
bool is_reachable(const void *p);
int blocks_a_multiprocessor(int threads, size_t smem_bytes);

template <class E> static inline bool is_good_argument(const E &e)
{
    if constexpr (std::is_pointer_v<E>)
        return !e || is_reachable((const void *)e);
    return true;
}

template <class... E, class... A>
static inline cudaError_t launch(const launch_shape &shape, cudaStream_t s, void (*kernel)(E...),
                                 A &&...a)
{
    static_assert(sizeof...(E) == sizeof...(A), "as many arguments as the kernel has parameters");
    std::tuple<std::decay_t<E>...> args(static_cast<std::decay_t<E>>(std::forward<A>(a))...);
    int n = 0, bad = 0;
    std::apply([&](auto &...x) { ((n++, bad = !bad && !is_good_argument(x) ? n : bad), ...); },
               args);
    if (bad)
        return refuse_argument(bad);
    return launch_grid(shape, s, [kernel, args] { std::apply(kernel, args); });
}
} // namespace emu

template <class... E, class... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(E...),
                                             A &&...a)
{
    emu::launch_shape shape = {(const void *)kernel, c->gridDim, c->blockDim, c->dynamicSmemBytes,
                               false};
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeCooperative)
            shape.is_cooperative = c->attrs[i].val.cooperative != 0;
    return emu::launch(shape, c->stream, kernel, std::forward<A>(a)...);
}

template <class F>
static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute a, int v)
{
    return a == cudaFuncAttributeMaxDynamicSharedMemorySize
               ? emu::set_smem_limit((const void *)kernel, v)
               : cudaSuccess;
}

template <class F>
static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, F *, int threads,
                                                                        size_t smem_bytes)
{
    *n = emu::blocks_a_multiprocessor(threads, smem_bytes);
    return cudaSuccess;
}

#endif
