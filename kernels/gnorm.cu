/* gnorm: the norm of all gradients and the verdict on the step (lib/verdict.h). Squares are added
 * by fours in f32, since most GPUs have few units for double, and from there on in double: thread
 * by thread over a fixed share, then over the block, then over the blocks in order; shares follow
 * from n alone. */
#include "cuda_ops.cuh"
#include "vec.cuh"

extern "C" {
#include "verdict.h"
}

namespace
{
constexpr int THREADS = 256, MOST_BLOCKS = 1024;

/* The sum over the block, by halves, in thread 0; the others have nothing. */
__device__ double block_sum_double(double v)
{
    SHARED(double, part, [THREADS]);
    part[threadIdx.x] = v;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
    }
    return threadIdx.x == 0 ? part[0] : 0;
}

/* One block a share of the gradients, a multiple of 4 elements. Moves 4 n bytes; 2 n FLOPs. */
__global__ void __launch_bounds__(THREADS)
    k_sum_squares(double *__restrict__ part, const float *__restrict__ g, size_t n, size_t share)
{
    const size_t begin = blockIdx.x * share, end = min(begin + share, n);
    double sum = 0;
    size_t i = begin + 4 * threadIdx.x;
#pragma unroll 8
    for (; i + 4 <= end; i += 4 * THREADS) {
        float v[4];
        load<float, 4>(v, g + i);
        sum += (double)(v[0] * v[0] + v[1] * v[1] + (v[2] * v[2] + v[3] * v[3]));
    }
    for (; i < end; i++) /* fewer than 4, of one thread */
        sum += (double)g[i] * (double)g[i];
    sum = block_sum_double(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

/* One block: the shares' sums, and what follows from them. */
__global__ void __launch_bounds__(THREADS)
    k_verdict(struct step_ctl *ctl, const double *__restrict__ part, int n_parts)
{
    double sum = 0;
    for (int i = threadIdx.x; i < n_parts; i += THREADS)
        sum += part[i];
    sum = block_sum_double(sum);
    if (threadIdx.x == 0)
        verdict(ctl, sum);
}
} // namespace

size_t cuda_gnorm_plan(const struct dev *dev, const struct sizes *s)
{
    return MOST_BLOCKS * sizeof(double);
}

/* Floor: 4 n bytes. */
void cuda_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    const size_t least = 16 * THREADS; /* elements that are worth a block */
    const size_t even = (n + MOST_BLOCKS - 1) / MOST_BLOCKS;
    const size_t share = (even > least ? even + 3 : least + 3) / 4 * 4;
    const unsigned blocks = blocks_for((int64_t)n, (int64_t)share);
    double *part = (double *)dev->work;
    launch(dev, "gnorm", k_sum_squares, blocks, THREADS, 0, part, g, n, share);
    launch(dev, "gnorm", k_verdict, 1, THREADS, 0, ctl, (const double *)part, (int)blocks);
}
