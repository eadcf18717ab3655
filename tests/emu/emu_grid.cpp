/* emu_grid: a launch: its limits, and its blocks, one after another or, of a cooperative launch,
 * all at once. */
#include "emu_block.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <numeric>

namespace emu
{
static std::vector<std::unique_ptr<block>> blocks;
static std::map<const void *, int> smem_limits;

static std::vector<uint64_t> order_of(uint64_t n)
{
    std::vector<uint64_t> at(n);
    std::iota(at.begin(), at.end(), (uint64_t)0);
    if (order == HM_EMU_REVERSE)
        std::reverse(at.begin(), at.end());
    if (order >= HM_EMU_RANDOM)
        for (uint64_t i = n; i > 1; i--)
            std::swap(at[i - 1], at[random_below((uint32_t)i)]);
    return at;
}

static void begin(block *b, uint64_t at, size_t smem_bytes, int set)
{
    b->idx = {(unsigned)(at % gridDim.x), (unsigned)(at / gridDim.x % gridDim.y),
              (unsigned)(at / gridDim.x / gridDim.y)};
    smem_begin(b, smem_bytes);
    begin_threads(b, set);
}

static void end(block *b, int set)
{
    if (now.has_failed)
        drop_fibers(b, set);
    else
        smem_end(b);
}

/* The host acquires nothing between blocks, so that they stay unordered for the race detector. */
static void run_grid(const launch_shape &shape, const std::function<void()> &body)
{
    const std::vector<uint64_t> at = order_of((uint64_t)shape.grid.x * shape.grid.y * shape.grid.z);
    const size_t n_at_once = shape.is_cooperative ? at.size() : 1;
    if (sticky_error() != cudaSuccess)
        return;
    while (blocks.size() < n_at_once)
        blocks.push_back(std::make_unique<block>());
    gridDim = shape.grid;
    blockDim = shape.block;
    now = run{};
    now.n_threads = (int)(shape.block.x * shape.block.y * shape.block.z);
    now.body = &body;
    /* here, as what a fiber allocates would seem to race */
    now.ready.reserve(n_at_once * (size_t)now.n_threads);
    now.yielded.reserve(n_at_once * (size_t)now.n_threads);
    now.is_in_kernel = true;
    counts.launches++;
    for (size_t i = 0; i < at.size() && !now.has_failed; i += n_at_once) {
        const int set = (int)(i & 1);
        for (size_t j = 0; j < n_at_once; j++)
            begin(blocks[j].get(), at[i + j], shape.smem_bytes, set);
        run_threads();
        for (size_t j = 0; j < n_at_once; j++)
            end(blocks[j].get(), set);
    }
    now.is_in_kernel = false;
    threads_finished();
}

static bool is_launchable(const launch_shape &s)
{
    const auto limit = smem_limits.find(s.kernel);
    const size_t max_smem = limit == smem_limits.end() ? 48 << 10 : (size_t)limit->second;
    const uint64_t n_threads = (uint64_t)s.block.x * s.block.y * s.block.z;
    const uint64_t n_blocks = (uint64_t)s.grid.x * s.grid.y * s.grid.z;
    int n_sm = 0;
    cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, 0);
    return s.grid.x >= 1 && s.grid.y >= 1 && s.grid.z >= 1 && s.grid.x <= 0x7fffffffu &&
           s.grid.y <= 65535 && s.grid.z <= 65535 && n_threads >= 1 && n_threads <= max_threads &&
           s.block.z <= 64 && s.smem_bytes <= max_smem &&
           (!s.is_cooperative ||
            n_blocks <= (uint64_t)(n_sm * blocks_a_multiprocessor((int)n_threads, s.smem_bytes)));
}

cudaError_t launch_grid(const launch_shape &shape, cudaStream_t s, std::function<void()> body)
{
    char text[200];
    if (sticky_error() != cudaSuccess)
        return sticky_error();
    if (!is_launchable(shape)) {
        snprintf(text, sizeof text, "not a launch: grid (%u,%u,%u) block (%u,%u,%u) shared %zu",
                 shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.block.y,
                 shape.block.z, shape.smem_bytes);
        note_fault(text);
        return set_error(cudaErrorInvalidConfiguration);
    }
    const cudaError_t e = enqueue(s, [shape, body] { run_grid(shape, body); });
    return e != cudaSuccess ? e : sticky_error();
}

cudaError_t set_smem_limit(const void *kernel, int bytes)
{
    int most = 0;
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    if (bytes > most) {
        note_fault("a kernel asks for more shared memory than a block can have");
        return set_error(cudaErrorInvalidValue);
    }
    smem_limits[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t refuse_argument(int i)
{
    char text[100];
    snprintf(text, sizeof text, "argument %d of a kernel points to memory of the host", i);
    note_fault(text);
    return set_error(cudaErrorIllegalAddress);
}
} // namespace emu
