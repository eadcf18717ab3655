/* emu_runtime: what the device says of itself, and its errors. */
#include "emu_block.h"
#include "emu_stream.h"

#include <cstdio>
#include <string>

namespace emu
{
static const int n_multiprocessors = 4;
static int arch = 89;
static size_t memory_bytes = (size_t)8 << 30;
static cudaError_t last, sticky;
static std::string fault;

/* Of a block, and of a multiprocessor: CUDA programming guide, "Compute capabilities". */
static size_t most_smem()
{
    return (size_t)(arch >= 100 && arch < 120  ? 227
                    : arch == 90               ? 227
                    : arch == 80 || arch == 87 ? 163
                    : arch >= 86               ? 99
                                               : 64)
           << 10;
}

cudaError_t sticky_error()
{
    return sticky;
}

cudaError_t set_error(cudaError_t e)
{
    last = e;
    return e;
}

/* As on the device, a fault within a kernel makes all that follows fail. */
void note_fault(const char *text)
{
    fault = text;
    counts.n_faults++;
    fprintf(stderr, "emu: %s\n", text);
    if (now.is_in_kernel)
        sticky = last = cudaErrorLaunchFailure;
}

int blocks_a_multiprocessor(int threads, size_t smem_bytes)
{
    const size_t by_threads = (arch == 75 ? 1024u : 1536u) / (size_t)threads;
    const size_t by_smem = (most_smem() + 1024) / (smem_bytes + 1024);
    return (int)(by_threads < by_smem ? by_threads : by_smem);
}
} // namespace emu

using namespace emu;

void hm_emu_set_gpu(int a, size_t bytes)
{
    arch = a;
    memory_bytes = bytes;
}

void hm_emu_count(hm_emu_counts *c)
{
    *c = counts;
}

void hm_emu_reset_peak(void)
{
    counts.peak_bytes = counts.now_bytes;
}

const char *hm_emu_fault(void)
{
    return fault.c_str();
}

void hm_emu_reset(void)
{
    fault.clear();
    counts.n_faults = 0;
    last = sticky = cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last;
    last = sticky;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last;
}

const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess ? "cudaSuccess" : "cudaError";
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNotReady:
        return "not ready";
    default:
        return fault.empty() ? "an error that the emulator has no words for" : fault.c_str();
    }
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : set_error(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *v)
{
    *v = 12040;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = 12040;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = memory_bytes;
    *free_bytes = counts.now_bytes < memory_bytes ? memory_bytes - counts.now_bytes : 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device != 0)
        return set_error(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->totalGlobalMem = memory_bytes;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerMultiprocessor = most_smem() + 1024;
    p->sharedMemPerBlockOptin = most_smem();
    p->major = arch / 10;
    p->minor = arch % 10;
    p->multiProcessorCount = n_multiprocessors;
    p->warpSize = 32;
    p->l2CacheSize = 4 << 20;
    p->memoryBusWidth = 128;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int device)
{
    cudaDeviceProp p;
    if (const cudaError_t e = cudaGetDeviceProperties(&p, device))
        return e;
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock:
        *v = max_threads;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *v = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *v = p.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *v = p.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *v = p.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *v = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *v = p.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *v = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *v = (int)p.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrCooperativeLaunch:
        *v = 1;
        break;
    case cudaDevAttrClockRate:
    case cudaDevAttrMemoryClockRate:
        *v = 1000000; /* kHz */
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *v = p.memoryBusWidth;
        break;
    default:
        *v = 0;
    }
    return cudaSuccess;
}
