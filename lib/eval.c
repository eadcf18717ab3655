/* eval: packed rows and long reads; see eval.h. */
#include "eval.h"
#include "rng.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Targets skip..n-1 of a packed run, which begins at position `at` of the batch. */
struct eval_span {
    size_t at, n, skip;
    double *nats;
};

int eval_open(struct eval *e, struct model *m, const struct tok *tok, int S, struct err *err)
{
    *e = (struct eval){.model = m, .tok = tok, .B = m->opts.B, .T = m->opts.T};
    const size_t n = (size_t)e->B * (size_t)e->T;
    e->ids = calloc(n, sizeof *e->ids);
    e->target = calloc(n, sizeof *e->target);
    e->seg = calloc(n, sizeof *e->seg);
    e->pos = calloc(n, sizeof *e->pos);
    e->loss = calloc(n, sizeof *e->loss);
    e->span = calloc(n, sizeof *e->span);
    e->read_ids = calloc(EVAL_PIECE, sizeof *e->read_ids);
    e->read_target = calloc(EVAL_PIECE, sizeof *e->read_target);
    e->read_loss = calloc(EVAL_PIECE, sizeof *e->read_loss);
    if (!e->ids || !e->target || !e->seg || !e->pos || !e->loss || !e->span || !e->read_ids ||
        !e->read_target || !e->read_loss) {
        eval_close(e);
        return err_oom(err, n * sizeof *e->span);
    }
    if (state_open(&e->state, &m->c, m->dev, 2, S, err) != 0) {
        eval_close(e);
        return -1;
    }
    return 0;
}

void eval_close(struct eval *e)
{
    free(e->ids);
    free(e->target);
    free(e->seg);
    free(e->pos);
    free(e->loss);
    free(e->span);
    free(e->read_ids);
    free(e->read_target);
    free(e->read_loss);
    state_free(&e->state);
    *e = (struct eval){0};
}

int64_t eval_room(const struct eval *e)
{
    return strchr(e->model->c.pattern, 't') ? e->state.S : INT32_MAX;
}

/* Ends the row that is being filled: what is left of it is a segment that is not scored. */
static void pad_row(struct eval *e)
{
    if (e->n_rows == 0)
        return;
    const size_t begin = (size_t)(e->n_rows - 1) * (size_t)e->T;
    const int32_t seg = e->n_used ? e->seg[begin + (size_t)e->n_used - 1] + 1 : 0;
    for (int t = e->n_used; t < e->T; t++) {
        e->ids[begin + (size_t)t] = ID_PAD;
        e->target[begin + (size_t)t] = -1;
        e->seg[begin + (size_t)t] = seg;
        e->pos[begin + (size_t)t] = t - e->n_used;
    }
    e->n_used = e->T;
}

int eval_flush(struct eval *e, struct err *err)
{
    pad_row(e);
    if (e->n_rows > 0) {
        const struct rows rows = {e->ids, e->target, e->seg, e->pos, e->n_rows, e->T};
        TRY(model_loss(e->model, &rows, false, 0, e->loss, err));
    }
    for (int i = 0; i < e->n_spans; i++) {
        const struct eval_span *s = &e->span[i];
        for (size_t k = s->skip; k < s->n; k++)
            *s->nats += (double)e->loss[s->at + k];
    }
    e->n_rows = e->n_used = e->n_spans = 0;
    return 0;
}

int eval_pack(struct eval *e, int32_t first, const int32_t *target, size_t n, size_t skip,
              double *nats, struct err *err)
{
    if (n == 0)
        return 0;
    if (e->n_rows == 0 || (size_t)(e->T - e->n_used) < n) {
        if (e->n_rows == e->B)
            TRY(eval_flush(e, err));
        pad_row(e);
        e->n_rows++;
        e->n_used = 0;
    }
    const size_t at = (size_t)(e->n_rows - 1) * (size_t)e->T + (size_t)e->n_used;
    const int32_t seg = e->n_used ? e->seg[at - 1] + 1 : 0;
    for (size_t i = 0; i < n; i++) {
        e->ids[at + i] = i ? target[i - 1] : first;
        e->target[at + i] = i < skip ? -1 : target[i];
        e->seg[at + i] = seg;
        e->pos[at + i] = (int32_t)i;
    }
    e->span[e->n_spans++] = (struct eval_span){at, n, skip, nats};
    e->n_used += (int)n;
    return 0;
}

int eval_read(struct eval *e, int slot, int32_t first, const int32_t *target, size_t n,
              double *nats, struct err *err)
{
    for (size_t done = 0; done < n;) {
        const size_t left = n - done, take = left < EVAL_PIECE ? left : EVAL_PIECE;
        for (size_t i = 0; i < take; i++) {
            e->read_ids[i] = done + i ? target[done + i - 1] : first;
            e->read_target[i] = target[done + i];
        }
        TRY(model_read(e->model, &e->state, slot, e->read_ids, take, e->read_target, e->read_loss,
                       NULL, err));
        for (size_t i = 0; i < take; i++)
            *nats += (double)e->read_loss[i];
        done += take;
    }
    return 0;
}

enum { HASH_READ = 64, HASH_STEPS = 8 };

static int hash_logits(struct eval *e, float *logits, uint64_t *hash, struct err *err)
{
    const int V = e->model->c.V;
    int32_t ids[HASH_READ + HASH_STEPS];
    for (int i = 0; i < HASH_READ + HASH_STEPS; i++)
        ids[i] = i ? (int32_t)rng_permute(1, 0, (uint64_t)(i % V), (uint64_t)V) : ID_BOS;
    state_reset(&e->state, 0);
    TRY(model_read(e->model, &e->state, 0, ids, HASH_READ, NULL, NULL, logits, err));
    *hash = XXH64(logits, (size_t)V * sizeof *logits, 0);
    for (int i = HASH_READ; i < HASH_READ + HASH_STEPS; i++) {
        const int32_t slot = 0;
        struct tensor step;
        TRY(model_step(e->model, &e->state, &slot, &ids[i], 1, &step, err));
        dev_download(e->model->dev, logits, step.data, (size_t)V * sizeof *logits);
        *hash = XXH64(logits, (size_t)V * sizeof *logits, *hash);
    }
    return 0;
}

int eval_logits_hash(struct eval *e, uint64_t *hash, struct err *err)
{
    const size_t bytes = (size_t)e->model->c.V * sizeof(float);
    float *logits = malloc(bytes);
    if (!logits)
        return err_oom(err, bytes);
    const int status = hash_logits(e, logits, hash, err);
    free(logits);
    return status;
}
