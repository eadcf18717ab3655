/* acts: see acts.h. */
#include "acts.h"

#include <stdlib.h>

/* A carving under way: the arena over the region, the sizes, the pass. */
struct carver {
    struct arena arena;
    const struct config *c;
    enum dtype act;
    enum pass_kind kind;
    int B, T;
};

static struct tensor rows_of(struct carver *v, int64_t cols)
{
    return arena_tensor(&v->arena, MEM_ACTS, v->act, 2, (int64_t)v->B * v->T, cols, 0, 0);
}

static float *floats(struct carver *v, size_t n)
{
    return arena_take(&v->arena, n * sizeof(float), MEM_ACTS);
}

static int32_t *ints(struct carver *v)
{
    return arena_take(&v->arena, (size_t)v->B * (size_t)v->T * sizeof(int32_t), MEM_ACTS);
}

static size_t n_rows(const struct carver *v)
{
    return (size_t)v->B * (size_t)v->T;
}

static int64_t inner(const struct config *c)
{
    return (int64_t)c->mamba_heads * c->mamba_head_dim;
}

static int64_t conv_width(const struct config *c)
{
    return inner(c) + 2 * (int64_t)c->mamba_groups * c->N;
}

static void carve_mamba(struct carver *v, struct layer_acts *l)
{
    const struct config *c = v->c;
    const size_t H = (size_t)c->mamba_heads;
    l->proj = rows_of(v, inner(c) + conv_width(c) + c->mamba_heads);
    l->conv = rows_of(v, conv_width(c));
    l->y = rows_of(v, inner(c));
    l->g = rows_of(v, inner(c));
    l->rstd_g = floats(v, n_rows(v));
    if (v->kind == PASS_STEP)
        return;
    const size_t Z = ((size_t)v->T + (size_t)c->Q - 1) / (size_t)c->Q;
    l->delta = floats(v, n_rows(v) * H);
    l->states = floats(v, (size_t)v->B * Z * (size_t)inner(c) * (size_t)c->N);
}

static void carve_attention(struct carver *v, struct layer_acts *l)
{
    const struct config *c = v->c;
    const int64_t kv = (int64_t)c->kv_heads * c->head_dim;
    l->q = rows_of(v, c->D);
    l->k = rows_of(v, kv);
    l->v = rows_of(v, kv);
    l->o = rows_of(v, c->D);
    if (v->kind != PASS_STEP)
        l->lse = floats(v, n_rows(v) * (size_t)c->attn_heads);
}

/* All of a block but x. */
static void carve_layer(struct carver *v, struct layer_acts *l, char letter)
{
    const struct config *c = v->c;
    l->x2 = v->kind == PASS_TRAIN ? rows_of(v, c->D) : l->x;
    l->n1 = rows_of(v, c->D);
    l->rstd1 = floats(v, n_rows(v));
    l->n2 = rows_of(v, c->D);
    l->rstd2 = floats(v, n_rows(v));
    if (letter == 'm')
        carve_mamba(v, l);
    else
        carve_attention(v, l);
    l->u = rows_of(v, 2 * (int64_t)c->F);
    l->s = rows_of(v, c->F);
}

/* Memory that several uses share in turn: each starts at the mark, and what follows starts behind
 * the longest. */
static void share_next(struct carver *v, size_t mark, size_t *top)
{
    if (v->arena.used > *top)
        *top = v->arena.used;
    v->arena.used = mark;
}

static void carve_shared_layers(struct acts *a, struct carver *v)
{
    const size_t mark = v->arena.used;
    size_t top = mark;
    for (int i = 0; i < v->c->L; i++) {
        carve_layer(v, &a->layer[i], v->c->pattern[i]);
        share_next(v, mark, &top);
    }
    v->arena.used = top;
}

/* Block inputs: of each segment's first block its own, of the others' one a place in the segment.
 */
static void carve_inputs(struct acts *a, struct carver *v)
{
    const int L = v->c->L;
    for (int i = 0; i < L; i += a->stride)
        a->layer[i].x = rows_of(v, v->c->D);
    for (int place = 1; place < a->stride; place++) {
        const struct tensor x = rows_of(v, v->c->D);
        for (int i = place; i < L; i += a->stride)
            a->layer[i].x = x;
    }
    a->layer[L].x = rows_of(v, v->c->D);
}

static void carve_head(struct acts *a, struct carver *v)
{
    const size_t M = n_rows(v);
    const bool is_chunk = v->kind != PASS_STEP && M > ACTS_HEAD_ROWS;
    a->logits = arena_tensor(&v->arena, MEM_ACTS, DT_F32, 2, is_chunk ? ACTS_HEAD_ROWS : (int64_t)M,
                             v->c->V, 0, 0);
}

static void carve_back_mamba(struct back_acts *b, struct carver *v)
{
    b->dproj = rows_of(v, inner(v->c) + conv_width(v->c) + v->c->mamba_heads);
    b->dconv = rows_of(v, conv_width(v->c));
    b->dy = rows_of(v, inner(v->c));
    b->dg = rows_of(v, inner(v->c));
}

static void carve_back_attention(struct back_acts *b, struct carver *v)
{
    const int64_t kv = (int64_t)v->c->kv_heads * v->c->head_dim;
    b->dq = rows_of(v, v->c->D);
    b->dk = rows_of(v, kv);
    b->dv = rows_of(v, kv);
    b->dout = rows_of(v, v->c->D);
}

static void carve_back(struct acts *a, struct carver *v)
{
    struct back_acts *b = &a->back;
    b->dx = rows_of(v, v->c->D);
    b->dn = rows_of(v, v->c->D);
    const size_t mark = v->arena.used;
    size_t top = mark;
    carve_head(a, v);
    share_next(v, mark, &top);
    b->du = rows_of(v, 2 * (int64_t)v->c->F);
    b->ds = rows_of(v, v->c->F);
    share_next(v, mark, &top);
    carve_back_mamba(b, v);
    share_next(v, mark, &top);
    carve_back_attention(b, v);
    share_next(v, mark, &top);
    v->arena.used = top;
}

static void carve_train(struct acts *a, struct carver *v)
{
    carve_inputs(a, v);
    if (a->is_kept)
        for (int i = 0; i < v->c->L; i++)
            carve_layer(v, &a->layer[i], v->c->pattern[i]);
    else
        carve_shared_layers(a, v);
    a->h = rows_of(v, v->c->D);
    carve_back(a, v);
}

static void carve_forward(struct acts *a, struct carver *v)
{
    const struct tensor x = rows_of(v, v->c->D);
    for (int i = 0; i <= v->c->L; i++)
        a->layer[i].x = x;
    const size_t mark = v->arena.used;
    size_t top = mark;
    carve_shared_layers(a, v);
    share_next(v, mark, &top);
    a->h = rows_of(v, v->c->D); /* the blocks are over when the head begins */
    carve_head(a, v);
    share_next(v, mark, &top);
    v->arena.used = top;
}

int acts_segment(int L, enum recompute recompute)
{
    int n = 1;
    while (recompute == RECOMPUTE_FULL && n * n < L)
        n++;
    return n;
}

static size_t carve(struct acts *a, void *base, const struct config *c, enum dtype act,
                    enum pass_kind kind, enum recompute recompute, int B, int T)
{
    struct carver v = {{.base = base}, c, act, kind, B, T};
    a->B = B;
    a->T = T;
    a->is_kept = kind == PASS_TRAIN && recompute == RECOMPUTE_NONE;
    a->stride = kind == PASS_TRAIN ? acts_segment(c->L, recompute) : 1;
    a->live = -1;
    a->ids = ints(&v);
    a->target = ints(&v);
    a->seg = ints(&v);
    a->pos = ints(&v);
    a->loss = floats(&v, n_rows(&v));
    a->rstd_h = floats(&v, n_rows(&v));
    a->branch = rows_of(&v, c->D);
    if (kind == PASS_TRAIN)
        carve_train(a, &v);
    else
        carve_forward(a, &v);
    return v.arena.used;
}

size_t acts_plan(struct acts *a, const struct config *c, enum dtype act, enum pass_kind kind,
                 enum recompute recompute, int B, int T)
{
    return carve(a, NULL, c, act, kind, recompute, B, T);
}

void acts_carve(struct acts *a, const struct config *c, enum dtype act, enum pass_kind kind,
                enum recompute recompute, int B, int T)
{
    carve(a, a->region, c, act, kind, recompute, B, T);
}

int acts_open(struct acts **a, const struct config *c, struct err *err)
{
    *a = calloc(1, sizeof **a);
    if (!*a)
        return err_oom(err, sizeof **a);
    (*a)->layer = calloc((size_t)c->L + 1, sizeof(struct layer_acts));
    if ((*a)->layer)
        return 0;
    acts_close(*a);
    *a = NULL;
    return err_oom(err, (size_t)c->L * sizeof(struct layer_acts));
}

void acts_close(struct acts *a)
{
    if (!a)
        return;
    free(a->layer);
    free(a);
}
