/* embed: rows of the embedding by id, and their gradient. The gradient is split by columns: each
 * worker adds all rows in order to the columns that it owns, so nothing is added at once. */
#include "cpu_ops.h"
#include "local.h"

#include <assert.h>

struct embed_job {
    const struct tensor *y; /* y or dw: what is written */
    const struct tensor *dy;
    const int32_t *ids;
    const struct weight *w;
    float scale;
};

static void fwd_worker(void *arg, int worker, int n_workers)
{
    const struct embed_job *job = arg;
    const struct weight *w = job->w;
    const int64_t D = w->cols;
    const float scale = job->scale;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->y), 1, worker, n_workers, &begin, &end);
    for (size_t m = begin; m < end; m++) {
        assert(job->ids[m] >= 0 && job->ids[m] < w->rows);
        float *restrict y = row(job->y, (int64_t)m);
        if (w->dtype == DT_BF16) {
            const uint16_t *from = (const uint16_t *)w->data + job->ids[m] * D;
            for (int64_t d = 0; d < D; d++)
                y[d] = scale * bf16_to_f32(from[d]);
        } else {
            const float *from = (const float *)w->data + job->ids[m] * D;
            for (int64_t d = 0; d < D; d++)
                y[d] = scale * from[d];
        }
    }
}

void cpu_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids, const struct weight *w,
                   float scale)
{
    assert(tensor_cols(y) == w->cols && w->layout == 0);
    struct embed_job job = {.y = y, .ids = ids, .w = w, .scale = scale};
    run_sized(dev, (int64_t)tensor_count(y), fwd_worker, &job);
}

static void bwd_worker(void *arg, int worker, int n_workers)
{
    const struct embed_job *job = arg;
    const int64_t M = tensor_rows(job->dy);
    const float scale = job->scale;
    size_t begin, end;
    pool_share((size_t)tensor_cols(job->dy), 16, worker, n_workers, &begin, &end);
    for (int64_t m = 0; m < M; m++) {
        float *restrict dw = row(job->y, job->ids[m]);
        const float *dy = row(job->dy, m);
        for (size_t d = begin; d < end; d++)
            dw[d] += scale * dy[d];
    }
}

void cpu_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids, const struct tensor *dy,
                   float scale)
{
    assert(tensor_cols(dw) == tensor_cols(dy));
    struct embed_job job = {.y = dw, .ids = ids, .dy = dy, .scale = scale};
    run_sized(dev, (int64_t)tensor_count(dy), bwd_worker, &job);
}
