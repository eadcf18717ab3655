/* linear_step: products of a decode step, y = [resid + scale *] g(f(x) w^T) with f = RMSNorm (Zhang
 * & Sennrich 2019) or nothing, g = SwiGLU (Shazeer 2020) or nothing, for any number of rows; see
 * linear_step.cuh for the order of sums, which is the same for all.
 *
 * Up to SMALL_ROWS rows k_linear_step does all in one pass, bound by the weights: n k elements read
 * once, 2 R n k FLOPs. From there on, and for the head (WIDE_ROWS of w) sooner, linear_tile.cu
 * takes over, for fewer than NARROW_ROWS later; from 17 rows on linear_split.cu has plain products
 * with few rows of w. */
#include "cuda_ops.cuh"
#include "linear_step.cuh"

namespace
{
enum { SMALL_ROWS = 32, WIDE_ROWS = 16384, NARROW_ROWS = 1024 };

/* What a warp reads of x for 64 positions of k: rows g and g+8 of each 16-row tile, two octets. */
template <class TX, int MR> struct raw_x {
    octet<TX> o[2][MR][2];
};

template <class TX, int MR, bool WIDE>
__device__ __forceinline__ void load_x(raw_x<TX, MR> &raw, const step_x<TX> &x, int r0, int k0)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int at = k0 + i * 32 + lane_id() % 4 * 8;
                const int r = r0 + m * 16 + half * 8 + lane_id() / 4;
                raw.o[i][m][half] =
                    load_octet<TX, WIDE>(x.p + (int64_t)r * x.ld + at, r < x.R ? x.k - at : 0);
            }
}

/* The lane's 16 of the 64 norm weights. */
template <bool WIDE>
__device__ __forceinline__ void load_norm(octet<float> (&norm)[2], const float *norm_w, int k0,
                                          int k)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int at = k0 + i * 32 + lane_id() % 4 * 8;
        norm[i] = load_octet<float, WIDE>(norm_w + at, k - at);
    }
}

/* Rows 0 .. 8*NW-1 of the tile of w at k0 .. k0+63. */
template <class TW, class TX, int NW, bool WIDE>
__device__ __forceinline__ void load_w(octet<TW> (&b)[2][NW], const step_y<TX> &y, const TW *w,
                                       int n0, int k0, int k)
{
#pragma unroll
    for (int j = 0; j < NW; j++) {
        const TW *row = w + (int64_t)weight_row(y, n0, j * 8 + lane_id() / 4) * k;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int at = k0 + i * 32 + lane_id() % 4 * 8;
            b[i][j] = load_octet<TW, WIDE>(row + at, k - at);
        }
    }
}

/* Sums of one segment: c, and the squares of the tile's rows. */
template <class TW, class TX, class T, int MR, int NW, bool NORM, bool WIDE>
__device__ __forceinline__ void run_segment(frag_c (&c)[MR][NW], float (&squares)[MR][2],
                                            const step_y<TX> &y, const step_x<TX> &x,
                                            const TW *__restrict__ w, int n0, int r0, int k0)
{
    const int k1 = min(k0 + x.seg, x.k);
    octet<TW> b[2][NW], next[2][NW];
    octet<float> norm[2];
    load_w<TW, TX, NW, WIDE>(b, y, w, n0, k0, x.k);
    if (NORM)
        load_norm<WIDE>(norm, x.norm_w, k0, x.k);
    grid_wait();
    for (int k64 = k0; k64 < k1; k64 += 64) {
        raw_x<TX, MR> raw;
        load_x<TX, MR, WIDE>(raw, x, r0, k64);
        /* a normed row is as wide as the model: its segments are rarely longer than 64, and its
         * weights take the registers */
        if (NORM && k64 > k0) {
            load_w<TW, TX, NW, WIDE>(b, y, w, n0, k64, x.k);
            load_norm<WIDE>(norm, x.norm_w, k64, x.k);
        }
        if (!NORM && k64 + 64 < k1)
            load_w<TW, TX, NW, WIDE>(next, y, w, n0, k64 + 64, x.k);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int m = 0; m < MR; m++) {
                octet<T> a[2];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if (NORM)
                        a[half] = norm_octet<T, TX>(raw.o[i][m][half], norm[i], squares[m][half]);
                    else
                        a[half] = octet_cast<T, TX>::of(raw.o[i][m][half]);
                }
#pragma unroll
                for (int j = 0; j < NW; j++)
                    mma_octets<T>(c[m][j], a[0], a[1], octet_cast<T, TW>::of(b[i][j]));
            }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < NW && !NORM; j++)
                b[i][j] = next[i][j];
    }
}

/* Row distance of the segments' sums in shared memory. */
__host__ __device__ constexpr int part_ld(int NW)
{
    return NW == 1 ? 8 : NW * 8 + 8;
}

/* One block 8*NW rows of w and 16*MR rows of x, a warp a segment of k. Shared memory: S * 16*MR *
 * (part_ld(NW) + 1) floats. WIDE: k % 64 == 0, rows aligned to 16 bytes. Reads n k weights once for
 * each 16*MR rows, in a first wave of 2*NW loads of 16 bytes a lane before x is looked at; x is
 * read again by every block, out of L2: R k n / (8 NW) elements. 2 R n k FLOPs. */
template <class TW, class TX, class T, int MR, int NW, bool NORM, bool WIDE>
__global__ void __launch_bounds__(512, 1)
    k_linear_step(step_y<TX> y, step_x<TX> x, const TW *__restrict__ w)
{
    constexpr int ROWS = 16 * MR, LD = part_ld(NW);
    SHARED_DYN(float, part);
    grid_release();
    const int warp = (int)threadIdx.x / 32, lane = lane_id(), n_segments = (int)blockDim.x / 32;
    const int cols = y.is_glu ? 4 * NW : 8 * NW;
    const int n0 = (int)blockIdx.x * cols, r0 = (int)blockIdx.y * ROWS;
    float *part_squares = part + n_segments * ROWS * LD;
    frag_c c[MR][NW] = {};
    float squares[MR][2] = {};
    run_segment<TW, TX, T, MR, NW, NORM, WIDE>(c, squares, y, x, w, n0, r0, warp * x.seg);
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = m * 16 + half * 8 + lane / 4;
            float *to = part + (warp * ROWS + r) * LD + lane % 4 * 2;
            const float sum = NORM ? quad_sum(squares[m][half]) : 0.0f;
            if (r0 + r >= x.R)
                continue;
#pragma unroll
            for (int j = 0; j < NW; j++)
                *reinterpret_cast<float2 *>(to + j * 8) =
                    float2{c[m][j].r[2 * half], c[m][j].r[2 * half + 1]};
            if (NORM && lane % 4 == 0)
                part_squares[warp * ROWS + r] = sum;
        }
    __syncthreads();
    const int rows = min(ROWS, x.R - r0);
    for (int i = (int)threadIdx.x; i < rows * cols; i += (int)blockDim.x) {
        const int r = i / cols, col = i % cols, at = y.is_glu ? col / 8 * 16 + col % 8 : col;
        float sum = 0, up = 0, row_squares = 0;
        for (int s = 0; s < n_segments; s++) {
            const float *from = part + (s * ROWS + r) * LD + at;
            sum += from[0];
            up += y.is_glu ? from[8] : 0.0f;
            row_squares += NORM ? part_squares[s * ROWS + r] : 0.0f;
        }
        const float rstd = NORM ? inverse_rms(row_squares, x.k, y.eps) : 1.0f;
        float v = __fmul_rn(sum, rstd);
        if (y.is_glu)
            v = glu<T>(v, __fmul_rn(up, rstd));
        if (n0 + col < y.n)
            step_store(y, r0 + r, n0 + col, v);
    }
}

template <class TW, class TX, int MR, int NW, bool WIDE>
void run(struct dev *dev, const step_y<TX> &y, const step_x<TX> &x, const TW *w)
{
    using T = step_type<TW, TX>;
    const int S = step_segments(x.k), cols = y.is_glu ? 4 * NW : 8 * NW;
    const size_t smem = sizeof(float) * (size_t)(S * 16 * MR * (part_ld(NW) + 1));
    const dim3 grid(blocks_for(y.n, cols), blocks_for(x.R, 16 * MR));
    auto kernel = k_linear_step<TW, TX, T, MR, NW, true, WIDE>;
    if constexpr (NW <= 4)
        kernel = x.norm_w ? kernel : k_linear_step<TW, TX, T, MR, NW, false, WIDE>;
    assert(NW <= 4 || x.norm_w); /* the other would spill */
    launch_early(dev, "linear_step", kernel, grid, 32 * S, smem, y, x, w);
}

/* Up to 16 rows, of 16-bit elements: a block takes 16, 32 or, where the blocks are more than
 * multiprocessors, 48 rows of w. Without a norm, whose weights come in one piece, 48 want more
 * registers than there are. */
template <class T> void run_few(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const int rows_of_w = y.is_glu ? 2 * y.n : y.n;
    if (rows_of_w < 2048)
        run<T, T, 1, 2, true>(dev, y, x, w);
    else if (rows_of_w <= 32 * cuda_of(dev)->n_sm || !x.norm_w)
        run<T, T, 1, 4, true>(dev, y, x, w);
    else
        run<T, T, 1, 6, true>(dev, y, x, w);
}

/* 16-bit elements, wide: the more rows of w there are, the more of them a block takes. */
template <class T>
void run_wide(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const int rows_of_w = y.is_glu ? 2 * y.n : y.n;
    if (x.R <= 16)
        run_few(dev, y, x, w);
    else if (linear_split(dev, y, x, w))
        return;
    else if (x.R > (rows_of_w < NARROW_ROWS ? 2 : 1) * SMALL_ROWS || rows_of_w >= WIDE_ROWS)
        linear_tile(dev, y, x, w);
    else if (rows_of_w < 2048 && !y.is_glu)
        run<T, T, 2, 1, true>(dev, y, x, w);
    else
        run<T, T, 2, 2, true>(dev, y, x, w);
}

/* Whether columns 2i and 2i+1 lie in one aligned access. */
bool has_pairs(const struct tensor *t)
{
    return (uintptr_t)t->data % (2 * dtype_size(t->dtype)) == 0 && t->ld % 2 == 0;
}

template <class TW, class TX>
void run_typed(struct dev *dev, struct tensor *ty, const struct tensor *tx, const struct weight *tw,
               const struct step_fuse *f)
{
    const step_x<TX> x = {
        (const TX *)tx->data, tx->ld,   f->norm_w ? (const float *)f->norm_w->data : NULL,
        (int)tensor_rows(tx), tw->cols, step_segment(tw->cols)};
    const bool is_paired = has_pairs(ty) && (!f->resid || has_pairs(f->resid));
    const step_y<TX> y = {ty->data,
                          ty->ld,
                          f->resid ? (const TX *)f->resid->data : NULL,
                          f->resid ? f->resid->ld : 0,
                          f->scale,
                          f->eps,
                          (int)tensor_cols(ty),
                          ty->dtype == DT_F32,
                          f->is_glu,
                          is_paired};
    const TW *w = (const TW *)tw->data;
    const bool is_wide = x.k % 64 == 0 && has_wide_rows(tx) && (uintptr_t)w % 16 == 0 &&
                         (uintptr_t)x.norm_w % 16 == 0;
    if constexpr (sizeof(TW) == 2 && std::is_same<TW, TX>::value) {
        if (is_wide)
            return run_wide<TX>(dev, y, x, w);
    }
    if constexpr (sizeof(TW) == 4 && sizeof(TX) == 4) {
        if (is_wide)
            return run<TW, TX, 1, 2, true>(dev, y, x, w);
    }
    run<TW, TX, 1, 2, false>(dev, y, x, w);
}
} /* namespace */

void cuda_linear_step_fused(struct dev *dev, struct tensor *y, const struct tensor *x,
                            const struct weight *w, const struct step_fuse *fuse)
{
    assert(tensor_cols(x) == w->cols && (fuse->is_glu ? 2 : 1) * tensor_cols(y) == w->rows);
    assert(tensor_rows(y) == tensor_rows(x));
    assert(y->dtype == DT_F32 || y->dtype == x->dtype);
    with_type(w->dtype, [&](auto w_type) {
        with_type(x->dtype, [&](auto x_type) {
            run_typed<decltype(w_type), decltype(x_type)>(dev, y, x, w, fuse);
        });
    });
}

void cuda_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                      const struct weight *w)
{
    const struct step_fuse plain = {};
    cuda_linear_step_fused(dev, y, x, w, &plain);
}
