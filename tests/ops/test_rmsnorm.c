/* RMSNorm: forward and backward at ragged widths. */
#include "ops_test.h"

static const double eps = 1e-5;

struct fd {
    const double *r, *x, *w;
    int M, D;
};

static double projected(void *ctx)
{
    const struct fd *c = ctx;
    double *y = malloc((size_t)(c->M * (c->D + 1)) * sizeof *y);
    ref_rmsnorm_fwd(y, y + c->M * c->D, c->x, c->w, eps, c->M, c->D);
    const double sum = dot(c->r, y, (size_t)(c->M * c->D));
    free(y);
    return sum;
}

static void check_reference(void)
{
    enum { M = 3, D = 7 };
    double *x = t_random(M * D, 1, 1), *w = t_random(D, 1, 2), *r = t_random(M * D, 1, 3);
    double *dx = t_zeros(M * D), *dw = t_zeros(D);
    ref_rmsnorm_bwd(dx, dw, r, x, w, eps, M, D);
    struct fd ctx = {r, x, w, M, D};
    ok_within(fd_error(projected, &ctx, x, dx, M * D), fd_tol, "reference: dx");
    ok_within(fd_error(projected, &ctx, w, dw, D), fd_tol, "reference: dw");
}

/* Rows lie multiples of gap columns further apart than they are long. */
static void check_sizes(struct dev *dev, int M, int D, double scale, int gap)
{
    const size_t n = (size_t)(M * D);
    const double *x = t_random(n, scale, 1), *w = t_random((size_t)D, 1, 2);
    const double *dy = t_random(n, 1, 3);
    double *y_ref = t_zeros(n), *rstd_ref = t_zeros((size_t)M);
    double *dx_ref = t_random(n, 1 / scale, 4), *dw_ref = t_random((size_t)D, 1, 5);
    struct tensor dx = t_tensor(dev, dx_ref, M, D, D + gap), dw = t_vector(dev, dw_ref, D);
    ref_rmsnorm_fwd(y_ref, rstd_ref, x, w, eps, M, D);
    ref_rmsnorm_bwd(dx_ref, dw_ref, dy, x, w, eps, M, D);

    struct sizes sizes = {.B = 1, .T = M, .D = D};
    reserve(dev, OP_RMSNORM, &sizes);
    struct tensor tx = t_tensor(dev, x, M, D, D + 3 * gap), tw = t_vector(dev, w, D);
    struct tensor tdy = t_tensor(dev, dy, M, D, D + 2 * gap), y = t_garbage(dev, M, D, D + 5 * gap);
    struct tensor rstd = t_garbage_f32(dev, 1, M, 0);
    dev->ops->rmsnorm_fwd(dev, &y, rstd.data, &tx, &tw, (float)eps);
    dev->ops->rmsnorm_bwd(dev, &dx, &dw, &tdy, &tx, rstd.data, &tw);
    ok_within(t_error(dev, &y, y_ref), tol(dev, f32_tol(1 + D / 64.0)), "%s %dx%d: y", dev->name, M,
              D);
    ok_within(t_error(dev, &rstd, rstd_ref), tol(dev, f32_tol(1 + D / 64.0)), "%s %dx%d: rstd",
              dev->name, M, D);
    ok_within(t_error(dev, &dx, dx_ref), tol(dev, f32_tol(9 + D / 64.0)),
              "%s %dx%d: dx +=", dev->name, M, D);
    ok_within(t_error(dev, &dw, dw_ref), tol(dev, f32_tol(M + D / 64.0)),
              "%s %dx%d: dw +=", dev->name, M, D);

    struct tensor one = t_garbage(dev, 1, D, 0);
    const struct tensor last = tensor_row_range(&tx, M - 1, 1), y1 = tensor_row_range(&y, M - 1, 1);
    dev->ops->rmsnorm_fwd(dev, &one, NULL, &last, &tw, (float)eps);
    ok(t_same(dev, &one, &y1) && guard_ok(dev), "%s %dx%d: a row alone has the same bits",
       dev->name, M, D);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, 1, 1, 1);
    check_sizes(dev, 3, 7, 1, 1);
    check_sizes(dev, 61, 131, 1e-2, 1);
    check_sizes(dev, 5, 1024, 30, 1);
    check_sizes(dev, 257, 64, 1, 1);
    /* rows that can be moved 16 bytes at a time, and rows that outgrow registers */
    check_sizes(dev, 21, 512, 1, 8);
    check_sizes(dev, 19, 776, 1, 8);
    check_sizes(dev, 3, 1032, 1, 8);
    check_sizes(dev, 2, 4104, 1, 8);
    check_sizes(dev, 1, 8200, 1, 8);
    check_sizes(dev, 2, 4097, 1, 1);
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
