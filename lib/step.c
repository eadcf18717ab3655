/* step: one token each of R sequences; see model_step of model.h. Every op treats a row alone, so a
 * row's bits do not depend on the others. */
#include "forward.h"

#include <string.h>

/* y = [resid + scale *] g(f(x) w^T) in one op where the device has it, else f by itself into
 * `made`, the product that g takes into `wide`, and the residual behind. */
static void product(const struct pass *p, struct tensor *y, const struct tensor *x,
                    const struct weight *w, const struct step_fuse *fuse, struct tensor *made,
                    struct tensor *wide)
{
    struct model *m = p->m;
    struct dev *dev = m->dev;
    const struct ops *ops = dev->ops;
    if (ops->linear_step_fused) {
        ops->linear_step_fused(dev, y, x, w, fuse);
        return;
    }
    if (fuse->norm_w)
        ops->rmsnorm_fwd(dev, made, NULL, x, fuse->norm_w, fuse->eps);
    struct tensor *to = fuse->resid ? &p->a->branch : fuse->is_glu ? wide : y;
    ops->linear_step(dev, to, fuse->norm_w ? made : x, w);
    if (fuse->is_glu)
        ops->swiglu_fwd(dev, y, wide);
    if (fuse->resid)
        ops->resid_fwd(dev, y, fuse->resid, to, fuse->scale, NULL, m->ctl);
}

/* y = norm(x) w^T */
static void normed(const struct pass *p, struct tensor *y, const struct tensor *x, int param,
                   const struct tensor *norm_w, struct tensor *made)
{
    const struct step_fuse fuse = {.norm_w = norm_w, .eps = p->m->c.norm_eps};
    product(p, y, x, &p->m->weight[param], &fuse, made, NULL);
}

/* The stream x += residual_multiplier * from w^T. */
static void add(const struct pass *p, struct tensor *x, const struct tensor *from, int param)
{
    const struct step_fuse fuse = {.resid = x, .scale = p->m->c.residual_multiplier};
    product(p, x, from, &p->m->weight[param], &fuse, NULL, NULL);
}

static void mamba(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    float *taps = p->state->layer[i].taps, *ssm = p->state->layer[i].ssm;
    normed(p, &l->proj, &l->x, lp->in_proj, &m->value[lp->norm1], &l->n1);
    const struct mamba_parts part = mamba_split(&m->c, &l->proj);
    const struct ssd_in in = ssd_inputs(m, i, &l->conv, &part.dt, NULL, rows->R, 1);
    const struct tensor *conv_w = &m->value[lp->conv_w], *conv_b = &m->value[lp->conv_b];
    const struct tensor *norm_w = &m->value[lp->gate_norm];
    if (ops->mamba_step) {
        ops->mamba_step(m->dev, &l->g, taps, ssm, &part.xbc, &part.z, conv_w, conv_b, norm_w,
                        m->c.norm_eps, &in, rows);
    } else {
        ops->conv1d_step(m->dev, &l->conv, taps, &part.xbc, conv_w, conv_b, rows);
        ops->ssd_step(m->dev, &l->y, ssm, &in, rows);
        ops->gatenorm_fwd(m->dev, &l->g, NULL, &l->y, &part.z, norm_w, m->c.norm_eps);
    }
    add(p, &l->x, &l->g, lp->out_proj);
}

static void attention(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    const struct config *c = &m->c;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    struct state_layer *cache = &p->state->layer[i];
    normed(p, &l->qkv, &l->x, lp->q, &m->value[lp->norm1], &l->n1);
    if (c->use_rope) {
        ops->rope(m->dev, &l->q, rows->pos, c->attn_heads, c->rope_theta, false);
        ops->rope(m->dev, &l->k, rows->pos, c->kv_heads, c->rope_theta, false);
    }
    ops->attn_step(m->dev, &l->o, &cache->k, &cache->v, &l->q, &l->k, &l->v,
                   c->attention_multiplier, c->attn_heads, c->head_dim, c->kv_heads, rows);
    add(p, &l->x, &l->o, lp->o);
}

static void block(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    const struct step_fuse gate = {
        .norm_w = &m->value[lp->norm2], .eps = m->c.norm_eps, .is_glu = true};
    if (m->c.pattern[i] == 'm')
        mamba(p, i, rows);
    else
        attention(p, i, rows);
    product(p, &l->s, &l->x, &m->weight[lp->mlp_in], &gate, &l->n2, &l->u);
    add(p, &l->x, &l->s, lp->mlp_out);
}

/* What a step does on the device once the inputs are there. */
struct step_work {
    struct pass pass;
    const struct sample_tables *tables; /* NULL: nothing is chosen */
    bool goes_on;                       /* from the ids that the pass before chose */
};

static void run_step(void *arg)
{
    const struct step_work *w = arg;
    const struct pass *p = &w->pass;
    struct model *m = p->m;
    struct acts *a = p->a;
    const struct step_rows rows = {.slot = a->target, .pos = a->pos, .R = a->B};
    const struct tensor head_norm = model_head_norm(m);
    if (w->goes_on)
        a->ids = a->id;
    forward_embed(p);
    for (int i = 0; i < m->c.L; i++)
        block(p, i, &rows);
    normed(p, &a->logits, &a->layer[m->c.L].x, m->params.head, &head_norm, &a->h);
    if (w->tables)
        m->dev->ops->sample(m->dev, a->id, a->logp, &a->logits, a->choice, w->tables);
}

/* The cache's memory names the state, that of the tables the sampler. */
static uint64_t step_key(const struct model *m, const struct state *s, int R,
                         const struct step_work *w)
{
    const uint64_t state = model_key(m, RUN_STEP, R, 1, s->block);
    const enum run_kind kind = w->goes_on ? RUN_GO_ON : RUN_CHOOSE;
    return w->tables ? state ^ model_key(m, kind, R, 1, w->tables->recent) : state;
}

static int check_rows(const struct model *m, int R, struct err *err)
{
    if (R < 1 || R > m->opts.step_R)
        return err_set(err, NULL, NULL, "a step of %d rows, the model holds %d", R, m->opts.step_R);
    return 0;
}

/* Also gathers the rows' positions. */
static int check_step(const struct model *m, const struct state *s, const int32_t *slot,
                      const int32_t *ids, int R, int32_t *pos, struct err *err)
{
    const bool is_bounded = strchr(m->c.pattern, 't') != NULL;
    if (ids)
        TRY(model_check_ids(m, ids, (size_t)R, 0, err));
    for (int r = 0; r < R; r++) {
        if (slot[r] < 0 || slot[r] >= s->n_slots)
            return err_set(err, NULL, NULL, "the state has no slot %d", slot[r]);
        pos[r] = s->pos[slot[r]];
        if (pos[r] >= (is_bounded ? s->S : INT32_MAX))
            return err_set(err, NULL, "use a longer context, or a shorter text",
                           "all %d positions are taken", pos[r]);
    }
    return 0;
}

/* choice and tables NULL: only logits. ids NULL: see model_choose_begin. */
static int step(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids, int R,
                const struct sample_row *choice, const struct sample_tables *tables,
                struct err *err)
{
    const struct acts_shape shape = {m->dev, PASS_STEP, m->opts.recompute, R, 1};
    const size_t bytes = (size_t)R * sizeof(int32_t);
    struct acts *a = m->acts;
    TRY(check_rows(m, R, err));
    acts_carve(a, &m->c, &shape);
    int32_t *staged = m->stage;
    TRY(check_step(m, s, slot, ids, R, staged + a->stride, err));
    TRY(model_reserve(m, s, err));
    if (ids)
        memcpy(staged, ids, bytes);
    memcpy(staged + 2 * a->stride, slot, bytes);
    if (choice)
        memcpy(staged + 3 * a->stride, choice, (size_t)R * sizeof *choice);
    const size_t lists = 3 * a->stride * sizeof *staged;
    dev_upload(m->dev, a->inputs, staged, choice ? a->inputs_bytes : lists);
    struct step_work work = {{.m = m, .a = a, .state = s}, tables, !ids};
    dev_run(m->dev, step_key(m, s, R, &work), run_step, &work);
    for (int r = 0; r < R; r++)
        s->pos[slot[r]]++;
    return 0;
}

int model_step(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids, int R,
               struct tensor *logits, struct err *err)
{
    TRY(step(m, s, slot, ids, R, NULL, NULL, err));
    *logits = m->acts->logits;
    return 0;
}

/* Where the results of the n-th call come to: ids, then log-probabilities. */
static int32_t *chosen_at(const struct model *m, unsigned n)
{
    return m->chosen + (size_t)(n % DEV_DOWNLOADS) * 2 * (size_t)m->opts.step_R;
}

int model_choose_begin(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids,
                       int R, const struct sample_row *choice, const struct sample_tables *tables,
                       struct err *err)
{
    if (m->n_begun - m->n_ended == DEV_DOWNLOADS)
        return err_set(err, NULL, NULL, "%d choices are under way", (int)DEV_DOWNLOADS);
    TRY(step(m, s, slot, ids, R, choice, tables, err));
    dev_download_begin(m->dev, chosen_at(m, m->n_begun), m->acts->id,
                       2 * (size_t)R * sizeof(int32_t));
    m->n_begun++;
    return 0;
}

int model_choose_end(struct model *m, int R, int32_t *id, float *logp, struct err *err)
{
    const size_t bytes = (size_t)R * sizeof *id;
    if (m->n_begun == m->n_ended)
        return err_set(err, NULL, NULL, "no choice is under way");
    dev_download_end(m->dev);
    const int32_t *chosen = chosen_at(m, m->n_ended++);
    memcpy(id, chosen, bytes);
    memcpy(logp, chosen + R, bytes);
    return dev_status(m->dev, err);
}
