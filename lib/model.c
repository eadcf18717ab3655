/* model: memory and weights; see model.h. The passes: loss.c, read.c, forward.c,
 * backward.c, step.c. */
#include "model.h"
#include "forward.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* --- the plan: every size that the device memory of a model follows from --- */

/* What a read of n tokens takes: whole units. */
static int read_tokens(const struct model *m, int n)
{
    const int unit = m->dev->read_unit;
    return (n + unit - 1) / unit * unit;
}

/* The greatest region, and the most that is uploaded for a pass, of all passes. */
static size_t region_bytes(struct model *m)
{
    const struct model_opts *o = &m->opts;
    const struct acts_shape shape[] = {
        {m->dev, PASS_FORWARD, o->recompute, o->B, o->T},
        {m->dev, PASS_TRAIN, o->recompute, o->is_training ? o->B : 0, o->T},
        {m->dev, PASS_READ, o->recompute, o->read_T ? o->read_R : 0, read_tokens(m, o->read_T)},
        {m->dev, PASS_STEP, o->recompute, o->step_R, 1},
    };
    size_t most = 0;
    m->stage_bytes = 0;
    for (int i = 0; i < 4; i++) {
        const size_t need = shape[i].B ? acts_plan(m->acts, &m->c, &shape[i]) : 0;
        most = need > most ? need : most;
        if (shape[i].B && m->acts->inputs_bytes > m->stage_bytes)
            m->stage_bytes = m->acts->inputs_bytes;
    }
    return most;
}

static size_t pass_work(const struct model *m, int B, int T, int R)
{
    const struct config *c = &m->c;
    struct sizes mamba = acts_mamba_sizes(c, B, T);
    mamba.S = m->work_S;
    mamba.R = R;
    mamba.keeps_states = acts_keep_states(m->dev, m->opts.recompute);
    mamba.dtype = m->opts.product;
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
        need[1] = pass_work(m, 1, read_tokens(m, o->read_T), o->read_R);
    if (o->step_R > 0)
        need[2] = pass_work(m, o->step_R, 1, o->step_R);
    for (int i = 0; i < 3; i++)
        most = need[i] > most ? need[i] : most;
    return most;
}

/* Where parameter i's values are: in the master; behind its neighbour's, where both are parts of
 * one product; or in memory of its own, unless a handle is all that is kept. */
static float *take_value(struct model *m, struct arena *a, int i, size_t handle)
{
    const struct param *t = &m->params.list[i];
    if (m->opts.is_training)
        return m->master ? m->master + t->offset : NULL;
    if (t->is_matrix && t->product_rows == 0) {
        float *before = m->value[i - 1].data;
        return before ? before + m->params.list[i - 1].count : NULL;
    }
    const size_t n = t->is_matrix ? (size_t)(t->product_rows * t->dim[1]) : t->count;
    return handle ? NULL : arena_take(a, n * sizeof(float), MEM_WEIGHTS);
}

static void take_weight(struct model *m, struct arena *a, int i)
{
    const struct param *t = &m->params.list[i];
    const enum dtype product = m->opts.product;
    const int n = (int)t->product_rows, k = (int)t->dim[1];
    const size_t handle = n ? m->dev->ops->weight_bytes(m->dev, n, k, product) : 0;
    float *data = take_value(m, a, i, handle);
    m->value[i] = tensor_of(data, DT_F32, t->n_dims, t->dim[0], t->dim[1], t->dim[2], 0);
    if (n == 0)
        return;
    m->weight[i] = (struct weight){n, k, product, 0, data};
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

uint64_t model_key(const struct model *m, enum run_kind kind, int B, int T, const void *with)
{
    const uint64_t words[] = {(uint64_t)kind, (uint64_t)B, (uint64_t)T,
                              (uint64_t)(uintptr_t)m->block, (uint64_t)(uintptr_t)with};
    return XXH3_64bits(words, sizeof words);
}

int model_reserve(struct model *m, const struct state *s, struct err *err)
{
    if (s->S <= m->work_S || !strchr(m->c.pattern, 't'))
        return 0;
    m->work_S = s->S;
    return dev_reserve(m->dev, work_bytes(m), err);
}

static int check_opts(const struct model_opts *o, const struct dev *dev, struct err *err)
{
    if (o->read_T < 0 || o->read_R < 0 || o->step_R < 0 || o->S < 0)
        return err_set(err, NULL, "give sizes of at least 1",
                       "reading %d tokens of %d rows, decoding %d rows, over %d positions",
                       o->read_T, o->read_R, o->step_R, o->S);
    if (o->B < 0 || o->T < 0 || (o->B > 0) != (o->T > 0) || (o->is_training && o->B == 0))
        return err_set(err, NULL, "give rows and positions of at least 1",
                       "a micro-batch of %d rows of %d positions", o->B, o->T);
    if ((int64_t)o->B * o->T > INT_MAX / 4)
        return err_set(err, NULL, "use smaller micro-batches",
                       "a micro-batch of %d rows of %d positions is too large", o->B, o->T);
    if (!(o->dropout >= 0.0f && o->dropout < 1.0f))
        return err_set(err, NULL, "set it within 0 to 1", "dropout is %g", (double)o->dropout);
    if (o->product != DT_F32 && o->product != DT_BF16 && o->product != dev->act_dtype)
        return err_set(err, NULL, "use f32, bf16, or what the device has",
                       "products cannot be in %s", dtype_name(o->product));
    return 0;
}

/* Host memory of a model, and its plan. On failure model_close frees what there is. */
static int prepare(struct model *m, const struct config *c, const struct model_opts *opts,
                   struct dev *dev, struct err *err)
{
    *m = (struct model){.c = *c, .opts = *opts, .dev = dev};
    if (dev->act_dtype != DT_F32)
        m->opts.product = dev->act_dtype;
    if (m->opts.read_R == 0)
        m->opts.read_R = 1;
    m->work_S = opts->S > 0 ? opts->S : c->max_positions;
    TRY(config_check(c, err));
    TRY(check_opts(&m->opts, dev, err));
    TRY(params_open(&m->params, c, err));
    TRY(acts_open(&m->acts, c, err));
    m->value = calloc((size_t)m->params.n, sizeof *m->value);
    m->weight = calloc((size_t)m->params.n, sizeof *m->weight);
    if (!m->value || !m->weight)
        return err_oom(err, (size_t)m->params.n * sizeof *m->value);
    take_all(m, &m->plan);
    m->stage = calloc(m->stage_bytes + 1, 1);
    const size_t chosen = DEV_DOWNLOADS * 2 * (size_t)m->opts.step_R;
    m->chosen = calloc(chosen + 1, sizeof *m->chosen);
    return m->stage && m->chosen ? 0 : err_oom(err, m->stage_bytes + chosen * sizeof *m->chosen);
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
    for (; m->n_ended != m->n_begun; m->n_ended++)
        dev_download_end(m->dev);
    if (m->block) {
        dev_forget(m->dev);
        dev_free(m->dev, m->block);
    }
    acts_close(m->acts);
    free(m->stage);
    free(m->chosen);
    free(m->weight);
    free(m->value);
    params_free(&m->params);
    *m = (struct model){0};
}

/* --- weights --- */

struct tensor model_head_norm(const struct model *m)
{
    return tensor_of(m->head_norm, DT_F32, 1, m->c.D, 0, 0, 0);
}

/* Dividing the norm's weights divides the logits. */
void model_refresh_norm(struct model *m)
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
        if (m->params.list[i].product_rows && m->value[i].data) {
            struct tensor from = params_product(&m->params, i, NULL);
            from.data = m->value[i].data;
            m->dev->ops->weight_fill(m->dev, &m->weight[i], &from);
        }
    model_refresh_norm(m);
}

/* Whether the product that starts with parameter i is kept as a handle only. */
static bool is_handle_only(const struct model *m, int i)
{
    return m->params.list[i].product_rows && !m->value[i].data;
}

/* Those go through a buffer on the device. */
static int fill_handles(struct model *m, const float *host, struct err *err)
{
    size_t most = 0;
    void *stage = NULL;
    for (int i = 0; i < m->params.n; i++) {
        const struct tensor t = params_product(&m->params, i, NULL);
        if (is_handle_only(m, i) && tensor_bytes(&t) > most)
            most = tensor_bytes(&t);
    }
    if (most == 0)
        return 0;
    TRY(dev_alloc(m->dev, &stage, most, err));
    for (int i = 0; i < m->params.n; i++) {
        struct tensor t = params_product(&m->params, i, NULL);
        t.data = stage;
        if (!is_handle_only(m, i))
            continue;
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
