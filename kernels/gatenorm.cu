/* gatenorm: the gated RMSNorm of Mamba-2, gate before norm: v = y silu(z), out = w * v * rstd, over
 * all E channels. Kernels and their formulas are in norm.cuh. */
#include "cuda_ops.cuh"
#include "norm.cuh"

void cuda_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd, const struct tensor *y,
                       const struct tensor *z, const struct tensor *w, float eps)
{
    const int64_t M = tensor_rows(y), E = tensor_cols(y);
    assert(tensor_cols(out) == E && tensor_cols(z) == E && tensor_cols(w) == E);
    const bool is_wide =
        has_wide_rows(out) && has_wide_rows(y) && has_wide_rows(z) && (uintptr_t)w->data % 16 == 0;
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        const norm_fwd_args<T> args = {mat_of<T>(out),         rstd, cmat_of<T>(y), cmat_of<T>(z),
                                       (const float *)w->data, M,    (int)E,        eps};
        run_norm_fwd<T, true>(dev, "gatenorm_fwd", args, is_wide);
    });
}

void cuda_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz, struct tensor *dw,
                       const struct tensor *dout, const struct tensor *y, const struct tensor *z,
                       const float *rstd, const struct tensor *w)
{
    const int64_t M = tensor_rows(y), E = tensor_cols(y);
    assert(tensor_cols(dout) == E && tensor_cols(z) == E && tensor_cols(w) == E);
    const bool is_wide = has_wide_rows(dy) && has_wide_rows(dz) && has_wide_rows(dout) &&
                         has_wide_rows(y) && has_wide_rows(z) && (uintptr_t)w->data % 16 == 0;
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        const norm_bwd_args<T> args = {mat_of<T>(dy),
                                       mat_of<T>(dz),
                                       cmat_of<T>(dout),
                                       cmat_of<T>(y),
                                       cmat_of<T>(z),
                                       rstd,
                                       (const float *)w->data,
                                       nullptr,
                                       M,
                                       (int)E,
                                       0};
        run_norm_bwd<T, true>(dev, "gatenorm_bwd", args, is_wide, (float *)dw->data);
    });
}
