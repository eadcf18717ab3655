/* The optimizer: norm, verdict and AdamW, as lib/ops.h words them. */
#include "ref.h"

#include <math.h>

/* Judges x, then moves the statistics by the share a: towards x, or as far as is still allowed. */
static int judge(double x, double *mean, double *var, double sigma, bool is_early, double a)
{
    const double limit = sigma > 0 && !is_early ? *mean + sigma * sqrt(*var) : (double)INFINITY;
    const double seen = fmin(x, limit);
    const double second = (1 - a) * (*var + *mean * *mean) + a * seen * seen;
    *mean = (1 - a) * *mean + a * seen;
    *var = second - *mean * *mean;
    return x > limit;
}

static bool is_skipped(struct step_ctl *ctl, double loss, double sigma)
{
    const bool is_early = ctl->applied < 64;
    /* exponential with 1/64 a step; before that the plain mean and variance so far */
    const double a = is_early ? 1 / fmin(64, (double)ctl->applied + 1) : 1.0 / 64;
    if (!isfinite(loss) || !isfinite(ctl->gnorm))
        return true;
    const int bad_loss = judge(loss, &ctl->loss_mean, &ctl->loss_var, sigma, is_early, a);
    const int bad_norm = judge(ctl->gnorm, &ctl->gnorm_mean, &ctl->gnorm_var, sigma, is_early, a);
    return bad_loss || bad_norm;
}

void ref_gnorm(struct step_ctl *ctl, const float *g, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)g[i] * (double)g[i];
    const double scale = ctl->fp16_scale > 0 ? (double)ctl->fp16_scale : 1;
    ctl->gnorm = sqrt(sum) / scale;
    const double clip = ctl->clip > 0 ? fmin(1, (double)ctl->clip / ctl->gnorm) : 1;
    ctl->grad_scale = (float)(clip / scale);
    ctl->skip = is_skipped(ctl, ctl->loss_sum / ctl->n_targets, (double)ctl->outlier_sigma);
    ctl->skipped += ctl->skip;
    ctl->applied += !ctl->skip;
    const bool is_overflow =
        isfinite(ctl->loss_sum / ctl->n_targets) && !isfinite(ctl->gnorm) && ctl->fp16_scale > 1;
    if (!ctl->skip)
        ctl->skipped_in_row = 0;
    else if (!is_overflow)
        ctl->skipped_in_row++;
    if (ctl->fp16_scale == 0)
        return;
    ctl->fp16_good = isfinite(ctl->gnorm) ? ctl->fp16_good + 1 : 0;
    if (!isfinite(ctl->gnorm) && ctl->fp16_scale > 1)
        ctl->fp16_scale /= 2;
    if (ctl->fp16_good == 2000 && ctl->fp16_scale < 16777216) {
        ctl->fp16_scale *= 2;
        ctl->fp16_good = 0;
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
