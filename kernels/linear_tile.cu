/* linear_tile: the product of a decode step for more rows than a pass over the weights can carry
 * in registers, in two-dimensional tiles through shared memory; the sums of linear_step.cuh to the
 * bit.
 *
 * Operand fragments are octets: a tile's row of 64 elements is 8 units of 16 bytes, stored with the
 * halves of odd rows exchanged, so that the 8 lanes of a quarter warp (2 rows, 4 units) meet all
 * banks. */
#include "linear_step.cuh"

namespace
{
enum { DEPTH = 64, THREADS = 256 };

/* Rows r0 .. r0+ROWS-1 of a matrix at columns k0 .. k0+63; rows past the end repeat the last. */
template <class T, int ROWS>
__device__ __forceinline__ void copy_tile(T *to, const T *from, int64_t ld, int r0, int rows,
                                          int k0)
{
#pragma unroll
    for (int i = (int)threadIdx.x; i < ROWS * 8; i += THREADS) {
        const int r = i / 8, unit = i % 8;
        copy16_async(to + r * DEPTH + (unit ^ (r % 2 * 4)) * 8,
                     from + (int64_t)min(r0 + r, rows - 1) * ld + k0 + unit * 8, true);
    }
}

template <class T> __device__ __forceinline__ octet<T> tile_octet(const T *tile, int r, int block)
{
    const int unit = block * 4 + lane_id() % 4;
    return load_octet<T, true>(tile + r * DEPTH + (unit ^ (r % 2 * 4)) * 8, 8);
}

/* The warp's part of a 64-deep tile: MR x NW fragments of 16x8. */
template <class T, int MR, int NW>
__device__ __forceinline__ void multiply(frag_c (&c)[MR][NW], const T *xs, const T *ws)
{
    const int g = lane_id() / 4;
#pragma unroll
    for (int block = 0; block < 2; block++) {
        octet<T> b[NW];
#pragma unroll
        for (int j = 0; j < NW; j++)
            b[j] = tile_octet(ws, j * 8 + g, block);
#pragma unroll
        for (int m = 0; m < MR; m++) {
            const octet<T> lo = tile_octet(xs, m * 16 + g, block);
            const octet<T> hi = tile_octet(xs, m * 16 + 8 + g, block);
#pragma unroll
            for (int j = 0; j < NW; j++)
                mma_octets<T>(c[m][j], lo, hi, b[j]);
        }
    }
}

/* total += c, c = 0. */
template <int MR, int NW>
__device__ __forceinline__ void end_segment(frag_c (&total)[MR][NW], frag_c (&c)[MR][NW])
{
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int j = 0; j < NW; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                total[m][j].r[i] += c[m][j].r[i];
                c[m][j].r[i] = 0;
            }
}

/* One block WX*MR*16 rows of x by (8/WX)*NW*8 rows of w, 8 warps. Shared memory: STAGES * 64 *
 * (rows of both) elements. k must be a multiple of 64. Reads each operand once a tile of the other:
 * k * (R n / rows of x + R n / rows of w) elements, out of L2 but for the first time; writes R n; 2
 * R n k FLOPs. */
template <class T, int MR, int NW, int WX, int STAGES>
__global__ void __launch_bounds__(THREADS)
    k_linear_tile(step_y<T> y, step_x<T> x, const T *__restrict__ w, const float *squares)
{
    constexpr int X_ROWS = WX * MR * 16, W_ROWS = 8 / WX * NW * 8,
                  STAGE = (X_ROWS + W_ROWS) * DEPTH;
    SHARED_DYN(T, tiles);
    const int warp = (int)threadIdx.x / 32, lane = lane_id();
    const int x0 = warp % WX * MR * 16, w0 = warp / WX * NW * 8;
    const int r0 = (int)blockIdx.x * X_ROWS, n0 = (int)blockIdx.y * W_ROWS;
    const int n_tiles = x.k / DEPTH, per_segment = x.seg / DEPTH;
    frag_c c[MR][NW] = {}, total[MR][NW] = {};
    grid_release();
    grid_wait();
    for (int i = 0; i < n_tiles + STAGES - 1; i++) {
        if (i < n_tiles) {
            T *to = tiles + i % STAGES * STAGE;
            copy_tile<T, X_ROWS>(to, x.p, x.ld, r0, x.R, i * DEPTH);
            copy_tile<T, W_ROWS>(to + X_ROWS * DEPTH, w, x.k, n0, y.n, i * DEPTH);
        }
        copy_commit();
        const int now = i - (STAGES - 1);
        if (now < 0)
            continue;
        copy_wait<STAGES - 1>();
        __syncthreads();
        const T *xs = tiles + now % STAGES * STAGE, *ws = xs + X_ROWS * DEPTH;
        multiply<T, MR, NW>(c, xs + x0 * DEPTH, ws + w0 * DEPTH);
        __syncthreads();
        if ((now + 1) % per_segment == 0 || now + 1 == n_tiles)
            end_segment(total, c);
    }
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = r0 + x0 + m * 16 + half * 8 + lane / 4;
            if (r >= x.R)
                continue;
            float rstd = 1;
            if (squares) {
                float sum = 0;
                for (int s = 0; s * x.seg < x.k; s++)
                    sum += squares[s * x.R + r];
                rstd = inverse_rms(sum, x.k, y.eps);
            }
#pragma unroll
            for (int j = 0; j < NW; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int col = n0 + w0 + j * 8 + lane % 4 * 2 + i;
                    if (col < y.n)
                        step_store(y, r, col, total[m][j].r[2 * half + i], rstd);
                }
        }
}

template <class T, int MR, int NW, int WX, int STAGES>
void run(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w, const float *squares)
{
    constexpr int X_ROWS = WX * MR * 16, W_ROWS = 8 / WX * NW * 8;
    launch_early(dev, "linear_step", k_linear_tile<T, MR, NW, WX, STAGES>,
                 dim3(blocks_for(x.R, X_ROWS), blocks_for(y.n, W_ROWS)), THREADS,
                 sizeof(T) * STAGES * (X_ROWS + W_ROWS) * DEPTH, y, x, w, squares);
}
} /* namespace */

template <class T>
void linear_tile(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w,
                 const float *squares)
{
    if (y.n < 2048)
        run<T, 1, 2, 4, 4>(dev, y, x, w, squares); /* 64 x 32, 48 KB */
    else if (cuda_of(dev)->smem_bytes >= 96 * 1024)
        run<T, 2, 4, 2, 4>(dev, y, x, w, squares); /* 64 x 128, 96 KB */
    else
        run<T, 2, 4, 2, 2>(dev, y, x, w, squares); /* 64 x 128, 48 KB */
}

template void linear_tile(struct dev *, const step_y<bf16> &, const step_x<bf16> &, const bf16 *,
                          const float *);
template void linear_tile(struct dev *, const step_y<f16> &, const step_x<f16> &, const f16 *,
                          const float *);
