/* backward: the gradients of everything, from the loss down; see forward.h.
 *
 * a->back.dx is the gradient of the residual stream. Each branch takes it through its own ops and
 * adds what comes out at its norm. */
#include "forward.h"

/* One linear layer: dx = dy w, dw += dy^T x. */
static void linear_x(const struct pass *p, int param, struct tensor *dx, const struct tensor *dy)
{
    struct model *m = p->m;
    m->dev->ops->linear_bwd_x(m->dev, dx, dy, &m->weight[param], false);
}

static void linear_w(const struct pass *p, int param, const struct tensor *dy,
                     const struct tensor *x)
{
    struct model *m = p->m;
    struct tensor dw = params_product(&m->params, param, m->grad);
    m->dev->ops->linear_bwd_w(m->dev, &dw, dy, x, m->opts.product);
}

static void linear(const struct pass *p, int param, struct tensor *dx, const struct tensor *dy,
                   const struct tensor *x)
{
    linear_x(p, param, dx, dy);
    linear_w(p, param, dy, x);
}

/* dn, the gradient of a norm's output, through the norm into the stream. */
static void norm(const struct pass *p, int param, const struct tensor *x, const float *rstd)
{
    struct model *m = p->m;
    struct tensor dw = params_tensor(&m->params, param, m->grad);
    m->dev->ops->rmsnorm_bwd(m->dev, &p->a->back.dx, &dw, &p->a->back.dn, x, rstd,
                             &m->value[param]);
}

/* The gradient of a branch before it was dropped, scaled and added: the stream's own, where nothing
 * was. */
static const struct tensor *take_branch(const struct pass *p, int layer, int which)
{
    const struct drop drop = drop_of(p, layer, which);
    const float scale = p->m->c.residual_multiplier;
    if (drop.p == 0.0f && scale == 1.0f)
        return &p->a->back.dx;
    p->m->dev->ops->resid_bwd(p->m->dev, &p->a->branch, &p->a->back.dx, scale, &drop, p->m->ctl);
    return &p->a->branch;
}

static void mlp(const struct pass *p, int i)
{
    const struct layer_params *lp = &p->m->params.layer[i];
    struct layer_acts *l = &p->a->layer[i];
    struct back_acts *b = &p->a->back;
    const struct tensor *branch = take_branch(p, i, 1);
    remake_mlp(p, i);
    linear_x(p, lp->mlp_out, &b->ds, branch);
    p->m->dev->ops->swiglu_bwd(p->m->dev, &b->du, p->a->is_remade ? &l->s : NULL, &b->ds, &l->u);
    linear_w(p, lp->mlp_out, branch, &l->s);
    linear(p, lp->mlp_in, &b->dn, &b->du, &l->n2);
    norm(p, lp->norm2, &l->x2, l->rstd2);
}

static void mamba(const struct pass *p, int i)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    const struct layer_params *lp = &m->params.layer[i];
    const struct layer_acts *l = &p->a->layer[i];
    struct back_acts *b = &p->a->back;
    const int B = p->a->B, T = p->a->T;
    const struct mamba_parts part = mamba_split(&m->c, &l->proj);
    struct mamba_parts dpart = mamba_split(&m->c, &b->dproj);
    struct tensor dgate = params_tensor(&m->params, lp->gate_norm, m->grad);
    struct tensor ddt_bias = params_tensor(&m->params, lp->dt_bias, m->grad);
    struct tensor da_log = params_tensor(&m->params, lp->a_log, m->grad);
    struct tensor dskip = params_tensor(&m->params, lp->skip, m->grad);
    struct tensor dconv_w = params_tensor(&m->params, lp->conv_w, m->grad);
    struct tensor dconv_b = params_tensor(&m->params, lp->conv_b, m->grad);

    linear(p, lp->out_proj, &b->dg, take_branch(p, i, 0), &l->g);
    ops->gatenorm_bwd(m->dev, &b->dy, &dpart.z, &dgate, &b->dg, &l->y, &part.z, l->rstd_g,
                      &m->value[lp->gate_norm]);
    const struct ssd_in in = ssd_inputs(m, i, &l->conv, &part.dt, p->seg, B, T);
    struct ssd_in din = ssd_inputs(m, i, &b->dconv, &dpart.dt, p->seg, B, T);
    ops->ssd_bwd(m->dev, &din.x, &din.dt, &din.bmat, &din.cmat, &ddt_bias, &da_log, &dskip, &b->dy,
                 l->delta, l->states, &in);
    ops->conv1d_bwd(m->dev, &dpart.xbc, &dconv_w, &dconv_b, &b->dconv, &part.xbc,
                    &m->value[lp->conv_w], &m->value[lp->conv_b], p->seg, B, T);
    linear(p, lp->in_proj, &b->dn, &b->dproj, &l->n1);
}

static void attention(const struct pass *p, int i)
{
    struct model *m = p->m;
    const struct ops *ops = m->dev->ops;
    const struct layer_params *lp = &m->params.layer[i];
    const struct layer_acts *l = &p->a->layer[i];
    struct back_acts *b = &p->a->back;
    const struct attn_in in = attn_inputs(p, l);
    linear(p, lp->o, &b->dout, take_branch(p, i, 0), &l->o);
    ops->attn_bwd(m->dev, &b->dq, &b->dk, &b->dv, &b->dout, &l->o, l->lse, &in);
    if (m->c.use_rope) {
        ops->rope(m->dev, &b->dq, p->a->pos, m->c.attn_heads, m->c.rope_theta, true);
        ops->rope(m->dev, &b->dk, p->a->pos, m->c.kv_heads, m->c.rope_theta, true);
    }
    linear(p, lp->q, &b->dn, &b->dqkv, &l->n1);
}

static void block(const struct pass *p, int i)
{
    const struct layer_acts *l = &p->a->layer[i];
    mlp(p, i);
    remake_mixer(p, i);
    if (p->m->c.pattern[i] == 'm')
        mamba(p, i);
    else
        attention(p, i);
    norm(p, p->m->params.layer[i].norm1, &l->x, l->rstd1);
}

/* Loss and dlogits a chunk of rows at a time: no (B,T,V) in memory. */
static void head(const struct pass *p)
{
    struct model *m = p->m;
    struct acts *a = p->a;
    const int64_t M = tensor_rows(&a->h), chunk = tensor_rows(&a->logits);
    for (int64_t row = 0; row < M; row += chunk) {
        const int64_t n = M - row < chunk ? M - row : chunk;
        const struct tensor h = tensor_row_range(&a->h, row, n);
        struct tensor dh = tensor_row_range(&a->back.dn, row, n);
        struct tensor logits = forward_logits(p, row, n);
        m->dev->ops->xent(m->dev, a->loss + row, &logits, a->target + row,
                          1.0f / m->c.logits_scaling, m->ctl);
        linear(p, m->params.head, &dh, &logits, &h);
    }
    dev_zero(m->dev, a->back.dx.data, (size_t)(M * a->back.dx.ld) * dtype_size(a->back.dx.dtype));
    norm(p, m->params.final_norm, &a->layer[m->c.L].x, a->rstd_h);
}

/* Makes block i's activations live again, and with them, where only each segment's first input was
 * kept, the inputs of all blocks of its segment. */
static void recompute(const struct pass *p, int i)
{
    struct acts *a = p->a;
    if (a->is_kept || a->live == i)
        return;
    const bool is_last_of_segment = (i + 1) % a->segment == 0;
    if (is_last_of_segment && i + 1 < p->m->c.L)
        for (int first = i + 1 - a->segment; first < i; first++)
            forward_block(p, first, false);
    forward_block(p, i, true);
}

void backward(const struct pass *p)
{
    struct model *m = p->m;
    struct tensor dembed = params_tensor(&m->params, m->params.embed, m->grad);
    head(p);
    for (int i = m->c.L - 1; i >= 0; i--) {
        recompute(p, i);
        block(p, i);
    }
    m->dev->ops->embed_bwd(m->dev, &dembed, p->a->ids, &p->a->back.dx, m->c.embedding_multiplier);
}
