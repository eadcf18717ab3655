/* verdict: whether an optimizer step counts, and what its gradients are multiplied with: the second
 * half of the gnorm op, one truth for all backends. */
#ifndef HM_VERDICT_H
#define HM_VERDICT_H

#include "both.h"
#include "ops.h"

#include <math.h>

enum { VERDICT_WARM_UP = 64, VERDICT_GOOD_STEPS = 2000 };

/* The greatest value that is no outlier; before the statistics mean something, any is none. */
static inline BOTH double verdict_limit(double mean, double var, const struct step_ctl *ctl)
{
    if (!(ctl->outlier_sigma > 0) || ctl->applied < VERDICT_WARM_UP)
        return (double)INFINITY;
    return mean + (double)ctl->outlier_sigma * sqrt(var);
}

/* Moves mean and variance towards x by `rate`. */
static inline BOTH void verdict_follow(double *mean, double *var, double x, double rate)
{
    const double off = x - *mean;
    *mean += rate * off;
    *var = (1 - rate) * (*var + rate * off * off);
}

/* Halves the loss scale of f16 after a step whose gradients overflowed, and tries twice as much
 * after many that did not (Micikevicius et al. 2018, "Mixed precision training", section 3.2). */
static inline BOTH void verdict_rescale(struct step_ctl *ctl, int is_finite)
{
    if (!(ctl->fp16_scale > 0))
        return;
    ctl->fp16_good = is_finite ? ctl->fp16_good + 1 : 0;
    if (!is_finite && ctl->fp16_scale > 1)
        ctl->fp16_scale *= 0.5f;
    if (ctl->fp16_good == VERDICT_GOOD_STEPS && ctl->fp16_scale < 0x1p24f) {
        ctl->fp16_scale *= 2;
        ctl->fp16_good = 0;
    }
}

/* From the sum of the squares of all gradients as they lie in memory. An outlier moves the
 * statistics too, as if it lay at the limit: a single one hardly does, while a lasting change of
 * level is taken for the new normal after some steps. */
static inline BOTH void verdict(struct step_ctl *ctl, double sum_squares)
{
    const double unscale = ctl->fp16_scale > 0 ? 1 / (double)ctl->fp16_scale : 1;
    ctl->gnorm = sqrt(sum_squares) * unscale;
    const double loss = ctl->loss_sum / ctl->n_targets, norm = ctl->gnorm;
    const double loss_limit = verdict_limit(ctl->loss_mean, ctl->loss_var, ctl);
    const double norm_limit = verdict_limit(ctl->gnorm_mean, ctl->gnorm_var, ctl);
    const int is_finite = isfinite(loss) && isfinite(norm);
    /* gradients too large for f16, while the loss scale is still to find: no sign of divergence */
    const int is_search = isfinite(loss) && !isfinite(norm) && ctl->fp16_scale > 1;
    ctl->grad_scale = (float)unscale;
    if (ctl->clip > 0 && norm > (double)ctl->clip)
        ctl->grad_scale = (float)((double)ctl->clip / norm * unscale);
    ctl->skip = !is_finite || loss > loss_limit || norm > norm_limit;
    verdict_rescale(ctl, isfinite(norm));
    if (ctl->skip) {
        ctl->skipped++;
        ctl->skipped_in_row += !is_search;
    } else {
        ctl->applied++;
        ctl->skipped_in_row = 0;
    }
    if (!is_finite)
        return;
    const double rate =
        1.0 / (double)(ctl->applied < VERDICT_WARM_UP ? ctl->applied : VERDICT_WARM_UP);
    verdict_follow(&ctl->loss_mean, &ctl->loss_var, fmin(loss, loss_limit), rate);
    verdict_follow(&ctl->gnorm_mean, &ctl->gnorm_var, fmin(norm, norm_limit), rate);
}

#endif
