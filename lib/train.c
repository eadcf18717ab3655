/* train: see train.h. */
#include "train.h"
#include "ckpt.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Where gradients of f16 begin: most models overflow it in the first steps, and halve it. */
static const float FIRST_FP16_SCALE = 65536.0f;

static struct model_opts model_opts_of(const struct config *c, const struct train_opts *o)
{
    return (struct model_opts){
        .product = (enum dtype)o->dtype,
        .is_training = true,
        .B = (int)o->batch,
        .T = c->max_positions,
        .recompute = (enum recompute)o->recompute,
        .dropout = (float)o->dropout,
    };
}

int train_plan(const struct config *c, const struct train_opts *o, const struct dev *dev,
               struct arena *plan, struct err *err)
{
    const struct model_opts mo = model_opts_of(c, o);
    struct params p;
    TRY(model_plan(c, &mo, dev, plan, err));
    TRY(params_open(&p, c, err));
    optim_plan(&p, (enum dtype)o->moments, plan);
    params_free(&p);
    return 0;
}

/* --- opening --- */

static int check_corpus(const struct corpus_info *info, const struct config *c, uint64_t tok_hash,
                        const char *path, struct err *err)
{
    if (info->tok_hash != tok_hash)
        return err_set(err, path,
                       "encode the text again with this tokenizer, or name its own "
                       "with --tokenizer",
                       "was made with another tokenizer");
    if (info->vocab > c->V)
        return err_set(err, path, "raise --vocab, or leave it out", "has %d ids, the model %d",
                       info->vocab, c->V);
    return 0;
}

static int open_data(struct train *t, const struct train_data *d, uint64_t tok_hash,
                     struct err *err)
{
    const struct train_opts *o = &t->head.opts;
    struct batch_opts b = {.B = (int)o->batch,
                           .T = t->head.c.max_positions,
                           .accum = (int)o->accum,
                           .world = 1,
                           .seed = (uint64_t)o->seed,
                           .is_shuffled = true};
    TRY(batch_open(&t->data, d->shards, d->n_shards, &b, &t->info, err));
    TRY(check_corpus(&t->info, &t->head.c, tok_hash, d->shards[0], err));
    if (d->n_valid == 0)
        return 0;
    b.accum = 1;
    b.is_shuffled = false;
    TRY(batch_open(&t->valid, d->valid, d->n_valid, &b, &t->valid_info, err));
    return check_corpus(&t->valid_info, &t->head.c, tok_hash, d->valid[0], err);
}

static size_t moment_bytes(const struct train *t)
{
    return t->model.params.count * dtype_size(t->optim.m.dtype);
}

/* Host views or host copies of the three blocks. */
static int open_blocks(struct train *t, struct err *err)
{
    const size_t n = t->model.params.count;
    t->io =
        (struct train_blocks){t->model.master, t->optim.m.data, t->optim.v.data, t->optim.m.dtype};
    if (t->dev->is_host)
        return 0;
    t->io.weights = calloc(n, sizeof(float));
    t->io.m = calloc(moment_bytes(t), 1);
    t->io.v = calloc(moment_bytes(t), 1);
    if (!t->io.weights || !t->io.m || !t->io.v)
        return err_oom(err, n * sizeof(float));
    return 0;
}

static int open_all(struct train *t, const struct train_data *d, const struct buf *tok,
                    uint64_t tok_hash, struct err *err)
{
    const struct model_opts mo = model_opts_of(&t->head.c, &t->head.opts);
    TRY(buf_put(&t->tok, tok->data, tok->size, err));
    TRY(open_data(t, d, tok_hash, err));
    TRY(model_open(&t->model, &t->head.c, &mo, t->dev, err));
    TRY(optim_open(&t->optim, &t->model, (enum dtype)t->head.opts.moments, err));
    return open_blocks(t, err);
}

int train_open(struct train *t, const struct train_head *head, const struct train_data *d,
               const struct buf *tok, uint64_t tok_hash, struct dev *dev, struct err *err)
{
    *t = (struct train){.head = *head, .dev = dev};
    if (head->state.tok_hash && head->state.tok_hash != tok_hash)
        return err_set(err, NULL, "give the run's own tokenizer with --tokenizer",
                       "the run was begun with another tokenizer");
    if (train_opts_check(&t->head.opts, err) != 0 || open_all(t, d, tok, tok_hash, err) != 0) {
        train_close(t);
        return -1;
    }
    t->head.state.tok_hash = tok_hash;
    return 0;
}

void train_close(struct train *t)
{
    if (t->dev && !t->dev->is_host) {
        free(t->io.weights);
        free(t->io.m);
        free(t->io.v);
    }
    if (t->dev) {
        optim_close(&t->optim);
        model_close(&t->model);
    }
    if (t->data)
        batch_close(t->data);
    if (t->valid)
        batch_close(t->valid);
    buf_free(&t->tok);
    *t = (struct train){0};
}

/* --- beginning and going on --- */

/* Puts the parts of the step's control block that do not change, and the statistics, where the ops
 * see them. */
static void upload_ctl(struct train *t)
{
    const struct train_opts *o = &t->head.opts;
    const struct train_state *s = &t->head.state;
    t->ctl = (struct step_ctl){
        .seed = (uint64_t)o->seed,
        .step = s->step,
        .beta1 = (float)o->beta1,
        .beta2 = (float)o->beta2,
        .eps = (float)o->eps,
        .weight_decay = (float)o->weight_decay,
        .clip = (float)o->clip,
        .z_coef = (float)o->z_loss,
        .outlier_sigma = (float)o->outlier,
        .skipped_in_row = (int32_t)s->skipped_in_row,
        .skipped = s->skipped,
        .applied = s->applied,
        .loss_mean = s->loss_mean,
        .loss_var = s->loss_var,
        .gnorm_mean = s->gnorm_mean,
        .gnorm_var = s->gnorm_var,
    };
    if (t->dev->act_dtype == DT_F16) {
        t->ctl.fp16_scale = s->fp16_scale > 0 ? (float)s->fp16_scale : FIRST_FP16_SCALE;
        t->ctl.fp16_good = s->fp16_good;
    }
    dev_upload(t->dev, t->model.ctl, &t->ctl, sizeof t->ctl);
}

/* With --max-time the total has to be measured first. */
static int64_t known_total(const struct train *t)
{
    const struct train_opts *o = &t->head.opts;
    return o->max_time > 0 ? 0 : train_total(o, &t->head.c, t->info.n_rows);
}

int train_begin_from(struct train *t, const float *weights, struct err *err)
{
    struct train_state *s = &t->head.state;
    const uint64_t tok_hash = s->tok_hash;
    *s = (struct train_state){.world = 1,
                              .tok_hash = tok_hash,
                              .corpus_tokens = t->info.n_rows < 0 ? 0 : t->info.n_tokens,
                              .corpus_docs = t->info.n_rows < 0 ? 0 : t->info.n_docs,
                              .best_step = -1,
                              .valid_step = -1};
    train_set_total(t, known_total(t));
    TRY(model_set_weights(&t->model, weights, err));
    upload_ctl(t);
    return batch_seek(t->data, 0, 0, err);
}

int train_init(struct train *t, struct err *err)
{
    const struct params *p = &t->model.params;
    float *weights = malloc(p->count * sizeof(float));
    if (!weights)
        return err_oom(err, p->count * sizeof(float));
    params_init(p, &t->head.c, (uint64_t)t->head.opts.seed, weights);
    const int rc = train_begin_from(t, weights, err);
    free(weights);
    return rc;
}

static int check_same_corpus(const struct train *t, struct err *err)
{
    const struct train_state *s = &t->head.state;
    const bool is_stream = t->info.n_rows < 0;
    if (s->corpus_tokens == (is_stream ? 0 : t->info.n_tokens) &&
        s->corpus_docs == (is_stream ? 0 : t->info.n_docs))
        return 0;
    return err_set(err, NULL, "give the same shards, or begin a new run with --init-from",
                   "the run was begun on other data (%llu tokens, now %llu)",
                   (unsigned long long)s->corpus_tokens, (unsigned long long)t->info.n_tokens);
}

int train_restore(struct train *t, const char *path, struct err *err)
{
    const size_t bytes = t->model.params.count * sizeof(float);
    struct buf tok = {0};
    TRY(check_same_corpus(t, err));
    dev_zero(t->dev, t->model.master, bytes); /* the padding, too, has to be a number */
    if (train_ckpt_load(&t->model.params, &t->io, &tok, path, err) != 0) {
        buf_free(&tok);
        return -1;
    }
    const bool is_same = tok.size == t->tok.size && memcmp(tok.data, t->tok.data, tok.size) == 0;
    buf_free(&tok);
    if (!is_same)
        return err_set(err, path, "give the run's own tokenizer with --tokenizer",
                       "holds another tokenizer");
    if (t->dev->is_host)
        model_refresh(&t->model);
    else {
        TRY(model_set_weights(&t->model, t->io.weights, err));
        dev_upload(t->dev, t->optim.m.data, t->io.m, moment_bytes(t));
        dev_upload(t->dev, t->optim.v.data, t->io.v, moment_bytes(t));
    }
    upload_ctl(t);
    const struct train_state *s = &t->head.state;
    if (s->total == 0)
        train_set_total(t, known_total(t));
    const bool is_over = s->total > 0 && s->step >= s->total;
    return is_over ? 0 : batch_seek(t->data, s->step, s->cursor, err);
}

bool train_is_done(const struct train *t)
{
    const struct train_state *s = &t->head.state;
    return s->total > 0 && s->step >= s->total && (!t->valid || s->valid_step == s->step);
}

void train_set_total(struct train *t, int64_t total)
{
    struct train_state *s = &t->head.state;
    s->total = total;
    if (s->step == 0 || s->step < s->warmup)
        s->warmup = train_warmup(&t->head.opts, total);
}

/* --- a step --- */

double train_rate(const struct train *t)
{
    const struct train_opts *o = &t->head.opts;
    const struct schedule s = {(enum schedule_kind)o->schedule,
                               o->lr,
                               o->min_lr,
                               t->head.state.warmup,
                               t->head.state.total,
                               o->decay};
    return schedule_rate(&s, t->head.state.step);
}

/* Sends the part of the control block that lib owns, with fresh sums; what the ops own stays. */
static void begin_step(struct train *t, int64_t n_targets)
{
    t->ctl.step = t->head.state.step;
    t->ctl.lr = (float)train_rate(t);
    t->ctl.loss_scale = 1.0f / (float)n_targets;
    t->ctl.loss_sum = 0;
    t->ctl.n_targets = 0;
    dev_upload(t->dev, t->model.ctl, &t->ctl, offsetof(struct step_ctl, gnorm));
    dev_zero(t->dev, t->model.grad, t->model.params.count * sizeof(float));
}

int train_step(struct train *t, struct err *err)
{
    int64_t n_targets;
    TRY(batch_step_targets(t->data, &n_targets, err));
    if (n_targets == 0)
        return 0;
    begin_step(t, n_targets);
    for (int micro = 0; micro < t->head.opts.accum; micro++) {
        struct rows rows;
        const int got = batch_next(t->data, &rows, err);
        if (got < 0)
            return -1;
        if (got == 0)
            break; /* the stream's last step is short */
        TRY(model_loss(&t->model, &rows, true, micro, NULL, err));
    }
    optim_step(&t->optim, &t->model);
    t->head.state.step++;
    t->head.state.tokens += n_targets;
    t->head.state.cursor = batch_cursor(t->data);
    return 1;
}

int train_measure(struct train *t, struct err *err)
{
    struct train_state *s = &t->head.state;
    dev_download(t->dev, &t->ctl, t->model.ctl, sizeof t->ctl);
    TRY(dev_status(t->dev, err));
    s->skipped = t->ctl.skipped;
    s->skipped_in_row = t->ctl.skipped_in_row;
    s->applied = t->ctl.applied;
    s->loss_mean = t->ctl.loss_mean;
    s->loss_var = t->ctl.loss_var;
    s->gnorm_mean = t->ctl.gnorm_mean;
    s->gnorm_var = t->ctl.gnorm_var;
    s->fp16_scale = (double)t->ctl.fp16_scale;
    s->fp16_good = t->ctl.fp16_good;
    return 0;
}

double train_loss(const struct train *t)
{
    return t->ctl.loss_sum / t->ctl.n_targets;
}

/* --- validation --- */

double train_bits_per_byte(const struct train *t, double loss)
{
    const struct corpus_info *v = &t->valid_info;
    return v->n_bytes ? loss / M_LN2 * (double)v->n_tokens / (double)v->n_bytes : (double)NAN;
}

/* Adds up the losses of micro-batches until enough tokens were scored. 1: stopped. */
static int sum_losses(struct train *t, bool (*is_stopped)(void *), void *arg, struct err *err)
{
    const struct train_opts *o = &t->head.opts;
    const int64_t a_micro = o->batch * t->head.c.max_positions;
    for (int64_t done = 0; done < o->valid_tokens; done += a_micro) {
        struct rows rows;
        if (is_stopped && is_stopped(arg))
            return 1;
        const int got = batch_next(t->valid, &rows, err);
        if (got <= 0)
            return got;
        TRY(model_loss(&t->model, &rows, false, 0, NULL, err));
    }
    return 0;
}

int train_validate(struct train *t, bool (*is_stopped)(void *), void *arg, double *loss,
                   struct err *err)
{
    struct train_state *s = &t->head.state;
    struct step_ctl ctl = t->ctl;
    const size_t sums = offsetof(struct step_ctl, loss_sum);
    ctl.loss_sum = ctl.n_targets = 0;
    dev_upload(t->dev, (char *)t->model.ctl + sums, &ctl.loss_sum,
               offsetof(struct step_ctl, gnorm) - sums);
    TRY(batch_seek(t->valid, 0, 0, err));
    const int rc = sum_losses(t, is_stopped, arg, err);
    if (rc != 0)
        return rc;
    dev_download(t->dev, &ctl, t->model.ctl, sizeof ctl);
    TRY(dev_status(t->dev, err));
    *loss = ctl.loss_sum / ctl.n_targets;
    s->valid_step = s->step;
    if (isfinite(*loss) && (s->best_step < 0 || *loss < s->best_loss)) {
        s->best_loss = *loss;
        s->best_step = s->step;
    }
    return 0;
}

/* --- saving --- */

/* Makes t->io hold what the device has. */
static int fetch_blocks(struct train *t, struct err *err)
{
    TRY(train_measure(t, err));
    if (t->dev->is_host)
        return 0;
    dev_download(t->dev, t->io.weights, t->model.master, t->model.params.count * sizeof(float));
    dev_download(t->dev, t->io.m, t->optim.m.data, moment_bytes(t));
    dev_download(t->dev, t->io.v, t->optim.v.data, moment_bytes(t));
    return dev_status(t->dev, err);
}

int train_save(struct train *t, const char *path, struct err *err)
{
    TRY(fetch_blocks(t, err));
    return train_ckpt_save(&t->head, &t->model.params, &t->io, &t->tok, path, err);
}

int train_save_model(struct train *t, const char *path, struct err *err)
{
    struct out out;
    TRY(fetch_blocks(t, err));
    TRY(out_open(&out, path, err));
    if (ckpt_save_model(&t->head.c, &t->model.params, t->io.weights, &t->tok, DT_BF16, &out, err) !=
        0) {
        out_abort(&out);
        return -1;
    }
    return out_commit(&out, err);
}
