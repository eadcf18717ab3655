/* linear: y = x w^T and its two gradients, dx = dy w and dw += dy^T x, as products of the library
 * behind gemm.cuh, and the handles that hold w.
 *
 * Handles: F32 is the master tensor itself, BF16 and F16 are dense copies of it, all in layout 0
 * (row-major). Operands of a product have one type; y may be f32 (logits).
 *
 * Each moves (mk + nk + mn) elements, and takes 2 mnk FLOPs. */
#include "cuda_ops.cuh"
#include "gemm.cuh"

size_t cuda_linear_plan(const struct dev *dev, const struct sizes *)
{
    return gemm_plan(dev);
}

size_t cuda_weight_bytes(const struct dev *, int n, int k, enum dtype dtype)
{
    return dtype == DT_F32 ? 0 : (size_t)n * (size_t)k * dtype_size(dtype);
}

void cuda_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src)
{
    assert(tensor_rows(src) == w->rows && tensor_cols(src) == w->cols);
    w->layout = 0;
    if (w->dtype == DT_F32) {
        assert(src->dtype == DT_F32 && tensor_is_dense(src));
        w->data = src->data;
        return;
    }
    struct tensor copy = tensor_of(w->data, w->dtype, 2, w->rows, w->cols, 0, 0);
    cuda_cast(dev, &copy, src);
}

/* y = x w^T */
static struct gemm fwd(struct tensor *y, const struct tensor *x, const struct weight *w)
{
    assert(tensor_cols(x) == w->cols && tensor_cols(y) == w->rows);
    assert(tensor_rows(x) == tensor_rows(y) && x->dtype == w->dtype);
    struct gemm g = {};
    g.m = tensor_rows(x);
    g.n = w->rows;
    g.k = w->cols;
    g.trans_b = true;
    g.dtype = x->dtype;
    g.c_dtype = y->dtype;
    g.a = x->data;
    g.lda = x->ld;
    g.b = w->data;
    g.ldb = w->cols;
    g.c = y->data;
    g.ldc = y->ld;
    g.alpha = 1;
    return g;
}

/* The same, and resid after it. */
static struct gemm resid_fwd(struct tensor *y, const struct tensor *resid, const struct tensor *x,
                             const struct weight *w, float scale)
{
    assert(tensor_rows(resid) == tensor_rows(y) && tensor_cols(resid) == tensor_cols(y));
    assert(resid->dtype == y->dtype);
    struct gemm g = fwd(y, x, w);
    g.alpha = scale;
    g.beta = 1;
    g.d = resid->data;
    g.ldd = resid->ld;
    return g;
}

void cuda_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w)
{
    const struct gemm g = fwd(y, x, w);
    gemm_run(dev, "linear_fwd", &g);
}

void cuda_linear_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *resid,
                           const struct tensor *x, const struct weight *w, float scale)
{
    const struct gemm g = resid_fwd(y, resid, x, w, scale);
    gemm_run(dev, "linear_resid_fwd", &g);
}

void cuda_linear_read(struct dev *dev, struct tensor *y, const struct tensor *x,
                      const struct weight *w)
{
    struct gemm g = fwd(y, x, w);
    g.is_by_rows = true;
    gemm_run(dev, "linear_read", &g);
}

void cuda_linear_resid_read(struct dev *dev, struct tensor *y, const struct tensor *resid,
                            const struct tensor *x, const struct weight *w, float scale)
{
    struct gemm g = resid_fwd(y, resid, x, w, scale);
    g.is_by_rows = true;
    gemm_run(dev, "linear_resid_read", &g);
}

void cuda_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                       const struct weight *w, bool add)
{
    assert(tensor_cols(dx) == w->cols && tensor_cols(dy) == w->rows);
    assert(tensor_rows(dx) == tensor_rows(dy) && dy->dtype == w->dtype);
    struct gemm g = {};
    g.m = tensor_rows(dy);
    g.n = w->cols;
    g.k = w->rows;
    g.dtype = dy->dtype;
    g.c_dtype = dx->dtype;
    g.a = dy->data;
    g.lda = dy->ld;
    g.b = w->data;
    g.ldb = w->cols;
    g.c = dx->data;
    g.ldc = dx->ld;
    g.d = dx->data;
    g.ldd = dx->ld;
    g.alpha = 1;
    g.beta = add ? 1.0f : 0.0f;
    gemm_run(dev, "linear_bwd_x", &g);
}

void cuda_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                       const struct tensor *x, enum dtype product)
{
    assert(tensor_rows(dw) == tensor_cols(dy) && tensor_cols(dw) == tensor_cols(x));
    assert(tensor_rows(dy) == tensor_rows(x) && dw->dtype == DT_F32);
    assert(dy->dtype == product && x->dtype == product);
    struct gemm g = {};
    g.m = tensor_cols(dy);
    g.n = tensor_cols(x);
    g.k = tensor_rows(x);
    g.trans_a = true;
    g.dtype = product;
    g.c_dtype = DT_F32;
    g.a = dy->data;
    g.lda = dy->ld;
    g.b = x->data;
    g.ldb = x->ld;
    g.c = dw->data;
    g.ldc = dw->ld;
    g.d = dw->data;
    g.ldd = dw->ld;
    g.alpha = 1;
    g.beta = 1;
    gemm_run(dev, "linear_bwd_w", &g);
}
