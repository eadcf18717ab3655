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
    const struct adamw_run run = {.has_decay = decay};
    const struct adamw_runs runs = {t_upload(dev, &run, sizeof run), 1, 0};
    for (int t = 1; t <= 10; t++) {
        const double *g = t_random((size_t)n, 0.1, (uint32_t)(10 + t));
        struct tensor tg = t_vector(dev, g, n);
        ctl.applied = t;
        ctl.step = t + 3; /* three were skipped: not what the correction counts */
        ref_adamw(p, m, v, g, (size_t)n, decay, &ctl);
        dev->ops->adamw(dev, tp.data, &tm, &tv, tg.data, (size_t)n, &runs,
                        t_upload(dev, &ctl, sizeof ctl));
    }
    ok_within(t_error(dev, &tp, p), f32_tol(10), "%s n %d decay %d: p", dev->name, n, decay);
    ok_within(t_error(dev, &tm, m), f32_tol(10), "%s n %d decay %d: m", dev->name, n, decay);
    ok_within(t_error(dev, &tv, v), f32_tol(10), "%s n %d decay %d: v", dev->name, n, decay);

    struct tensor nan = t_vector(dev, (const double[]){NAN}, 1);
    ctl.skip = 1;
    dev->ops->adamw(dev, tp.data, &tm, &tv, nan.data, 1, &runs, t_upload(dev, &ctl, sizeof ctl));
    ok_within(t_error(dev, &tp, p) + t_error(dev, &tm, m) + t_error(dev, &tv, v), f32_tol(100),
              "%s n %d decay %d: a skipped step changes nothing", dev->name, n, decay);
}

/* bf16 moments: near the f32 ones, without bias over many elements, the same bits in pieces. */
static void check_bf16(struct dev *dev)
{
    enum { N = 4096 };
    const struct step_ctl ctl = {.seed = 5,
                                 .step = 9,
                                 .lr = 0.03F,
                                 .beta1 = 0.9F,
                                 .beta2 = 0.95F,
                                 .eps = 1e-8F,
                                 .grad_scale = 1,
                                 .applied = 1};
    const struct adamw_run run = {0};
    const struct adamw_runs runs = {t_upload(dev, &run, sizeof run), 1, 0};
    float p[N] = {0}, g[N];
    uint16_t zero[N] = {0}, m[N], v[N];
    for (int i = 0; i < N; i++)
        g[i] = 1.01F; /* m becomes 0.101, v 0.051005: between two bf16 */
    struct tensor tm = tensor_of(t_upload(dev, zero, sizeof zero), DT_BF16, 1, N, 0, 0, 0);
    struct tensor tv = tensor_of(t_upload(dev, zero, sizeof zero), DT_BF16, 1, N, 0, 0, 0);
    dev->ops->adamw(dev, t_upload(dev, p, sizeof p), &tm, &tv, t_upload(dev, g, sizeof g), N, &runs,
                    t_upload(dev, &ctl, sizeof ctl));
    dev_download(dev, m, tm.data, sizeof m);
    dev_download(dev, v, tv.data, sizeof v);
    double mean_m = 0, mean_v = 0, worst = 0;
    for (int i = 0; i < N; i++) {
        mean_m += (double)bf16_to_f32(m[i]) / N;
        mean_v += (double)bf16_to_f32(v[i]) / N;
        worst = fmax(worst, fabs((double)bf16_to_f32(m[i]) - 0.101));
    }
    /* a step of bf16 at 0.101 is 2^-11, at 0.051 2^-12; five deviations of the mean */
    ok_within(worst, 0x1p-11, "%s: m in bf16 is one of the two neighbours", dev->name);
    ok_within(fabs(mean_m - 0.101), 5 * 0x1p-12 / sqrt(N), "%s: m is rounded without bias",
              dev->name);
    ok_within(fabs(mean_v - 0.051005), 5 * 0x1p-13 / sqrt(N), "%s: so is v", dev->name);
}

/* Runs: decay begins and ends where the table says, and so do copies, of whichever type. */
static void check_runs(struct dev *dev, enum dtype dtype)
{
    enum { N = 160, FROM = 48, COPIED = 75, ROOM = 96 };
    uint16_t copy[ROOM];
    memset(copy, 0x77, sizeof copy);
    uint16_t *dev_copy = t_upload(dev, copy, sizeof copy);
    const struct adamw_run run[] = {
        {0, 0, 0, NULL, 0},
        {16, 1, 0, NULL, 0},
        {FROM, 0, (int32_t)dtype, dev_copy, COPIED},
        {128, 1, 0, NULL, 0},
    };
    const struct adamw_runs runs = {t_upload(dev, run, sizeof run), 4, sizeof(uint16_t) * COPIED};
    struct step_ctl ctl = {.lr = 0.5F,
                           .beta1 = 0.9F,
                           .beta2 = 0.95F,
                           .weight_decay = 0.5F,
                           .eps = 1,
                           .grad_scale = 1,
                           .applied = 1};
    float p[N], g[N];
    for (int i = 0; i < N; i++) {
        p[i] = 1;
        g[i] = (float)(i % 7) * 0.37F;
    }
    for (int i = 0; i < FROM; i++)
        g[i] = 0;
    struct tensor m = t_vector(dev, t_zeros(N), N), v = t_vector(dev, t_zeros(N), N);
    float *dev_p = t_upload(dev, p, sizeof p), *dev_g = t_upload(dev, g, sizeof g);
    for (ctl.skip = 0; ctl.skip < 2; ctl.skip++)
        dev->ops->adamw(dev, dev_p, &m, &v, dev_g, N, &runs, t_upload(dev, &ctl, sizeof ctl));
    dev_download(dev, p, dev_p, sizeof p);
    dev_download(dev, copy, dev_copy, sizeof copy);
    int wrong = 0, wrong_copies = 0;
    for (int i = 0; i < FROM; i++)
        wrong += p[i] != (i >= 16 ? 0.75F : 1.0F);
    for (int i = 0; i < ROOM; i++) {
        const float from = p[FROM + i];
        const uint16_t rounded = dtype == DT_BF16 ? bf16_from_f32(from) : f16_from_f32(from);
        wrong_copies += copy[i] != (i < COPIED ? rounded : 0x7777);
    }
    ok(wrong == 0, "%s: weights decay in the runs that say so", dev->name);
    ok(wrong_copies == 0, "%s: a run's first elements are copied, rounded to %s", dev->name,
       dtype_name(dtype));
}

static void check(struct dev *dev)
{
    check_bf16(dev);
    check_runs(dev, DT_BF16);
    if (!dev->is_host)
        check_runs(dev, DT_F16);
    check_sizes(dev, 1, true);
    check_sizes(dev, 37, false);
    check_sizes(dev, 5003, true);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
