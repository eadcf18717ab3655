/* backends: the case that the tests of one backend and another compute, a small hybrid with packed
 * documents, and what a model gives for it. */
#ifndef HM_BACKENDS_H
#define HM_BACKENDS_H

#include "cuda_lib.h"
#include "model_test.h"

enum { R = 2, DECODED = 24 /* rows that decode, and tokens of each */ };

/* Documents of 1, 16, 3, 13 and 4 tokens. */
static const int cuts[] = {1, 17, 20, 33};

/* What a model gives: losses (B,T), the gradient, and logits (DECODED,R,V) token by token. */
struct results {
    float *loss, *grad, *logits;
    double mean_loss;
};

/* The case that all devices compute. */
struct text {
    const char *name;
    struct config c;
    struct params params;
    float *weights;
    struct batch_rows rows;
};

static struct model_opts opts_for(const struct rows *rows)
{
    return (struct model_opts){
        .is_training = true, .B = rows->B, .T = rows->T, .step_R = R, .S = rows->T};
}

static void free_results(struct results *r)
{
    free(r->loss);
    free(r->grad);
    free(r->logits);
}

/* The beginnings of both rows as one text each, token by token. */
static float *decode(struct model *m, const struct rows *rows)
{
    struct state s;
    struct err err;
    const size_t V = (size_t)m->c.V;
    float *logits = malloc(DECODED * R * V * sizeof *logits);
    must(state_open(&s, &m->c, m->dev, R, rows->T, &err), &err);
    for (int t = 0; t < DECODED; t++) {
        struct tensor out;
        const int32_t slot[R] = {1, 0}, ids[R] = {rows->ids[t], rows->ids[rows->T + t]};
        must(model_step(m, &s, slot, ids, R, &out, &err), &err);
        dev_download(m->dev, logits + (size_t)t * R * V, out.data, R * V * sizeof *logits);
    }
    state_free(&s);
    return logits;
}

static struct results run_model(struct model *m, const struct rows *rows)
{
    struct results r = {.loss = malloc((size_t)rows->B * (size_t)rows->T * sizeof(float))};
    r.grad = gradient(m, rows, r.loss);
    const struct step_ctl ctl = read_ctl(m);
    r.mean_loss = ctl.loss_sum / ctl.n_targets;
    r.logits = decode(m, rows);
    return r;
}

static struct results run_on(const struct text *t, struct dev *dev)
{
    struct model m;
    const struct model_opts opts = opts_for(&t->rows.rows);
    open_model(&m, &t->c, &opts, dev, t->weights);
    const struct results r = run_model(&m, &t->rows.rows);
    model_close(&m);
    return r;
}

/* --- texts --- */

static size_t n_losses(const struct text *t)
{
    return (size_t)t->rows.rows.B * (size_t)t->rows.rows.T;
}

static size_t n_logits(const struct text *t)
{
    return DECODED * R * (size_t)t->c.V;
}

/* Mamba and attention, grouped queries, RoPE, multipliers, documents; ragged sizes. */
__attribute__((unused)) static struct text hybrid(void)
{
    enum { B = 2, T = 37 };
    struct err err;
    struct text t = {.name = "hybrid",
                     .c = {.V = 83,
                           .D = 64,
                           .F = 72,
                           .mamba_heads = 4,
                           .mamba_head_dim = 32,
                           .mamba_groups = 2,
                           .N = 16,
                           .K = 4,
                           .Q = 16,
                           .attn_heads = 4,
                           .kv_heads = 2,
                           .max_positions = T,
                           .use_rope = true,
                           .is_tied = true,
                           .init_range = 0.1f,
                           .embedding_multiplier = 1.7f,
                           .attention_multiplier = 0.3f,
                           .residual_multiplier = 0.6f,
                           .logits_scaling = 1.5f,
                           .pattern = "mtm"}};
    config_derive(&t.c);
    must(params_open(&t.params, &t.c, &err), &err);
    t.weights = random_weights(&t.c, 1);
    t.rows = random_rows(B, T, t.c.V, cuts, 4);
    return t;
}

static void close_text(struct text *t)
{
    params_free(&t->params);
    free(t->rows.block);
    free(t->weights);
}

#endif
