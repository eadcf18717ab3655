/* model_test: what the tests of whole models share: a device, small configs, weights that leave no
 * gradient trivial, rows of random documents. */
#ifndef HM_MODEL_TEST_H
#define HM_MODEL_TEST_H

#include "batch.h"
#include "cpu.h"
#include "model.h"
#include "must.h"
#include "rng.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

/* The best instruction set of this machine, with n threads. */
__attribute__((unused)) static void open_dev(struct dev *dev, int n_threads)
{
    struct err err;
    must(cpu_open(dev, cpu_isa_best(), n_threads, &err), &err);
}

struct variant {
    const char *name, *pattern;
    bool use_rope, is_untied, has_multipliers;
    int groups;
};

static const struct variant variants[] __attribute__((unused)) = {
    {"m", "m", false, false, false, 1},
    {"t", "t", false, false, false, 1},
    {"mmtm", "mmtm", false, false, false, 1},
    {"RoPE, untied, two groups, multipliers", "mtmtm", true, true, true, 2},
};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* Odd sizes, so that no two are mistaken for each other: D 32, E 64 = 4*16, F 40, V 53. */
__attribute__((unused)) static struct config small_config(const struct variant *v)
{
    struct config c = {.V = 53,
                       .D = 32,
                       .F = 40,
                       .mamba_heads = 4,
                       .mamba_head_dim = 16,
                       .mamba_groups = v->groups,
                       .N = 12,
                       .K = 4,
                       .Q = 8,
                       .attn_heads = 2,
                       .kv_heads = 1,
                       .max_positions = 64,
                       .use_rope = v->use_rope,
                       .is_tied = !v->is_untied,
                       .init_range = 0.3f};
    if (v->has_multipliers) {
        c.embedding_multiplier = 1.7f;
        c.attention_multiplier = 0.4f;
        c.residual_multiplier = 0.6f;
        c.logits_scaling = 1.5f;
    }
    strcpy(c.pattern, v->pattern);
    config_derive(&c);
    return c;
}

/* Initial weights, all of them moved a little, so that none is 1 or 0. To be freed. */
__attribute__((unused)) static float *random_weights(const struct config *c, uint64_t seed)
{
    struct params p;
    struct err err;
    must(params_open(&p, c, &err), &err);
    float *w = malloc(p.count * sizeof *w);
    params_init(&p, c, seed, w);
    for (int i = 0; i < p.n; i++)
        for (size_t j = 0; j < p.list[i].count; j++)
            w[p.list[i].offset + j] += 0.1f * rng_normal(seed, (uint64_t)i, j);
    params_free(&p);
    return w;
}

__attribute__((unused)) static void open_model(struct model *m, const struct config *c,
                                               const struct model_opts *opts, struct dev *dev,
                                               const float *weights)
{
    struct err err;
    must(model_open(m, c, opts, dev, &err), &err);
    must(model_set_weights(m, weights, &err), &err);
}

/* Rows of random ids; owned. */
struct batch_rows {
    struct rows rows;
    int32_t *block; /* ids, target, seg, pos */
};

__attribute__((unused)) static struct batch_rows make_rows(int B, int T)
{
    const size_t M = (size_t)B * (size_t)T;
    struct batch_rows b = {.block = calloc(4 * M, sizeof *b.block)};
    b.rows = (struct rows){b.block, b.block + M, b.block + 2 * M, b.block + 3 * M, B, T};
    return b;
}

static int32_t random_id(uint32_t stream, size_t i, int V)
{
    return (int32_t)(rng_uniform(11, stream, i) * (float)V);
}

/* Each row is cut into documents at the given places (rising, up to n_cuts). */
__attribute__((unused)) static struct batch_rows random_rows(int B, int T, int V, const int *cuts,
                                                             int n_cuts)
{
    struct batch_rows b = make_rows(B, T);
    const size_t M = (size_t)B * (size_t)T;
    for (size_t i = 0; i < M; i++) {
        const int t = (int)(i % (size_t)T);
        int seg = 0, start = 0;
        for (int k = 0; k < n_cuts; k++)
            if (t >= cuts[k]) {
                seg++;
                start = cuts[k];
            }
        b.block[i] = random_id(1, i, V);
        b.block[M + i] = i % 7 == 5 ? -1 : random_id(2, i, V);
        b.block[2 * M + i] = seg;
        b.block[3 * M + i] = t - start;
    }
    return b;
}

/* Loss sums and targets zeroed, gradients scaled by 1/n_targets. */
__attribute__((unused)) static void begin_step(struct model *m, double n_targets, uint64_t seed)
{
    const struct step_ctl ctl = {.seed = seed, .step = 3, .loss_scale = (float)(1 / n_targets)};
    dev_upload(m->dev, m->ctl, &ctl, sizeof ctl);
    if (m->grad)
        dev_zero(m->dev, m->grad, m->params.count * sizeof *m->grad);
}

__attribute__((unused)) static struct step_ctl read_ctl(struct model *m)
{
    struct step_ctl ctl;
    dev_download(m->dev, &ctl, m->ctl, sizeof ctl);
    return ctl;
}

__attribute__((unused)) static double count_targets(const struct rows *rows)
{
    double n = 0;
    for (int i = 0; i < rows->B * rows->T; i++)
        n += rows->target[i] >= 0;
    return n;
}

/* The gradient of the mean loss over the rows, in host memory; to be freed. loss (B*T) or NULL. */
__attribute__((unused)) static float *gradient(struct model *m, const struct rows *rows,
                                               float *loss)
{
    struct err err;
    begin_step(m, count_targets(rows), 5);
    must(model_loss(m, rows, true, 0, loss, &err), &err);
    float *g = malloc(m->params.count * sizeof *g);
    dev_download(m->dev, g, m->grad, m->params.count * sizeof *g);
    return g;
}

/* ||a-b|| / ||b|| of two f32 blocks. */
__attribute__((unused)) static double float_error(const float *a, const float *b, size_t n)
{
    double *wide = malloc((n + 1) * sizeof *wide);
    for (size_t i = 0; i < n; i++)
        wide[i] = (double)b[i];
    const double rel = rel_error(a, wide, n);
    free(wide);
    return rel;
}

#endif
