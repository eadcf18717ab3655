/* forward: embedding, blocks, head. The maths is Hugging Face's GraniteMoeHybrid:
 *   h = embed[ids] * embedding_multiplier
 *   h = h + residual_multiplier * mixer(rms(h)); h = h + residual_multiplier * mlp(rms(h))
 *   logits = head(rms(h)) / logits_scaling */
#include "forward.h"

struct mamba_parts mamba_split(const struct config *c, const struct tensor *proj)
{
    const int64_t E = (int64_t)c->mamba_heads * c->mamba_head_dim;
    const int64_t C = E + 2 * (int64_t)c->mamba_groups * c->N;
    return (struct mamba_parts){tensor_slice(proj, 0, E), tensor_slice(proj, E, C),
                                tensor_slice(proj, E + C, c->mamba_heads)};
}

struct ssd_in ssd_inputs(const struct model *m, int layer, const struct tensor *conv,
                         const struct tensor *dt, const int32_t *seg, int B, int T)
{
    const struct config *c = &m->c;
    const struct layer_params *lp = &m->params.layer[layer];
    const int64_t E = (int64_t)c->mamba_heads * c->mamba_head_dim;
    const int64_t GN = (int64_t)c->mamba_groups * c->N;
    return (struct ssd_in){.x = tensor_slice(conv, 0, E),
                           .dt = *dt,
                           .bmat = tensor_slice(conv, E, GN),
                           .cmat = tensor_slice(conv, E + GN, GN),
                           .dt_bias = m->value[lp->dt_bias],
                           .a_log = m->value[lp->a_log],
                           .skip = m->value[lp->skip],
                           .seg = seg,
                           .B = B,
                           .T = T,
                           .H = c->mamba_heads,
                           .P = c->mamba_head_dim,
                           .N = c->N,
                           .G = c->mamba_groups,
                           .Q = c->Q};
}

struct attn_in attn_inputs(const struct pass *p, const struct layer_acts *l)
{
    const struct config *c = &p->m->c;
    return (struct attn_in){.q = l->q,
                            .k = l->k,
                            .v = l->v,
                            .seg = p->seg,
                            .scale = c->attention_multiplier,
                            .B = p->a->B,
                            .T = p->a->T,
                            .H = c->attn_heads,
                            .P = c->head_dim,
                            .G = c->kv_heads};
}

struct drop drop_of(const struct pass *p, int layer, int which)
{
    return (struct drop){.p = p->is_dropping ? p->m->opts.dropout : 0.0f,
                         .site = (uint32_t)(layer * 4 + which)};
}

static void linear(const struct pass *p, struct tensor *y, const struct tensor *x, int param)
{
    struct dev *dev = p->m->dev;
    const struct weight *w = &p->m->weight[param];
    if (p->rows)
        dev->ops->linear_read(dev, y, x, w);
    else
        dev->ops->linear_fwd(dev, y, x, w);
}

/* to = from + residual_multiplier * drop(x w^T) */
static void add_branch(const struct pass *p, int layer, int which, struct tensor *to,
                       const struct tensor *from, const struct tensor *x, int param)
{
    const struct drop drop = drop_of(p, layer, which);
    struct dev *dev = p->m->dev;
    const struct ops *ops = dev->ops;
    const float scale = p->m->c.residual_multiplier;
    void (*const fused)(struct dev *, struct tensor *, const struct tensor *, const struct tensor *,
                        const struct weight *, float) =
        p->rows ? ops->linear_resid_read : ops->linear_resid_fwd;
    if (fused && drop.p == 0.0f) {
        fused(dev, to, from, x, &p->m->weight[param], scale);
        return;
    }
    struct tensor branch = tensor_row_range(&p->a->branch, 0, tensor_rows(to));
    linear(p, &branch, x, param);
    ops->resid_fwd(dev, to, from, &branch, scale, &drop, p->m->ctl);
}

void forward_embed(const struct pass *p)
{
    struct model *m = p->m;
    m->dev->ops->embed_fwd(m->dev, &p->a->layer[0].x, p->a->ids, &m->weight[m->params.embed],
                           m->c.embedding_multiplier);
}

static void mamba(const struct pass *p, int i)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    const struct tensor *conv_w = &m->value[lp->conv_w], *conv_b = &m->value[lp->conv_b];
    const int B = p->rows ? 1 : p->a->B, T = p->a->T;
    linear(p, &l->proj, &l->n1, lp->in_proj);
    const struct mamba_parts part = mamba_split(&m->c, &l->proj);
    const struct ssd_in in = ssd_inputs(m, i, &l->conv, &part.dt, p->seg, B, T);
    if (p->rows) {
        const struct state_layer *s = &p->state->layer[i];
        ops->conv1d_read(m->dev, &l->conv, s->taps, &part.xbc, conv_w, conv_b, p->rows);
        ops->ssd_read(m->dev, &l->y, l->delta, s->ssm, &in, p->rows);
    } else {
        ops->conv1d_fwd(m->dev, &l->conv, &part.xbc, conv_w, conv_b, p->seg, B, T);
        ops->ssd_fwd(m->dev, &l->y, l->delta, l->states, NULL, &in);
    }
}

static void attention(const struct pass *p, int i)
{
    struct model *m = p->m;
    const struct config *c = &m->c;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    linear(p, &l->qkv, &l->n1, m->params.layer[i].q);
    if (c->use_rope) {
        ops->rope(m->dev, &l->q, p->a->pos, c->attn_heads, c->rope_theta, false);
        ops->rope(m->dev, &l->k, p->a->pos, c->kv_heads, c->rope_theta, false);
    }
    if (p->rows) {
        struct state_layer *s = &p->state->layer[i];
        ops->attn_read(m->dev, &l->o, &s->k, &s->v, &l->q, &l->k, &l->v, c->attention_multiplier,
                       c->attn_heads, c->head_dim, c->kv_heads, p->rows);
        return;
    }
    const struct attn_in in = attn_inputs(p, l);
    ops->attn_fwd(m->dev, &l->o, l->lse, &in);
}

/* Block i up to what looks at a token alone: norm, projection, and SSM or attention. */
static void mix(const struct pass *p, int i)
{
    struct model *m = p->m;
    struct layer_acts *l = &p->a->layer[i];
    m->dev->ops->rmsnorm_fwd(m->dev, &l->n1, l->rstd1, &l->x, &m->value[m->params.layer[i].norm1],
                             m->c.norm_eps);
    if (m->c.pattern[i] == 'm')
        mamba(p, i);
    else
        attention(p, i);
}

/* The rest of it, on the tokens that l has; to NULL: only what backward needs. */
static void finish(const struct pass *p, int i, struct layer_acts *l, struct tensor *to)
{
    struct model *m = p->m;
    struct dev *dev = m->dev;
    const struct ops *ops = dev->ops;
    const struct layer_params *lp = &m->params.layer[i];
    if (m->c.pattern[i] == 'm') {
        const struct mamba_parts part = mamba_split(&m->c, &l->proj);
        ops->gatenorm_fwd(dev, &l->g, l->rstd_g, &l->y, &part.z, &m->value[lp->gate_norm],
                          m->c.norm_eps);
        add_branch(p, i, 0, &l->x2, &l->x, &l->g, lp->out_proj);
    } else {
        add_branch(p, i, 0, &l->x2, &l->x, &l->o, lp->o);
    }
    ops->rmsnorm_fwd(dev, &l->n2, l->rstd2, &l->x2, &m->value[lp->norm2], m->c.norm_eps);
    linear(p, &l->u, &l->n2, lp->mlp_in);
    ops->swiglu_fwd(dev, &l->s, &l->u);
    p->a->live = i;
    if (to)
        add_branch(p, i, 1, to, &l->x2, &l->s, lp->mlp_out);
}

void forward_block(const struct pass *p, int i, bool is_again)
{
    mix(p, i);
    finish(p, i, &p->a->layer[i], is_again ? NULL : &p->a->layer[i + 1].x);
}

/* to = each row's last token of from, whole rows of memory: an embedding of the tokens' numbers. */
static void pick_last(const struct pass *p, const struct tensor *to, const struct tensor *from)
{
    struct dev *dev = p->m->dev;
    const struct weight rows = {(int)tensor_rows(from), (int)from->ld, from->dtype, 0, from->data};
    struct tensor picked = *to;
    picked.dim[picked.n_dims - 1] = to->ld;
    dev->ops->embed_fwd(dev, &picked, p->a->last, &rows, 1);
}

void forward_last_block(const struct pass *p, bool has_output)
{
    const int i = p->m->c.L - 1;
    const struct layer_acts *l = &p->a->layer[i];
    struct layer_acts *tail = &p->a->tail;
    mix(p, i);
    if (!has_output)
        return;
    pick_last(p, &tail->x, &l->x);
    if (p->m->c.pattern[i] == 'm') {
        pick_last(p, &tail->y, &l->y);
        pick_last(p, &tail->proj, &l->proj);
    } else {
        pick_last(p, &tail->o, &l->o);
    }
    finish(p, i, tail, &tail->x);
}

void forward_pick_last(const struct pass *p)
{
    pick_last(p, &p->a->tail.x, &p->a->layer[p->m->c.L].x);
}

/* --- for the backward: what one set of memory holds for all blocks --- */

void remake_mlp(const struct pass *p, int i)
{
    struct model *m = p->m;
    struct layer_acts *l = &p->a->layer[i];
    if (!p->a->is_remade)
        return;
    m->dev->ops->rmsnorm_fwd(m->dev, &l->n2, NULL, &l->x2, &m->value[m->params.layer[i].norm2],
                             m->c.norm_eps);
}

void remake_mixer(const struct pass *p, int i)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    struct layer_acts *l = &p->a->layer[i];
    const struct layer_params *lp = &m->params.layer[i];
    if (!p->a->is_remade)
        return;
    ops->rmsnorm_fwd(m->dev, &l->n1, NULL, &l->x, &m->value[lp->norm1], m->c.norm_eps);
    if (m->c.pattern[i] != 'm')
        return;
    const struct mamba_parts part = mamba_split(&m->c, &l->proj);
    ops->conv1d_fwd(m->dev, &l->conv, &part.xbc, &m->value[lp->conv_w], &m->value[lp->conv_b],
                    p->seg, p->a->B, p->a->T);
    ops->gatenorm_fwd(m->dev, &l->g, NULL, &l->y, &part.z, &m->value[lp->gate_norm], m->c.norm_eps);
}

void forward_norm(const struct pass *p, const struct tensor *w)
{
    struct model *m = p->m;
    m->dev->ops->rmsnorm_fwd(m->dev, &p->a->h, p->a->rstd_h, &p->a->layer[m->c.L].x, w,
                             m->c.norm_eps);
}

struct tensor forward_logits(const struct pass *p, int64_t row, int64_t n)
{
    struct model *m = p->m;
    const struct tensor h = tensor_row_range(&p->a->h, row, n);
    struct tensor logits = tensor_row_range(&p->a->logits, 0, n);
    m->dev->ops->linear_fwd(m->dev, &logits, &h, &m->weight[m->params.head]);
    return logits;
}

void forward_loss(const struct pass *p, float scale, struct step_ctl *ctl)
{
    struct acts *a = p->a;
    const int64_t M = tensor_rows(&a->h), chunk = tensor_rows(&a->logits);
    for (int64_t row = 0; row < M; row += chunk) {
        struct tensor logits = forward_logits(p, row, M - row < chunk ? M - row : chunk);
        p->m->dev->ops->xent(p->m->dev, a->loss + row, &logits, a->target + row, scale, ctl);
    }
}
