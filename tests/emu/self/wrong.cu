/* wrong: a kernel for each mistake that the emulator is there to find, and right ones, which
 * nobody may complain about. */
#include "self.h"
#include "wgmma.cuh"

namespace
{
constexpr int N = PROBE_THREADS;

__global__ void k_right(float *y, const float *x)
{
    SHARED(float, s, [N]);
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (blockIdx.x == 0)
        y[threadIdx.x] = s[N - 1 - threadIdx.x];
}

__global__ void k_no_barrier(float *y, const float *x)
{
    SHARED(float, s, [N]);
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}

/* What others still read is overwritten. */
__global__ void k_no_second_barrier(float *y, const float *x)
{
    SHARED(float, s, [N]);
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        s[threadIdx.x] = x[threadIdx.x] + (float)i;
        __syncthreads();
        sum += s[(threadIdx.x + 33) % N];
    }
    y[threadIdx.x] = sum;
}

__global__ void k_no_syncwarp(float *y, const float *x)
{
    SHARED(float, s, [N]);
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void k_sum_without_atomic(float *y, const float *x)
{
    y[0] += x[threadIdx.x] * 0;
}

__global__ void k_blocks_share_a_place(float *y, const float *x)
{
    if (threadIdx.x == 0)
        y[0] = x[blockIdx.x];
}

__global__ void k_divergent_barrier(float *y, const float *x)
{
    if (threadIdx.x < 64)
        __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
}

__global__ void k_divergent_shuffle(float *y, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x & 1)
        v += __shfl_xor_sync(0xffffffffu, v, 2);
    __syncthreads();
    y[threadIdx.x] = v;
}

__global__ void k_two_warp_operations(float *y, const float *x)
{
    float v = x[threadIdx.x];
    if (threadIdx.x & 1)
        v += __shfl_xor_sync(0xffffffffu, v, 2);
    else
        __syncwarp();
    y[threadIdx.x] = v;
}

__global__ void k_reads_absent_lane(float *y, const float *x)
{
    if (threadIdx.x < 16)
        y[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 20);
}

__global__ void k_nothing_written(float *y, const float *)
{
    SHARED(float, s, [N]);
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void k_nothing_written_dyn(float *y, const float *)
{
    SHARED_DYN(float, s);
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void k_past_shared(float *y, const float *x)
{
    SHARED(float, s, [N]);
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x ? threadIdx.x : 1];
}

__global__ void k_past_shared_dyn(float *y, const float *x)
{
    SHARED_DYN(float, s);
    s[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x ? threadIdx.x : 1];
}

__global__ void k_writes_past_global(float *y, const float *x)
{
    y[threadIdx.x + 1] = x[threadIdx.x];
}

__global__ void k_reads_past_global(float *y, const float *x)
{
    y[threadIdx.x] = x[threadIdx.x + 1];
}

__global__ void k_past_registers(float *y, const float *x)
{
    float r[4];
    for (int i = 0; i < 4; i++)
        r[i] = x[i];
    y[threadIdx.x] = r[threadIdx.x % 8];
}

__global__ void k_misaligned(float *y, const float *x)
{
    y[threadIdx.x] = reinterpret_cast<const float4 *>(x + 1)->x;
}

__global__ void k_overflow(float *y, const float *x)
{
    const int i = (int)threadIdx.x * 100000000;
    y[threadIdx.x] = x[i & 1];
}

template <int KEEP> __device__ void copy_twice(float *y, const float *x)
{
    SHARED_DYN(float, s);
    for (int i = 0; i < 2; i++) {
        if (threadIdx.x < N / 4)
            copy16_async(s + i * N + threadIdx.x * 4, x + threadIdx.x * 4, true);
        copy_commit();
    }
    copy_wait<KEEP>();
    __syncthreads();
    if (blockIdx.x == 0)
        y[threadIdx.x] = s[threadIdx.x] + s[N + threadIdx.x];
}
__global__ void k_copies(float *y, const float *x)
{
    copy_twice<0>(y, x);
}
__global__ void k_waits_for_one_copy_too_few(float *y, const float *x)
{
    copy_twice<1>(y, x);
}
__global__ void k_copies_without_barrier(float *y, const float *x)
{
    SHARED_DYN(float, s);
    if (threadIdx.x < N / 4)
        copy16_async(s + threadIdx.x * 4, x + threadIdx.x * 4, true);
    copy_commit();
    copy_wait<0>();
    y[threadIdx.x] = s[threadIdx.x];
}

/* A product of a warpgroup: y from its sum after a wait for all but KEEP groups. */
enum overwriting { NOTHING_IS, AN_OPERAND_IS };
template <int KEEP, overwriting WHAT> __device__ void multiply(float *y, const float *x)
{
    using tile = wg_tile<__half, 64, 64>;
    SHARED_DYN(unsigned char, all);
    tile *a = reinterpret_cast<tile *>(all);
    frag_c d[4] = {};
    for (int i = (int)threadIdx.x; i < 64 * 64; i += N)
        *a->at(i / 64, i % 64) = from_f32<__half>(x[i % N]);
    wg_publish();
    wg_sync(1);
    wg_begin();
    wg_mma(d, wg_along(*a, 0, 0), wg_down(*a, 16, 0));
    wg_commit();
    if (WHAT == AN_OPERAND_IS)
        *a->at((int)threadIdx.x % 64, 0) = from_f32<__half>(7);
    wg_wait<KEEP>();
    wg_pin(d);
    y[threadIdx.x] = d[0].r[0];
    wg_wait<0>();
    if (y[threadIdx.x] == 0) /* the same threads of each order */
        y[threadIdx.x] = __uint_as_float(0x7fc00000);
}
__global__ void k_product(float *y, const float *x)
{
    multiply<0, NOTHING_IS>(y, x);
}
__global__ void k_product_too_early(float *y, const float *x)
{
    multiply<1, NOTHING_IS>(y, x);
}
__global__ void k_product_overwritten(float *y, const float *x)
{
    multiply<0, AN_OPERAND_IS>(y, x);
}
__global__ void k_product_left_alone(float *y, const float *x)
{
    using tile = wg_tile<__half, 64, 64>;
    SHARED_DYN(unsigned char, all);
    tile *a = reinterpret_cast<tile *>(all);
    frag_c d[4] = {};
    wg_mma(d, wg_along(*a, 0, 0), wg_along(*a, 0, 0));
    wg_commit();
    y[threadIdx.x] = x[threadIdx.x];
}
/* Two warps wait for four. */
__global__ void k_barrier_of_others(float *y, const float *x)
{
    if (threadIdx.x < 64)
        wg_sync(1);
    y[threadIdx.x] = x[threadIdx.x];
}

/* Thread 0 of each block waits for those of all others. count lies in the last of y. */
__device__ void grid_barrier(float *y)
{
    unsigned *count = reinterpret_cast<unsigned *>(y + N - 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(count, 1u);
        while (atomicAdd(count, 0u) < gridDim.x)
            __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
}
__global__ void k_grid(float *y, const float *x)
{
    if (threadIdx.x == 0)
        y[blockIdx.x] = x[blockIdx.x];
    grid_barrier(y);
    if (threadIdx.x == 0)
        y[4 + blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x];
}
__global__ void k_grid_without_barrier(float *y, const float *x)
{
    if (threadIdx.x == 0)
        y[blockIdx.x] = x[blockIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
        y[4 + blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x];
}

__global__ void k_waits_for_ever(float *y, const float *)
{
    while (*(volatile float *)y < 1)
        __nanosleep(1);
}
} // namespace

const probe probes[] = {
    {"a right kernel", k_right, 2, 0, NOBODY, false},
    {"right asynchronous copies", k_copies, 2, 1024, NOBODY, false},
    {"a right barrier of the grid", k_grid, 4, 0, NOBODY, true},
    {"a barrier is missing", k_no_barrier, 1, 0, EVERYBODY, false},
    {"the second barrier is missing", k_no_second_barrier, 1, 0, EVERYBODY, false},
    {"__syncwarp is missing", k_no_syncwarp, 1, 0, EVERYBODY, false},
    {"a sum that is not atomic", k_sum_without_atomic, 1, 0, TSAN, false},
    {"two blocks write to one place", k_blocks_share_a_place, 2, 0, EVERYBODY, false},
    {"a barrier within a branch", k_divergent_barrier, 1, 0, EVERYBODY, false},
    {"a shuffle within a branch", k_divergent_shuffle, 1, 0, EVERYBODY, false},
    {"two warp operations at once", k_two_warp_operations, 1, 0, EVERYBODY, false},
    {"a shuffle from an absent lane", k_reads_absent_lane, 1, 0, EVERYBODY, false},
    {"shared memory is not written", k_nothing_written, 1, 0, EVERYBODY, false},
    {"nor dynamic shared memory", k_nothing_written_dyn, 1, 512, EVERYBODY, false},
    {"a write past a shared array", k_past_shared, 1, 0, EVERYBODY, false},
    {"a write past dynamic shared memory", k_past_shared_dyn, 1, 512, EVERYBODY, false},
    {"a write past device memory", k_writes_past_global, 1, 0, EVERYBODY, false},
    {"a read past device memory", k_reads_past_global, 1, 0, EVERYBODY, false},
    {"a read past an array in registers", k_past_registers, 1, 0, ASAN, false},
    {"a misaligned access", k_misaligned, 1, 0, ASAN, false},
    {"an integer overflows", k_overflow, 1, 0, ASAN, false},
    {"a wait for one copy too few", k_waits_for_one_copy_too_few, 1, 1024, EVERYBODY, false},
    {"copies without a barrier", k_copies_without_barrier, 1, 512, EVERYBODY, false},
    {"a product of a warpgroup", k_product, 1, 8192, NOBODY, false},
    {"a sum that is read before its product is done", k_product_too_early, 1, 8192, EVERYBODY,
     false},
    {"an operand that is overwritten too early", k_product_overwritten, 1, 8192, EVERYBODY, false},
    {"a product that nobody waits for", k_product_left_alone, 1, 8192, EVERYBODY, false},
    {"a barrier that too few reach", k_barrier_of_others, 1, 0, EVERYBODY, false},
    {"no barrier of the grid", k_grid_without_barrier, 4, 0, EVERYBODY, true},
    {"a barrier of the grid where blocks wait for their turn", k_grid, 4, 0, EVERYBODY, false},
    {"a wait that never ends", k_waits_for_ever, 1, 0, EVERYBODY, false},
    {"more shared memory than was asked for", k_right, 1, 60000, EVERYBODY, false},
    {"too many threads wait for a place", k_grid, 4000, 0, EVERYBODY, true},
};
const int n_probes = sizeof probes / sizeof *probes;
