/* The optimizer: norm, verdict and AdamW, as lib/ops.h words them. */
#include "ref.h"

#include <math.h>

static int is_bad(double x, double mean, double var, const struct step_ctl *ctl)
{
    if (!isfinite(x))
        return 1;
    return ctl->outlier_sigma > 0 && ctl->applied >= 64 &&
           x > mean + (double)ctl->outlier_sigma * sqrt(var);
}

void ref_gnorm(struct step_ctl *ctl, const float *g, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)g[i] * (double)g[i];
    ctl->gnorm = sqrt(sum);
    const double loss = ctl->loss_sum / ctl->n_targets;
    ctl->grad_scale = ctl->clip > 0 ? (float)fmin(1, (double)ctl->clip / ctl->gnorm) : 1;
    ctl->skip = is_bad(loss, ctl->loss_mean, ctl->loss_var, ctl) ||
                is_bad(ctl->gnorm, ctl->gnorm_mean, ctl->gnorm_var, ctl);
    ctl->skipped += ctl->skip;
    ctl->skipped_in_row = ctl->skip ? ctl->skipped_in_row + 1 : 0;
    if (ctl->skip)
        return;
    /* exponential with 1/64 a step; before that the plain mean and variance so far */
    const double a = 1 / fmin(64, (double)++ctl->applied);
    const double x[2] = {loss, ctl->gnorm};
    double *mean[2] = {&ctl->loss_mean, &ctl->gnorm_mean};
    double *var[2] = {&ctl->loss_var, &ctl->gnorm_var};
    for (int i = 0; i < 2; i++) {
        const double second = (1 - a) * (*var[i] + *mean[i] * *mean[i]) + a * x[i] * x[i];
        *mean[i] = (1 - a) * *mean[i] + a * x[i];
        *var[i] = second - *mean[i] * *mean[i];
    }
}

void ref_adamw(double *p, double *m, double *v, const double *g, size_t n, bool decay,
               const struct step_ctl *ctl)
{
    if (ctl->skip)
        return;
    const double beta1 = (double)ctl->beta1, beta2 = (double)ctl->beta2, lr = (double)ctl->lr;
    const double t = (double)ctl->applied;
    for (size_t i = 0; i < n; i++) {
        const double grad = g[i] * (double)ctl->grad_scale;
        m[i] = beta1 * m[i] + (1 - beta1) * grad;
        v[i] = beta2 * v[i] + (1 - beta2) * grad * grad;
        const double m_hat = m[i] / (1 - pow(beta1, t)), v_hat = v[i] / (1 - pow(beta2, t));
        if (decay)
            p[i] -= lr * (double)ctl->weight_decay * p[i];
        p[i] -= lr * m_hat / (sqrt(v_hat) + (double)ctl->eps);
    }
}
