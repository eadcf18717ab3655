/* Cross-entropy: losses, gradients in place, unscored rows, sums over chunks. */
#include "ops_test.h"

struct fd {
    const double *logits;
    const int32_t *target;
    int M, V;
};

static double total(void *ctx)
{
    const struct fd *c = ctx;
    const double scale = 0.3, z_coef = 0.05;
    double sum = 0, loss[8];
    ref_xent(loss, NULL, c->logits, c->target, scale, 1, 0, c->M, c->V);
    for (int m = 0; m < c->M; m++) {
        if (c->target[m] < 0)
            continue;
        const double lse = loss[m] + c->logits[m * c->V + c->target[m]] * scale;
        sum += 0.5 * (loss[m] + z_coef * lse * lse);
    }
    return sum;
}

static void check_reference(void)
{
    enum { M = 4, V = 7 };
    const int32_t target[M] = {3, -1, 0, 6};
    double *logits = t_random(M * V, 2, 1), *d = t_zeros(M * V), loss[M];
    ref_xent(loss, d, logits, target, 0.3, 0.5, 0.05, M, V);
    struct fd ctx = {logits, target, M, V};
    ok_within(fd_error(total, &ctx, logits, d, M * V), fd_tol, "reference: dlogits");
}

static void check_sizes(struct dev *dev, int M, int V, double spread)
{
    const size_t n = (size_t)(M * V);
    const double *logits = t_random(n, spread, 1);
    double *loss_ref = t_zeros((size_t)M), *d_ref = t_zeros(n), sum = 0;
    int32_t *target = (int32_t *)t_zeros((size_t)M);
    int n_targets = 0;
    for (int m = 0; m < M; m++) {
        target[m] = m % 3 == 1 ? -1 : (int32_t)(philox(1, 2, (uint64_t)m).v[0] % (uint32_t)V);
        n_targets += target[m] >= 0;
    }
    ref_xent(loss_ref, d_ref, logits, target, 0.25, 0.125, 0.01, M, V);
    for (int m = 0; m < M; m++)
        sum += loss_ref[m];

    struct step_ctl ctl = {.loss_scale = 0.125F, .z_coef = 0.01F, .loss_sum = 2, .n_targets = 3};
    struct sizes sizes = {.B = 1, .T = M, .V = V};
    reserve(dev, OP_XENT, &sizes);
    struct step_ctl *dev_ctl = t_upload(dev, &ctl, sizeof ctl);
    const int32_t *dev_target = t_upload(dev, target, (size_t)M * sizeof *target);
    const int ld = V + (V % 8 ? 1 : 8); /* rows stay aligned where they can be */
    struct tensor tl = t_tensor(dev, logits, M, V, ld), kept = t_tensor(dev, logits, M, V, ld);
    struct tensor loss = t_garbage_f32(dev, 1, M, 0), loss2 = t_garbage_f32(dev, 1, M, 0);
    dev->ops->xent(dev, loss.data, &tl, dev_target, 0.25F, NULL);
    ok(t_same(dev, &tl, &kept), "%s %dx%d: the loss alone leaves the logits", dev->name, M, V);
    dev->ops->xent(dev, loss2.data, &tl, dev_target, 0.25F, dev_ctl);
    dev->ops->xent(dev, NULL, &kept, dev_target, 0.25F, dev_ctl);
    dev_download(dev, &ctl, dev_ctl, sizeof ctl);
    const double bound = f32_tol(9) * (1 + spread); /* the exponent's rounding grows with it */
    ok_within(t_error(dev, &loss, loss_ref), bound, "%s %dx%d: loss", dev->name, M, V);
    ok_within(t_error(dev, &tl, d_ref), tol(dev, bound), "%s %dx%d: dlogits", dev->name, M, V);
    ok_within(fabs(ctl.loss_sum - 2 - 2 * sum), bound * (2 + 2 * sum),
              "%s %dx%d: loss_sum +=", dev->name, M, V);
    ok(ctl.n_targets == 3 + 2 * n_targets, "%s %dx%d: n_targets +=", dev->name, M, V);
    ok(same_bits(dev, loss.data, loss2.data, (size_t)M * sizeof(float)) &&
           t_same(dev, &tl, &kept) && guard_ok(dev),
       "%s %dx%d: the same bits with and without gradient and losses", dev->name, M, V);
}

static void check_extremes(struct dev *dev)
{
    enum { V = 40 };
    struct sizes sizes = {.B = 1, .T = 3, .V = V};
    reserve(dev, OP_XENT, &sizes);
    double *l = t_random(3 * V, 1, 1);
    l[5] = dev->act_dtype == DT_F16 ? 6e4 : 3e38;       /* a sure row */
    l[V + 7] = dev->act_dtype == DT_F16 ? -6e4 : -1e30; /* a masked logit */
    l[2 * V + 1] = NAN;
    const int32_t target[3] = {5, 0, 3};
    struct tensor tl = t_tensor(dev, l, 3, V, 0);
    struct step_ctl ctl = {.loss_scale = 1};
    struct tensor losses = t_garbage_f32(dev, 1, 3, 0);
    struct step_ctl *dev_ctl = t_upload(dev, &ctl, sizeof ctl);
    dev->ops->xent(dev, losses.data, &tl, t_upload(dev, target, sizeof target), 1, dev_ctl);
    dev_download(dev, &ctl, dev_ctl, sizeof ctl);
    const float *d = t_values(dev, &tl), *loss = t_values(dev, &losses);
    ok(loss[0] == 0 && d[5] == 0 && d[6] == 0, "%s: a huge logit is a sure one", dev->name);
    ok(isfinite(loss[1]) && d[V + 7] == 0, "%s: a masked logit gets no gradient", dev->name);
    ok(isnan(loss[2]) && isnan(ctl.loss_sum), "%s: a NaN is not hidden", dev->name);
}

static void check(struct dev *dev)
{
    check_sizes(dev, 1, 2, 1);
    check_sizes(dev, 5, 3, 1);
    check_sizes(dev, 19, 1031, 30);
    check_sizes(dev, 2, 30011, 4);
    check_sizes(dev, 4, 5112, 4);
    check_sizes(dev, 2, 32768, 4);
    check_sizes(dev, 2, 32776, 4);
    check_extremes(dev);
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
