/* gnorm: the norm of all gradients and the verdict on the step. The squares are summed in double in
 * a fixed number of blocks, whatever the number of workers, and the blocks in order. */
#include "cpu_ops.h"
#include "local.h"

#include <math.h>

enum { BLOCKS = 256, WARM_UP = 64 };

struct gnorm_job {
    const float *g;
    size_t n;
    double *sum; /* (BLOCKS) workspace */
};

static double sum_squares(const float *g, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += (double)g[i] * (double)g[i];
    return sum;
}

static void gnorm_worker(void *arg, int worker, int n_workers)
{
    const struct gnorm_job *job = arg;
    size_t first, last;
    pool_share(BLOCKS, 1, worker, n_workers, &first, &last);
    for (size_t b = first; b < last; b++) {
        size_t begin, end;
        pool_share(job->n, 16, (int)b, BLOCKS, &begin, &end);
        job->sum[b] = sum_squares(job->g + begin, end - begin);
    }
}

/* The greatest value that is no outlier; before the statistics mean something, any is none. */
static double limit_of(double mean, double var, const struct step_ctl *ctl)
{
    if (!(ctl->outlier_sigma > 0) || ctl->applied < WARM_UP)
        return (double)INFINITY;
    return mean + (double)ctl->outlier_sigma * sqrt(var);
}

/* Moves mean and variance towards x by `rate`. */
static void follow(double *mean, double *var, double x, double rate)
{
    const double off = x - *mean;
    *mean += rate * off;
    *var = (1 - rate) * (*var + rate * off * off);
}

/* An outlier moves the statistics too, as if it lay at the limit: a single one hardly does, while a
 * lasting change of level is taken for the new normal after some steps. */
static void judge(struct step_ctl *ctl)
{
    const double loss = ctl->loss_sum / ctl->n_targets, norm = ctl->gnorm;
    const double loss_limit = limit_of(ctl->loss_mean, ctl->loss_var, ctl);
    const double norm_limit = limit_of(ctl->gnorm_mean, ctl->gnorm_var, ctl);
    const bool is_finite = isfinite(loss) && isfinite(norm);
    ctl->grad_scale = 1;
    if (ctl->clip > 0 && norm > (double)ctl->clip)
        ctl->grad_scale = (float)((double)ctl->clip / norm);
    ctl->skip = !is_finite || loss > loss_limit || norm > norm_limit;
    if (ctl->skip) {
        ctl->skipped++;
        ctl->skipped_in_row++;
    } else {
        ctl->applied++;
        ctl->skipped_in_row = 0;
    }
    if (!is_finite)
        return;
    const double rate = 1.0 / (double)(ctl->applied < WARM_UP ? ctl->applied : WARM_UP);
    follow(&ctl->loss_mean, &ctl->loss_var, fmin(loss, loss_limit), rate);
    follow(&ctl->gnorm_mean, &ctl->gnorm_var, fmin(norm, norm_limit), rate);
}

void cpu_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    struct gnorm_job job = {g, n, dev->work};
    run_sized(dev, (int64_t)n, gnorm_worker, &job);
    double sum = 0;
    for (int b = 0; b < BLOCKS; b++)
        sum += job.sum[b];
    ctl->gnorm = sqrt(sum);
    judge(ctl);
}

size_t cpu_gnorm_plan(const struct dev *dev, const struct sizes *s)
{
    return BLOCKS * sizeof(double);
}
