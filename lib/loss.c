/* loss: model_loss, the pass over rows of a batch; see model.h. */
#include "forward.h"

#include <string.h>

int model_check_ids(const struct model *m, const int32_t *ids, size_t n, int32_t lowest,
                    struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < lowest || ids[i] >= m->c.V)
            return err_set(err, NULL, "use the tokenizer that the model was trained with",
                           "token id %d lies outside the model's vocabulary of %d", ids[i], m->c.V);
    return 0;
}

static void upload_rows(struct model *m, const struct rows *rows)
{
    const int32_t *const list[4] = {rows->ids, rows->pos, rows->target, rows->seg};
    for (int i = 0; i < 4; i++)
        memcpy((int32_t *)m->stage + (size_t)i * m->acts->stride, list[i],
               (size_t)rows->B * (size_t)rows->T * sizeof(int32_t));
    dev_upload(m->dev, m->acts->inputs, m->stage, m->acts->inputs_bytes);
}

static int check_rows(const struct model *m, const struct rows *rows, bool is_backward,
                      struct err *err)
{
    const size_t M = (size_t)rows->B * (size_t)rows->T;
    if (rows->B < 1 || rows->T < 1 || rows->B > m->opts.B || rows->T > m->opts.T)
        return err_set(err, NULL, "open the model for larger micro-batches",
                       "%d rows of %d positions, the model holds %d of %d", rows->B, rows->T,
                       m->opts.B, m->opts.T);
    if (is_backward && !m->opts.is_training)
        return err_set(err, NULL, NULL, "the model was not opened for training");
    TRY(model_check_ids(m, rows->ids, M, 0, err));
    return model_check_ids(m, rows->target, M, -1, err);
}

/* What model_loss does on the device once the inputs are there. */
struct loss_work {
    struct pass pass;
    bool is_backward;
};

static void run_loss(void *arg)
{
    const struct loss_work *w = arg;
    const struct pass *p = &w->pass;
    struct model *m = p->m;
    forward_embed(p);
    for (int i = 0; i < m->c.L; i++)
        forward_block(p, i, false);
    forward_norm(p, &m->value[m->params.final_norm]);
    if (w->is_backward)
        backward(p);
    else
        forward_loss(p, 1.0f / m->c.logits_scaling, m->ctl);
}

int model_loss(struct model *m, const struct rows *rows, bool is_backward, int micro, float *loss,
               struct err *err)
{
    TRY(check_rows(m, rows, is_backward, err));
    const struct acts_shape shape = {m->dev, is_backward ? PASS_TRAIN : PASS_FORWARD,
                                     m->opts.recompute, rows->B, rows->T};
    acts_carve(m->acts, &m->c, &shape);
    struct loss_work work = {{.m = m, .a = m->acts, .seg = m->acts->seg}, is_backward};
    const int32_t number = micro;
    upload_rows(m, rows);
    work.pass.is_dropping = is_backward && m->opts.dropout > 0.0f;
    if (work.pass.is_dropping)
        dev_upload(m->dev, &m->ctl->micro, &number, sizeof number);
    dev_run(m->dev, model_key(m, is_backward ? RUN_TRAIN : RUN_LOSS, rows->B, rows->T, NULL),
            run_loss, &work);
    if (!loss)
        return 0;
    dev_download(m->dev, loss, m->acts->loss, (size_t)rows->B * (size_t)rows->T * sizeof *loss);
    return dev_status(m->dev, err);
}
