/* linear: y = x w^T, its two gradients, the handles that hold w, and the product of a decode step.
 *
 * Handles: F32 is the master tensor itself, BF16 a dense copy of it, both in layout 0 (row-major).
 *
 * The step reads each weight once, whatever the number of rows R, and is bound by memory. Its sums
 * have one order, set by k alone: lane l of a vector adds the elements l, l + W, l + 2W ... up to
 * the last whole vector, the lanes are added pairwise, then the rest one by one. */
#include "cpu_ops.h"
#include "gemm.h"

#include <assert.h>

size_t cpu_linear_plan(const struct dev *dev, const struct sizes *s)
{
    return cpu_gemm_plan(dev, s->dtype);
}

size_t cpu_weight_bytes(const struct dev *dev, int n, int k, enum dtype dtype)
{
    return dtype == DT_BF16 ? (size_t)n * (size_t)k * sizeof(uint16_t) : 0;
}

struct fill_job {
    struct weight *w;
    const struct tensor *src;
};

static void fill_worker(void *arg, int worker, int n_workers)
{
    const struct fill_job *job = arg;
    const struct tensor *src = job->src;
    const int64_t k = job->w->cols;
    size_t begin, end;
    pool_share((size_t)job->w->rows, 1, worker, n_workers, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        uint16_t *to = (uint16_t *)job->w->data + r * (size_t)k;
        if (src->dtype == DT_BF16) {
            memcpy(to, (const uint16_t *)src->data + (int64_t)r * src->ld, (size_t)k * sizeof *to);
            continue;
        }
        const float *from = row(src, (int64_t)r);
        for (int64_t c = 0; c < k; c++)
            to[c] = bf16_from_f32(from[c]);
    }
}

void cpu_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src)
{
    assert(tensor_rows(src) == w->rows && tensor_cols(src) == w->cols);
    w->layout = 0;
    if (w->dtype == DT_F32) {
        assert(src->dtype == DT_F32 && tensor_is_dense(src));
        w->data = src->data;
        return;
    }
    struct fill_job job = {w, src};
    run_sized(dev, (int64_t)w->rows * w->cols, fill_worker, &job);
}

static struct gemm fwd(const struct tensor *y, const struct tensor *x, const struct weight *w)
{
    assert(tensor_cols(x) == w->cols && tensor_cols(y) == w->rows);
    assert(tensor_rows(x) == tensor_rows(y) && y->dtype == DT_F32 && x->dtype == DT_F32);
    return (struct gemm){.m = tensor_rows(x),
                         .n = w->rows,
                         .k = w->cols,
                         .trans_b = true,
                         .product = w->dtype,
                         .b_dtype = w->dtype,
                         .a = x->data,
                         .lda = x->ld,
                         .b = w->data,
                         .ldb = w->cols,
                         .c = y->data,
                         .ldc = y->ld};
}

void cpu_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct weight *w)
{
    const struct gemm g = fwd(y, x, w);
    cpu_gemm(dev, &g);
}

void cpu_linear_read(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w)
{
    struct gemm g = fwd(y, x, w);
    g.is_by_rows = true;
    cpu_gemm(dev, &g);
}

void cpu_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                      const struct weight *w, bool add)
{
    assert(tensor_cols(dx) == w->cols && tensor_cols(dy) == w->rows);
    assert(tensor_rows(dx) == tensor_rows(dy));
    const struct gemm g = {.m = tensor_rows(dy),
                           .n = w->cols,
                           .k = w->rows,
                           .add = add,
                           .product = w->dtype,
                           .b_dtype = w->dtype,
                           .a = dy->data,
                           .lda = dy->ld,
                           .b = w->data,
                           .ldb = w->cols,
                           .c = dx->data,
                           .ldc = dx->ld};
    cpu_gemm(dev, &g);
}

void cpu_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                      const struct tensor *x, enum dtype product)
{
    assert(tensor_rows(dw) == tensor_cols(dy) && tensor_cols(dw) == tensor_cols(x));
    assert(tensor_rows(dy) == tensor_rows(x));
    const struct gemm g = {.m = tensor_cols(dy),
                           .n = tensor_cols(x),
                           .k = tensor_rows(x),
                           .trans_a = true,
                           .add = true,
                           .product = product,
                           .b_dtype = DT_F32,
                           .a = dy->data,
                           .lda = dy->ld,
                           .b = x->data,
                           .ldb = x->ld,
                           .c = dw->data,
                           .ldc = dw->ld};
    cpu_gemm(dev, &g);
}

/* --- the decode step --- */

#if defined(__AVX512F__)
enum { LANES = 16, ROWS_AT_ONCE = 4 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS_AT_ONCE = 2 };
#else
enum { LANES = 4, ROWS_AT_ONCE = 2 };
#endif
enum { OUTS_AT_ONCE = 4 };
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float vec_4 __attribute__((vector_size(16)));
typedef uint32_t vec_u32 __attribute__((vector_size(LANES * 4)));
typedef uint16_t vec_u16 __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

static inline __attribute__((always_inline)) vec weight_vec(const void *w, int64_t i, bool is_bf16)
{
    if (!is_bf16)
        return *(const vec *)((const float *)w + i);
    const vec_u16 h = *(const vec_u16 *)((const uint16_t *)w + i);
    return (vec)(__builtin_convertvector(h, vec_u32) << 16);
}

/* Adds the lanes pairwise, then the elements of the last, partial vector. */
static inline float finish(vec sum, const float *x, const void *w, bool is_bf16, int64_t k)
{
    vec_4 part[LANES / 4];
    memcpy(part, &sum, sizeof part);
    for (int half = LANES / 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            part[l] += part[l + half];
    float total = (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
    for (int64_t i = k / LANES * LANES; i < k; i++)
        total += x[i] * (is_bf16 ? bf16_to_f32(((const uint16_t *)w)[i]) : ((const float *)w)[i]);
    return total;
}

/* y[r][j] = x[r] . w[j] for n_rows rows and n_outs outputs; called with constants, so that the sums
 * stay in registers. The first rows to meet a block of weights fetch the next block meanwhile:
 * short rows end before the processor has seen that they are streams. */
static inline __attribute__((always_inline)) void
step_tile(const struct tensor *y, const struct tensor *x, const struct weight *w, int64_t r0,
          int64_t j0, int n_rows, int n_outs, bool is_bf16)
{
    const int64_t k = w->cols, n_vec = k / LANES * LANES;
    const char *weights = (const char *)w->data + (size_t)(j0 * k) * (is_bf16 ? 2 : 4);
    const int64_t stride = k * (is_bf16 ? 2 : 4);
    vec sum[ROWS_AT_ONCE][OUTS_AT_ONCE] = {0};
    for (int64_t i = 0; i < n_vec; i += LANES) {
        vec xv[ROWS_AT_ONCE];
        for (int r = 0; r < n_rows; r++)
            xv[r] = *(const vec *)(row(x, r0 + r) + i);
        for (int j = 0; j < n_outs; j++) {
            if (r0 == 0)
                __builtin_prefetch(weights + (j + n_outs) * stride + i * (is_bf16 ? 2 : 4));
            const vec wv = weight_vec(weights + j * stride, i, is_bf16);
            for (int r = 0; r < n_rows; r++)
                sum[r][j] += xv[r] * wv;
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int j = 0; j < n_outs; j++)
            row(y, r0 + r)[j0 + j] =
                finish(sum[r][j], row(x, r0 + r), weights + j * stride, is_bf16, k);
}

/* All rows against n_outs outputs, which stay in the first cache meanwhile. */
static inline __attribute__((always_inline)) void step_outs(const struct tensor *y,
                                                            const struct tensor *x,
                                                            const struct weight *w, int64_t j0,
                                                            int n_outs, bool is_bf16)
{
    const int64_t R = tensor_rows(x);
    int64_t r = 0;
    for (; r + ROWS_AT_ONCE <= R; r += ROWS_AT_ONCE)
        step_tile(y, x, w, r, j0, ROWS_AT_ONCE, n_outs, is_bf16);
    for (; r < R; r++)
        step_tile(y, x, w, r, j0, 1, n_outs, is_bf16);
}

static inline __attribute__((always_inline)) void step_share(const struct tensor *y,
                                                             const struct tensor *x,
                                                             const struct weight *w, int64_t begin,
                                                             int64_t end, bool is_bf16)
{
    int64_t j = begin;
    for (; j + OUTS_AT_ONCE <= end; j += OUTS_AT_ONCE)
        step_outs(y, x, w, j, OUTS_AT_ONCE, is_bf16);
    for (; j < end; j++)
        step_outs(y, x, w, j, 1, is_bf16);
}

struct step_job {
    const struct tensor *y, *x;
    const struct weight *w;
};

static void step_worker(void *arg, int worker, int n_workers)
{
    const struct step_job *job = arg;
    size_t begin, end;
    pool_share((size_t)job->w->rows, 2 * OUTS_AT_ONCE, worker, n_workers, &begin, &end);
    if (job->w->dtype == DT_BF16)
        step_share(job->y, job->x, job->w, (int64_t)begin, (int64_t)end, true);
    else
        step_share(job->y, job->x, job->w, (int64_t)begin, (int64_t)end, false);
}

void cpu_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w)
{
    assert(tensor_cols(x) == w->cols && tensor_cols(y) == w->rows);
    assert(tensor_rows(x) == tensor_rows(y) && y->dtype == DT_F32 && x->dtype == DT_F32);
    struct step_job job = {y, x, w};
    run_sized(dev, (int64_t)w->rows * w->cols / 4, step_worker, &job);
}
