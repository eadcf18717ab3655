/* attn_bwd: the gradient of attention in tiles; see attn.c. With weights p = exp(s - lse), made
 * again from the scores:
 *   dv_j = sum_i p_ij dout_i;  dp_ij = dout_i . v_j;  ds_ij = p_ij (dp_ij - dout_i . o_i)
 *   dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i.
 * A worker owns a KV head of one sequence and goes over its tiles of keys; dq grows tile by tile in
 * place. Where KV heads are few, it owns some of the query heads: see parts.h. */
#include "attn.h"

#include "cpu_ops.h"
#include "parts.h"
#include "vmath.h"

#include <assert.h>

struct bwd {
    struct dev *dev;
    const struct attn_in *in;
    struct tensor *dq;
    const struct tensor *dout, *o;
    const float *lse;
    struct parts parts; /* of dk and dv */
    size_t shared_bytes, worker_bytes;
};

struct space {
    int *first;         /* (T) */
    float *row_dot;     /* (heads,T) dout . o */
    struct mat kt, vt;  /* (P,ATTN_KEYS) */
    struct mat k;       /* (ATTN_KEYS,P) scaled */
    struct mat dk, dv;  /* (ATTN_KEYS,P) */
    struct mat q, dout; /* (ATTN_ROWS,P), q scaled */
    struct mat p, ds;   /* (ATTN_ROWS,ATTN_KEYS) */
};

static void carve(struct space *w, struct scratch *s, int T, int P, int heads)
{
    w->first = scratch_take(s, (size_t)T * sizeof(int));
    w->row_dot = scratch_floats(s, (size_t)heads * (size_t)T);
    w->kt = scratch_mat(s, P, ATTN_KEYS);
    w->vt = scratch_mat(s, P, ATTN_KEYS);
    w->k = scratch_mat(s, ATTN_KEYS, P);
    w->dk = scratch_mat(s, ATTN_KEYS, P);
    w->dv = scratch_mat(s, ATTN_KEYS, P);
    w->q = scratch_mat(s, ATTN_ROWS, P);
    w->dout = scratch_mat(s, ATTN_ROWS, P);
    w->p = scratch_mat(s, ATTN_ROWS, ATTN_KEYS);
    w->ds = scratch_mat(s, ATTN_ROWS, ATTN_KEYS);
}

static size_t worker_bytes(int T, int P, int heads)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, T, P, heads);
    return s.used;
}

size_t cpu_attn_bwd_plan(const struct dev *dev, const struct sizes *s)
{
    const int n_workers = n_workers_of(dev), heads = s->H / s->G;
    return parts_plan(n_workers, s->B * s->G, heads, s->T, s->P) +
           (size_t)n_workers * worker_bytes(s->T, s->P, heads);
}

/* p from scores, and ds from dp (in ds); 0 where the query may not look. */
static void weigh_row(float *restrict p, float *restrict ds, float lse, float row_dot,
                      const struct attn_span *span, int keys)
{
    attn_zero_outside(p, span, keys);
    attn_zero_outside(ds, span, keys);
    if (span->lo >= span->hi)
        return;
    attn_mask(p, span);
    for (int j = span->lo_full; j < span->hi_full; j++) {
        p[j] = vexp(p[j] - lse);
        ds[j] = p[j] * (ds[j] - row_dot);
    }
}

/* Queries [t0,t0+rows) of head h against the first `keys` of the keys from j0 on that are loaded.
 */
static void run_tile(const struct bwd *o, struct space *w, const float *row_dot, int b, int h,
                     int t0, int rows, int j0, int keys)
{
    const struct attn_in *in = o->in;
    const int P = in->P;
    const int64_t r = (int64_t)b * in->T + t0;
    const float *lse = o->lse + ((int64_t)b * in->H + h) * in->T + t0;
    attn_copy_scaled(w->q, attn_mat(&in->q, r, h, P), in->scale, rows, P);
    attn_copy_scaled(w->dout, attn_mat(o->dout, r, h, P), 1, rows, P);
    mm_ab(w->p, w->q, w->kt, rows, keys, P, false);
    mm_ab(w->ds, w->dout, w->vt, rows, keys, P, false);
    for (int i = 0; i < rows; i++) {
        const struct attn_span span = attn_span_of(w->first[t0 + i], t0 + i, j0, keys);
        weigh_row(mat_at(w->p, i, 0).p, mat_at(w->ds, i, 0).p, lse[i], row_dot[t0 + i], &span,
                  keys);
    }
    mm_atb(w->dv, w->p, w->dout, keys, P, rows, true);
    mm_atb(w->dk, w->ds, w->q, keys, P, rows, true);
    mm_ab(attn_mat(o->dq, r, h, P), w->ds, w->k, rows, P, keys, true);
}

static void load_keys(struct space *w, const struct attn_in *in, int b, int g, int j0, int keys)
{
    const int P = in->P;
    const int64_t r = (int64_t)b * in->T + j0;
    mm_transpose(w->kt, attn_mat(&in->k, r, g, P), keys, P);
    mm_transpose(w->vt, attn_mat(&in->v, r, g, P), keys, P);
    attn_copy_scaled(w->k, attn_mat(&in->k, r, g, P), in->scale, keys, P);
    for (int j = 0; j < keys; j++) {
        memset(mat_at(w->dk, j, 0).p, 0, sizeof(float) * (size_t)P);
        memset(mat_at(w->dv, j, 0).p, 0, sizeof(float) * (size_t)P);
    }
}

/* dq of head h starts at 0, and dout . o of its rows is taken. */
static void open_head(const struct bwd *o, float *row_dot, int b, int h)
{
    const struct attn_in *in = o->in;
    for (int t = 0; t < in->T; t++) {
        const int64_t r = (int64_t)b * in->T + t;
        const float *restrict dout = attn_mat(o->dout, r, h, in->P).p;
        const float *restrict out = attn_mat(o->o, r, h, in->P).p;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int p = 0; p < in->P; p++)
            sum += dout[p] * out[p];
        row_dot[t] = sum;
        memset(attn_mat(o->dq, r, h, in->P).p, 0, sizeof(float) * (size_t)in->P);
    }
}

/* Part `part` of the query heads of KV head g, sequence b. */
static void run_part(const struct bwd *o, struct space *w, int b, int g, int part)
{
    const struct attn_in *in = o->in;
    const int heads = in->H / in->G, T = in->T;
    const int h0 = g * heads + heads * part / o->parts.n;
    const int h1 = g * heads + heads * (part + 1) / o->parts.n;
    attn_first_keys(w->first, in, b);
    for (int h = h0; h < h1; h++)
        open_head(o, w->row_dot + (int64_t)(h - h0) * T, b, h);
    for (int j0 = 0; j0 < T; j0 += ATTN_KEYS) {
        const int keys = attn_min(ATTN_KEYS, T - j0);
        const int64_t r = (int64_t)b * T + j0;
        load_keys(w, in, b, g, j0, keys);
        for (int h = h0; h < h1; h++)
            for (int t0 = j0; t0 < T && w->first[t0] < j0 + keys; t0 += ATTN_ROWS) {
                const int rows = attn_min(ATTN_ROWS, T - t0);
                run_tile(o, w, w->row_dot + (int64_t)(h - h0) * T, b, h, t0, rows, j0,
                         attn_min(keys, t0 + rows - j0));
            }
        attn_copy_scaled(parts_at(&o->parts, part, 0, r, g), w->dk, 1, keys, in->P);
        attn_copy_scaled(parts_at(&o->parts, part, 1, r, g), w->dv, 1, keys, in->P);
    }
}

static void bwd_share(void *arg, int worker, int n_workers)
{
    const struct bwd *o = arg;
    const struct attn_in *in = o->in;
    struct scratch s = scratch_of(o->dev, o->shared_bytes, o->worker_bytes, worker);
    struct space w;
    size_t begin, end;
    carve(&w, &s, in->T, in->P, in->H / in->G);
    pool_share((size_t)in->B * (size_t)in->G * (size_t)o->parts.n, 1, worker, n_workers, &begin,
               &end);
    for (size_t i = begin; i < end; i++) {
        const int part = (int)i % o->parts.n, bg = (int)i / o->parts.n;
        run_part(o, &w, bg / in->G, bg % in->G, part);
    }
}

void cpu_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                  const struct tensor *dout, const struct tensor *o, const float *lse,
                  const struct attn_in *in)
{
    const int n_workers = n_workers_of(dev), heads = in->H / in->G;
    struct scratch s = {dev->work, 0};
    struct bwd f = {.dev = dev,
                    .in = in,
                    .dq = dq,
                    .dout = dout,
                    .o = o,
                    .lse = lse,
                    .parts = {.to = {dk, dv}, .width = in->P, .heads = heads}};
    f.worker_bytes = worker_bytes(in->T, in->P, heads);
    parts_carve(&f.parts, &s, n_workers, in->B * in->G, in->T);
    f.shared_bytes = s.used;
    assert(dev->work_bytes >= f.shared_bytes + (size_t)n_workers * f.worker_bytes);
    pool_run(pool_of(dev), bwd_share, &f);
    parts_add(&f.parts, dev);
}
