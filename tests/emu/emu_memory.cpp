/* emu_memory: device memory: each allocation a mapping of its own, filled with NaN, between margins
 * that are looked at when it is freed. What is freed is unmapped, so using it ends the program. */
#include "emu_block.h"
#include "emu_sanitizer.h"
#include "emu_stream.h"

#include <cstdio>
#include <map>
#include <sys/mman.h>

namespace emu
{
static const size_t margin = 256, page = 4096;

struct allocation {
    char *map;
    size_t map_bytes, bytes;
    bool is_host;
};
static std::map<char *, allocation> allocations; /* by where the caller's part begins */

static const allocation *allocation_of(const void *p)
{
    auto at = allocations.upper_bound((char *)p);
    if (at == allocations.begin())
        return nullptr;
    --at;
    return (char *)p <= at->first + at->second.bytes ? &at->second : nullptr;
}

bool is_reachable(const void *p)
{
    return allocation_of(p) != nullptr;
}
bool is_page_locked(const void *p)
{
    const allocation *a = allocation_of(p);
    return a && a->is_host;
}
bool is_on_device(const void *p)
{
    const allocation *a = allocation_of(p);
    return a && !a->is_host;
}

static cudaError_t allocate(void **p, size_t n, bool is_host)
{
    const size_t bytes = (margin + n + margin + page - 1) / page * page;
    char *map = (char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return set_error(cudaErrorMemoryAllocation);
    memset(map, 0xff, bytes);
    poison(map, margin);
    poison(map + margin + n, bytes - margin - n);
    allocations[map + margin] = {map, bytes, n, is_host};
    *p = map + margin;
    return cudaSuccess;
}

static void release_map(char *p, const allocation &a)
{
    bool is_clean = true;
    unpoison(a.map, a.map_bytes);
    for (char *c = a.map; c < a.map + a.map_bytes; c = c + 1 == p ? p + a.bytes : c + 1)
        is_clean = is_clean && (unsigned char)*c == 0xff;
    if (!is_clean)
        note_fault("memory beside an allocation was written to");
    munmap(a.map, a.map_bytes);
}

static cudaError_t free_one(void *p, bool is_host)
{
    const auto at = allocations.find((char *)p);
    if (at == allocations.end() || at->second.is_host != is_host) {
        note_fault("what is freed was not allocated");
        return set_error(cudaErrorInvalidValue);
    }
    if (!is_host)
        counts.now_bytes -= at->second.bytes;
    release_map((char *)p, at->second);
    allocations.erase(at);
    return cudaSuccess;
}
} // namespace emu

using namespace emu;

cudaError_t cudaMalloc(void **p, size_t n)
{
    size_t free_bytes, total;
    if (const cudaError_t e = refuse_in_capture("cudaMalloc"))
        return e;
    cudaMemGetInfo(&free_bytes, &total);
    if (n > free_bytes)
        return set_error(cudaErrorMemoryAllocation);
    const cudaError_t e = allocate(p, n, false);
    if (e == cudaSuccess) {
        counts.n_allocs++;
        counts.now_bytes += n;
        counts.peak_bytes =
            counts.peak_bytes < counts.now_bytes ? counts.now_bytes : counts.peak_bytes;
    }
    return e;
}

cudaError_t cudaFree(void *p)
{
    if (!p)
        return cudaSuccess;
    if (const cudaError_t e = refuse_in_capture("cudaFree"))
        return e;
    drain_all();
    return free_one(p, false);
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned)
{
    return allocate(p, n, true);
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    return allocate(p, n, true);
}

cudaError_t cudaFreeHost(void *p)
{
    drain_all();
    return p ? free_one(p, true) : cudaSuccess;
}

/* --- copies --- */
static bool is_kind_right(const void *to, const void *from, cudaMemcpyKind kind)
{
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return kind == cudaMemcpyDefault ||
           (is_on_device(to) == to_device && is_on_device(from) == from_device);
}

/* Memory of the host that is not page-locked is read or written before the call returns. */
static cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                        size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t s)
{
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (!is_kind_right(to, from, kind)) {
        note_fault("a copy whose kind does not fit its pointers");
        return set_error(cudaErrorInvalidValue);
    }
    const bool is_at_once = !is_reachable(to) || !is_reachable(from);
    if (is_at_once)
        if (const cudaError_t e = refuse_in_capture("a copy of pageable memory"))
            return e;
    const cudaError_t e = enqueue(s, [=] {
        for (size_t i = 0; i < height; i++)
            memmove((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
    return e == cudaSuccess && is_at_once ? cudaStreamSynchronize(s) : e;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t s)
{
    return copy(to, n, from, n, n, 1, kind, s);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t s)
{
    return copy(to, to_pitch, from, from_pitch, width, height, kind, s);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    const cudaError_t e = copy(to, n, from, n, n, 1, kind, nullptr);
    return e == cudaSuccess ? cudaStreamSynchronize(nullptr) : e;
}

cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s)
{
    if (n == 0)
        return cudaSuccess;
    if (!is_on_device(p)) {
        note_fault("cudaMemset of memory that is not the device's");
        return set_error(cudaErrorInvalidValue);
    }
    return enqueue(s, [=] { memset(p, v, n); });
}

cudaError_t cudaMemset(void *p, int v, size_t n)
{
    return cudaMemsetAsync(p, v, n, nullptr);
}
