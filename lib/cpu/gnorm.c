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

static bool is_outlier(double x, double mean, double var, const struct step_ctl *ctl)
{
    return ctl->outlier_sigma > 0 && ctl->applied >= WARM_UP &&
           x - mean > (double)ctl->outlier_sigma * sqrt(var);
}

/* Moves mean and variance towards x by `rate`. */
static void follow(double *mean, double *var, double x, double rate)
{
    const double off = x - *mean;
    *mean += rate * off;
    *var = (1 - rate) * (*var + rate * off * off);
}

static void judge(struct step_ctl *ctl)
{
    const double loss = ctl->loss_sum / ctl->n_targets, norm = ctl->gnorm;
    ctl->grad_scale = 1;
    if (ctl->clip > 0 && norm > (double)ctl->clip)
        ctl->grad_scale = (float)((double)ctl->clip / norm);
    ctl->skip = !isfinite(loss) || !isfinite(norm) ||
                is_outlier(loss, ctl->loss_mean, ctl->loss_var, ctl) ||
                is_outlier(norm, ctl->gnorm_mean, ctl->gnorm_var, ctl);
    if (ctl->skip) {
        ctl->skipped++;
        ctl->skipped_in_row++;
        return;
    }
    ctl->applied++;
    ctl->skipped_in_row = 0;
    const double rate = 1.0 / (double)(ctl->applied < WARM_UP ? ctl->applied : WARM_UP);
    follow(&ctl->loss_mean, &ctl->loss_var, loss, rate);
    follow(&ctl->gnorm_mean, &ctl->gnorm_var, norm, rate);
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
