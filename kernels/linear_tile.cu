/* linear_tile: the product of a decode step for more rows than a pass over the weights can carry
 * in registers, in two-dimensional tiles through shared memory; the sums of linear_step.cuh to the
 * bit.
 *
 * Operand fragments are octets: a tile's row of 64 elements is 8 units of 16 bytes, stored with the
 * halves of odd rows exchanged, so that the 8 lanes of a quarter warp (2 rows, 4 units) meet all
 * banks. RMSNorm is done in place by the threads that copied the elements: they see their own
 * copies before the barrier that shows them to the others. */
#include "linear_step.cuh"

namespace
{
enum { DEPTH = 64, THREADS = 256 };

__device__ __forceinline__ int unit_at(int r, int unit)
{
    return r * DEPTH + (unit ^ (r % 2 * 4)) * 8;
}

/* The octet at tile[at]. */
template <class T> __device__ __forceinline__ octet<T> tile_octet(const T *tile, int at)
{
    const uint4 v = load16_shared(tile + at);
    return octet<T>{{v.x, v.y, v.z, v.w}};
}

/* What the thread copies of w: 16 bytes of every 32nd row of the tile. */
template <class T, int ROWS> struct w_part {
    const T *from[ROWS / 32]; /* at k = 0 */

    __device__ __forceinline__ void find(const step_y<T> &y, const T *w, int n0, int k)
    {
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++)
            from[i] = w + (int64_t)weight_row(y, n0, (int)threadIdx.x / 8 + i * 32) * k +
                      threadIdx.x % 8 * 8;
    }
    __device__ __forceinline__ void copy(T *to, int k0) const
    {
        to += unit_at((int)threadIdx.x / 8, (int)threadIdx.x % 8);
#pragma unroll
        for (int i = 0; i < ROWS / 32; i++)
            copy16_async(to + i * 32 * DEPTH, from[i] + k0, true);
    }
};

/* And of x: a quad takes every 64th row, its t-th lane units t and t+4, as the fragments' lanes do.
 */
template <class T, int ROWS> struct x_part {
    static constexpr int N = (ROWS + THREADS / 4 - 1) / (THREADS / 4);
    const T *from[N];

    __device__ __forceinline__ void find(const step_x<T> &x, int r0)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int r = r0 + (int)threadIdx.x / 4 + i * (THREADS / 4);
            from[i] = x.p + (int64_t)min(r, x.R - 1) * x.ld + threadIdx.x % 4 * 8;
        }
    }
    __device__ __forceinline__ void copy(T *to, int k0) const
    {
        const int r = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (r + i * (THREADS / 4) >= ROWS)
                continue;
            T *row = to + i * (THREADS / 4) * DEPTH;
            copy16_async(row + unit_at(r, t), from[i] + k0, true);
            copy16_async(row + unit_at(r, t + 4), from[i] + k0 + 32, true);
        }
    }
};

/* The thread's part of RMSNorm: rows of quads of its own. */
template <int ROWS> struct norm_part {
    static constexpr int N = (ROWS + THREADS / 4 - 1) / (THREADS / 4);
    octet<float> w[2]; /* of the tile under way */
    float segment[N], row[N];
};

template <int ROWS>
__device__ __forceinline__ void load_norm(norm_part<ROWS> &norm, const float *w, int k0)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        norm.w[i] = load_octet<float, true>(w + k0 + i * 32 + (int)threadIdx.x % 4 * 8, 8);
}

/* What the thread has copied of x becomes x'. */
template <class T, int ROWS>
__device__ __forceinline__ void norm_tile(norm_part<ROWS> &norm, T *tile, bool ends_segment)
{
    const int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < norm_part<ROWS>::N; n++) {
        const int r = (int)threadIdx.x / 4 + n * (THREADS / 4);
        if (r >= ROWS)
            continue;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = unit_at(r, t + i * 4);
            store_octet(tile + at,
                        norm_octet<T, T>(tile_octet(tile, at), norm.w[i], norm.segment[n]));
        }
        if (ends_segment) {
            norm.row[n] += quad_sum(norm.segment[n]);
            norm.segment[n] = 0;
        }
    }
}

/* The warp's part of a 64-deep tile: MR x NW fragments of 16x8. */
template <class T, int MR, int NW>
__device__ __forceinline__ void multiply(frag_c (&c)[MR][NW], const T *xs, const T *ws)
{
#pragma unroll
    for (int block = 0; block < 2; block++) {
        const int at = unit_at(lane_id() / 4, lane_id() % 4) ^ block * 32;
        octet<T> b[NW];
#pragma unroll
        for (int j = 0; j < NW; j++)
            b[j] = tile_octet(ws, j * 8 * DEPTH + at);
#pragma unroll
        for (int m = 0; m < MR; m++) {
            const octet<T> lo = tile_octet(xs, m * 16 * DEPTH + at);
            const octet<T> hi = tile_octet(xs, (m * 16 + 8) * DEPTH + at);
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

/* Columns col and col+1 of row r. */
template <class T>
__device__ __forceinline__ void store_two(const step_y<T> &y, int r, int col, float v0, float v1)
{
    if (!y.is_paired || col + 1 >= y.n) {
        if (col < y.n)
            step_store(y, r, col, v0);
        if (col + 1 < y.n)
            step_store(y, r, col + 1, v1);
        return;
    }
    if (y.resid) {
        float old[2];
        load<T, 2>(old, y.resid + (int64_t)r * y.ld_resid + col);
        v0 = fmaf(y.scale, v0, old[0]);
        v1 = fmaf(y.scale, v1, old[1]);
    }
    const float v[2] = {v0, v1};
    const int64_t at = (int64_t)r * y.ld + col;
    if (y.is_f32)
        store<float, 2>(reinterpret_cast<float *>(y.p) + at, v);
    else
        store<T, 2>(reinterpret_cast<T *>(y.p) + at, v);
}

/* The warp's tile, whose first fragment of w is fragment f0 of the block's. */
template <class T, int MR, int NW>
__device__ __forceinline__ void store_tile(const step_y<T> &y, const frag_c (&sum)[MR][NW],
                                           const float (&rstd)[MR][2], int r0, int n0, int f0,
                                           int R)
{
    const int t = lane_id() % 4;
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = r0 + m * 16 + half * 8 + lane_id() / 4;
            const float scale = rstd[m][half];
            if (r >= R)
                continue;
#pragma unroll
            for (int j = 0; j < NW; j += 2) {
                float v[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i / 2][i % 2] = __fmul_rn(sum[m][j + i / 2].r[2 * half + i % 2], scale);
                if (y.is_glu) {
                    store_two(y, r, n0 + (f0 + j) / 2 * 8 + t * 2, glu<T>(v[0][0], v[1][0]),
                              glu<T>(v[0][1], v[1][1]));
                } else {
                    store_two(y, r, n0 + (f0 + j) * 8 + t * 2, v[0][0], v[0][1]);
                    store_two(y, r, n0 + (f0 + j + 1) * 8 + t * 2, v[1][0], v[1][1]);
                }
            }
        }
}

/* One block WX*MR*16 rows of x by (8/WX)*NW*8 rows of w, 8 warps, NW even. Shared memory: STAGES *
 * 64 * (rows of both) elements, and a float a row of x. k must be a multiple of 64. Reads each
 * operand once a tile of the other: k * (R n / rows of x + R n / rows of w) elements, out of L2 but
 * for the first time; writes R n; 2 R n k FLOPs. The first tiles of w are under way before the
 * kernel that makes x has ended. */
template <class T, int MR, int NW, int WX, int STAGES>
__global__ void __launch_bounds__(THREADS)
    k_linear_tile(step_y<T> y, step_x<T> x, const T *__restrict__ w)
{
    constexpr int X_ROWS = WX * MR * 16, W_ROWS = 8 / WX * NW * 8,
                  STAGE = (X_ROWS + W_ROWS) * DEPTH;
    SHARED_DYN(T, tiles);
    float *rstds = reinterpret_cast<float *>(tiles + STAGES * STAGE);
    const int warp = (int)threadIdx.x / 32, lane = lane_id();
    const int x0 = warp % WX * MR * 16, w0 = warp / WX * NW * 8;
    const int r0 = (int)blockIdx.x * X_ROWS;
    const int n0 = (int)blockIdx.y * (y.is_glu ? W_ROWS / 2 : W_ROWS);
    const int n_tiles = x.k / DEPTH, per_segment = x.seg / DEPTH;
    frag_c c[MR][NW] = {}, total[MR][NW] = {};
    norm_part<X_ROWS> norm = {};
    w_part<T, W_ROWS> w_from;
    x_part<T, X_ROWS> x_from;
    grid_release();
    w_from.find(y, w, n0, x.k);
    x_from.find(x, r0);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++)
        if (i < n_tiles)
            w_from.copy(tiles + i * STAGE + X_ROWS * DEPTH, i * DEPTH);
    if (x.norm_w)
        load_norm(norm, x.norm_w, 0);
    grid_wait();
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n_tiles)
            x_from.copy(tiles + i * STAGE, i * DEPTH);
        copy_commit();
    }
    int left = per_segment; /* tiles until the segment ends */
    for (int now = 0; now < n_tiles; now++) {
        T *xs = tiles + now % STAGES * STAGE;
        const bool is_end = --left == 0 || now + 1 == n_tiles;
        copy_wait<STAGES - 2>();
        if (x.norm_w) {
            norm_tile<T, X_ROWS>(norm, xs, is_end);
            if (now + 1 < n_tiles)
                load_norm(norm, x.norm_w, (now + 1) * DEPTH);
        }
        __syncthreads();
        const int next = now + STAGES - 1;
        if (next < n_tiles) {
            T *to = tiles + next % STAGES * STAGE;
            w_from.copy(to + X_ROWS * DEPTH, next * DEPTH);
            x_from.copy(to, next * DEPTH);
        }
        copy_commit();
        multiply<T, MR, NW>(c, xs + x0 * DEPTH, xs + (X_ROWS + w0) * DEPTH);
        if (is_end) {
            end_segment(total, c);
            left = per_segment;
        }
    }
    float rstd[MR][2];
    if (x.norm_w) {
#pragma unroll
        for (int n = 0; n < norm_part<X_ROWS>::N; n++) {
            const int r = (int)threadIdx.x / 4 + n * (THREADS / 4);
            if (r < X_ROWS && threadIdx.x % 4 == 0)
                rstds[r] = inverse_rms(norm.row[n], x.k, y.eps);
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            rstd[m][half] = x.norm_w ? rstds[x0 + m * 16 + half * 8 + lane / 4] : 1.0f;
    store_tile<T, MR, NW>(y, total, rstd, r0 + x0, n0, w0 / 8, x.R);
}

template <class T, int MR, int NW, int WX, int STAGES>
void run(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    constexpr int X_ROWS = WX * MR * 16, W_ROWS = 8 / WX * NW * 8;
    launch_early(dev, "linear_step", k_linear_tile<T, MR, NW, WX, STAGES>,
                 dim3(blocks_for(x.R, X_ROWS), blocks_for(y.n, y.is_glu ? W_ROWS / 2 : W_ROWS)),
                 THREADS, sizeof(T) * STAGES * (X_ROWS + W_ROWS) * DEPTH + sizeof(float) * X_ROWS,
                 y, x, w);
}
} /* namespace */

template <class T>
void linear_tile(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const bool has_96k = cuda_of(dev)->smem_bytes >= 97 * 1024;
    if (x.R <= 32)
        run<T, 1, 2, 2, 4>(dev, y, x, w); /* 32 x 64, 48 KB */
    else if (y.n < 2048 || !has_96k)
        run<T, 1, 2, 4, 4>(dev, y, x, w); /* 64 x 32, 48 KB */
    else if (y.n < 16384 || x.R <= 64)
        run<T, 2, 4, 2, 4>(dev, y, x, w); /* 64 x 128, 96 KB */
    else
        run<T, 4, 4, 2, 3>(dev, y, x, w); /* 128 x 128, 96 KB */
}

template void linear_tile(struct dev *, const step_y<bf16> &, const step_x<bf16> &, const bf16 *);
template void linear_tile(struct dev *, const step_y<f16> &, const step_x<f16> &, const f16 *);
