/* passes: model_loss and model_read, over what forward.h offers; see model.h. */
#include "forward.h"

#include <stdlib.h>
#include <string.h>

static int check_ids(const struct model *m, const int32_t *ids, size_t n, int32_t lowest,
                     struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < lowest || ids[i] >= m->c.V)
            return err_set(err, NULL, "use the tokenizer that the model was trained with",
                           "token id %d lies outside the model's vocabulary of %d", ids[i], m->c.V);
    return 0;
}

/* List i of the inputs on the host, in the order of struct acts. */
static int32_t *staged(const struct model *m, int i)
{
    return (int32_t *)m->stage + (size_t)i * m->acts->stride;
}

static void upload_inputs(struct model *m, int n_lists)
{
    dev_upload(m->dev, m->acts->inputs, m->stage,
               (size_t)n_lists * m->acts->stride * sizeof(int32_t));
}

static void upload_rows(struct model *m, const struct rows *rows)
{
    const int32_t *const list[4] = {rows->ids, rows->pos, rows->target, rows->seg};
    for (int i = 0; i < 4; i++)
        memcpy(staged(m, i), list[i], (size_t)rows->B * (size_t)rows->T * sizeof(int32_t));
    upload_inputs(m, 4);
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
    TRY(check_ids(m, rows->ids, M, 0, err));
    return check_ids(m, rows->target, M, -1, err);
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

/* --- reading --- */

/* The logits after the piece's last id, which model_step would have given. */
static void last_logits(const struct pass *p, float *logits)
{
    struct model *m = p->m;
    const struct tensor h = tensor_row_range(&p->a->h, p->a->T - 1, 1);
    struct tensor out = tensor_row_range(&p->a->logits, 0, 1);
    m->dev->ops->linear_step(m->dev, &out, &h, &m->weight[m->params.head]);
    dev_download(m->dev, logits, out.data, (size_t)m->c.V * sizeof *logits);
}

/* One piece of n <= read_T ids. Where it lies in the cache is no device memory, so it is not
 * recorded. */
static void read_piece(struct model *m, struct state *s, int slot, const int32_t *ids, int n,
                       const int32_t *target, float *loss, float *logits)
{
    const struct acts_shape shape = {m->dev, PASS_FORWARD, m->opts.recompute, 1, n};
    acts_carve(m->acts, &m->c, &shape);
    const struct pass p = {.m = m, .a = m->acts, .state = s, .slot = slot};
    const size_t bytes = (size_t)n * sizeof *ids;
    memcpy(staged(m, 0), ids, bytes);
    for (int i = 0; i < n; i++)
        staged(m, 1)[i] = s->pos[slot] + i;
    if (target)
        memcpy(staged(m, 2), target, bytes);
    upload_inputs(m, target ? 3 : 2);
    forward_embed(&p);
    for (int i = 0; i < m->c.L; i++)
        forward_block(&p, i, false);
    s->pos[slot] += n;
    if (!target && !logits)
        return;
    const struct tensor w = tensor_of(m->head_norm, DT_F32, 1, m->c.D, 0, 0, 0);
    forward_norm(&p, &w);
    if (target) {
        forward_loss(&p, 1.0f, NULL);
        dev_download(m->dev, loss, p.a->loss, bytes);
    }
    if (logits)
        last_logits(&p, logits);
}

static int check_read(const struct model *m, const struct state *s, int slot, size_t n,
                      struct err *err)
{
    if (m->opts.read_T < 1)
        return err_set(err, NULL, NULL, "the model was not opened for reading");
    if (slot < 0 || slot >= s->n_slots)
        return err_set(err, NULL, NULL, "the state has no slot %d", slot);
    const size_t room = strchr(m->c.pattern, 't') ? (size_t)s->S : (size_t)INT32_MAX;
    if (n > room - (size_t)s->pos[slot])
        return err_set(err, NULL, "use a longer context, or a shorter text",
                       "%zu more tokens do not fit: %d of %d positions are taken", n, s->pos[slot],
                       s->S);
    return 0;
}

int model_read(struct model *m, struct state *s, int slot, const int32_t *ids, size_t n,
               const int32_t *target, float *loss, float *logits, struct err *err)
{
    TRY(check_read(m, s, slot, n, err));
    TRY(check_ids(m, ids, n, 0, err));
    if (target)
        TRY(check_ids(m, target, n, -1, err));
    TRY(model_reserve(m, s, err));
    for (size_t at = 0; at < n;) {
        const size_t left = n - at, most = (size_t)m->opts.read_T;
        const int take = (int)(left < most ? left : most);
        const bool is_last = (size_t)take == left;
        read_piece(m, s, slot, ids + at, take, target ? target + at : NULL,
                   target ? loss + at : NULL, is_last ? logits : NULL);
        at += (size_t)take;
    }
    return target || logits ? dev_status(m->dev, err) : 0;
}
