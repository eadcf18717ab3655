/* linear_step: products of a decode step, y = [resid + scale *] f(x) w^T with f = RMSNorm (Zhang &
 * Sennrich 2019), SwiGLU (Shazeer 2020) or nothing, for 1 to 256 rows; see linear_step.cuh for the
 * order of sums, which is the same for any number of rows.
 *
 * Up to 32 rows k_linear_step does all in one pass, bound by the weights: n k elements read once, 2
 * R n k FLOPs. SwiGLU of more than 8 rows and RMSNorm of more than 32 are made once in a pass of
 * their own, since every block would repeat them, and past 32 rows linear_tile.cu takes over. */
#include "cuda_ops.cuh"
#include "linear_step.cuh"
#include "step_plan.cuh"

namespace
{
enum { SMALL_ROWS = 32, SWIGLU_ROWS = 8 };

/* x' of 16-bit elements, then the squares of its segments. */
size_t made_bytes(int R, int k)
{
    return (size_t)R * ((size_t)k * 2 + 16 * sizeof(float));
}

/* The raw octets of rows g and g+8 of a 16-row tile at one 32-wide block of k. */
template <class TX, int PRO> struct raw_pair {
    octet<TX> x[2], up[PRO == STEP_SWIGLU ? 2 : 1];
};

template <class TX, int PRO, bool WIDE>
__device__ __forceinline__ raw_pair<TX, PRO> load_pair(const step_x<TX> &x, int r0, int k0)
{
    const int at = k0 + lane_id() % 4 * 8;
    raw_pair<TX, PRO> raw;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = r0 + half * 8 + lane_id() / 4, left = r < x.R ? x.k - at : 0;
        const TX *from = x.p + (int64_t)r * x.ld + at;
        raw.x[half] = load_octet<TX, WIDE>(from, left);
        if (PRO == STEP_SWIGLU)
            raw.up[half] = load_octet<TX, WIDE>(from + x.k, left);
    }
    return raw;
}

/* f of the octets, in the product's type; squares as norm_octet. */
template <class T, class TX, int PRO, bool WIDE>
__device__ __forceinline__ void ready_pair(octet<T> (&a)[2], float (&squares)[2],
                                           const raw_pair<TX, PRO> &raw, const step_x<TX> &x,
                                           int k0)
{
    const int at = k0 + lane_id() % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (PRO == STEP_PLAIN) {
            a[half] = octet_cast<T, TX>::of(raw.x[half]);
            continue;
        }
        float f[8];
        unpack(f, raw.x[half]);
        if (PRO == STEP_NORM) {
            norm_octet<WIDE>(f, squares[half], x.norm_w + at, x.k - at);
        } else {
            float up[8];
            unpack(up, raw.up[PRO == STEP_SWIGLU ? half : 0]);
            swiglu_octet<T>(f, up);
        }
        a[half] = to_octet<T>(f);
    }
}

/* SwiGLU of a tile's only row: each lane makes one element of the 32, then the first quad collects
 * its octets. */
template <class T, class TX>
__device__ __forceinline__ void swiglu_one(octet<T> (&a)[2], const step_x<TX> &x, int r, int k0)
{
    const int lane = lane_id(), at = k0 + lane % 4 * 8 + lane / 4;
    const TX *from = x.p + (int64_t)r * x.ld + at;
    float v = 0, f[8];
    if (at < x.k)
        v = __fmul_rn(step_silu<T>(to_f32(from[0])), to_f32(from[x.k]));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float other = __shfl_sync(0xffffffffu, v, i * 4 + lane % 4);
        f[i] = lane < 4 ? other : 0.0f;
    }
    a[0] = to_octet<T>(f);
#pragma unroll
    for (int i = 0; i < 8; i++)
        f[i] = 0;
    a[1] = to_octet<T>(f);
}

/* Rows n0 .. n0+8*NW-1 of w at k0 .. k0+63; rows past the end repeat the last. */
template <class TW, int NW, bool WIDE>
__device__ __forceinline__ void load_w(octet<TW> (&b)[2][NW], const TW *w, int n0, int n, int k0,
                                       int k)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < NW; j++) {
            const int row = min(n0 + j * 8 + lane_id() / 4, n - 1);
            const int at = k0 + i * 32 + lane_id() % 4 * 8;
            b[i][j] = load_octet<TW, WIDE>(w + (int64_t)row * k + at, k - at);
        }
}

/* Sums of one segment: c, and the squares of the tile's rows. */
template <class TW, class TX, class T, int MR, int NW, int PRO, bool WIDE>
__device__ __forceinline__ void run_segment(frag_c (&c)[MR][NW], float (&squares)[MR][2],
                                            const step_x<TX> &x, const TW *__restrict__ w, int n0,
                                            int n, int r0, int k0)
{
    const int k1 = min(k0 + x.seg, x.k);
    octet<TW> b[2][NW], next[2][NW];
    load_w<TW, NW, WIDE>(b, w, n0, n, k0, x.k);
    grid_wait();
    for (int k64 = k0; k64 < k1; k64 += 64) {
        /* a normed row is as wide as the model: its segments are rarely longer than 64, and its
         * weights take the registers */
        if (PRO == STEP_NORM && k64 > k0)
            load_w<TW, NW, WIDE>(b, w, n0, n, k64, x.k);
        if (PRO != STEP_NORM && k64 + 64 < k1)
            load_w<TW, NW, WIDE>(next, w, n0, n, k64 + 64, x.k);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int m = 0; m < MR; m++) {
                const int at = k64 + i * 32;
                octet<T> a[2];
                if (PRO == STEP_SWIGLU && x.R - r0 == 1) {
                    swiglu_one<T, TX>(a, x, r0, at);
                } else {
                    const auto raw = load_pair<TX, PRO, WIDE>(x, r0 + m * 16, at);
                    ready_pair<T, TX, PRO, WIDE>(a, squares[m], raw, x, at);
                }
#pragma unroll
                for (int j = 0; j < NW; j++)
                    mma_octets<T>(c[m][j], a[0], a[1], octet_cast<T, TW>::of(b[i][j]));
            }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < NW && PRO != STEP_NORM; j++)
                b[i][j] = next[i][j];
    }
}

/* Row distance of the segments' sums in shared memory. */
__host__ __device__ constexpr int part_ld(int NW)
{
    return NW == 1 ? 8 : NW * 8 + 8;
}

/* Threads that a block's registers suffice for. */
constexpr int max_threads(int MR, int NW, int PRO)
{
    return MR == 2 && NW >= (PRO == STEP_NORM ? 2 : 4) ? 256 : 512;
}

/* One block 8*NW columns of y (rows of w) and 16*MR rows, a warp a segment of k. Shared memory: S *
 * 16*MR * (part_ld(NW) + 1) floats. WIDE: k % 64 == 0, rows aligned to 16 bytes. Reads n k weights
 * once for each 16*MR rows, in a first wave of 2*NW loads of 16 bytes a lane before x is looked at;
 * x is read again by every block, out of L2: R k n / (8 NW) elements. 2 R n k FLOPs. */
template <class TW, class TX, class T, int MR, int NW, int PRO, bool WIDE>
__global__ void __launch_bounds__(max_threads(MR, NW, PRO), 1)
    k_linear_step(step_y<TX> y, step_x<TX> x, const TW *__restrict__ w)
{
    constexpr int ROWS = 16 * MR, LD = part_ld(NW);
    SHARED_DYN(float, part);
    grid_release();
    const int warp = (int)threadIdx.x / 32, lane = lane_id(), n_segments = (int)blockDim.x / 32;
    const int n0 = (int)blockIdx.x * 8 * NW, r0 = (int)blockIdx.y * ROWS;
    float *part_squares = part + n_segments * ROWS * LD;
    frag_c c[MR][NW] = {};
    float squares[MR][2] = {};
    run_segment<TW, TX, T, MR, NW, PRO, WIDE>(c, squares, x, w, n0, y.n, r0, warp * x.seg);
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = m * 16 + half * 8 + lane / 4;
            float *to = part + (warp * ROWS + r) * LD + lane % 4 * 2;
            const float sum = PRO == STEP_NORM ? quad_sum(squares[m][half]) : 0.0f;
            if (r0 + r >= x.R)
                continue;
#pragma unroll
            for (int j = 0; j < NW; j++)
                *reinterpret_cast<float2 *>(to + j * 8) =
                    float2{c[m][j].r[2 * half], c[m][j].r[2 * half + 1]};
            if (PRO == STEP_NORM && lane % 4 == 0)
                part_squares[warp * ROWS + r] = sum;
        }
    __syncthreads();
    const int rows = min(ROWS, x.R - r0);
    for (int i = (int)threadIdx.x; i < rows * 8 * NW; i += (int)blockDim.x) {
        const int r = i / (8 * NW), col = i % (8 * NW);
        float sum = 0, row_squares = 0;
        for (int s = 0; s < n_segments; s++) {
            sum += part[(s * ROWS + r) * LD + col];
            if (PRO == STEP_NORM)
                row_squares += part_squares[s * ROWS + r];
        }
        const float rstd = PRO == STEP_NORM ? inverse_rms(row_squares, x.k, y.eps) : 1.0f;
        if (n0 + col < y.n)
            step_store(y, r0 + r, n0 + col, sum, rstd);
    }
}

/* x' (R,k) = x times norm_w, and the squares (S,R) of each segment. One block 8 rows, a warp a
 * segment. Reads and writes R k elements. */
template <class T>
__global__ void __launch_bounds__(512) k_step_norm(T *__restrict__ to, float *squares, step_x<T> x)
{
    const int warp = (int)threadIdx.x / 32, lane = lane_id();
    const int r = (int)blockIdx.x * 8 + lane / 4, k1 = min((warp + 1) * x.seg, x.k);
    grid_release();
    grid_wait();
    float sum = 0;
    for (int at = warp * x.seg + lane % 4 * 8; at < k1; at += 32) {
        float f[8];
        unpack(f, load_octet<T, true>(x.p + (int64_t)r * x.ld + at, r < x.R));
        norm_octet<true>(f, sum, x.norm_w + at, 8);
        if (r < x.R)
            store_octet(to + (int64_t)r * x.k + at, to_octet<T>(f));
    }
    sum = quad_sum(sum);
    if (r < x.R && lane % 4 == 0)
        squares[warp * x.R + r] = sum;
}

/* x' (R,k) = SwiGLU of x (R,2k), a thread an octet. Reads 2 R k elements, writes R k. */
template <class T>
__global__ void __launch_bounds__(256) k_step_swiglu(T *__restrict__ to, step_x<T> x)
{
    const int per_row = x.k / 8, i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    const int r = i / per_row, at = i % per_row * 8;
    grid_release();
    grid_wait();
    if (r >= x.R)
        return;
    const T *from = x.p + (int64_t)r * x.ld + at;
    float gate[8], up[8];
    unpack(gate, load_octet<T, true>(from, 8));
    unpack(up, load_octet<T, true>(from + x.k, 8));
    swiglu_octet<T>(gate, up);
    store_octet(to + (int64_t)r * x.k + at, to_octet<T>(gate));
}

template <class TW, class TX, int MR, int NW, int PRO, bool WIDE>
void run(struct dev *dev, const step_y<TX> &y, const step_x<TX> &x, const TW *w)
{
    using T = step_type<TW, TX>;
    const int S = step_segments(x.k);
    const size_t smem = sizeof(float) * (size_t)(S * 16 * MR * (part_ld(NW) + 1));
    launch_early(dev, "linear_step", k_linear_step<TW, TX, T, MR, NW, PRO, WIDE>,
                 dim3(blocks_for(y.n, 8 * NW), blocks_for(x.R, 16 * MR)), 32 * S, smem, y, x, w);
}

/* Up to SMALL_ROWS rows of 16-bit elements: more columns a block where there are enough of them to
 * fill the GPU all the same. */
template <class T, int PRO>
void run_small(struct dev *dev, const step_y<T> &y, const step_x<T> &x, const T *w)
{
    const bool fits = step_segments(x.k) * 32 <= 256;
    if (x.R <= 16 && y.n < 2048)
        run<T, T, 1, 1, PRO, true>(dev, y, x, w);
    else if (x.R <= 16 && y.n < 16384)
        run<T, T, 1, 2, PRO, true>(dev, y, x, w);
    else if (x.R <= 16)
        run<T, T, 1, 4, PRO, true>(dev, y, x, w);
    else if (y.n >= 4096 && fits)
        run<T, T, 2, 4, PRO, true>(dev, y, x, w);
    else if (y.n >= 2048 && (fits || PRO == STEP_PLAIN))
        run<T, T, 2, 2, PRO, true>(dev, y, x, w);
    else
        run<T, T, 2, 1, PRO, true>(dev, y, x, w);
}

/* 16-bit elements, wide. */
template <class T>
void run_wide(struct dev *dev, const step_y<T> &y, step_x<T> x, const T *w, int prologue)
{
    T *made = (T *)dev->work;
    float *squares = (float *)(made + (size_t)x.R * (size_t)x.k);
    if (prologue == STEP_SWIGLU && x.R <= SWIGLU_ROWS)
        return run<T, T, 1, 1, STEP_SWIGLU, true>(dev, y, x, w);
    if (prologue == STEP_NORM && x.R <= SMALL_ROWS)
        return run_small<T, STEP_NORM>(dev, y, x, w);
    if (prologue != STEP_PLAIN) {
        assert(dev->work_bytes >= made_bytes(x.R, x.k));
        if (prologue == STEP_NORM)
            launch_early(dev, "linear_step", k_step_norm<T>, blocks_for(x.R, 8),
                         32 * step_segments(x.k), 0, made, squares, x);
        else
            launch_early(dev, "linear_step", k_step_swiglu<T>,
                         blocks_for((int64_t)x.R * x.k / 8, 256), 256, 0, made, x);
        x.p = made;
        x.ld = x.k;
    }
    if (x.R <= SMALL_ROWS)
        run_small<T, STEP_PLAIN>(dev, y, x, w);
    else
        linear_tile(dev, y, x, w, prologue == STEP_NORM ? squares : NULL);
}

/* Any types, sizes and addresses. */
template <class TW, class TX, bool WIDE>
void run_any(struct dev *dev, const step_y<TX> &y, const step_x<TX> &x, const TW *w, int prologue)
{
    if (prologue == STEP_NORM)
        run<TW, TX, 1, 1, STEP_NORM, WIDE>(dev, y, x, w);
    else if (prologue == STEP_SWIGLU)
        run<TW, TX, 1, 1, STEP_SWIGLU, WIDE>(dev, y, x, w);
    else
        run<TW, TX, 1, 1, STEP_PLAIN, WIDE>(dev, y, x, w);
}

template <class TW, class TX>
void run_typed(struct dev *dev, struct tensor *ty, const struct tensor *tx, const struct weight *tw,
               const struct step_fuse *f)
{
    const int prologue = f->norm_w ? STEP_NORM : f->is_swiglu ? STEP_SWIGLU : STEP_PLAIN;
    const step_x<TX> x = {
        (const TX *)tx->data, tx->ld,   f->norm_w ? (const float *)f->norm_w->data : NULL,
        (int)tensor_rows(tx), tw->cols, step_segment(tw->cols)};
    const step_y<TX> y = {ty->data,
                          ty->ld,
                          f->resid ? (const TX *)f->resid->data : NULL,
                          f->resid ? f->resid->ld : 0,
                          f->scale,
                          f->eps,
                          tw->rows,
                          ty->dtype == DT_F32};
    const TW *w = (const TW *)tw->data;
    const bool is_wide = x.k % 64 == 0 && has_wide_rows(tx) && (uintptr_t)w % 16 == 0 &&
                         (uintptr_t)x.norm_w % 16 == 0;
    if constexpr (sizeof(TW) == 2 && std::is_same<TW, TX>::value) {
        if (is_wide)
            return run_wide<TX>(dev, y, x, w, prologue);
    }
    if constexpr (sizeof(TW) == 4 && sizeof(TX) == 4) {
        if (is_wide)
            return run_any<TW, TX, true>(dev, y, x, w, prologue);
    }
    run_any<TW, TX, false>(dev, y, x, w, prologue);
}
} /* namespace */

size_t cuda_linear_step_plan(const struct dev *dev, const struct sizes *s)
{
    const int E = s->H * s->P, k = s->D > s->F ? s->D : s->F;
    return dev->act_dtype == DT_F32 ? 0 : made_bytes(s->R, E > k ? E : k);
}

void cuda_linear_step_fused(struct dev *dev, struct tensor *y, const struct tensor *x,
                            const struct weight *w, const struct step_fuse *fuse)
{
    assert(tensor_cols(x) == (fuse->is_swiglu ? 2 : 1) * w->cols && tensor_cols(y) == w->rows);
    assert(!(fuse->norm_w && fuse->is_swiglu) && tensor_rows(y) == tensor_rows(x));
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
