/* rmsnorm: y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps); Zhang & Sennrich 2019, equation 4.
 * Kernels and their formulas are in norm.cuh. */
#include "cuda_ops.cuh"
#include "norm.cuh"

static bool is_aligned(const struct tensor *w)
{
    return (uintptr_t)w->data % 16 == 0;
}

void cuda_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd, const struct tensor *x,
                      const struct tensor *w, float eps)
{
    const int64_t M = tensor_rows(x), D = tensor_cols(x);
    assert(tensor_cols(y) == D && tensor_cols(w) == D);
    const bool is_wide = has_wide_rows(y) && has_wide_rows(x) && is_aligned(w);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        const norm_fwd_args<T> args = {mat_of<T>(y),           rstd, cmat_of<T>(x), {},
                                       (const float *)w->data, M,    (int)D,        eps};
        run_norm_fwd<T, false>(dev, "rmsnorm_fwd", args, is_wide);
    });
}

void cuda_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                      const struct tensor *dy, const struct tensor *x, const float *rstd,
                      const struct tensor *w)
{
    const int64_t M = tensor_rows(x), D = tensor_cols(x);
    assert(tensor_cols(dx) == D && tensor_cols(dy) == D && tensor_cols(w) == D);
    const bool is_wide =
        has_wide_rows(dx) && has_wide_rows(dy) && has_wide_rows(x) && is_aligned(w);
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        const norm_bwd_args<T> args = {mat_of<T>(dx),
                                       {},
                                       cmat_of<T>(dy),
                                       cmat_of<T>(x),
                                       {},
                                       rstd,
                                       (const float *)w->data,
                                       nullptr,
                                       M,
                                       (int)D,
                                       0};
        run_norm_bwd<T, false>(dev, "rmsnorm_bwd", args, is_wide, (float *)dw->data);
    });
}

size_t cuda_norm_plan(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    const int64_t M = (int64_t)s->B * s->T, E = (int64_t)s->H * s->P;
    const int64_t ranges = (M + NORM_RANGE_MIN - 1) / NORM_RANGE_MIN;
    const int64_t most = ranges < NORM_RANGES ? ranges : NORM_RANGES;
    return (size_t)most * (size_t)(s->D > E ? s->D : E) * sizeof(float);
}
