/* fragments: kernels/mma.cuh and the warp operations, used as kernels use them, by one warp. */
#include "mma.cuh"
#include "self.h"

namespace
{
constexpr int MAX_LD = tile_ld<__half>(16); /* that of floats is less */

template <class T> __device__ void load_tile(T *tile, const float *from, int ld)
{
    for (int i = threadIdx.x; i < 256; i += 32)
        tile[i / 16 * ld + i % 16] = from_f32<T>(from[i]);
}

__device__ void store_c(float *c, const frag_c (&acc)[2])
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 4; i++)
            c[(g + i / 2 * 8) * 16 + j * 8 + 2 * t + i % 2] = acc[j].r[i];
}

template <class T>
__device__ void product(frag_c (&c)[2], const frag_a<T> &a, const frag_b<T> &b0,
                        const frag_b<T> &b1, bool is_by_shuffles)
{
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 4; i++)
            c[j].r[i] = 0;
    if constexpr (sizeof(T) == 4)
        if (is_by_shuffles) {
            c[0] = mma_by_shuffles(c[0], a, b0);
            c[1] = mma_by_shuffles(c[1], a, b1);
            return;
        }
    mma(c[0], a, b0);
    mma(c[1], a, b1);
}

template <class T> __global__ void k_fragments(float *c, const float *a, const float *b, int way)
{
    SHARED(T, tile_a, [16 * MAX_LD]);
    SHARED(T, tile_b, [16 * MAX_LD]);
    constexpr int ld = tile_ld<T>(16);
    load_tile(tile_a, a, ld);
    load_tile(tile_b, b, ld);
    __syncthreads();
    frag_a<T> fa;
    frag_b<T> fb[2];
    frag_c acc[2], next[2];
    if (way == WAY_AT_B)
        load_a_t(fa, tile_a, ld);
    else
        load_a(fa, tile_a, ld);
    if (way == WAY_A_BT)
        load_b2_t(fb, tile_b, ld);
    else
        load_b2(fb, tile_b, ld);
    product(acc, fa, fb[0], fb[1], way == WAY_SHUFFLES);
    if (way == WAY_CHAIN) {
        load_b2_t(fb, tile_b, ld);
        product(next, a_of_c<T>(acc[0], acc[1]), fb[0], fb[1], false);
        store_c(c, next);
    } else if (way == WAY_CHAIN_T) {
        product(next, fa, b_of_ct<T>(acc[0], acc[1], 0), b_of_ct<T>(acc[0], acc[1], 1), false);
        store_c(c, next);
    } else {
        store_c(c, acc);
    }
}

/* wrong[0] counts threads with a wrong answer, wrong[1] threads. */
__global__ void k_operations(int *wrong)
{
    const int t = (int)threadIdx.x, lane = t % 32;
    bool is_right = __syncthreads_count(t % 3 == 0) == 43;
    is_right = is_right && __syncthreads_or(t == 5) == 1 && __syncthreads_and(t < 127) == 0;
    is_right = is_right && __ballot_sync(0xffffffffu, t & 1) == 0xaaaaaaaau;
    is_right =
        is_right && __any_sync(0xffffffffu, lane == 7) && !__all_sync(0xffffffffu, lane != 7);
    is_right = is_right && __reduce_max_sync(0xffffffffu, -lane) == 0 &&
               __reduce_add_sync(0xffffffffu, 2u) == 64u;
    is_right = is_right && __shfl_up_sync(0xffffffffu, lane, 3) == (lane < 3 ? lane : lane - 3);
    if (lane < 8)
        is_right = is_right && __shfl_down_sync(0xffu, lane, 1, 8) == (lane == 7 ? 7 : lane + 1);
    is_right = is_right && warp_sum(1.0f) == 32.0f && warp_max((float)lane) == 31.0f;
    is_right = is_right && block_sum<PROBE_THREADS>((float)t) == 8128.0f;
    is_right = is_right && __clz(1) == 31 && __ffs(8) == 4 && __popc(0xf0u) == 4;
    is_right = is_right && __umulhi(0x80000000u, 6u) == 3u;
    atomicAdd(&wrong[1], 1);
    if (!is_right)
        atomicAdd(&wrong[0], 1);
}

template <class... P, class... A> void run(void (*k)(P...), int n_blocks, int n_threads, A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3((unsigned)n_threads);
    cudaLaunchKernelEx(&config, k, args...);
}
} // namespace

void run_fragments(float *c, const float *a, const float *b, way w, element e)
{
    run(e == ELEMENT_F32    ? k_fragments<float>
        : e == ELEMENT_BF16 ? k_fragments<__nv_bfloat16>
                            : k_fragments<__half>,
        1, 32, c, a, b, (int)w);
}

void run_operations(int *out, int n_blocks)
{
    run(k_operations, n_blocks, PROBE_THREADS, out);
}
