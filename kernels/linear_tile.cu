/* linear_tile: the product of a decode step for more rows than a pass over the weights can carry
 * in registers, in two-dimensional tiles through shared memory; the sums of linear_step.cuh to the
 * bit.
 *
 * RMSNorm is done in place by the threads that copied the elements: they see their own copies
 * before the barrier that shows them to the others. Where shared memory holds whole rows of x, that
 * is once for all tiles of w that a block takes.
 *
 * The next kernel may start only when a block has all its operands under way: earlier, its blocks,
 * which wait, would take the place of ours. */
#include "linear_tile.cuh"

namespace
{
/* What a kernel makes: 16-bit columns, SwiGLU of them, or f32, each without residual and two
 * columns an access; ANY: whatever y says. */
enum kind { ANY, COLUMNS, GATED, LOGITS };

/* What a thread copies of w: the tid-th of THREADS, 16 bytes of every (THREADS/8)-th of ROWS rows,
 * tile after tile of k. */
template <class T, int ROWS, int THREADS> struct w_part {
    static constexpr int STEP = THREADS / 8, N = ROWS / STEP;
    const T *w;
    uint32_t from[N]; /* in 16 bytes from w on: pointers would take twice the registers */

    /* first: row of the block's tile with which the ROWS begin */
    __device__ __forceinline__ void find(const step_y<T> &y, int k, int n0, int first, int tid)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            from[i] = (uint32_t)weight_row(y, n0, first + tid / 8 + i * STEP) * (uint32_t)(k / 8) +
                      (uint32_t)(tid % 8);
    }
    __device__ __forceinline__ void copy(T *to, int tid)
    {
        to += unit_at(tid / 8, tid % 8);
#pragma unroll
        for (int i = 0; i < N; i++) {
            copy16_async(to + i * STEP * DEPTH, w + (size_t)from[i] * 8);
            from[i] += DEPTH / 8;
        }
    }
};

/* And of x: a quad takes every (THREADS/4)-th row, its t-th lane units t and t+4, as the fragments'
 * lanes do; rows g and g+8 lie 16 lanes apart. Then RMSNorm of that. */
template <class T, int ROWS, int THREADS> struct x_part {
    static constexpr int STEP = THREADS / 4, N = (ROWS + STEP - 1) / STEP;
    octet<float> norm_w[2];   /* of the tile under way */
    float segment[N], row[N]; /* sums of squares */

    static __device__ __forceinline__ int first_row()
    {
        const int warp = (int)threadIdx.x / 32, quad = lane_id() / 4;
        return warp / 2 * 16 + warp % 2 * 4 + quad / 4 * 8 + quad % 4;
    }
    __device__ __forceinline__ void copy(T *to, const step_x<T> &x, int r0, int k0) const
    {
        const int first = first_row(), t = (int)threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int r = first + i * STEP;
            if (r >= ROWS)
                continue;
            const T *from = x.p + min(r0 + r, x.R - 1) * x.ld + k0 + t * 8;
            copy16_async(to + unit_at(r, t), from);
            copy16_async(to + unit_at(r, t + 4), from + 32);
        }
    }
    __device__ __forceinline__ void load_norm(const float *w, int k0)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
            norm_w[i] = load_octet<float, true>(w + k0 + i * 32 + (int)threadIdx.x % 4 * 8, 8);
    }
    /* What the thread has copied becomes x' if has_norm; PAIRED: and fragments. */
    template <bool PAIRED>
    __device__ __forceinline__ void make(T *tile, bool has_norm, bool ends_segment)
    {
        const int first = first_row(), t = (int)threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < N; n++) {
            if (first + n * STEP >= ROWS)
                continue;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int at = unit_at(first + n * STEP, t + i * 4);
                octet<T> x = tile_octet(tile, at);
                if (has_norm)
                    x = norm_octet<T, T>(x, norm_w[i], segment[n]);
                store_octet(tile + at, PAIRED ? pair_rows(x) : x);
            }
            if (ends_segment) {
                row[n] += quad_sum(segment[n]);
                segment[n] = 0;
            }
        }
    }
    __device__ __forceinline__ void leave_rstds(float *rstds, int k, float eps) const
    {
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int r = first_row() + n * STEP;
            if (r < ROWS && threadIdx.x % 4 == 0)
                rstds[r] = inverse_rms(row[n], k, eps);
        }
    }
};

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

/* Columns col and col+1 of row r, by kind. */
template <class T, kind KIND>
__device__ __forceinline__ void store_as(const step_y<T> &y, int r, int col, float v0, float v1)
{
    const float v[2] = {v0, v1};
    const int64_t at = (int64_t)r * y.ld + col;
    if (KIND == ANY)
        store_two(y, r, col, v0, v1);
    else if (col < y.n && KIND == LOGITS)
        store<float, 2>(reinterpret_cast<float *>(y.p) + at, v);
    else if (col < y.n)
        store<T, 2>(reinterpret_cast<T *>(y.p) + at, v);
}

/* The warp's tile, whose first fragment of w is fragment f0 of the block's, times rstds, unless
 * NULL, and sum = 0. */
template <class T, int MR, int NW, kind KIND>
__device__ __forceinline__ void store_tile(const step_y<T> &y, frag_c (&sum)[MR][NW],
                                           const float *rstds, int r0, int n0, int f0, int R)
{
    const bool is_glu = KIND == ANY ? y.is_glu : KIND == GATED;
    const int t = lane_id() % 4;
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int i0 = m * 16 + half * 8 + lane_id() / 4, r = r0 + i0;
            if (r >= R)
                continue;
            const float scale = rstds ? rstds[i0] : 1.0f;
#pragma unroll
            for (int j = 0; j < NW; j += 2) {
                float v[2][2];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    v[i / 2][i % 2] = __fmul_rn(sum[m][j + i / 2].r[2 * half + i % 2], scale);
                if (is_glu) {
                    store_as<T, KIND>(y, r, n0 + (f0 + j) / 2 * 8 + t * 2, glu<T>(v[0][0], v[1][0]),
                                      glu<T>(v[0][1], v[1][1]));
                } else {
                    store_as<T, KIND>(y, r, n0 + (f0 + j) * 8 + t * 2, v[0][0], v[0][1]);
                    store_as<T, KIND>(y, r, n0 + (f0 + j + 1) * 8 + t * 2, v[1][0], v[1][1]);
                }
            }
        }
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int j = 0; j < NW; j++)
            sum[m][j] = {};
}

/* One block X_ROWS = WX*MR*16 rows of x (blockIdx.x) by tiles of W_ROWS = (WARPS/WX)*NW*8 rows of
 * w: the (blockIdx.y)-th and every (gridDim.y)-th after it; NW even. Shared memory: 128 bytes for
 * STAGES * W_ROWS rows, the same for STAGES * X_ROWS, or KEPT, all of x: 2 k X_ROWS bytes; and a
 * float a row of x. k must be a multiple of 64; KEPT: from 64 (STAGES-1) to 1024, where a tile is a
 * segment. !KEPT: gridDim.y tiles in all.
 *
 * Reads w once a row of blocks, n k R / X_ROWS elements, out of L2 but for the first time, and x
 * once a block; writes R n; 2 R n k FLOPs. The first tiles of w are under way before the kernel
 * that makes x has ended. */
template <class T, int MR, int NW, int WX, int WARPS, int STAGES, kind KIND>
__global__ void __launch_bounds__(WARPS * 32)
    k_linear_tile(step_y<T> y, step_x<T> x, const T *__restrict__ w)
{
    constexpr bool KEPT = KIND != ANY;
    constexpr int THREADS = WARPS * 32, X_ROWS = WX * MR * 16, W_ROWS = WARPS / WX * NW * 8;
    constexpr bool ALONE = KEPT && WX == 1; /* a warp copies itself what it reads of w */
    constexpr int X_TILE = X_ROWS * DEPTH, W_TILE = W_ROWS * DEPTH;
    SHARED_DYN(T, xs);
    const int n_tiles = x.k / DEPTH, per_segment = x.seg / DEPTH;
    T *ws = xs + (KEPT ? n_tiles : STAGES) * X_TILE;
    float *rstds = reinterpret_cast<float *>(ws + STAGES * W_TILE);
    const int warp = (int)threadIdx.x / 32;
    const int x0 = warp % WX * MR * 16, w0 = warp / WX * NW * 8;
    const int r0 = (int)blockIdx.x * X_ROWS, cols = y.is_glu ? W_ROWS / 2 : W_ROWS;
    const int copier = ALONE ? lane_id() : (int)threadIdx.x, first = ALONE ? w0 : 0;
    const int n_step = (int)gridDim.y * cols;
    int n0 = (int)blockIdx.y * cols; /* columns at work */
    int next_n = n0, next = 0;       /* what is copied next: columns and tile of k */
    frag_c c[MR][NW] = {}, total[MR][NW] = {};
    w_part<T, ALONE ? NW * 8 : W_ROWS, ALONE ? 32 : THREADS> of_w = {w, {}};
    x_part<T, X_ROWS, THREADS> of_x = {};
    of_w.find(y, x.k, n0, first, copier);
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++)
        if (i < n_tiles)
            of_w.copy(ws + i * W_TILE + first * DEPTH, copier);
    if (x.norm_w)
        of_x.load_norm(x.norm_w, 0);
    grid_wait();
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < n_tiles)
            of_x.copy(xs + i * X_TILE, x, r0, i * DEPTH);
        copy_commit();
    }
    next = min(STAGES - 1, n_tiles);
    int left = per_segment; /* tiles until the segment ends */
    bool is_first = true;   /* of the passes over k */
    for (int now = 0, tile = 0; n0 < y.n; now = now + 1 < STAGES ? now + 1 : 0) {
        T *x_now = xs + (KEPT ? tile : now) * X_TILE;
        const bool is_last = tile + 1 == n_tiles, is_end = KEPT || --left == 0 || is_last;
        copy_wait<STAGES - 2>();
        if ((KEPT || x.norm_w) && is_first) {
            of_x.template make<KEPT>(x_now, x.norm_w != NULL, is_end);
            if (x.norm_w && !is_last)
                of_x.load_norm(x.norm_w, (tile + 1) * DEPTH);
            if (x.norm_w && is_last)
                of_x.leave_rstds(rstds, x.k, y.eps);
        }
        if (ALONE && !is_first)
            __syncwarp();
        else
            __syncthreads();
        if (next == n_tiles) {
            next = 0;
            next_n += n_step;
            of_w.find(y, x.k, next_n, first, copier);
        }
        if (next_n < y.n) {
            const int to = now > 0 ? now - 1 : STAGES - 1;
            of_w.copy(ws + to * W_TILE + first * DEPTH, copier);
            if (!KEPT || (is_first && next_n == n0))
                of_x.copy(xs + (KEPT ? next : to) * X_TILE, x, r0, next * DEPTH);
            next++;
        } else {
            grid_release();
        }
        copy_commit();
        const T *w_now = ws + now * W_TILE + w0 * DEPTH;
        if (KEPT) {
            multiply_segment<T, MR, NW>(total, x_now + x0 * DEPTH, w_now);
        } else {
            multiply<T, MR, NW>(c, x_now + x0 * DEPTH, w_now, (uint32_t)x.R >> 31);
            if (is_end) {
                end_segment(total, c);
                left = per_segment;
            }
        }
        tile++;
        if (!is_last)
            continue;
        store_tile<T, MR, NW, KIND>(y, total, x.norm_w ? rstds + x0 : NULL, r0 + x0, n0, w0 / 8,
                                    x.R);
        n0 += n_step;
        tile = 0;
        is_first = false;
    }
}

/* A shape of blocks. */
template <int MR_, int NW_, int WX_, int WARPS_, int STAGES_> struct shape {
    static constexpr int MR = MR_, NW = NW_, WX = WX_, WARPS = WARPS_, STAGES = STAGES_;
    static constexpr int X_ROWS = WX * MR * 16, W_ROWS = WARPS / WX * NW * 8;

    /* Shared memory with x_depth columns of x. */
    static size_t smem(int x_depth)
    {
        return 2 * (size_t)(x_depth * X_ROWS + STAGES * DEPTH * W_ROWS) + sizeof(float) * X_ROWS;
    }
};

template <class S, kind KIND, class T>
void run_as(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w, dim3 grid,
            size_t smem)
{
    launch_early(dev, "linear_step",
                 k_linear_tile<T, S::MR, S::NW, S::WX, S::WARPS, S::STAGES, KIND>, grid,
                 S::WARPS * 32, smem, y, x, w);
}

template <class S, class T> dim3 grid_of(const step_y<T> &y, const step_x<T> &x)
{
    return dim3(blocks_for(x.R, S::X_ROWS), blocks_for(y.n, y.is_glu ? S::W_ROWS / 2 : S::W_ROWS));
}

template <class S, class T> unsigned tiles_of(const step_y<T> &y, const step_x<T> &x)
{
    const dim3 grid = grid_of<S>(y, x);
    return grid.x * grid.y;
}

template <class S, class T>
void run(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    run_as<S, ANY>(dev, y, x, w, grid_of<S>(y, x), S::smem(S::STAGES * DEPTH));
}

/* With all of x in shared memory, in as many blocks as run at once. false: that is not possible. */
template <class S, class T>
bool run_kept(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const size_t smem = S::smem(x.k), has = cuda_of(dev)->smem_bytes;
    if (smem > has || x.k < (S::STAGES - 1) * DEPTH || x.seg != DEPTH || y.resid || !y.is_paired ||
        y.n % 2 != 0 || (y.is_glu && y.is_f32))
        return false;
    dim3 grid = grid_of<S>(y, x);
    const unsigned a_sm = (unsigned)((has + 1024) / (smem + 1024)); /* 1 KB a block is CUDA's */
    const unsigned most = (a_sm > 1 ? 2 : 1) * (unsigned)cuda_of(dev)->n_sm / grid.x;
    grid.y = most < 1 ? 1 : most < grid.y ? most : grid.y;
    if (y.is_glu)
        run_as<S, GATED>(dev, y, x, w, grid, smem);
    else if (y.is_f32)
        run_as<S, LOGITS>(dev, y, x, w, grid, smem);
    else
        run_as<S, COLUMNS>(dev, y, x, w, grid, smem);
    return true;
}
} /* namespace */

template <class T>
void linear_tile(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    using slim = shape<2, 2, 1, 4, 6>;  /* 32 x 64 */
    using flat = shape<2, 4, 1, 4, 4>;  /* 32 x 128 */
    using tall = shape<4, 4, 1, 4, 3>;  /* 64 x 128 */
    using small = shape<1, 2, 2, 8, 4>; /* 32 x 64, 48 KB */
    using even = shape<1, 2, 4, 8, 4>;  /* 64 x 32, 48 KB */
    using broad = shape<2, 4, 2, 8, 4>; /* 64 x 128, 96 KB */
    using big = shape<4, 4, 2, 8, 3>;   /* 128 x 128, 96 KB */
    const unsigned n_sm = (unsigned)cuda_of(dev)->n_sm;
    if (tiles_of<slim>(y, x) <= n_sm && run_kept<slim>(dev, y, x, w))
        return;
    if (x.R > 64 && tiles_of<tall>(y, x) >= 2 * n_sm && run_kept<tall>(dev, y, x, w))
        return;
    if (run_kept<flat>(dev, y, x, w))
        return;
    const bool has_96k = cuda_of(dev)->smem_bytes >= 97 * 1024;
    if (x.R <= 32)
        run<small>(dev, y, x, w);
    else if (y.n < 2048 || !has_96k)
        run<even>(dev, y, x, w);
    else if (y.n < 16384 || x.R <= 64)
        run<broad>(dev, y, x, w);
    else
        run<big>(dev, y, x, w);
}

template void linear_tile(struct dev *, const step_y<bf16> &, const step_x<bf16> &, const bf16 *);
template void linear_tile(struct dev *, const step_y<f16> &, const step_x<f16> &, const f16 *);
