/* tiny_model: what tests of generation and scoring share: a tokenizer trained on a few words, and
 * a minute model with random or zero weights. */
#ifndef HM_TINY_MODEL_H
#define HM_TINY_MODEL_H

#include "cpu.h"
#include "encode.h"
#include "model.h"
#include "must.h"
#include "spm.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

struct tiny {
    struct tok *tok;
    struct dev dev;
    struct params params;
    struct model model;
    float *weights; /* as given to the model */
};

__attribute__((unused)) static void tiny_tok(struct tok **tok)
{
    static const char *const text[] = {" the", " cat",  " sat", " on",  " a",     " mat", " dog",
                                       "the",  "The",   " and", " ran", " house", "cat",  " in",
                                       "User", " said", "dog",  "Once", " upon",  " time"};
    enum { N = sizeof text / sizeof text[0] };
    struct spm_word words[N];
    for (size_t i = 0; i < N; i++)
        words[i] = (struct spm_word){(const uint8_t *)text[i], strlen(text[i]), 100 - i};
    const struct spm_spec spec = {.vocab = 340, .coverage = 1, .max_chars = 16};
    struct buf model = {0};
    struct err err;
    if (spm_train(&spec, words, N, &model, &err) != 0 ||
        tok_open_bytes(tok, model.data, model.size, &err) != 0)
        die(&err);
    buf_free(&model);
}

/* scale: what random weights are multiplied with; 0: all weights are zero. */
__attribute__((unused)) static void tiny_open(struct tiny *t, const char *pattern, float scale,
                                              const struct model_opts *opts, int n_threads)
{
    struct err err;
    struct config c = {.D = 32, .F = 48, .N = 16, .Q = 16, .max_positions = 32};
    *t = (struct tiny){0};
    tiny_tok(&t->tok);
    c.V = tok_vocab(t->tok);
    snprintf(c.pattern, sizeof c.pattern, "%s", pattern);
    c.is_tied = true;
    c.use_rope = true; /* so that positions matter */
    c.head_dim = 16;
    c.mamba_head_dim = 16;
    config_derive(&c);
    if (config_check(&c, &err) != 0 || params_open(&t->params, &c, &err) != 0 ||
        cpu_open(&t->dev, cpu_isa_best(), n_threads, &err) != 0 ||
        model_open(&t->model, &c, opts, &t->dev, &err) != 0)
        die(&err);
    t->weights = calloc(t->params.count, sizeof *t->weights);
    if (scale != 0)
        params_init(&t->params, &c, 7, t->weights);
    const struct param *embed = &t->params.list[t->params.embed];
    for (size_t i = 0; i < embed->count; i++)
        t->weights[embed->offset + i] *= scale;
    if (model_set_weights(&t->model, t->weights, &err) != 0)
        die(&err);
}

__attribute__((unused)) static void tiny_close(struct tiny *t)
{
    model_close(&t->model);
    dev_close(&t->dev);
    params_free(&t->params);
    tok_close(t->tok);
    free(t->weights);
}

#endif
