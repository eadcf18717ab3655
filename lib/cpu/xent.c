/* xent: cross-entropy of logits against targets, and its gradient in place. A row is read three
 * times: its maximum, its exponentials (which take the logits' place), the gradient. Rows are split
 * over the workers; the losses are added in row order by one. */
#include "cpu_ops.h"
#include "local.h"
#include "softmax.h"

#include <assert.h>

struct xent_job {
    const struct tensor *logits;
    const int32_t *target;
    float *loss;      /* may be NULL */
    double *row_loss; /* (M) workspace */
    float scale;
    const struct step_ctl *ctl;
};

static double xent_row(const struct xent_job *job, int64_t m)
{
    const int64_t V = tensor_cols(job->logits);
    const int32_t target = job->target[m];
    const struct step_ctl *ctl = job->ctl;
    float *x = row(job->logits, m);
    assert(target < V);
    if (target < 0) {
        if (ctl)
            memset(x, 0, (size_t)V * sizeof *x);
        return 0;
    }
    const float top = softmax_top(x, V), hit = x[target], scale = job->scale;
    const double sum = ctl ? softmax_terms(x, x, V, top, scale) : softmax_sum(x, V, top, scale);
    const double lse = (double)top * (double)scale + log(sum);
    if (ctl) {
        const double fp16 = ctl->fp16_scale > 0 ? (double)ctl->fp16_scale : 1;
        const double unit = fp16 * (double)ctl->loss_scale * (double)scale;
        const float factor = (float)(unit * (1 + 2 * (double)ctl->z_coef * lse) / sum);
        for (int64_t i = 0; i < V; i++)
            x[i] *= factor;
        x[target] -= (float)unit;
    }
    return lse - (double)hit * (double)scale;
}

static void xent_worker(void *arg, int worker, int n_workers)
{
    const struct xent_job *job = arg;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->logits), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        job->row_loss[m] = xent_row(job, (int64_t)m);
        if (job->loss)
            job->loss[m] = (float)job->row_loss[m];
    }
}

void cpu_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
              float scale, struct step_ctl *ctl)
{
    const int64_t M = tensor_rows(logits);
    struct xent_job job = {logits, target, loss, dev->work, scale, ctl};
    run_sized(dev, (int64_t)tensor_count(logits), xent_worker, &job);
    if (!ctl)
        return;
    for (int64_t m = 0; m < M; m++)
        if (target[m] >= 0) {
            ctl->loss_sum += job.row_loss[m];
            ctl->n_targets++;
        }
}

size_t cpu_xent_plan(const struct dev *dev, const struct sizes *s)
{
    return (size_t)max_i64((int64_t)s->B * s->T, s->R) * sizeof(double);
}
