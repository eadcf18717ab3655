/* twin: the whole model's mean loss in double, composed from tests/ref: what gradients are compared
 * with by central differences. Forward only, so it shares nothing with backward.c. */
#ifndef HM_TWIN_H
#define HM_TWIN_H

#include "model_test.h"
#include "ref/ref.h"

struct twin {
    const struct config *c;
    const struct params *p;
    const struct rows *rows;
    const double *w;                   /* (params.count) */
    double *x, *n, *a, *b, *f, *y, *g; /* scratch of M rows, wide enough for each use */
    size_t width;
    float dropout; /* of the branches, with ctl's seed and step */
    const struct step_ctl *ctl;
};

static const double *twin_w(const struct twin *t, int param)
{
    return t->w + t->p->list[param].offset;
}

/* Columns [begin, begin+n) of each row of `from` (cols wide), dense. */
static void twin_slice(double *to, const double *from, int M, int cols, int begin, int n)
{
    for (int m = 0; m < M; m++)
        memcpy(to + (size_t)m * (size_t)n, from + (size_t)m * (size_t)cols + begin,
               (size_t)n * sizeof *to);
}

static void twin_mamba(const struct twin *t, const struct layer_params *lp)
{
    const struct config *c = t->c;
    const int B = t->rows->B, T = t->rows->T, M = B * T, H = c->mamba_heads, P = c->mamba_head_dim;
    const int E = H * P, GN = c->mamba_groups * c->N, C = E + 2 * GN, all = E + C + H;
    double *proj = t->a, *xbc = t->b, *conv = t->f, *part = t->g;
    ref_linear_fwd(proj, t->n, twin_w(t, lp->in_proj), M, all, c->D);
    twin_slice(xbc, proj, M, all, E, C);
    ref_conv1d_fwd(conv, xbc, twin_w(t, lp->conv_w), twin_w(t, lp->conv_b), t->rows->seg, NULL, B,
                   T, C, c->K);
    double *x = part, *bmat = x + (size_t)M * (size_t)E, *cmat = bmat + (size_t)M * (size_t)GN;
    double *dt = cmat + (size_t)M * (size_t)GN, *z = t->b;
    twin_slice(x, conv, M, C, 0, E);
    twin_slice(bmat, conv, M, C, E, GN);
    twin_slice(cmat, conv, M, C, E + GN, GN);
    twin_slice(dt, proj, M, all, E + C, H);
    const struct ref_ssd in = {.x = x,
                               .dt = dt,
                               .bmat = bmat,
                               .cmat = cmat,
                               .dt_bias = twin_w(t, lp->dt_bias),
                               .a_log = twin_w(t, lp->a_log),
                               .skip = twin_w(t, lp->skip),
                               .seg = t->rows->seg,
                               .B = B,
                               .T = T,
                               .H = H,
                               .P = P,
                               .N = c->N,
                               .G = c->mamba_groups};
    ref_ssd_fwd(t->y, NULL, &in);
    twin_slice(z, proj, M, all, 0, E);
    ref_gatenorm_fwd(t->f, t->g, t->y, z, twin_w(t, lp->gate_norm), (double)c->norm_eps, M, E);
    ref_linear_fwd(t->a, t->f, twin_w(t, lp->out_proj), M, c->D, E);
}

static void twin_attention(const struct twin *t, const struct layer_params *lp)
{
    const struct config *c = t->c;
    const int B = t->rows->B, T = t->rows->T, M = B * T, kv = c->kv_heads * c->head_dim;
    double *q = t->b, *k = t->f, *v = t->g;
    ref_linear_fwd(q, t->n, twin_w(t, lp->q), M, c->D, c->D);
    ref_linear_fwd(k, t->n, twin_w(t, lp->k), M, kv, c->D);
    ref_linear_fwd(v, t->n, twin_w(t, lp->v), M, kv, c->D);
    if (c->use_rope) {
        const double theta = (double)c->rope_theta;
        ref_rope(q, t->rows->pos, M, c->attn_heads, c->head_dim, theta, false);
        ref_rope(k, t->rows->pos, M, c->kv_heads, c->head_dim, theta, false);
    }
    const struct ref_attn in = {.q = q,
                                .k = k,
                                .v = v,
                                .seg = t->rows->seg,
                                .scale = (double)c->attention_multiplier,
                                .B = B,
                                .T = T,
                                .H = c->attn_heads,
                                .P = c->head_dim,
                                .G = c->kv_heads};
    ref_attn_fwd(t->y, t->a, &in);
    ref_linear_fwd(t->a, t->y, twin_w(t, lp->o), M, c->D, c->D);
}

static void twin_norm(const struct twin *t, int param)
{
    ref_rmsnorm_fwd(t->n, t->a, t->x, twin_w(t, param), (double)t->c->norm_eps,
                    t->rows->B * t->rows->T, t->c->D);
}

/* which: 0 mixer, 1 MLP */
static void twin_add(const struct twin *t, int layer, int which)
{
    const struct drop drop = {.p = t->dropout, .site = (uint32_t)(layer * 4 + which)};
    ref_resid_fwd(t->x, t->x, t->a, (double)t->c->residual_multiplier, &drop, t->ctl,
                  t->rows->B * t->rows->T, t->c->D);
}

static void twin_layer(const struct twin *t, int i)
{
    const struct config *c = t->c;
    const struct layer_params *lp = &t->p->layer[i];
    const int M = t->rows->B * t->rows->T;
    twin_norm(t, lp->norm1);
    if (c->pattern[i] == 'm')
        twin_mamba(t, lp);
    else
        twin_attention(t, lp);
    twin_add(t, i, 0);
    twin_norm(t, lp->norm2);
    ref_linear_fwd(t->b, t->n, twin_w(t, lp->mlp_in), M, 2 * c->F, c->D);
    ref_swiglu_fwd(t->f, t->b, M, c->F);
    ref_linear_fwd(t->a, t->f, twin_w(t, lp->mlp_out), M, c->D, c->F);
    twin_add(t, i, 1);
}

__attribute__((unused)) static void twin_open(struct twin *t, const struct config *c,
                                              const struct params *p, const struct rows *rows)
{
    const int sizes[] = {c->V, 2 * c->F, c->D,
                         2 * c->mamba_heads * c->mamba_head_dim + 2 * c->mamba_groups * c->N +
                             c->mamba_heads};
    *t = (struct twin){.c = c, .p = p, .rows = rows};
    for (int i = 0; i < 4; i++)
        t->width = (size_t)sizes[i] > t->width ? (size_t)sizes[i] : t->width;
    const size_t n = (size_t)rows->B * (size_t)rows->T * t->width;
    double **const all[] = {&t->x, &t->n, &t->a, &t->b, &t->f, &t->y, &t->g};
    for (int i = 0; i < 7; i++)
        *all[i] = calloc(n, sizeof **all[i]);
}

__attribute__((unused)) static void twin_close(struct twin *t)
{
    double *const all[] = {t->x, t->n, t->a, t->b, t->f, t->y, t->g};
    for (int i = 0; i < 7; i++)
        free(all[i]);
}

/* The mean loss over the rows' targets with weights w. */
__attribute__((unused)) static double twin_loss(struct twin *t, const double *w)
{
    const struct config *c = t->c;
    const int M = t->rows->B * t->rows->T;
    double sum = 0;
    t->w = w;
    ref_embed_fwd(t->x, t->rows->ids, twin_w(t, t->p->embed), (double)c->embedding_multiplier, M,
                  c->D);
    for (int i = 0; i < c->L; i++)
        twin_layer(t, i);
    twin_norm(t, t->p->final_norm);
    ref_linear_fwd(t->b, t->n, twin_w(t, t->p->head), M, c->V, c->D);
    ref_xent(t->a, NULL, t->b, t->rows->target, 1 / (double)c->logits_scaling, 1, 0, M, c->V);
    for (int m = 0; m < M; m++)
        sum += t->a[m];
    return sum / count_targets(t->rows);
}

#endif
