/* Residual: y = x + scale * drop(branch). */
#include "ref.h"

#include "rng.h"

double ref_drop(const struct drop *drop, const struct step_ctl *ctl, int64_t n, int64_t i)
{
    if (!drop || drop->p == 0)
        return 1;
    const uint64_t stream = rng_stream(RNG_DROPOUT, drop->site, (uint32_t)ctl->step);
    const float u = rng_uniform(ctl->seed, stream, (uint64_t)(ctl->micro * n + i));
    return u >= drop->p ? 1 / (1 - (double)drop->p) : 0;
}

void ref_resid_fwd(double *y, const double *x, const double *branch, double scale,
                   const struct drop *drop, const struct step_ctl *ctl, int M, int D)
{
    for (int i = 0; i < M * D; i++)
        y[i] = x[i] + scale * ref_drop(drop, ctl, (int64_t)M * D, i) * branch[i];
}

void ref_resid_bwd(double *dbranch, const double *dy, double scale, const struct drop *drop,
                   const struct step_ctl *ctl, int M, int D)
{
    for (int i = 0; i < M * D; i++)
        dbranch[i] = scale * ref_drop(drop, ctl, (int64_t)M * D, i) * dy[i];
}
