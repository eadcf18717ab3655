/* acts: see acts.h. */
#include "acts.h"

#include <stdlib.h>

const char *const recompute_names[] = {"none", "cheap", "block", "full", NULL};

/* Rows begin at multiples of so many elements, which is 16 bytes in the narrow types. */
enum { WIDE = 8 };
/* Rows of f32 logits of a batch that gives no gradients, where memory is a GPU's. */
enum { FORWARD_ROWS = 256 };

/* A carving under way: the arena over the region, the sizes, the pass. */
struct carver {
    struct arena arena;
    const struct config *c;
    const struct dev *dev;
    enum pass_kind kind;
    enum recompute recompute;
    int B, T;
};

static size_t n_rows(const struct carver *v)
{
    return (size_t)(v->kind == PASS_READ ? 1 : v->B) * (size_t)v->T;
}

static int64_t padded(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static struct tensor wide_rows(struct carver *v, enum dtype dtype, int64_t rows, int64_t cols)
{
    struct tensor t = arena_tensor(&v->arena, MEM_ACTS, dtype, 2, rows, padded(cols, WIDE), 0, 0);
    t.dim[1] = cols;
    return t;
}

static struct tensor rows_of(struct carver *v, int64_t cols)
{
    return wide_rows(v, v->dev->act_dtype, (int64_t)n_rows(v), cols);
}

static float *floats(struct carver *v, size_t n)
{
    return arena_take(&v->arena, n * sizeof(float), MEM_ACTS);
}

static int64_t inner(const struct config *c)
{
    return (int64_t)c->mamba_heads * c->mamba_head_dim;
}

static int64_t conv_width(const struct config *c)
{
    return inner(c) + 2 * (int64_t)c->mamba_groups * c->N;
}

static int64_t kv_width(const struct config *c)
{
    return (int64_t)c->kv_heads * c->head_dim;
}

/* Memory that several uses share in turn: each starts at the mark, and what follows starts behind
 * the longest. */
static void share_next(struct carver *v, size_t mark, size_t *top)
{
    if (v->arena.used > *top)
        *top = v->arena.used;
    v->arena.used = mark;
}

/* What is cheap to make again: of one block, or one set for all. Made and used in turn, so that in
 * the latter case the two norms and what follows them share memory. */
static void carve_norms(struct carver *v, struct layer_acts *l)
{
    l->n1 = rows_of(v, v->c->D);
    l->n2 = rows_of(v, v->c->D);
}

static void carve_gate(struct carver *v, struct layer_acts *l)
{
    l->conv = rows_of(v, conv_width(v->c));
    l->g = rows_of(v, inner(v->c));
}

static void carve_remade(struct carver *v, struct layer_acts *l)
{
    l->n1 = l->n2 = rows_of(v, v->c->D);
    const size_t mark = v->arena.used;
    size_t top = mark;
    carve_gate(v, l);
    share_next(v, mark, &top);
    l->s = rows_of(v, v->c->F);
    share_next(v, mark, &top);
    v->arena.used = top;
}

struct sizes acts_mamba_sizes(const struct config *c, int B, int T)
{
    return (struct sizes){.B = B,
                          .T = T,
                          .D = c->D,
                          .H = c->mamba_heads,
                          .P = c->mamba_head_dim,
                          .N = c->N,
                          .G = c->mamba_groups,
                          .K = c->K,
                          .F = c->F,
                          .V = c->V,
                          .Q = c->Q};
}

bool acts_keep_states(const struct dev *dev, enum recompute recompute)
{
    return dev->reads_states && recompute != RECOMPUTE_CHEAP;
}

/* A host's forward makes states in any case. */
static bool keeps_states(const struct carver *v)
{
    return acts_keep_states(v->dev, v->recompute) &&
           (v->kind == PASS_TRAIN || (v->kind == PASS_FORWARD && v->dev->is_host));
}

static void carve_mamba(struct carver *v, struct layer_acts *l)
{
    const struct config *c = v->c;
    const size_t H = (size_t)c->mamba_heads;
    l->proj = rows_of(v, inner(c) + conv_width(c) + c->mamba_heads);
    l->y = rows_of(v, inner(c));
    l->rstd_g = floats(v, n_rows(v));
    l->states = NULL;
    if (v->kind == PASS_STEP)
        return;
    l->delta = floats(v, n_rows(v) * H);
    if (keeps_states(v)) {
        const struct sizes s = acts_mamba_sizes(c, v->B, v->T);
        l->states = arena_take(&v->arena, v->dev->ops->ssd_states_bytes(v->dev, &s), MEM_ACTS);
    }
}

static void split_qkv(struct tensor *q, struct tensor *k, struct tensor *v,
                      const struct tensor *qkv, const struct config *c)
{
    const int64_t kv = kv_width(c);
    if (!qkv->data) /* planning */
        return;
    *q = tensor_slice(qkv, 0, c->D);
    *k = tensor_slice(qkv, c->D, kv);
    *v = tensor_slice(qkv, c->D + kv, kv);
}

static void carve_attention(struct carver *v, struct layer_acts *l)
{
    const struct config *c = v->c;
    l->qkv = rows_of(v, c->D + 2 * kv_width(c));
    split_qkv(&l->q, &l->k, &l->v, &l->qkv, c);
    l->o = rows_of(v, c->D);
    if (v->kind != PASS_STEP && v->kind != PASS_READ)
        l->lse = floats(v, n_rows(v) * (size_t)c->attn_heads);
}

/* All of a block but x; but for what `remade` has, which may be NULL. */
static void carve_layer(struct carver *v, struct layer_acts *l, char letter,
                        const struct layer_acts *remade)
{
    const struct config *c = v->c;
    if (remade) {
        const struct tensor x = l->x;
        *l = *remade;
        l->x = x;
    } else {
        carve_norms(v, l);
        if (letter == 'm')
            carve_gate(v, l);
        l->s = rows_of(v, c->F);
    }
    l->x2 = v->kind == PASS_TRAIN ? rows_of(v, c->D) : l->x;
    l->rstd1 = floats(v, n_rows(v));
    l->rstd2 = floats(v, n_rows(v));
    if (letter == 'm')
        carve_mamba(v, l);
    else
        carve_attention(v, l);
    l->u = rows_of(v, 2 * (int64_t)c->F);
}

static void carve_shared_layers(struct acts *a, struct carver *v)
{
    const size_t mark = v->arena.used;
    size_t top = mark;
    for (int i = 0; i < v->c->L; i++) {
        carve_layer(v, &a->layer[i], v->c->pattern[i], NULL);
        share_next(v, mark, &top);
    }
    v->arena.used = top;
}

/* Block inputs: of each segment's first block its own, of the others' one a place in the segment.
 */
static void carve_inputs(struct acts *a, struct carver *v)
{
    const int L = v->c->L;
    for (int i = 0; i < L; i += a->segment)
        a->layer[i].x = rows_of(v, v->c->D);
    for (int place = 1; place < a->segment; place++) {
        const struct tensor x = rows_of(v, v->c->D);
        for (int i = place; i < L; i += a->segment)
            a->layer[i].x = x;
    }
    a->layer[L].x = rows_of(v, v->c->D);
}

/* Logits that become gradients may be narrow; those that a caller reads are dense and f32, and,
 * where memory is short, few at once. */
static void carve_head(struct acts *a, struct carver *v)
{
    const int64_t M = (int64_t)n_rows(v), V = v->c->V;
    const bool is_few =
        v->kind != PASS_TRAIN && !v->dev->is_host && v->dev->head_rows > FORWARD_ROWS;
    const int64_t most = is_few ? FORWARD_ROWS : v->dev->head_rows;
    const int64_t rows = v->kind != PASS_STEP && M > most ? most : M;
    if (v->kind == PASS_TRAIN)
        a->logits = wide_rows(v, v->dev->act_dtype, rows, V);
    else
        a->logits = arena_tensor(&v->arena, MEM_ACTS, DT_F32, 2, rows, V, 0, 0);
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
    b->dqkv = rows_of(v, v->c->D + 2 * kv_width(v->c));
    split_qkv(&b->dq, &b->dk, &b->dv, &b->dqkv, v->c);
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
    struct layer_acts remade = {0};
    if (a->is_remade)
        carve_remade(v, &remade);
    for (int i = 0; a->is_kept && i < v->c->L; i++)
        carve_layer(v, &a->layer[i], v->c->pattern[i], a->is_remade ? &remade : NULL);
    if (!a->is_kept)
        carve_shared_layers(a, v);
    a->h = rows_of(v, v->c->D);
    carve_back(a, v);
}

/* Rows of a read in whole units, as products want them. */
static int n_last(const struct carver *v)
{
    return (int)padded(v->B, v->dev->read_unit);
}

static void carve_tail(struct acts *a, struct carver *v)
{
    struct carver few = *v;
    few.T = n_last(v);
    a->tail.x = rows_of(&few, v->c->D);
    carve_layer(&few, &a->tail, v->c->pattern[v->c->L - 1], NULL);
    v->arena = few.arena;
}

static void carve_forward(struct acts *a, struct carver *v)
{
    const struct tensor x = rows_of(v, v->c->D);
    for (int i = 0; i <= v->c->L; i++)
        a->layer[i].x = x;
    if (v->kind == PASS_READ)
        carve_tail(a, v);
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

static int32_t *whole_numbers(struct carver *v, size_t n)
{
    return arena_take(&v->arena, n * sizeof(int32_t), MEM_ACTS);
}

static void carve_read_rows(struct acts *a, struct carver *v)
{
    const size_t R = (size_t)v->B;
    a->begin = whole_numbers(v, R + 1);
    a->slot = whole_numbers(v, R);
    a->row_pos = whole_numbers(v, R);
    a->last = whole_numbers(v, (size_t)n_last(v));
}

/* What comes in with one upload and, of a STEP pass, goes out with one download. */
static void carve_inputs_block(struct acts *a, struct carver *v)
{
    const size_t M = n_rows(v), begin = v->arena.used;
    const bool is_step = v->kind == PASS_STEP, is_read = v->kind == PASS_READ;
    a->stride = (size_t)padded((int64_t)M, ARENA_ALIGN / sizeof(int32_t));
    if (is_read)
        carve_read_rows(a, v);
    a->ids = whole_numbers(v, (is_step || is_read ? 3 : 4) * a->stride);
    a->choice = is_step ? arena_take(&v->arena, M * sizeof *a->choice, MEM_ACTS) : NULL;
    a->inputs = is_read ? a->begin : a->ids;
    a->inputs_bytes = v->arena.used - begin;
    a->id = is_step ? arena_take(&v->arena, 2 * M * sizeof(int32_t), MEM_ACTS) : NULL;
    if (!a->ids) /* planning */
        return;
    a->pos = a->ids + a->stride;
    a->target = a->pos + a->stride;
    a->seg = is_step || is_read ? NULL : a->target + a->stride;
    a->logp = a->id ? (float *)(void *)(a->id + M) : NULL;
}

static size_t carve(struct acts *a, void *base, const struct config *c,
                    const struct acts_shape *shape)
{
    const bool is_training = shape->kind == PASS_TRAIN;
    struct carver v = {{.base = base},   c,        shape->dev, shape->kind,
                       shape->recompute, shape->B, shape->T};
    a->B = v.B;
    a->T = v.T;
    a->is_kept = is_training && shape->recompute <= RECOMPUTE_CHEAP;
    a->is_remade = a->is_kept && shape->recompute == RECOMPUTE_CHEAP;
    a->segment = is_training ? acts_segment(c->L, shape->recompute) : 1;
    a->live = -1;
    carve_inputs_block(a, &v);
    a->loss = floats(&v, n_rows(&v));
    a->rstd_h = floats(&v, n_rows(&v));
    a->branch = rows_of(&v, c->D);
    if (is_training)
        carve_train(a, &v);
    else
        carve_forward(a, &v);
    return v.arena.used;
}

size_t acts_plan(struct acts *a, const struct config *c, const struct acts_shape *shape)
{
    return carve(a, NULL, c, shape);
}

void acts_carve(struct acts *a, const struct config *c, const struct acts_shape *shape)
{
    carve(a, a->region, c, shape);
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
