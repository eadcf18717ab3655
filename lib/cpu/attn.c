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
    const struct attn_in *in;
    struct tensor *o;
    float *lse;
    size_t worker_bytes;
};

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
static void soften(struct space *w, const struct attn_in *in, int t0, int rows, int j0, int keys)
{
    for (int i = 0; i < rows; i++) {
        const struct attn_span span = attn_span_of(w->first[t0 + i], in->past + t0 + i, j0, keys);
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
static void run_tile(const struct fwd *o, struct space *w, int b, int h, int t0, int rows)
{
    const struct attn_in *in = o->in;
    const int P = in->P, j_end = in->past + t0 + rows;
    const int64_t q_row = (int64_t)b * in->T + t0;
    attn_copy_scaled(w->q, attn_mat(&in->q, q_row, h, P), in->scale, rows, P);
    for (int i = 0; i < rows; i++) {
        memset(mat_at(w->acc, i, 0).p, 0, sizeof(float) * (size_t)P);
        w->top[i] = -3e38f; /* not infinite: its difference to itself is 0 */
        w->sum[i] = 0;
    }
    for (int j0 = w->first[t0]; j0 < j_end; j0 += ATTN_KEYS) {
        const int keys = attn_min(ATTN_KEYS, j_end - j0);
        mm_ab(w->s, w->q, mat_at(w->kt, 0, j0), rows, keys, P, false);
        soften(w, in, t0, rows, j0, keys);
        mm_ab(w->acc, w->s, mat_at(w->v, j0, 0), rows, P, keys, true);
    }
    for (int i = 0; i < rows; i++) {
        o->lse[((int64_t)b * in->H + h) * in->T + t0 + i] = w->top[i] + logf(w->sum[i]);
        w->sum[i] = 1.0f / w->sum[i];
    }
    const struct mat out = attn_mat(o->o, q_row, h, P);
    for (int i = 0; i < rows; i++)
        attn_copy_scaled(mat_at(out, i, 0), mat_at(w->acc, i, 0), w->sum[i], 1, P);
}

static void load_head(struct space *w, const struct attn_in *in, int b, int g)
{
    const int n_keys = in->past + in->T;
    const int64_t r = (int64_t)b * n_keys;
    mm_transpose(w->kt, attn_mat(&in->k, r, g, in->P), n_keys, in->P);
    attn_copy_scaled(w->v, attn_mat(&in->v, r, g, in->P), 1, n_keys, in->P);
}

/* A worker's share of the tiles of queries, head after head. */
static void fwd_share(void *arg, int worker, int n_workers)
{
    const struct fwd *o = arg;
    const struct attn_in *in = o->in;
    const int n_tiles = (in->T + ATTN_ROWS - 1) / ATTN_ROWS;
    struct scratch s = scratch_of(o->dev, 0, o->worker_bytes, worker);
    struct space w;
    size_t begin, end;
    int at = -1; /* the (b,g) whose keys lie in kt */
    carve(&w, &s, in->T, in->past, in->P);
    pool_share((size_t)in->B * (size_t)in->H * (size_t)n_tiles, 1, worker, n_workers, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const int tile = (int)(i % (size_t)n_tiles), bh = (int)(i / (size_t)n_tiles);
        const int b = bh / in->H, h = bh % in->H, g = h / (in->H / in->G);
        const int t0 = tile * ATTN_ROWS;
        if (at != b * in->G + g) {
            at = b * in->G + g;
            attn_first_keys(w.first, in, b);
            load_head(&w, in, b, g);
        }
        run_tile(o, &w, b, h, t0, attn_min(ATTN_ROWS, in->T - t0));
    }
}

void cpu_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
    struct fwd f = {dev, in, o, lse, worker_bytes(in->T, in->past, in->P)};
    assert(dev->work_bytes >= (size_t)n_workers_of(dev) * f.worker_bytes);
    pool_run(pool_of(dev), fwd_share, &f);
}
