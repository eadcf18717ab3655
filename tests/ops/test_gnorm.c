/* gnorm: the norm, clipping, and every way to be skipped. */
#include "ops_test.h"

/* One step on the device and on the reference; true when both say the same. */
static bool step_both(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    struct step_ctl ref = *ctl;
    ref_gnorm(&ref, g, n);
    struct step_ctl *dev_ctl = t_upload(dev, ctl, sizeof *ctl);
    const float *dev_g = t_upload(dev, g, n * sizeof *g);
    dev->ops->gnorm(dev, dev_ctl, dev_g, n);
    dev_download(dev, ctl, dev_ctl, sizeof *ctl);
    const double got[] = {ctl->gnorm,    ctl->grad_scale, ctl->loss_mean,
                          ctl->loss_var, ctl->gnorm_mean, ctl->gnorm_var};
    const double want[] = {ref.gnorm,    ref.grad_scale, ref.loss_mean,
                           ref.loss_var, ref.gnorm_mean, ref.gnorm_var};
    const double square = 1 + (isfinite(ref.gnorm) ? ref.gnorm * ref.gnorm : 0); /* of variances */
    bool is_same = ctl->skip == ref.skip && ctl->skipped == ref.skipped &&
                   ctl->applied == ref.applied && ctl->skipped_in_row == ref.skipped_in_row &&
                   ctl->fp16_scale == ref.fp16_scale && ctl->fp16_good == ref.fp16_good;
    for (int i = 0; i < 6; i++)
        is_same = is_same && (got[i] == want[i] ||
                              fabs(got[i] - want[i]) <= 1e-6 * fabs(want[i]) + 1e-12 * square ||
                              (isnan(got[i]) && isnan(want[i])));
    return is_same;
}

static void check_sizes(struct dev *dev)
{
    static const size_t sizes[] = {1, 15, 257, 4099, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const size_t n = sizes[i];
        float *g = (float *)t_zeros(n);
        for (size_t j = 0; j < n; j++)
            g[j] = rng_normal(1, 2, j);
        struct step_ctl ctl = {.clip = 1.5F, .loss_sum = 6, .n_targets = 3};
        ok(step_both(dev, &ctl, g, n) && ctl.skip == 0 && guard_ok(dev), "%s: n %zu, norm %g",
           dev->name, n, ctl.gnorm);
        g[n - 1] = INFINITY;
        ctl = (struct step_ctl){.clip = 1.5F, .loss_sum = 6, .n_targets = 3};
        step_both(dev, &ctl, g, n);
        ok(ctl.skip == 1, "%s: n %zu, an infinite gradient at the end is seen", dev->name, n);
    }
}

/* The loss scale of f16: taken out of norm and factor, halved by an overflow, doubled in time. */
static void check_fp16(struct dev *dev)
{
    float g[] = {3 * 1024, 4 * 1024};
    struct step_ctl ctl = {.clip = 2.5F, .loss_sum = 6, .n_targets = 3, .fp16_scale = 1024};
    ok(step_both(dev, &ctl, g, 2) && fabs(ctl.gnorm - 5) < 1e-6 && ctl.grad_scale == 0.5F / 1024 &&
           ctl.fp16_scale == 1024 && ctl.fp16_good == 1,
       "%s: the norm is that of the loss itself", dev->name);
    g[1] = INFINITY;
    ok(step_both(dev, &ctl, g, 2) && ctl.skip == 1 && ctl.fp16_scale == 512 && ctl.fp16_good == 0,
       "%s: an overflow halves the loss scale", dev->name);
    ok(ctl.skipped == 1 && ctl.skipped_in_row == 0,
       "%s: which is skipped, but no sign of divergence", dev->name);
    ctl.loss_sum = INFINITY;
    ok(step_both(dev, &ctl, g, 2) && ctl.skipped == 2 && ctl.skipped_in_row == 1,
       "%s: a loss that is not finite is one", dev->name);
    ctl.loss_sum = 6;
    ctl.fp16_scale = 1;
    ok(step_both(dev, &ctl, g, 2) && ctl.fp16_scale == 1, "%s: but not below 1", dev->name);
    ok(ctl.skipped == 3 && ctl.skipped_in_row == 2, "%s: where an overflow is a sign, too",
       dev->name);
    g[1] = 1;
    ctl.fp16_scale = 256;
    ctl.fp16_good = 1999;
    ok(step_both(dev, &ctl, g, 2) && ctl.fp16_scale == 512 && ctl.fp16_good == 0,
       "%s: after 2000 good steps it doubles", dev->name);
}

/* Quiet steps with loss near 2 and norm near 3; whether reference and op agree on all of them. */
static bool quiet_steps(struct dev *dev, struct step_ctl *ctl, int n)
{
    bool is_same = true;
    for (int i = 0; i < n; i++) {
        const float g[2] = {3 + 0.1F * rng_normal(1, 1, (uint64_t)i), 0};
        ctl->loss_sum = 4 * (2 + 0.05 * (double)rng_normal(1, 2, (uint64_t)i));
        is_same = is_same && step_both(dev, ctl, g, 2) && !ctl->skip;
    }
    return is_same;
}

/* What is said of one step after n_quiet quiet ones; -1: reference and op differ. */
static int judged(struct dev *dev, double loss, float norm, float sigma, int n_quiet)
{
    struct step_ctl ctl = {.outlier_sigma = sigma, .n_targets = 4};
    bool is_same = quiet_steps(dev, &ctl, n_quiet);
    ctl.loss_sum = 4 * loss;
    is_same = is_same && step_both(dev, &ctl, &norm, 1);
    return is_same ? ctl.skip : -1;
}

/* Steps of a norm that rose for good until the first is applied; -1: reference and op differ. */
static int steps_to_accept(struct dev *dev, float norm, int n_quiet)
{
    struct step_ctl ctl = {.outlier_sigma = 6, .n_targets = 4};
    bool is_same = quiet_steps(dev, &ctl, n_quiet);
    int n = 0;
    do
        is_same = is_same && step_both(dev, &ctl, &norm, 1);
    while (ctl.skip && ++n < 100);
    return is_same ? n : -1;
}

static void check_verdicts(struct dev *dev)
{
    ok(judged(dev, 2, 3, 4, 70) == 0, "%s: a quiet step passes", dev->name);
    ok(judged(dev, 3, 3, 4, 70) == 1, "%s: a high loss is an outlier", dev->name);
    ok(judged(dev, 2, 4, 4, 70) == 1, "%s: a high norm is an outlier", dev->name);
    ok(judged(dev, 1, 1, 4, 70) == 0, "%s: low ones are welcome", dev->name);
    ok(steps_to_accept(dev, 100, 70) > 1 && steps_to_accept(dev, 100, 70) < 40,
       "%s: a lasting rise is accepted after some steps", dev->name);
    ok(judged(dev, 3, 9, 0, 70) == 0, "%s: sigma 0 lets outliers pass", dev->name);
    ok(judged(dev, 3, 9, 4, 63) == 0, "%s: not before 64 steps were applied", dev->name);
    ok(judged(dev, 3, 9, 4, 64) == 1, "%s: from then on", dev->name);
    ok(judged(dev, NAN, 3, 0, 3) == 1, "%s: a NaN loss", dev->name);
    ok(judged(dev, 2, NAN, 0, 3) == 1, "%s: a NaN norm", dev->name);
    struct step_ctl ctl = {.loss_sum = NAN, .n_targets = 1, .skipped_in_row = 2, .skipped = 5};
    const float g[1] = {1};
    ok(step_both(dev, &ctl, g, 1) && ctl.skipped_in_row == 3 && ctl.skipped == 6 && !ctl.applied,
       "%s: skips are counted", dev->name);
    ctl.loss_sum = 1;
    ok(step_both(dev, &ctl, g, 1) && ctl.skipped_in_row == 0 && ctl.skipped == 6 &&
           ctl.applied == 1,
       "%s: an applied step ends the row", dev->name);
    ctl.n_targets = 0;
    ctl.loss_sum = 0;
    step_both(dev, &ctl, g, 1);
    ok(ctl.skip == 1, "%s: a step without targets is skipped", dev->name);
}

static void check(struct dev *dev)
{
    struct sizes sizes = {0};
    reserve(dev, OP_GNORM, &sizes);
    check_sizes(dev);
    check_fp16(dev);
    check_verdicts(dev);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
