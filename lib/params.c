/* params: the list of a model's tensors and their first values; see params.h. */
#include "params.h"
#include "rng.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAM_ALIGN = 16, LAYER_PARAMS = 12, OUTER_PARAMS = 3 };

/* A list under construction: the index of the tensor added last is p->n - 1. */
struct builder {
    struct params *p;
    char prefix[40];
};

static void pad(struct params *p)
{
    p->count = (p->count + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
}

static int add(struct builder *b, const char *name, enum init_kind init, int n_dims, int64_t d0,
               int64_t d1, int64_t d2)
{
    struct param *t = &b->p->list[b->p->n];
    *t = (struct param){.n_dims = n_dims, .dim = {d0, d1, d2}, .init = init};
    snprintf(t->name, sizeof t->name, "%s%s", b->prefix, name);
    t->offset = b->p->count;
    t->count = 1;
    for (int i = 0; i < n_dims; i++)
        t->count *= (size_t)t->dim[i];
    t->is_matrix = init == INIT_EMBED || init == INIT_LINEAR || init == INIT_LINEAR_OUT;
    t->has_decay = t->is_matrix && init != INIT_EMBED;
    t->product_rows = t->is_matrix ? t->dim[0] : 0;
    b->p->count += t->count;
    pad(b->p);
    b->p->n_values += (int64_t)t->count;
    return b->p->n++;
}

static int add_vector(struct builder *b, const char *name, enum init_kind init, int64_t n)
{
    return add(b, name, init, 1, n, 0, 0);
}

static int add_matrix(struct builder *b, const char *name, enum init_kind init, int64_t n,
                      int64_t k)
{
    return add(b, name, init, 2, n, k, 0);
}

/* Makes matrix i a part of the product that starts with matrix `first`, right behind the part that
 * was added before. */
static int join(struct builder *b, int first, int i)
{
    struct param *t = &b->p->list[i], *before = t - 1;
    t->offset = before->offset + before->count;
    b->p->count = t->offset + t->count;
    pad(b->p);
    b->p->list[first].product_rows += t->product_rows;
    t->product_rows = 0;
    return i;
}

static void add_mamba(struct builder *b, const struct config *c, struct layer_params *l)
{
    const int64_t D = c->D, H = c->mamba_heads, E = H * c->mamba_head_dim;
    const int64_t C = E + 2 * (int64_t)c->mamba_groups * c->N;
    l->in_proj = add_matrix(b, "mamba.in_proj.weight", INIT_LINEAR, E + C + H, D);
    l->conv_w = add(b, "mamba.conv1d.weight", INIT_CONV, 3, C, 1, c->K);
    l->conv_b = add_vector(b, "mamba.conv1d.bias", INIT_CONV, C);
    l->dt_bias = add_vector(b, "mamba.dt_bias", INIT_DT_BIAS, H);
    l->a_log = add_vector(b, "mamba.A_log", INIT_A_LOG, H);
    l->skip = add_vector(b, "mamba.D", INIT_ONE, H);
    l->gate_norm = add_vector(b, "mamba.norm.weight", INIT_ONE, E);
    l->out_proj = add_matrix(b, "mamba.out_proj.weight", INIT_LINEAR_OUT, D, E);
}

static void add_attention(struct builder *b, const struct config *c, struct layer_params *l)
{
    const int64_t D = c->D, kv = (int64_t)c->kv_heads * c->head_dim;
    l->q = add_matrix(b, "self_attn.q_proj.weight", INIT_LINEAR, D, D);
    l->k = join(b, l->q, add_matrix(b, "self_attn.k_proj.weight", INIT_LINEAR, kv, D));
    l->v = join(b, l->q, add_matrix(b, "self_attn.v_proj.weight", INIT_LINEAR, kv, D));
    l->o = add_matrix(b, "self_attn.o_proj.weight", INIT_LINEAR_OUT, D, D);
}

static void add_layer(struct builder *b, const struct config *c, int i)
{
    struct layer_params *l = &b->p->layer[i];
    memset(l, -1, sizeof *l); /* every index -1 */
    snprintf(b->prefix, sizeof b->prefix, "model.layers.%d.", i);
    l->norm1 = add_vector(b, "input_layernorm.weight", INIT_ONE, c->D);
    if (c->pattern[i] == 'm')
        add_mamba(b, c, l);
    else
        add_attention(b, c, l);
    l->norm2 = add_vector(b, "post_attention_layernorm.weight", INIT_ONE, c->D);
    l->mlp_in =
        add_matrix(b, "shared_mlp.input_linear.weight", INIT_LINEAR, 2 * (int64_t)c->F, c->D);
    l->mlp_out = add_matrix(b, "shared_mlp.output_linear.weight", INIT_LINEAR_OUT, c->D, c->F);
}

int params_open(struct params *p, const struct config *c, struct err *err)
{
    *p = (struct params){0};
    const size_t cap = (size_t)c->L * LAYER_PARAMS + OUTER_PARAMS;
    p->list = calloc(cap, sizeof *p->list);
    if (!p->list)
        return err_oom(err, cap * sizeof *p->list);
    struct builder b = {p, ""};
    p->embed = add_matrix(&b, "model.embed_tokens.weight", INIT_EMBED, c->V, c->D);
    for (int i = 0; i < c->L; i++)
        add_layer(&b, c, i);
    b.prefix[0] = '\0';
    p->final_norm = add_vector(&b, "model.norm.weight", INIT_ONE, c->D);
    p->head = c->is_tied ? p->embed : add_matrix(&b, "lm_head.weight", INIT_LINEAR, c->V, c->D);
    return 0;
}

void params_free(struct params *p)
{
    free(p->list);
    *p = (struct params){0};
}

struct tensor params_tensor(const struct params *p, int i, float *base)
{
    const struct param *t = &p->list[i];
    return tensor_of(base + t->offset, DT_F32, t->n_dims, t->dim[0], t->dim[1], t->dim[2], 0);
}

struct tensor params_product(const struct params *p, int i, float *base)
{
    const struct param *t = &p->list[i];
    return tensor_of(base ? base + t->offset : NULL, DT_F32, 2, t->product_rows, t->dim[1], 0, 0);
}

int params_find(const struct params *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->list[i].name, name) == 0)
            return i;
    return -1;
}

/* --- first values: state-spaces/mamba's recipe, for the linear layers of attention and MLP too.
 * Their U(+-1/sqrt(k)) has the standard deviation 1/sqrt(3k): 0.026 at D = 512, 0.021 at 768, so it
 * is the usual 0.02 at the sizes where that was found good, and the right scale at all others. */

/* The time steps start between these, log-uniformly, and are kept above the floor. */
static const double dt_min = 1e-3, dt_max = 0.1, dt_floor = 1e-4;

static float dt_bias(float u)
{
    double dt = exp(log(dt_min) + (double)u * (log(dt_max) - log(dt_min)));
    if (dt < dt_floor)
        dt = dt_floor;
    return (float)(dt + log(-expm1(-dt))); /* the inverse of softplus */
}

/* u: the element's own number, uniform in [0, 1). */
static float first_value(const struct param *t, const struct config *c, float u)
{
    if (t->init == INIT_ONE)
        return 1.0f;
    if (t->init == INIT_A_LOG)
        return logf(1.0f + 15.0f * u); /* A is uniform in [1, 16] */
    if (t->init == INIT_DT_BIAS)
        return dt_bias(u);
    /* What is left is uniform within 1/sqrt(inputs); what writes to the residual stream (two a
     * layer) starts smaller, so that their sum does not grow with depth. */
    const double inputs = t->init == INIT_CONV ? c->K : (double)t->dim[1];
    const double shrink = t->init == INIT_LINEAR_OUT ? sqrt(2.0 * c->L) : 1.0;
    return (float)((2.0 * (double)u - 1.0) / sqrt(inputs) / shrink);
}

void params_init(const struct params *p, const struct config *c, uint64_t seed, float *base)
{
    memset(base, 0, p->count * sizeof *base);
    for (int i = 0; i < p->n; i++) {
        const uint64_t stream = rng_stream(RNG_INIT, (uint32_t)i, 0);
        const struct param *t = &p->list[i];
        float *w = base + t->offset;
        struct philox r = {{0}};
        for (size_t j = 0; j < t->count; j++) {
            if (j % 4 == 0)
                r = philox(seed, stream, j / 4); /* as rng_uniform, but one call for four */
            w[j] = t->init == INIT_EMBED ? c->init_range * rng_normal(seed, stream, j)
                                         : first_value(t, c, rng_unit(r.v[j % 4]));
        }
    }
}
