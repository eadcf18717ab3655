/* gnorm: the norm of all gradients and the verdict on the step (verdict.h). The squares are summed
 * in double in a fixed number of blocks, whatever the number of workers, and the blocks in order.
 */
#include "cpu_ops.h"
#include "local.h"
#include "verdict.h"

enum { BLOCKS = 256 };

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

void cpu_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    struct gnorm_job job = {g, n, dev->work};
    run_sized(dev, (int64_t)n, gnorm_worker, &job);
    double sum = 0;
    for (int b = 0; b < BLOCKS; b++)
        sum += job.sum[b];
    verdict(ctl, sum);
}

size_t cpu_gnorm_plan(const struct dev *dev, const struct sizes *s)
{
    return BLOCKS * sizeof(double);
}
