/* Residual with dropout: the mask is the named stream, the same forward and backward, whatever the
 * slices, and keeps the right share. */
#include "ops_test.h"

/* Rows lie multiples of gap columns further apart than they are long. */
static void check_sizes(struct dev *dev, int M, int D, float p, int micro, int gap)
{
    const size_t n = (size_t)(M * D);
    const double *x = t_random(n, 1, 1), *branch = t_random(n, 1, 2), *dy = t_random(n, 1, 3);
    const struct step_ctl ctl = {.seed = 0x123456789abcdefULL, .step = 17, .micro = micro};
    const struct drop drop = {p, 41};
    double *y_ref = t_zeros(n), *db_ref = t_zeros(n);
    ref_resid_fwd(y_ref, x, branch, 0.22, &drop, &ctl, M, D);
    ref_resid_bwd(db_ref, dy, 0.22, &drop, &ctl, M, D);
    const struct step_ctl *dev_ctl = t_upload(dev, &ctl, sizeof ctl);
    struct tensor tx = t_tensor(dev, x, M, D, D + gap),
                  tb = t_tensor(dev, branch, M, D, D + 2 * gap);
    struct tensor tdy = t_tensor(dev, dy, M, D, 0), db = t_garbage(dev, M, D, 0);
    dev->ops->resid_fwd(dev, &tx, &tx, &tb, 0.22F, &drop, dev_ctl);
    dev->ops->resid_bwd(dev, &db, &tdy, 0.22F, &drop, dev_ctl);
    ok_within(t_error(dev, &tx, y_ref), tol(dev, f32_tol(1)), "%s %dx%d p %g: y in place of x",
              dev->name, M, D, (double)p);
    ok_within(t_error(dev, &db, db_ref), tol(dev, f32_tol(1)), "%s %dx%d p %g: dbranch", dev->name,
              M, D, (double)p);
}

static void check_share(struct dev *dev)
{
    enum { M = 100, D = 300 };
    const struct step_ctl ctl = {.seed = 3, .step = 5};
    const struct drop drop = {0.1F, 4};
    struct tensor one = t_garbage(dev, M, D, 0), out = t_garbage(dev, M, D, 0);
    dev->ops->resid_bwd(dev, &out, &one, 1, &drop, t_upload(dev, &ctl, sizeof ctl));
    const float *v = t_values(dev, &out);
    int zeros = 0;
    for (int i = 0; i < M * D; i++)
        zeros += v[i] == 0;
    /* 5 deviations of a binomial */
    ok_within(fabs(zeros - 0.1 * M * D), 5 * sqrt(0.09 * M * D), "%s: a tenth is dropped",
              dev->name);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, 1, 0, 0, 1);
    check_sizes(dev, 9, 37, 0, 0, 1);
    check_sizes(dev, 9, 40, 0, 0, 8);
    check_sizes(dev, 1, 1, 0.5F, 3, 1);
    check_sizes(dev, 9, 37, 0.1F, 0, 1);
    check_sizes(dev, 70, 259, 0.3F, 1003, 1);
    check_sizes(dev, 70, 264, 0.3F, 1003, 8);
    check_sizes(dev, 3, 128, 0.3F, 1 << 30, 1);
    check_share(dev);
    dev->ops->resid_fwd(dev, &(struct tensor){.n_dims = 2}, &(struct tensor){.n_dims = 2},
                        &(struct tensor){.n_dims = 2}, 1, NULL, NULL);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
