/* AdamW: ten steps against the reference, decay on and off, clipping, and skipping. */
#include "ops_test.h"

static void check_sizes(struct dev *dev, int n, bool decay)
{
    double *p = t_random((size_t)n, 1, 1), *m = t_zeros((size_t)n), *v = t_zeros((size_t)n);
    struct tensor tp = t_vector(dev, p, n), tm = t_vector(dev, m, n), tv = t_vector(dev, v, n);
    struct step_ctl ctl = {.lr = 0.03F,
                           .beta1 = 0.9F,
                           .beta2 = 0.95F,
                           .eps = 1e-8F,
                           .weight_decay = 0.1F,
                           .grad_scale = 0.7F};
    const struct adamw_run run = {0, decay, 0}, *runs = t_upload(dev, &run, sizeof run);
    for (int t = 1; t <= 10; t++) {
        const double *g = t_random((size_t)n, 0.1, (uint32_t)(10 + t));
        struct tensor tg = t_vector(dev, g, n);
        ctl.applied = t;
        ctl.step = t + 3; /* three were skipped: not what the correction counts */
        ref_adamw(p, m, v, g, (size_t)n, decay, &ctl);
        dev->ops->adamw(dev, tp.data, &tm, &tv, tg.data, (size_t)n, runs, 1,
                        t_upload(dev, &ctl, sizeof ctl));
    }
    ok_within(t_error(dev, &tp, p), f32_tol(10), "%s n %d decay %d: p", dev->name, n, decay);
    ok_within(t_error(dev, &tm, m), f32_tol(10), "%s n %d decay %d: m", dev->name, n, decay);
    ok_within(t_error(dev, &tv, v), f32_tol(10), "%s n %d decay %d: v", dev->name, n, decay);

    struct tensor nan = t_vector(dev, (const double[]){NAN}, 1);
    ctl.skip = 1;
    dev->ops->adamw(dev, tp.data, &tm, &tv, nan.data, 1, runs, 1, t_upload(dev, &ctl, sizeof ctl));
    ok_within(t_error(dev, &tp, p) + t_error(dev, &tm, m) + t_error(dev, &tv, v), f32_tol(100),
              "%s n %d decay %d: a skipped step changes nothing", dev->name, n, decay);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, true);
    check_sizes(dev, 37, false);
    check_sizes(dev, 5003, true);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
