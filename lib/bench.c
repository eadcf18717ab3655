/* bench: see bench.h. */
#include "bench.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* --- measuring --- */

int bench_repeat(struct bench_time *out, const struct bench_opts *o, struct trace *trace,
                 int (*pass)(void *arg, struct err *err), void *arg, struct err *err)
{
    double block_s[TRACE_BLOCKS];
    const double slice_s = o->time_s / o->n_blocks;
    int n_blocks = 0;
    *out = (struct bench_time){0};
    if (trace)
        trace_start(trace);
    else
        TRY(pass(arg, err));
    const double begin = trace_now();
    int rc = 0;
    while (rc == 0 && n_blocks < o->n_blocks &&
           (n_blocks == 0 || trace_now() - begin < 3 * o->time_s)) {
        const double start = trace_now();
        int64_t n = 0;
        do {
            rc = pass(arg, err);
            n++;
        } while (rc == 0 && trace_now() - start < slice_s);
        block_s[n_blocks++] = (trace_now() - start) / (double)n;
        if (trace)
            trace_block(trace, n);
    }
    if (trace)
        trace_stop(trace);
    out->pass_s = trace_median(block_s, n_blocks);
    return rc;
}

/* As it runs, then traced, which takes half as long. */
static int measure(const struct bench *b, struct bench_phase *out,
                   int (*pass)(void *arg, struct err *err), void *arg, struct err *err)
{
    struct bench_opts traced = b->opts;
    struct bench_time time;
    traced.time_s /= 2;
    TRY(bench_repeat(&out->time, &b->opts, NULL, pass, arg, err));
    TRY(bench_repeat(&time, &traced, b->trace, pass, arg, err));
    out->bytes = out->floor_s = 0;
    for (int i = 0; i < b->trace->n_entries; i++) {
        const struct trace_entry *e = &b->trace->entry[i];
        out->bytes += e->n_calls * e->call.bytes;
        out->floor_s += e->n_calls * trace_floor(b->roof, &e->call);
    }
    if (b->trace->predict)
        out->time.pass_s = out->floor_s;
    return 0;
}

/* --- training --- */

static int set_weights(struct model *m, const float *weights, struct err *err)
{
    enum { SEED = 1 };
    if (weights)
        return model_set_weights(m, weights, err);
    float *initial = malloc(m->params.count * sizeof *initial);
    if (!initial)
        return err_oom(err, m->params.count * sizeof *initial);
    params_init(&m->params, &m->c, SEED, initial);
    const int rc = model_set_weights(m, initial, err);
    free(initial);
    return rc;
}

int bench_train_open(struct bench_train *b, const struct bench *bench, const struct config *c,
                     const struct model_opts *opts, const float *weights, struct batch *data,
                     struct err *err)
{
    *b = (struct bench_train){.bench = bench, .data = data};
    TRY(model_open(&b->model, c, opts, &bench->trace->dev, err));
    TRY(optim_open(&b->optim, &b->model, DT_F32, err));
    b->ctl = (struct step_ctl){.lr = 1e-6f,
                               .beta1 = 0.9f,
                               .beta2 = 0.95f,
                               .eps = 1e-8f,
                               .weight_decay = 0.1f,
                               .clip = 1.0f};
    dev_upload(b->model.dev, b->model.ctl, &b->ctl, sizeof b->ctl);
    TRY(set_weights(&b->model, weights, err));
    return batch_seek(data, 0, 0, err);
}

void bench_train_close(struct bench_train *b)
{
    optim_close(&b->optim);
    model_close(&b->model);
}

/* What train_step does. */
static int train_pass(void *arg, struct err *err)
{
    struct bench_train *b = arg;
    struct model *m = &b->model;
    struct trace *t = b->bench->trace;
    struct rows rows;
    int64_t n_targets;
    trace_enter(t, TRACE_LOADER);
    TRY(batch_step_targets(b->data, &n_targets, err));
    const int got = batch_next(b->data, &rows, err);
    if (got <= 0)
        return got < 0 ? -1 : err_set(err, NULL, "give shards", "the rows are over");
    trace_enter(t, TRACE_OPTIMIZER);
    b->ctl.step++;
    b->ctl.loss_scale = 1.0f / (float)n_targets;
    dev_upload(m->dev, m->ctl, &b->ctl, offsetof(struct step_ctl, gnorm));
    dev_zero(m->dev, m->grad, m->params.count * sizeof(float));
    trace_enter(t, TRACE_FORWARD);
    TRY(model_loss(m, &rows, true, 0, NULL, err));
    trace_enter(t, TRACE_OPTIMIZER);
    optim_step(&b->optim, m);
    dev_sync(m->dev);
    return 0;
}

int bench_train_run(struct bench_train *b, struct bench_phase *out, struct err *err)
{
    const struct model *m = &b->model;
    *out = (struct bench_phase){.tokens = (double)m->opts.B * m->opts.T};
    out->flops = out->tokens * model_flops_train(&m->c, m->opts.T, m->opts.recompute);
    b->bench->trace->head = &m->weight[m->params.head];
    const int rc = measure(b->bench, out, train_pass, b, err);
    b->bench->trace->head = NULL;
    return rc;
}

/* --- generation --- */

int bench_read_open(struct bench_read *b, const struct bench *bench, const struct config *c,
                    const struct model_opts *opts, const float *weights, struct err *err)
{
    *b = (struct bench_read){.bench = bench};
    TRY(model_open(&b->model, c, opts, &bench->trace->dev, err));
    return set_weights(&b->model, weights, err);
}

void bench_read_close(struct bench_read *b)
{
    model_close(&b->model);
}

/* One pass of prompts or of a step, and what it works on. */
struct reading {
    struct bench_read *read;
    struct state state;
    struct sampler sampler;
    struct read *text; /* (R) prompts */
    int32_t *ids;      /* (R,T) of the prompts, or (R) the last token of each row */
    int32_t *slot;
    float *logits, *logp;
    int R, depth;
    bool is_open; /* a step is under way */
};

static int any_id(const struct config *c, int i)
{
    return (int)((unsigned)i * 2654435761u % (unsigned)c->V);
}

/* R rows of T ids. n_logits: rows that have their logits. */
static int reading_open(struct reading *r, struct bench_read *b, int R, int T, int n_logits, int S,
                        struct err *err)
{
    const size_t V = (size_t)b->model.c.V, n = (size_t)R * (size_t)T;
    *r = (struct reading){.read = b, .R = R};
    r->text = calloc((size_t)R, sizeof *r->text);
    r->ids = malloc(n * sizeof *r->ids);
    r->slot = malloc((size_t)R * sizeof *r->slot);
    r->logp = malloc((size_t)R * sizeof *r->logp);
    r->logits = malloc((size_t)n_logits * V * sizeof *r->logits + 1);
    if (!r->text || !r->ids || !r->slot || !r->logp || !r->logits)
        return err_oom(err, n * sizeof *r->ids);
    for (size_t i = 0; i < n; i++)
        r->ids[i] = any_id(&b->model.c, (int)i);
    for (int i = 0; i < R; i++) {
        r->slot[i] = i;
        r->text[i] =
            (struct read){.slot = i, .ids = r->ids + (size_t)i * (size_t)T, .n = (size_t)T};
        if (i < n_logits)
            r->text[i].logits = r->logits + (size_t)i * V;
    }
    return state_open(&r->state, &b->model.c, b->model.dev, R, S, err);
}

static void reading_close(struct reading *r)
{
    sampler_close(&r->sampler);
    state_free(&r->state);
    free(r->text);
    free(r->ids);
    free(r->slot);
    free(r->logits);
    free(r->logp);
}

static void rewind_to(struct reading *r, int pos)
{
    for (int i = 0; i < r->R; i++)
        r->state.pos[i] = pos;
}

static int prefill_pass(void *arg, struct err *err)
{
    struct reading *r = arg;
    rewind_to(r, 0);
    return model_read_all(&r->read->model, &r->state, r->text, r->R, err);
}

int bench_prefill(struct bench_read *b, int R, int T, struct bench_phase *out, struct err *err)
{
    const struct config *c = &b->model.c;
    struct reading r;
    const double head = 2.0 * c->D * c->V; /* of the last tokens alone */
    *out = (struct bench_phase){.tokens = (double)R * T};
    out->flops = R * (T * (model_flops_fwd(c, T) - head) + head);
    int rc = reading_open(&r, b, R, T, R, T, err);
    if (rc == 0)
        rc = measure(b->bench, out, prefill_pass, &r, err);
    reading_close(&r);
    return rc;
}

static int begin_decode(struct reading *r, const int32_t *ids, struct err *err)
{
    rewind_to(r, r->depth);
    return sampler_begin(&r->sampler, &r->read->model, &r->state, r->slot, ids, r->R, err);
}

/* As generation does it: the next step is begun, then the last one's tokens are waited for. */
static int decode_pass(void *arg, struct err *err)
{
    struct reading *r = arg;
    if (!r->is_open)
        TRY(begin_decode(r, r->ids, err));
    r->is_open = true;
    TRY(begin_decode(r, NULL, err));
    return sampler_end(&r->sampler, &r->read->model, r->slot, r->R, r->ids, r->logp, err);
}

/* Attention looks at all keys before, where model_flops_fwd has half of a row. */
static double decode_flops(const struct config *c, int depth)
{
    double flops = model_flops_fwd(c, 1);
    for (int i = 0; i < c->L; i++)
        if (c->pattern[i] == 't')
            flops += 4.0 * depth * c->attn_heads * c->head_dim;
    return flops;
}

int bench_decode(struct bench_read *b, int R, int depth, struct bench_phase *out, struct err *err)
{
    struct reading r;
    struct sample_opts greedy;
    *out = (struct bench_phase){.tokens = R, .flops = R * decode_flops(&b->model.c, depth)};
    sample_defaults(&greedy);
    greedy.temperature = 0;
    int rc = reading_open(&r, b, R, 1, 0, depth + 1, err);
    if (rc == 0)
        rc = sampler_open(&r.sampler, b->model.dev, R, b->model.c.V, err);
    for (int i = 0; rc == 0 && i < R; i++)
        sampler_start(&r.sampler, i, &greedy, (uint32_t)i, r.ids, 1);
    r.depth = depth;
    b->bench->trace->depth = depth;
    if (rc == 0)
        rc = measure(b->bench, out, decode_pass, &r, err);
    if (rc == 0 && r.is_open)
        rc = sampler_end(&r.sampler, &b->model, r.slot, R, r.ids, r.logp, err);
    reading_close(&r);
    return rc;
}
