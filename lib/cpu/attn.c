/* attn: attention, forward, in tiles with a running softmax (Dao et al. 2022): for each tile of
 * queries the keys pass by tile after tile; a row keeps its greatest score so far, the sum of
 * exponentials below it and the weighted sum of values, which are rescaled when a greater score
 * comes. Nothing of size T x T exists. Tiles of keys that no query of a tile may see are skipped.
 */
#include "attn.h"

#include "cpu_ops.h"
#include "vmath.h"

#include <assert.h>

struct fwd {
    struct dev *dev;
    const struct attn_in *in; /* of a read: k and v are the caches */
    struct tensor *o;
    float *lse;                   /* NULL: not wanted */
    const struct read_rows *rows; /* of a read, else NULL */
    size_t worker_bytes;
};

/* One sequence: T queries, rows q0 .. of q, over past + T keys, rows k0 .. of k; past is that of a
 * read. */
struct span {
    int64_t q0, k0;
    int T, past;
};

static struct span span_of(const struct fwd *o, int b)
{
    const struct attn_in *in = o->in;
    const struct read_rows *rows = o->rows;
    if (rows)
        return (struct span){rows->begin[b], rows->slot[b] * in->k.dim[1],
                             rows->begin[b + 1] - rows->begin[b], rows->pos[b]};
    return (struct span){(int64_t)b * in->T, (int64_t)b * in->T, in->T, 0};
}

/* The most keys before the T last ones. */
static int past_of(const struct fwd *o)
{
    const int64_t before = o->rows ? o->in->k.dim[1] - o->in->T : 0;
    return before > 0 ? (int)before : 0;
}

static int n_sequences(const struct fwd *o)
{
    return o->rows ? o->rows->R : o->in->B;
}

struct space {
    int *first;     /* (T) */
    struct mat kt;  /* (P,past+T) keys of a head, transposed */
    struct mat v;   /* (past+T,P) values of a head, rows packed */
    struct mat q;   /* (ATTN_ROWS,P) scaled queries */
    struct mat s;   /* (ATTN_ROWS,ATTN_KEYS) scores, then their exponentials */
    struct mat acc; /* (ATTN_ROWS,P) */
    float top[ATTN_ROWS], sum[ATTN_ROWS];
};

static void carve(struct space *w, struct scratch *s, int T, int past, int P)
{
    w->first = scratch_take(s, (size_t)T * sizeof(int));
    w->kt = scratch_mat(s, P, past + T);
    w->v = scratch_mat(s, past + T, P);
    w->q = scratch_mat(s, ATTN_ROWS, P);
    w->s = scratch_mat(s, ATTN_ROWS, ATTN_KEYS);
    w->acc = scratch_mat(s, ATTN_ROWS, P);
}

static size_t worker_bytes(int T, int past, int P)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, T, past, P);
    return s.used;
}

size_t cpu_attn_fwd_plan(const struct dev *dev, const struct sizes *s)
{
    const int keys = s->S > s->T ? s->S : s->T;
    return (size_t)n_workers_of(dev) * worker_bytes(s->T, keys - s->T, s->P);
}

static inline float greatest(const float *restrict s, float top, int lo, int hi)
{
#pragma omp simd reduction(max : top)
    for (int j = lo; j < hi; j++)
        top = s[j] > top ? s[j] : top;
    return top;
}

/* s = exp(s - top); their sum is returned. */
static inline float exponentials(float *restrict s, float top, int lo, int hi)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = lo; j < hi; j++) {
        s[j] = vexp(s[j] - top);
        sum += s[j];
    }
    return sum;
}

/* Scores of keys [j0,j0+keys) become weights, and what was summed before is rescaled. t0: the
 * tile's first query. */
static void soften(struct space *w, const struct attn_in *in, int past, int t0, int rows, int j0,
                   int keys)
{
    for (int i = 0; i < rows; i++) {
        const struct attn_span span = attn_span_of(w->first[t0 + i], past + t0 + i, j0, keys);
        float *s = mat_at(w->s, i, 0).p;
        attn_zero_outside(s, &span, keys);
        if (span.lo >= span.hi)
            continue;
        attn_mask(s, &span);
        const float top = greatest(s, w->top[i], span.lo_full, span.hi_full);
        const float left = vexp(w->top[i] - top);
        w->top[i] = top;
        w->sum[i] = w->sum[i] * left + exponentials(s, top, span.lo_full, span.hi_full);
        if (left != 1.0f) {
            float *restrict acc = mat_at(w->acc, i, 0).p;
            for (int p = 0; p < in->P; p++)
                acc[p] *= left;
        }
    }
}

/* Queries [t0,t0+rows) of head h of sequence b. */
static void run_tile(const struct fwd *o, struct space *w, const struct span *at, int b, int h,
                     int t0, int rows)
{
    const struct attn_in *in = o->in;
    const int P = in->P, j_end = at->past + t0 + rows;
    const int64_t q_row = at->q0 + t0;
    attn_copy_scaled(w->q, attn_mat(&in->q, q_row, h, P), in->scale, rows, P);
    for (int i = 0; i < rows; i++) {
        memset(mat_at(w->acc, i, 0).p, 0, sizeof(float) * (size_t)P);
        w->top[i] = -3e38f; /* not infinite: its difference to itself is 0 */
        w->sum[i] = 0;
    }
    for (int j0 = w->first[t0]; j0 < j_end; j0 += ATTN_KEYS) {
        const int keys = attn_min(ATTN_KEYS, j_end - j0);
        mm_ab(w->s, w->q, mat_at(w->kt, 0, j0), rows, keys, P, false);
        soften(w, in, at->past, t0, rows, j0, keys);
        mm_ab(w->acc, w->s, mat_at(w->v, j0, 0), rows, P, keys, true);
    }
    for (int i = 0; i < rows; i++) {
        if (o->lse)
            o->lse[((int64_t)b * in->H + h) * in->T + t0 + i] = w->top[i] + logf(w->sum[i]);
        w->sum[i] = 1.0f / w->sum[i];
    }
    const struct mat out = attn_mat(o->o, q_row, h, P);
    for (int i = 0; i < rows; i++)
        attn_copy_scaled(mat_at(out, i, 0), mat_at(w->acc, i, 0), w->sum[i], 1, P);
}

static void load_head(struct space *w, const struct attn_in *in, const struct span *at, int g)
{
    const int n_keys = at->past + at->T;
    mm_transpose(w->kt, attn_mat(&in->k, at->k0, g, in->P), n_keys, in->P);
    attn_copy_scaled(w->v, attn_mat(&in->v, at->k0, g, in->P), 1, n_keys, in->P);
}

static int n_tiles_of(const struct span *at)
{
    return (at->T + ATTN_ROWS - 1) / ATTN_ROWS;
}

/* Tiles [begin,end) of sequence b, which are counted head after head. */
static void run_tiles(const struct fwd *o, struct space *w, const struct span *at, int b, int begin,
                      int end)
{
    const struct attn_in *in = o->in;
    const int n_tiles = n_tiles_of(at), per_group = in->H / in->G;
    if (begin < end && o->rows)
        memset(w->first, 0, sizeof *w->first * (size_t)at->T);
    else if (begin < end)
        attn_first_keys(w->first, in, b);
    for (int i = begin; i < end; i++) {
        const int h = i / n_tiles, t0 = i % n_tiles * ATTN_ROWS;
        if (i == begin || (t0 == 0 && h % per_group == 0))
            load_head(w, in, at, h / per_group);
        run_tile(o, w, at, b, h, t0, attn_min(ATTN_ROWS, at->T - t0));
    }
}

/* A worker's share of the tiles of queries of all sequences. */
static void fwd_share(void *arg, int worker, int n_workers)
{
    const struct fwd *o = arg;
    const struct attn_in *in = o->in;
    struct scratch s = scratch_of(o->dev, 0, o->worker_bytes, worker);
    struct space w;
    size_t begin, end, n_all = 0, at = 0;
    carve(&w, &s, in->T, past_of(o), in->P);
    for (int b = 0; b < n_sequences(o); b++) {
        const struct span span = span_of(o, b);
        n_all += (size_t)in->H * (size_t)n_tiles_of(&span);
    }
    pool_share(n_all, 1, worker, n_workers, &begin, &end);
    for (int b = 0; b < n_sequences(o); b++) {
        const struct span span = span_of(o, b);
        const size_t n = (size_t)in->H * (size_t)n_tiles_of(&span);
        const size_t first = begin > at ? begin - at : 0, last = end > at ? end - at : 0;
        run_tiles(o, &w, &span, b, (int)(first < n ? first : n), (int)(last < n ? last : n));
        at += n;
    }
}

static void run(struct fwd *f)
{
    const struct attn_in *in = f->in;
    f->worker_bytes = worker_bytes(in->T, past_of(f), in->P);
    assert(f->dev->work_bytes >= (size_t)n_workers_of(f->dev) * f->worker_bytes);
    pool_run(pool_of(f->dev), fwd_share, f);
}

void cpu_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
    run(&(struct fwd){dev, in, o, lse, NULL, 0});
}

/* --- a read --- */

static void store_row(const struct fwd *o, const struct tensor *cache, const struct tensor *from,
                      int b)
{
    const struct span at = span_of(o, b);
    for (int t = 0; t < at.T; t++)
        memcpy(row(cache, at.k0 + at.past + t), row(from, at.q0 + t),
               sizeof(float) * (size_t)tensor_cols(from));
}

void cpu_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                   const struct tensor *q, const struct tensor *k, const struct tensor *v,
                   float scale, int H, int P, int G, const struct read_rows *rows)
{
    const struct attn_in in = {.q = *q,
                               .k = *kcache,
                               .v = *vcache,
                               .scale = scale,
                               .B = 1,
                               .T = (int)tensor_rows(q),
                               .H = H,
                               .P = P,
                               .G = G};
    struct fwd f = {dev, &in, o, NULL, rows, 0};
    for (int b = 0; b < rows->R; b++) {
        store_row(&f, kcache, k, b);
        store_row(&f, vcache, v, b);
    }
    run(&f);
}
