/* step: one token each of R sequences; see model_step of model.h. Every op treats a row alone, so a
 * row's bits do not depend on the others. */
#include "forward.h"

#include <string.h>

static void norm(const struct pass *p, struct tensor *y, float *rstd, const struct tensor *x,
                 const struct tensor *w)
{
    p->m->dev->ops->rmsnorm_fwd(p->m->dev, y, rstd, x, w, p->m->c.norm_eps);
}

static void linear(const struct pass *p, struct tensor *y, const struct tensor *x, int param)
{
    p->m->dev->ops->linear_step(p->m->dev, y, x, &p->m->weight[param]);
}

static void mamba(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    float *taps = p->state->layer[i].taps, *ssm = p->state->layer[i].ssm;
    linear(p, &l->proj, &l->n1, lp->in_proj);
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
        ops->gatenorm_fwd(m->dev, &l->g, l->rstd_g, &l->y, &part.z, norm_w, m->c.norm_eps);
    }
    linear(p, &p->a->branch, &l->g, lp->out_proj);
}

static void attention(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    const struct config *c = &m->c;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    struct state_layer *cache = &p->state->layer[i];
    linear(p, &l->q, &l->n1, lp->q);
    linear(p, &l->k, &l->n1, lp->k);
    linear(p, &l->v, &l->n1, lp->v);
    if (c->use_rope) {
        ops->rope(m->dev, &l->q, rows->pos, c->attn_heads, c->rope_theta, false);
        ops->rope(m->dev, &l->k, rows->pos, c->kv_heads, c->rope_theta, false);
    }
    ops->attn_step(m->dev, &l->o, &cache->k, &cache->v, &l->q, &l->k, &l->v,
                   c->attention_multiplier, c->attn_heads, c->head_dim, c->kv_heads, rows);
    linear(p, &p->a->branch, &l->o, lp->o);
}

static void block(const struct pass *p, int i, const struct step_rows *rows)
{
    struct model *m = p->m;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    const struct drop none = {0};
    const float scale = m->c.residual_multiplier;
    norm(p, &l->n1, l->rstd1, &l->x, &m->value[lp->norm1]);
    if (m->c.pattern[i] == 'm')
        mamba(p, i, rows);
    else
        attention(p, i, rows);
    m->dev->ops->resid_fwd(m->dev, &l->x, &l->x, &p->a->branch, scale, &none, m->ctl);
    norm(p, &l->n2, l->rstd2, &l->x, &m->value[lp->norm2]);
    linear(p, &l->u, &l->n2, lp->mlp_in);
    m->dev->ops->swiglu_fwd(m->dev, &l->s, &l->u);
    linear(p, &p->a->branch, &l->s, lp->mlp_out);
    m->dev->ops->resid_fwd(m->dev, &l->x, &l->x, &p->a->branch, scale, &none, m->ctl);
}

/* Also gathers the rows' positions. */
static int check_step(const struct model *m, const struct state *s, const int32_t *slot,
                      const int32_t *ids, int R, int32_t *pos, struct err *err)
{
    const bool is_bounded = strchr(m->c.pattern, 't') != NULL;
    if (R < 1 || R > m->opts.step_R)
        return err_set(err, NULL, NULL, "a step of %d rows, the model holds %d", R, m->opts.step_R);
    for (int r = 0; r < R; r++) {
        if (ids[r] < 0 || ids[r] >= m->c.V)
            return err_set(err, NULL, "use the tokenizer that the model was trained with",
                           "token id %d lies outside the model's vocabulary of %d", ids[r], m->c.V);
        if (slot[r] < 0 || slot[r] >= s->n_slots)
            return err_set(err, NULL, NULL, "the state has no slot %d", slot[r]);
        pos[r] = s->pos[slot[r]];
        if (pos[r] >= (is_bounded ? s->S : INT32_MAX))
            return err_set(err, NULL, "use a longer context, or a shorter text",
                           "all %d positions are taken", pos[r]);
    }
    return 0;
}

int model_step(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids, int R,
               struct tensor *logits, struct err *err)
{
    TRY(check_step(m, s, slot, ids, R, m->host_pos, err));
    TRY(model_reserve(m, s, err));
    acts_carve(m->acts, &m->c, m->dev->act_dtype, PASS_STEP, m->opts.recompute, R, 1);
    const struct pass p = {.m = m, .a = m->acts, .state = s};
    const size_t bytes = (size_t)R * sizeof *ids;
    dev_upload(m->dev, p.a->ids, ids, bytes);
    dev_upload(m->dev, p.a->target, slot, bytes);
    dev_upload(m->dev, p.a->pos, m->host_pos, bytes);
    const struct step_rows rows = {.slot = p.a->target, .pos = p.a->pos, .R = R};
    forward_embed(&p);
    for (int i = 0; i < m->c.L; i++)
        block(&p, i, &rows);
    const struct tensor w = tensor_of(m->head_norm, DT_F32, 1, m->c.D, 0, 0, 0);
    forward_norm(&p, &w);
    linear(&p, &p.a->logits, &p.a->h, m->params.head);
    for (int r = 0; r < R; r++)
        s->pos[slot[r]]++;
    *logits = p.a->logits;
    return 0;
}
