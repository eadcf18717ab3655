/* model: memory and weights; see model.h. The passes: passes.c, forward.c, backward.c, step.c. */
#include "model.h"
#include "forward.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* --- the plan: every size that the device memory of a model follows from --- */

/* The greatest region that any of the passes asks for. */
static size_t region_bytes(struct model *m)
{
    const struct model_opts *o = &m->opts;
    const enum dtype act = m->dev->act_dtype;
    size_t need[4] = {0}, most = 0;
    if (o->B > 0) {
        need[0] = acts_plan(m->acts, &m->c, act, PASS_FORWARD, o->recompute, o->B, o->T);
        if (o->is_training)
            need[1] = acts_plan(m->acts, &m->c, act, PASS_TRAIN, o->recompute, o->B, o->T);
    }
    if (o->read_T > 0)
        need[2] = acts_plan(m->acts, &m->c, act, PASS_FORWARD, o->recompute, 1, o->read_T);
    if (o->step_R > 0)
        need[3] = acts_plan(m->acts, &m->c, act, PASS_STEP, o->recompute, o->step_R, 1);
    for (int i = 0; i < 4; i++)
        most = need[i] > most ? need[i] : most;
    return most;
}

static size_t pass_work(const struct model *m, int B, int T, int R)
{
    const struct config *c = &m->c;
    const struct sizes mamba = {.B = B,
                                .T = T,
                                .D = c->D,
                                .H = c->mamba_heads,
                                .P = c->mamba_head_dim,
                                .N = c->N,
                                .G = c->mamba_groups,
                                .K = c->K,
                                .F = c->F,
                                .V = c->V,
                                .Q = c->Q,
                                .S = m->work_S,
                                .R = R,
                                .dtype = m->opts.product};
    struct sizes attention = mamba;
    attention.H = c->attn_heads;
    attention.P = c->head_dim;
    attention.G = c->kv_heads;
    size_t most = 0;
    for (int op = 0; op < OP_COUNT; op++) {
        const bool is_attention = op == OP_ATTN || op == OP_ROPE;
        const size_t need =
            m->dev->ops->plan(m->dev, (enum op)op, is_attention ? &attention : &mamba);
        most = need > most ? need : most;
    }
    return most;
}

static size_t work_bytes(const struct model *m)
{
    const struct model_opts *o = &m->opts;
    size_t need[3] = {0}, most = 0;
    if (o->B > 0)
        need[0] = pass_work(m, o->B, o->T, 0);
    if (o->read_T > 0)
        need[1] = pass_work(m, 1, o->read_T, 0);
    if (o->step_R > 0)
        need[2] = pass_work(m, o->step_R, 1, o->step_R);
    for (int i = 0; i < 3; i++)
        most = need[i] > most ? need[i] : most;
    return most;
}

static void take_weight(struct model *m, struct arena *a, int i)
{
    const struct param *t = &m->params.list[i];
    const enum dtype product = m->opts.product;
    const size_t handle =
        t->is_matrix ? m->dev->ops->weight_bytes(m->dev, (int)t->dim[0], (int)t->dim[1], product)
                     : 0;
    float *data = NULL;
    if (m->opts.is_training)
        data = m->master ? m->master + t->offset : NULL;
    else if (handle == 0)
        data = arena_take(a, t->count * sizeof(float), MEM_WEIGHTS);
    m->value[i] = tensor_of(data, DT_F32, t->n_dims, t->dim[0], t->dim[1], t->dim[2], 0);
    if (!t->is_matrix)
        return;
    m->weight[i] = (struct weight){(int)t->dim[0], (int)t->dim[1], product, 0, data};
    if (handle)
        m->weight[i].data = arena_take(a, handle, MEM_WEIGHTS);
}

/* Takes everything; the same code plans and allocates. */
static void take_all(struct model *m, struct arena *a)
{
    const size_t flat = m->params.count * sizeof(float);
    if (m->opts.is_training) {
        m->master = arena_take(a, flat, MEM_WEIGHTS);
        m->grad = arena_take(a, flat, MEM_GRADS);
    }
    for (int i = 0; i < m->params.n; i++)
        take_weight(m, a, i);
    m->head_norm = arena_take(a, (size_t)m->c.D * sizeof(float), MEM_WEIGHTS);
    m->ctl = arena_take(a, sizeof *m->ctl, MEM_STATE);
    m->acts->region = arena_take(a, region_bytes(m), MEM_ACTS);
}

int model_reserve(struct model *m, const struct state *s, struct err *err)
{
    if (s->S <= m->work_S || !strchr(m->c.pattern, 't'))
        return 0;
    m->work_S = s->S;
    return dev_reserve(m->dev, work_bytes(m), err);
}

static int check_opts(const struct model_opts *o, struct err *err)
{
    if (o->read_T < 0 || o->step_R < 0 || o->S < 0)
        return err_set(err, NULL, "give sizes of at least 1",
                       "reading %d tokens, decoding %d rows, over %d positions", o->read_T,
                       o->step_R, o->S);
    if (o->B < 0 || o->T < 0 || (o->B > 0) != (o->T > 0) || (o->is_training && o->B == 0))
        return err_set(err, NULL, "give rows and positions of at least 1",
                       "a micro-batch of %d rows of %d positions", o->B, o->T);
    if ((int64_t)o->B * o->T > INT_MAX / 4)
        return err_set(err, NULL, "use smaller micro-batches",
                       "a micro-batch of %d rows of %d positions is too large", o->B, o->T);
    if (!(o->dropout >= 0.0f && o->dropout < 1.0f))
        return err_set(err, NULL, "set it within 0 to 1", "dropout is %g", (double)o->dropout);
    if (o->product != DT_F32 && o->product != DT_BF16 && o->product != DT_F16)
        return err_set(err, NULL, "use f32, bf16 or f16", "products cannot be in %s",
                       dtype_name(o->product));
    return 0;
}

/* Host memory of a model, and its plan. On failure model_close frees what there is. */
static int prepare(struct model *m, const struct config *c, const struct model_opts *opts,
                   struct dev *dev, struct err *err)
{
    *m = (struct model){.c = *c, .opts = *opts, .dev = dev};
    m->work_S = opts->S > 0 ? opts->S : c->max_positions;
    TRY(config_check(c, err));
    TRY(check_opts(opts, err));
    TRY(params_open(&m->params, c, err));
    TRY(acts_open(&m->acts, c, err));
    m->value = calloc((size_t)m->params.n, sizeof *m->value);
    m->weight = calloc((size_t)m->params.n, sizeof *m->weight);
    const int n_pos = opts->read_T > opts->step_R ? opts->read_T : opts->step_R;
    m->host_pos = calloc((size_t)n_pos + 1, sizeof *m->host_pos);
    if (!m->value || !m->weight || !m->host_pos)
        return err_oom(err, (size_t)m->params.n * sizeof *m->value);
    take_all(m, &m->plan);
    return 0;
}

static void add_work(const struct model *m, struct arena *plan)
{
    plan->by_kind[MEM_WORK] = work_bytes(m);
    plan->used += plan->by_kind[MEM_WORK];
}

int model_plan(const struct config *c, const struct model_opts *opts, const struct dev *dev,
               struct arena *plan, struct err *err)
{
    struct model m;
    struct dev scratch = *dev; /* a plan only asks it for sizes */
    const int rc = prepare(&m, c, opts, &scratch, err);
    if (rc == 0) {
        *plan = m.plan;
        add_work(&m, plan);
    }
    model_close(&m);
    return rc;
}

int model_open(struct model *m, const struct config *c, const struct model_opts *opts,
               struct dev *dev, struct err *err)
{
    int rc = prepare(m, c, opts, dev, err);
    if (rc == 0)
        rc = dev_alloc(dev, &m->block, m->plan.used, err);
    if (rc == 0)
        rc = dev_reserve(dev, work_bytes(m), err);
    if (rc != 0) {
        model_close(m);
        return -1;
    }
    m->plan = (struct arena){.base = m->block};
    take_all(m, &m->plan);
    m->plan.base = NULL;
    add_work(m, &m->plan);
    dev_zero(dev, m->ctl, sizeof *m->ctl);
    return 0;
}

void model_close(struct model *m)
{
    if (m->block)
        dev_free(m->dev, m->block);
    acts_close(m->acts);
    free(m->host_pos);
    free(m->weight);
    free(m->value);
    params_free(&m->params);
    *m = (struct model){0};
}

/* --- weights --- */

/* Passes that return logits norm with these: dividing the norm's weights divides the logits. */
static void fill_head_norm(struct model *m)
{
    const struct drop none = {0};
    const struct tensor from =
        tensor_of(m->value[m->params.final_norm].data, DT_F32, 2, 1, m->c.D, 0, 0);
    struct tensor to = tensor_of(m->head_norm, DT_F32, 2, 1, m->c.D, 0, 0);
    m->dev->ops->resid_bwd(m->dev, &to, &from, 1.0f / m->c.logits_scaling, &none, m->ctl);
}

void model_refresh(struct model *m)
{
    for (int i = 0; i < m->params.n; i++)
        if (m->params.list[i].is_matrix && m->value[i].data)
            m->dev->ops->weight_fill(m->dev, &m->weight[i], &m->value[i]);
    fill_head_norm(m);
}

/* The matrices that are kept as handles only go through a buffer on the device. */
static int fill_handles(struct model *m, const float *host, struct err *err)
{
    size_t most = 0;
    void *stage = NULL;
    for (int i = 0; i < m->params.n; i++)
        if (!m->value[i].data && m->params.list[i].count > most)
            most = m->params.list[i].count;
    if (most == 0)
        return 0;
    TRY(dev_alloc(m->dev, &stage, most * sizeof(float), err));
    for (int i = 0; i < m->params.n; i++) {
        if (m->value[i].data)
            continue;
        struct tensor t = m->value[i];
        t.data = stage;
        dev_upload(m->dev, stage, host + m->params.list[i].offset, tensor_bytes(&t));
        m->dev->ops->weight_fill(m->dev, &m->weight[i], &t);
    }
    dev_sync(m->dev);
    dev_free(m->dev, stage);
    return 0;
}

static int hash_weights(const struct model *m, const float *host, uint64_t *hash, struct err *err)
{
    uint64_t seed;
    TRY(config_hash(&m->c, &seed, err));
    *hash = XXH3_64bits_withSeed(host, m->params.count * sizeof *host, seed);
    return 0;
}

int model_set_weights(struct model *m, const float *host, struct err *err)
{
    TRY(hash_weights(m, host, &m->hash, err));
    if (m->master)
        dev_upload(m->dev, m->master, host, m->params.count * sizeof *host);
    for (int i = 0; !m->master && i < m->params.n; i++)
        if (m->value[i].data)
            dev_upload(m->dev, m->value[i].data, host + m->params.list[i].offset,
                       m->params.list[i].count * sizeof *host);
    TRY(fill_handles(m, host, err));
    model_refresh(m);
    return 0;
}

int model_hash(const struct model *m, uint64_t *hash, struct err *err)
{
    *hash = m->hash;
    if (!m->master)
        return 0;
    const size_t bytes = m->params.count * sizeof *m->master;
    float *host = malloc(bytes);
    if (!host)
        return err_oom(err, bytes);
    dev_download(m->dev, host, m->master, bytes);
    const int rc = hash_weights(m, host, hash, err);
    free(host);
    return rc;
}
