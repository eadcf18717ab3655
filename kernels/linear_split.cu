/* linear_split: the product of a decode step for many rows where w has few: each warp of a block
 * takes a run of k of the whole tile and waits for no other until the end, where the sums of all
 * segments meet in shared memory and are added in order; the sums of linear_step.cuh to the bit. */
#include "linear_tile.cuh"

namespace
{
/* SEGMENTS: at most, of a warp. */
enum { WARPS = 8, THREADS = 32 * WARPS, SEGMENTS = 2 };

/* Row distance of a segment's sums: 8 rows of pairs meet all banks. */
template <int NW> constexpr int SUM_LD = NW * 8 + 8;

/* The sums of a segment to shared memory, (MR*16,SUM_LD). */
template <int MR, int NW>
__device__ __forceinline__ void leave_sums(float *to, const frag_c (&sum)[MR][NW])
{
    to += lane_id() / 4 * SUM_LD<NW> + lane_id() % 4 * 2;
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < NW; j++)
                *reinterpret_cast<float2 *>(to + (m * 16 + half * 8) * SUM_LD<NW> + j * 8) =
                    float2{sum[m][j].r[2 * half], sum[m][j].r[2 * half + 1]};
}

/* A warp copies 64 columns of `rows` of N rows, of which the last is repeated. */
template <class T, int N>
__device__ __forceinline__ void copy_rows(T *to, const T *from, int64_t ld, int r0, int rows)
{
    const int first = lane_id() / 8, unit = lane_id() % 8;
#pragma unroll
    for (int i = 0; i < N; i += 4)
        copy16_async(to + unit_at(first, unit) + i * DEPTH,
                     from + min(r0 + first + i, rows - 1) * ld + unit * 8);
}

/* One block MR*16 rows of x by NW*8 rows of w. Shared memory: 128 bytes a row of either, STAGES and
 * warp, and later 4 SUM_LD bytes a row of x and segment. k a multiple of 64, of at most 16
 * segments; neither norm nor gates. Reads k (R n / (NW*8) + R n / (MR*16)) elements, out of L2 but
 * for n k of them; writes R n; 2 R n k FLOPs. */
template <class T, int MR, int NW, int STAGES>
__global__ void __launch_bounds__(THREADS, 1)
    k_linear_split(step_y<T> y, step_x<T> x, const T *__restrict__ w, int n_segments)
{
    constexpr int X_ROWS = MR * 16, W_ROWS = NW * 8, X_TILE = X_ROWS * DEPTH;
    constexpr int STAGE = X_TILE + W_ROWS * DEPTH;
    SHARED_DYN(T, rings);
    const int r0 = (int)blockIdx.x * X_ROWS, n0 = (int)blockIdx.y * W_ROWS;
    const int warp = (int)threadIdx.x / 32, each = (n_segments + WARPS - 1) / WARPS;
    const int k0 = min(warp * each * x.seg, x.k), k1 = min(k0 + each * x.seg, x.k);
    const int n_tiles = (k1 - k0) / DEPTH;
    T *ring = rings + warp * STAGES * STAGE;
    x.p += k0;
    w += k0;
    frag_c sum[SEGMENTS][MR][NW] = {};
#pragma unroll
    for (int i = 0; i < STAGES; i++)
        if (i < n_tiles)
            copy_rows<T, W_ROWS>(ring + i * STAGE + X_TILE, w + i * DEPTH, x.k, n0, y.n);
    grid_wait();
#pragma unroll
    for (int i = 0; i < STAGES; i++) {
        if (i < n_tiles)
            copy_rows<T, X_ROWS>(ring + i * STAGE, x.p + i * DEPTH, x.ld, r0, x.R);
        copy_commit();
    }
    int tile = 0, now = 0;
#pragma unroll
    for (int s = 0; s < SEGMENTS; s++) {
        const int end = min((s + 1) * x.seg / DEPTH, n_tiles);
        for (; tile < end; tile++, now = now + 1 < STAGES ? now + 1 : 0) {
            T *stage = ring + now * STAGE;
            const int next = tile + STAGES;
            copy_wait<STAGES - 1>();
            __syncwarp();
            multiply<T, MR, NW>(sum[s], stage, stage + X_TILE, (uint32_t)x.R >> 31);
            __syncwarp();
            if (next < n_tiles) {
                copy_rows<T, W_ROWS>(stage + X_TILE, w + next * DEPTH, x.k, n0, y.n);
                copy_rows<T, X_ROWS>(stage, x.p + next * DEPTH, x.ld, r0, x.R);
            }
            copy_commit();
        }
    }
    grid_release();
    __syncthreads();
    float *sums = reinterpret_cast<float *>(rings);
#pragma unroll
    for (int s = 0; s < SEGMENTS; s++)
        if (s < each && warp * each + s < n_segments)
            leave_sums(sums + (warp * each + s) * X_ROWS * SUM_LD<NW>, sum[s]);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < X_ROWS * W_ROWS / 2; i += THREADS) {
        const int r = i / (W_ROWS / 2), col = i % (W_ROWS / 2) * 2;
        float2 all = {0, 0};
#pragma unroll 8
        for (int s = 0; s < n_segments; s++) {
            const float2 part =
                *reinterpret_cast<const float2 *>(sums + (s * X_ROWS + r) * SUM_LD<NW> + col);
            all.x += part.x;
            all.y += part.y;
        }
        if (r0 + r < x.R)
            store_two(y, r0 + r, n0 + col, all.x, all.y);
    }
}

template <int MR, int NW, int STAGES, class T>
void run(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const int n_segments = step_segments(x.k);
    const size_t rings = sizeof(T) * WARPS * STAGES * (MR * 16 + NW * 8) * DEPTH;
    const size_t sums = sizeof(float) * (size_t)n_segments * MR * 16 * SUM_LD<NW>;
    launch_early(dev, "linear_step", k_linear_split<T, MR, NW, STAGES>,
                 dim3(blocks_for(x.R, MR * 16), blocks_for(y.n, NW * 8)), THREADS,
                 rings > sums ? rings : sums, y, x, w, n_segments);
}
} /* namespace */

template <class T>
bool linear_split(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    if (x.norm_w || y.is_glu || cuda_of(dev)->smem_bytes < 193 * 1024)
        return false;
    /* blocks of 16x16, 16x32, 32x32, 64x32: one a multiprocessor, which takes about so long */
    static const struct {
        int rows, cols;
        unsigned time;
    } shapes[] = {{16, 16, 6}, {16, 32, 7}, {32, 32, 10}, {64, 32, 16}};
    enum { SHAPES = sizeof shapes / sizeof *shapes, MOST_TIME = 64 };
    const unsigned n_sm = (unsigned)cuda_of(dev)->n_sm;
    unsigned best_time = MOST_TIME + 1;
    int best = -1;
    for (int i = 0; i < SHAPES; i++) {
        const unsigned n = blocks_for(x.R, shapes[i].rows) * blocks_for(y.n, shapes[i].cols);
        const unsigned time = (n + n_sm - 1) / n_sm * shapes[i].time;
        if (time < best_time) {
            best_time = time;
            best = i;
        }
    }
    if (best == 0)
        run<1, 2, 4>(dev, y, x, w); /* 128 KB */
    else if (best == 1)
        run<1, 4, 4>(dev, y, x, w); /* 192 KB */
    else if (best == 2)
        run<2, 4, 3>(dev, y, x, w); /* 192 KB */
    else if (best == 3)
        run<4, 4, 2>(dev, y, x, w); /* 192 KB */
    return best >= 0;
}

template bool linear_split(struct dev *, const step_y<bf16> &, const step_x<bf16> &, const bf16 *);
template bool linear_split(struct dev *, const step_y<f16> &, const step_x<f16> &, const f16 *);
