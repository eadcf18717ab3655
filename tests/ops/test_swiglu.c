/* SwiGLU: forward and backward at ragged widths, far into both tails of the gate. */
#include "ops_test.h"

struct fd {
    const double *r, *u;
    int M, F;
};

static double projected(void *ctx)
{
    const struct fd *c = ctx;
    double *y = malloc((size_t)(c->M * c->F) * sizeof *y);
    ref_swiglu_fwd(y, c->u, c->M, c->F);
    const double sum = dot(c->r, y, (size_t)(c->M * c->F));
    free(y);
    return sum;
}

static void check_reference(void)
{
    enum { M = 3, F = 5 };
    double *u = t_random(M * 2 * F, 1, 1), *r = t_random(M * F, 1, 2), *du = t_zeros(M * 2 * F);
    ref_swiglu_bwd(du, r, u, M, F);
    struct fd ctx = {r, u, M, F};
    ok_within(fd_error(projected, &ctx, u, du, M * 2 * F), fd_tol, "reference: du");
}

/* Rows lie multiples of gap columns further apart than they are long. */
static void check_sizes(struct dev *dev, int M, int F, double scale, int gap)
{
    const size_t n = (size_t)(M * F);
    const double *u = t_random(2 * n, scale, 1), *dy = t_random(n, 1, 2);
    double *y_ref = t_zeros(n), *du_ref = t_zeros(2 * n);
    ref_swiglu_fwd(y_ref, u, M, F);
    ref_swiglu_bwd(du_ref, dy, u, M, F);
    struct tensor tu = t_tensor(dev, u, M, 2 * F, 2 * F + 3 * gap),
                  tdy = t_tensor(dev, dy, M, F, F + gap);
    struct tensor y = t_garbage(dev, M, F, F + 2 * gap), du = t_garbage(dev, M, 2 * F, 0);
    dev->ops->swiglu_fwd(dev, &y, &tu);
    dev->ops->swiglu_bwd(dev, &du, NULL, &tdy, &tu);
    ok_within(t_error(dev, &y, y_ref), tol(dev, f32_tol(4)), "%s %dx%d: y", dev->name, M, F);
    ok_within(t_error(dev, &du, du_ref), tol(dev, f32_tol(4)), "%s %dx%d: du", dev->name, M, F);
    struct tensor again = t_garbage(dev, M, F, F + gap);
    dev->ops->swiglu_bwd(dev, &tu, &again, &tdy, &tu);
    ok(t_same(dev, &y, &again), "%s %dx%d: the backward makes y again", dev->name, M, F);
    ok_within(t_error(dev, &tu, du_ref), tol(dev, f32_tol(4)), "%s %dx%d: du in place of u",
              dev->name, M, F);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, 1, 1, 1);
    check_sizes(dev, 5, 13, 40, 1);
    check_sizes(dev, 33, 257, 2, 1);
    check_sizes(dev, 33, 264, 2, 8);
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
