/* Tests of attention: forward and backward against the reference, the reference's gradient by
 * finite differences, packed documents, repeatability, decode steps. test_read has earlier keys. */
#include "docs_test.h"

struct shape {
    int B, T, H, P, G;
    enum docs docs;
    int gap; /* ld - columns */
};

static const struct shape shapes[] = {
    {1, 1, 1, 16, 1, DOCS_NONE, 0},    {2, 48, 2, 16, 1, DOCS_WHOLE, 0},
    {1, 97, 4, 64, 2, DOCS_NONE, 3},   {2, 150, 3, 32, 3, DOCS_MIXED, 1},
    {1, 210, 4, 20, 1, DOCS_MIXED, 0}, {2, 100, 2, 128, 2, DOCS_SHORT, 5},
    {1, 60, 2, 16, 2, DOCS_ONES, 0},   {1, 37, 4, 32, 2, DOCS_NONE, 2},
    {1, 300, 6, 16, 2, DOCS_SHORT, 0}, {1, 200, 1, 64, 1, DOCS_MIXED, 8},
    {1, 135, 1, 128, 1, DOCS_NONE, 0}, {2, 150, 4, 64, 2, DOCS_MIXED, 0},
    {1, 290, 2, 64, 1, DOCS_NONE, 0},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* q k v, and their gradients in the same order. */
struct host {
    struct shape s;
    double *in[3], *grad[3], *o, *dout, *lse;
    size_t n[3];
    int32_t *seg;
    double scale;
};

static struct ref_attn ref_in(const struct host *h)
{
    const struct shape *s = &h->s;
    return (struct ref_attn){h->in[0], h->in[1], h->in[2], h->seg, h->scale, s->B,
                             s->T,     s->H,     s->P,     s->G,   0};
}

static void fill(struct host *h, const struct shape *s)
{
    const size_t M = (size_t)(s->B * s->T);
    const size_t HP = (size_t)(s->H * s->P), GP = (size_t)(s->G * s->P);
    *h = (struct host){.s = *s, .n = {M * HP, M * GP, M * GP}};
    for (int i = 0; i < 3; i++) {
        h->in[i] = t_random(h->n[i], 1, (uint32_t)i);
        h->grad[i] = t_zeros(h->n[i]);
    }
    h->o = t_zeros(M * HP);
    h->dout = t_random(M * HP, 1, 5);
    h->lse = t_zeros(M * (size_t)s->H);
    h->seg = docs_seg(s->docs, s->B, s->T);
    h->scale = (float)(1.5 / sqrt(s->P));
}

struct device {
    struct attn_in in;
    struct tensor t[3], grad[3], o, dout, lse;
};

static struct device upload(struct dev *dev, const struct host *h)
{
    const struct shape *s = &h->s;
    const int64_t M = s->B * s->T;
    const int64_t HP = s->H * s->P, GP = s->G * s->P;
    struct device d;
    for (int i = 0; i < 3; i++) {
        const int64_t cols = i ? GP : HP;
        d.t[i] = t_tensor(dev, h->in[i], M, cols, cols + s->gap);
        d.grad[i] = t_garbage(dev, M, cols, cols + s->gap);
    }
    d.o = t_garbage(dev, M, HP, HP + s->gap);
    d.dout = t_tensor(dev, h->dout, M, HP, HP + s->gap);
    d.lse = t_garbage_f32(dev, s->B * s->H, s->T, 0);
    d.in = (struct attn_in){
        d.t[0], d.t[1], d.t[2], docs_upload(dev, h->seg, s->B, s->T), (float)h->scale, s->B, s->T,
        s->H,   s->P,   s->G};
    return d;
}

static void run(struct dev *dev, struct device *d)
{
    dev->ops->attn_fwd(dev, &d->o, d->lse.data, &d->in);
    dev->ops->attn_bwd(dev, &d->grad[0], &d->grad[1], &d->grad[2], &d->dout, &d->o, d->lse.data,
                       &d->in);
}

static void reserve_for(struct dev *dev, const struct shape *s)
{
    const struct sizes sizes = {.B = s->B, .T = s->T, .H = s->H, .P = s->P, .G = s->G, .S = s->T};
    reserve(dev, OP_ATTN, &sizes);
}

static void check_shape(struct dev *dev, const struct shape *s)
{
    static const char *const name[3] = {"q", "k", "v"};
    struct host h;
    char at[128];
    fill(&h, s);
    snprintf(at, sizeof at, "%s: B%d T%d H%d P%d G%d docs %d", dev->name, s->B, s->T, s->H, s->P,
             s->G, (int)s->docs);
    const struct ref_attn in = ref_in(&h);
    struct device d = upload(dev, &h), again = upload(dev, &h);
    reserve_for(dev, s);
    run(dev, &d);
    run(dev, &again);
    ref_attn_fwd(h.o, h.lse, &in);
    ok_within(t_error(dev, &d.o, h.o), tol(dev, 1e-6), "%s: o", at);
    ok_within(t_error(dev, &d.lse, h.lse), tol(dev, 1e-6), "%s: lse", at);
    bool is_same = t_same(dev, &d.o, &again.o);
    ref_attn_bwd(h.grad[0], h.grad[1], h.grad[2], h.dout, &in);
    for (int i = 0; i < 3; i++) {
        /* of documents of one token, dq and dk are 0 but for rounding */
        const bool is_tiny = i < 2 && dot(h.grad[i], h.grad[i], h.n[i]) < 1e-20;
        const double bound = is_tiny ? INFINITY : 2e-6;
        ok_within(t_error(dev, &d.grad[i], h.grad[i]), tol(dev, bound), "%s: d%s", at, name[i]);
        is_same = is_same && t_same(dev, &d.grad[i], &again.grad[i]);
    }
    ok(is_same, "%s: the same bits again", at);
    ok(guard_ok(dev), "%s: workspace as planned", at);
}

/* Tokens [t,t+n) of a one-row device, as an own sequence. */
static struct device part_of(const struct device *d, int t, int n)
{
    struct device p = *d;
    p.in.q = tensor_row_range(&d->in.q, t, n);
    p.in.k = tensor_row_range(&d->in.k, t, n);
    p.in.v = tensor_row_range(&d->in.v, t, n);
    p.in.seg = NULL;
    p.in.T = n;
    p.o = tensor_row_range(&d->o, t, n);
    p.dout = tensor_row_range(&d->dout, t, n);
    for (int i = 0; i < 3; i++)
        p.grad[i] = tensor_row_range(&d->grad[i], t, n);
    return p;
}

/* Packed documents equal separate ones. */
static void check_packed(struct dev *dev)
{
    const struct shape s = {1, 170, 4, 32, 2, DOCS_MIXED, 0};
    struct host h;
    fill(&h, &s);
    struct device packed = upload(dev, &h), apart = upload(dev, &h);
    reserve_for(dev, &s);
    run(dev, &packed);
    for (int t = 0, end; t < s.T; t = end) {
        end = docs_end(h.seg, 0, t, s.T);
        struct device one = part_of(&apart, t, end - t);
        run(dev, &one);
    }
    const float *o = t_values(dev, &packed.o);
    for (size_t i = 0; i < h.n[0]; i++)
        h.o[i] = o[i];
    ok_within(t_error(dev, &apart.o, h.o), tol(dev, 1e-6), "%s: packed documents: o", dev->name);
    for (int k = 0; k < 3; k++) {
        const float *g = t_values(dev, &packed.grad[k]);
        for (size_t i = 0; i < h.n[k]; i++)
            h.grad[k][i] = g[i];
        ok_within(t_error(dev, &apart.grad[k], h.grad[k]), tol(dev, 2e-6),
                  "%s: packed documents: gradient %d", dev->name, k);
    }
}

/* Three rows decode from position 0 on, in slots 4, 0, 2 of 5. */
static void check_steps(struct dev *dev, const struct shape *s)
{
    const int32_t slot[3] = {4, 0, 2};
    const int GP = s->G * s->P, S = s->T + 2;
    struct host h;
    fill(&h, s);
    struct device d = upload(dev, &h), alone = upload(dev, &h);
    struct tensor cache[4];
    for (int i = 0; i < 4; i++) {
        cache[i] = t_garbage(dev, 5 * S, GP, GP + i % 2);
        cache[i].n_dims = 3;
        cache[i].dim[0] = 5;
        cache[i].dim[1] = S;
        cache[i].dim[2] = GP;
    }
    const int32_t *slots = t_upload(dev, slot, sizeof slot);
    reserve(dev, OP_ATTN, &(struct sizes){.H = s->H, .P = s->P, .G = s->G, .S = S, .R = 3});
    for (int t = 0; t < s->T; t++) {
        const int32_t pos[3] = {t, t, t}, *dpos = t_upload(dev, pos, sizeof pos);
        const struct tensor q = t_token(&d.t[0], t, 3, s->T), k = t_token(&d.t[1], t, 3, s->T);
        const struct tensor v = t_token(&d.t[2], t, 3, s->T);
        struct tensor o = t_token(&d.o, t, 3, s->T);
        dev->ops->attn_step(dev, &o, &cache[0], &cache[1], &q, &k, &v, (float)h.scale, s->H, s->P,
                            s->G, &(struct step_rows){slots, dpos, 3});
        for (int r = 0; r < 3; r++) {
            const struct tensor q1 = tensor_row_range(&d.t[0], r * s->T + t, 1);
            const struct tensor k1 = tensor_row_range(&d.t[1], r * s->T + t, 1);
            const struct tensor v1 = tensor_row_range(&d.t[2], r * s->T + t, 1);
            struct tensor o1 = tensor_row_range(&alone.o, r * s->T + t, 1);
            dev->ops->attn_step(dev, &o1, &cache[2], &cache[3], &q1, &k1, &v1, (float)h.scale, s->H,
                                s->P, s->G, &(struct step_rows){slots + r, dpos + r, 1});
        }
    }
    const struct ref_attn in = ref_in(&h);
    ref_attn_fwd(h.o, h.lse, &in);
    ok_within(t_error(dev, &d.o, h.o), tol(dev, 1e-6), "%s: step by step", dev->name);
    ok(t_same(dev, &d.o, &alone.o), "%s: a row's bits do not depend on its neighbours", dev->name);
    ok(same_as_with_1_thread(dev, s->P == 32, d.o.data,
                             (size_t)d.o.ld * (size_t)(3 * s->T) * dtype_size(d.o.dtype)),
       "%s: nor on threads", dev->name);
    ok(guard_ok(dev), "%s: workspace of steps as planned", dev->name);
    /* the cache of the first row, as attn_fwd may read it later */
    struct tensor rows = tensor_row_range(&cache[1], slot[0] * S, s->T);
    ok_within(t_error(dev, &rows, h.in[2]), 0, "%s: values in the cache", dev->name);
    rows = tensor_row_range(&cache[0], slot[1] * S, s->T);
    ok_within(t_error(dev, &rows, h.in[1] + s->T * GP), 0, "%s: keys in the cache", dev->name);
}

enum { ROWS = 12 };

/* A cache of S positions for ROWS rows, and a step over it. */
struct cache {
    int H, P, G, S;
    struct tensor q, k, v, kcache, vcache;
    const double *q_in, *cache_in[2], *new_in[2];
    const int32_t *slots, *pos;
    int32_t host_pos[ROWS];
};

/* Positions from pos on hold what nobody may read. */
static double *cache_values(const struct cache *c, uint32_t seed)
{
    const int GP = c->G * c->P;
    double *x = t_random((size_t)(ROWS * c->S * GP), 1, seed);
    for (int r = 0; r < ROWS; r++)
        for (int i = c->host_pos[r] * GP; i < c->S * GP; i++)
            x[(ROWS - 1 - r) * c->S * GP + i] = 20000;
    return x;
}

static struct tensor cache_tensor(struct dev *dev, const struct cache *c, const double *x)
{
    const int GP = c->G * c->P;
    struct tensor t = t_tensor(dev, x, ROWS * c->S, GP, 0);
    t.n_dims = 3;
    t.dim[0] = ROWS;
    t.dim[1] = c->S;
    t.dim[2] = GP;
    return t;
}

static void open_cache(struct dev *dev, struct cache *c)
{
    const int GP = c->G * c->P, HP = c->H * c->P;
    int32_t slot[ROWS];
    for (int r = 0; r < ROWS; r++) {
        slot[r] = ROWS - 1 - r;
        c->host_pos[r] = r == 0 ? c->S - 1 : r == 1 ? 0 : r == 2 ? 127 % c->S : r * 131 % c->S;
    }
    c->slots = t_upload(dev, slot, sizeof slot);
    c->pos = t_upload(dev, c->host_pos, sizeof c->host_pos);
    c->q_in = t_random((size_t)(ROWS * HP), 1, 1);
    for (int i = 0; i < 2; i++) {
        c->new_in[i] = t_random((size_t)(ROWS * GP), 1, 2 + (uint32_t)i);
        c->cache_in[i] = cache_values(c, 4 + (uint32_t)i);
    }
    c->q = t_tensor(dev, c->q_in, ROWS, HP, 0);
    c->k = t_tensor(dev, c->new_in[0], ROWS, GP, 0);
    c->v = t_tensor(dev, c->new_in[1], ROWS, GP, 0);
}

/* Rows r .. r+R-1, over the cache as it was at first. */
static void step_rows_of(struct dev *dev, struct cache *c, struct tensor *o, int r, int R)
{
    const struct tensor q = tensor_row_range(&c->q, r, R), k = tensor_row_range(&c->k, r, R);
    const struct tensor v = tensor_row_range(&c->v, r, R);
    c->kcache = cache_tensor(dev, c, c->cache_in[0]);
    c->vcache = cache_tensor(dev, c, c->cache_in[1]);
    dev->ops->attn_step(dev, o, &c->kcache, &c->vcache, &q, &k, &v, 0.25f, c->H, c->P, c->G,
                        &(struct step_rows){c->slots + r, c->pos + r, R});
}

/* What row r answers: the keys before it and its own, side by side. */
static void ref_row(const struct cache *c, int r, double *o)
{
    const int GP = c->G * c->P, pos = c->host_pos[r];
    double *in[2], *lse = t_zeros((size_t)c->H);
    for (int i = 0; i < 2; i++) {
        in[i] = t_copy(c->cache_in[i] + (ROWS - 1 - r) * c->S * GP, (size_t)((pos + 1) * GP));
        memcpy(in[i] + pos * GP, c->new_in[i] + r * GP, sizeof(double) * (size_t)GP);
    }
    const struct ref_attn ref = {
        c->q_in + r * c->H * c->P, in[0], in[1], NULL, 0.25, 1, 1, c->H, c->P, c->G, pos};
    ref_attn_fwd(o + r * c->H * c->P, lse, &ref);
}

/* Long caches, which a backend may split; ragged positions; rows alone and in a batch. */
static void check_cache(struct dev *dev, int H, int P, int G, int S)
{
    static const int counts[] = {7, 1, 2, 8, 9};
    struct cache c = {.H = H, .P = P, .G = G, .S = S};
    const struct sizes sizes = {.H = H, .P = P, .G = G, .S = S + 100, .R = ROWS};
    open_cache(dev, &c);
    reserve(dev, OP_ATTN, &sizes);
    double *ref = t_zeros((size_t)(ROWS * H * P));
    struct tensor all = t_garbage(dev, ROWS, H * P, 0);
    step_rows_of(dev, &c, &all, 0, ROWS);
    for (int r = 0; r < ROWS; r++)
        ref_row(&c, r, ref);
    ok_within(t_error(dev, &all, ref), tol(dev, 1e-6), "%s: H%d P%d G%d S%d: a step", dev->name, H,
              P, G, S);
    struct tensor stored = tensor_row_range(&c.vcache, (ROWS - 1) * S + c.host_pos[0], 1);
    ok_within(t_error(dev, &stored, c.new_in[1]), 0, "%s: the value is in the cache", dev->name);
    bool is_same = true;
    for (size_t i = 0; i < some_of(sizeof counts / sizeof *counts); i++) {
        const int R = counts[i], r = R < 9 ? 0 : ROWS - R;
        struct tensor some = t_garbage(dev, R, H * P, 0);
        const struct tensor same = tensor_row_range(&all, r, R);
        step_rows_of(dev, &c, &some, r, R);
        is_same = is_same && t_same(dev, &some, &same);
    }
    ok(is_same && guard_ok(dev), "%s: H%d P%d G%d S%d: rows alone are rows of a batch", dev->name,
       H, P, G, S);
}

static void check(struct dev *dev)
{
    for (int i = 0; i < N_SHAPES; i++) {
        check_shape(dev, &shapes[i]);
        free_all();
    }
    check_packed(dev);
    free_all();
    check_steps(dev, &(struct shape){3, 75, 6, 32, 2, DOCS_NONE, 1});
    free_all();
    check_steps(dev, &(struct shape){3, 40, 3, 22, 3, DOCS_NONE, 0});
    free_all();
    check_cache(dev, 4, 16, 2, 270);
    free_all();
    check_cache(dev, 5, 64, 1, 150);
    free_all();
    check_cache(dev, 2, 128, 1, 600);
    free_all();
    check_cache(dev, 2, 16, 1, 5000);
}

static double objective(void *ctx)
{
    struct host *h = ctx;
    const struct ref_attn in = ref_in(h);
    ref_attn_fwd(h->o, h->lse, &in);
    return dot(h->o, h->dout, h->n[0]);
}

static void check_reference(void)
{
    const struct shape s = {2, 9, 4, 3, 2, DOCS_SHORT, 0};
    struct host h;
    fill(&h, &s);
    const struct ref_attn in = ref_in(&h);
    ref_attn_bwd(h.grad[0], h.grad[1], h.grad[2], h.dout, &in);
    for (int i = 0; i < 3; i++)
        ok_within(fd_error(objective, &h, h.in[i], h.grad[i], h.n[i]), fd_tol,
                  "reference: gradient %d by finite differences", i);
    free_all();
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
