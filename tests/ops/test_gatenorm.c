/* Gated RMSNorm: forward and backward at ragged widths, y and z being column slices. */
#include "ops_test.h"

static const double eps = 1e-5;

struct fd {
    const double *r, *y, *z, *w;
    int M, E;
};

static double projected(void *ctx)
{
    const struct fd *c = ctx;
    double *out = malloc((size_t)(c->M * (c->E + 1)) * sizeof *out);
    ref_gatenorm_fwd(out, out + c->M * c->E, c->y, c->z, c->w, eps, c->M, c->E);
    const double sum = dot(c->r, out, (size_t)(c->M * c->E));
    free(out);
    return sum;
}

static void check_reference(void)
{
    enum { M = 3, E = 6, n = M * E };
    double *y = t_random(n, 1, 1), *z = t_random(n, 1, 2), *w = t_random(E, 1, 3);
    double *r = t_random(n, 1, 4), *dy = t_zeros(n), *dz = t_zeros(n), *dw = t_zeros(E);
    ref_gatenorm_bwd(dy, dz, dw, r, y, z, w, eps, M, E);
    struct fd ctx = {r, y, z, w, M, E};
    ok_within(fd_error(projected, &ctx, y, dy, n), fd_tol, "reference: dy");
    ok_within(fd_error(projected, &ctx, z, dz, n), fd_tol, "reference: dz");
    ok_within(fd_error(projected, &ctx, w, dw, E), fd_tol, "reference: dw");
}

/* Rows lie multiples of gap columns further apart than they are long. */
static void check_sizes(struct dev *dev, int M, int H, int P, int gap)
{
    const int E = H * P;
    const size_t n = (size_t)(M * E);
    const double *y = t_random(n, 1, 1), *z = t_random(n, 3, 2), *w = t_random((size_t)E, 1, 3);
    const double *dout = t_random(n, 1, 4);
    double *out_ref = t_zeros(n), *rstd_ref = t_zeros((size_t)M), *dy_ref = t_zeros(n);
    double *dz_ref = t_zeros(n), *dw_ref = t_random((size_t)E, 1, 5);
    struct tensor dw = t_vector(dev, dw_ref, E);
    ref_gatenorm_fwd(out_ref, rstd_ref, y, z, w, eps, M, E);
    ref_gatenorm_bwd(dy_ref, dz_ref, dw_ref, dout, y, z, w, eps, M, E);

    struct sizes sizes = {.B = 1, .T = M, .H = H, .P = P};
    reserve(dev, OP_GATENORM, &sizes);
    struct tensor ty = t_tensor(dev, y, M, E, E + gap), tz = t_tensor(dev, z, M, E, E + 4 * gap);
    struct tensor tw = t_vector(dev, w, E), tdout = t_tensor(dev, dout, M, E, 0);
    struct tensor out = t_garbage(dev, M, E, E + 2 * gap), dy = t_garbage(dev, M, E, 0);
    struct tensor dz = t_garbage(dev, M, E, E + 7 * gap), rstd = t_garbage_f32(dev, 1, M, 0);
    dev->ops->gatenorm_fwd(dev, &out, rstd.data, &ty, &tz, &tw, (float)eps);
    dev->ops->gatenorm_bwd(dev, &dy, &dz, &dw, &tdout, &ty, &tz, rstd.data, &tw);
    ok_within(t_error(dev, &out, out_ref), tol(dev, f32_tol(4 + E / 64.0)), "%s %dx%d: out",
              dev->name, M, E);
    ok_within(t_error(dev, &rstd, rstd_ref), tol(dev, f32_tol(4 + E / 64.0)), "%s %dx%d: rstd",
              dev->name, M, E);
    ok_within(t_error(dev, &dy, dy_ref), tol(dev, f32_tol(9 + E / 64.0)), "%s %dx%d: dy", dev->name,
              M, E);
    ok_within(t_error(dev, &dz, dz_ref), tol(dev, f32_tol(9 + E / 64.0)), "%s %dx%d: dz", dev->name,
              M, E);
    ok_within(t_error(dev, &dw, dw_ref), tol(dev, f32_tol(M + E / 64.0)),
              "%s %dx%d: dw +=", dev->name, M, E);

    struct tensor one = t_garbage(dev, 1, E, 0);
    const struct tensor last = tensor_row_range(&out, M - 1, 1);
    const struct tensor y1 = tensor_row_range(&ty, M - 1, 1), z1 = tensor_row_range(&tz, M - 1, 1);
    dev->ops->gatenorm_fwd(dev, &one, NULL, &y1, &z1, &tw, (float)eps);
    ok(t_same(dev, &one, &last) && guard_ok(dev), "%s %dx%d: a row alone has the same bits",
       dev->name, M, E);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, 1, 3, 1);
    check_sizes(dev, 5, 3, 7, 1);
    check_sizes(dev, 67, 2, 61, 1);
    check_sizes(dev, 40, 8, 64, 1);
    /* rows that can be moved 16 bytes at a time, and rows that outgrow registers */
    check_sizes(dev, 21, 8, 64, 8);
    check_sizes(dev, 18, 10, 100, 8);
    check_sizes(dev, 3, 2, 516, 8);
    check_sizes(dev, 2, 27, 152, 8);
    check_sizes(dev, 1, 41, 200, 8);
    check_sizes(dev, 2, 17, 241, 1);
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
