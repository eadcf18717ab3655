/* ssd: the state-space scan of Mamba-2, forward, in chunks of Q tokens (Dao & Gu 2024, section 6):
 * within a chunk a masked product like attention's, between chunks a state of P x N a head. With
 * xs = delta x and decay(t,u) = exp(a_{u+1} + ... + a_t), a = -exp(a_log) delta:
 *   y_t = sum_{u<=t} (C_t . B_u) decay(t,u) xs_u + decay(t,-1) S C_t + skip x_t
 *   S  <- decay(n-1,-1) S + sum_u decay(n-1,u) xs_u B_u^T
 * where pairs of two documents, and a state from before t's document, count 0. */
#include "ssd.h"

#include "cpu_ops.h"
#include "vmath.h"

#include <assert.h>

struct fwd {
    struct dev *dev;
    const struct ssd_in *in;
    struct tensor *y; /* NULL: only the states are wanted */
    float *delta, *states, *last;
    const struct read_rows *rows; /* of a read: last is their state, states NULL; else NULL */
    size_t shared_bytes, worker_bytes;
};

/* Tokens of one sequence, rows r0 .. of x, and its state (H,P,N) from before to behind it, or NULL.
 */
struct span {
    int64_t r0;
    int T;
    float *last;
};

static struct span span_of(const struct fwd *o, int b)
{
    const struct ssd_in *in = o->in;
    const int64_t HPN = (int64_t)in->H * in->P * in->N, slot = o->rows ? o->rows->slot[b] : b;
    struct span at = {(int64_t)b * in->T, in->T, o->last ? o->last + slot * HPN : NULL};
    if (o->rows) {
        at.r0 = o->rows->begin[b];
        at.T = o->rows->begin[b + 1] - o->rows->begin[b];
    }
    return at;
}

/* One worker's workspace. */
struct space {
    struct ssd_chunk ch;
    struct mat m;    /* (SSD_TILE,Q) C B^T times decay */
    struct mat cs;   /* (Q,N) C times decay from the chunk's start */
    struct mat prev; /* (N,P) the state before the chunk, transposed */
    struct mat xw;   /* (Q,P) xs times decay to the chunk's end */
};

static void carve(struct space *w, struct scratch *s, int Q, int P, int N)
{
    ssd_carve_chunk(&w->ch, s, Q, P, N);
    w->m = scratch_mat(s, SSD_TILE, Q);
    w->cs = scratch_mat(s, Q, N);
    w->prev = scratch_mat(s, N, P);
    w->xw = scratch_mat(s, Q, P);
}

static size_t worker_bytes(int Q, int P, int N)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, Q, P, N);
    return s.used;
}

size_t cpu_ssd_fwd_plan(const struct dev *dev, const struct sizes *s)
{
    return ssd_plan_states(s) +
           (size_t)n_workers_of(dev) * worker_bytes(min_int(s->Q, s->T), s->P, s->N);
}

static size_t states_bytes(int B, int T, int H, int P, int N, int Q)
{
    const int Z = Q > 0 ? (T + Q - 1) / Q : 0;
    return scratch_padded((size_t)B * (size_t)Z * (size_t)H * (size_t)P * (size_t)N *
                          sizeof(float));
}

size_t cpu_ssd_states_bytes(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    return states_bytes(s->B, s->T, s->H, s->P, s->N, s->Q);
}

size_t ssd_plan_states(const struct sizes *s)
{
    return s->keeps_states ? 0 : states_bytes(s->B, s->T, s->H, s->P, s->N, s->Q);
}

size_t ssd_states_bytes(const struct ssd_in *in)
{
    return states_bytes(in->B, in->T, in->H, in->P, in->N, in->Q);
}

static void step_sizes(const struct fwd *o, const struct span *at, int h)
{
    const float bias = ((const float *)o->in->dt_bias.data)[h];
    for (int64_t r = at->r0; r < at->r0 + at->T; r++)
        o->delta[r * o->in->H + h] = softplus(row(&o->in->dt, r)[h] + bias);
}

/* y = skip x + the chunk's own tokens */
static void within(struct space *w, const struct ssd_in *in, struct mat y, int h)
{
    const struct ssd_chunk *ch = &w->ch;
    const float skip = ((const float *)in->skip.data)[h];
    for (int t0 = 0; t0 < ch->n; t0 += SSD_TILE) {
        const int t1 = min_int(t0 + SSD_TILE, ch->n);
        ssd_decay_tile(w->m, ch, t0, t1);
        for (int t = t0; t < t1; t++) {
            float *restrict m = mat_at(w->m, t - t0, 0).p;
            const float *restrict cb = mat_at(ch->cb, t, 0).p;
            for (int u = 0; u < t1; u++)
                m[u] *= cb[u];
            float *restrict yt = mat_at(y, t, 0).p;
            const float *restrict x = row(&in->x, ch->r0 + t) + (int64_t)h * in->P;
            for (int p = 0; p < in->P; p++)
                yt[p] = skip * x[p];
        }
        mm_ab(mat_at(y, t0, 0), w->m, ch->xs, t1 - t0, in->P, t1, true);
    }
}

/* y of the chunk; prev: the state before it, NULL: zero. */
static void put_y(const struct fwd *o, struct space *w, int h, float *prev)
{
    const struct ssd_chunk *ch = &w->ch;
    const int P = o->in->P, N = o->in->N;
    const struct mat y = {row(o->y, ch->r0) + (int64_t)h * P, o->y->ld};
    within(w, o->in, y, h);
    if (!prev || ch->n_live == 0)
        return;
    scale_rows(w->cs, ch->from_start, ch->c, ch->n_live, N);
    mm_transpose(w->prev, (struct mat){prev, N}, P, N);
    mm_ab(y, w->cs, w->prev, ch->n_live, P, N, true);
}

/* next = the state behind the chunk; prev and next are (P,N), perhaps the same. */
static void pass_state(struct space *w, const struct ssd_in *in, float *next, const float *prev)
{
    const struct ssd_chunk *ch = &w->ch;
    const int cut = ch->n_cut, left = ch->n - cut;
    for (int i = 0; i < in->P * in->N; i++)
        next[i] = ch->through * prev[i];
    scale_rows(w->xw, ch->to_end + cut, mat_at(ch->xs, cut, 0), left, in->P);
    mm_atb((struct mat){next, in->N}, w->xw, mat_at(ch->b, cut, 0), in->P, in->N, left, true);
}

/* Where the state before chunk z of head h lies, and where the one behind it goes (NULL: nowhere).
 * A read keeps none in between: the row's own moves on in place. */
static float *find_states(float **next, const struct fwd *o, const struct span *at, int b, int z,
                          int h)
{
    const struct ssd_in *in = o->in;
    const int64_t PN = (int64_t)in->P * in->N;
    const int Z = ssd_chunks(at->T, in->Q);
    float *last = at->last ? at->last + h * PN : NULL;
    *next = last;
    if (o->rows)
        return last;
    float *prev = o->states + (((int64_t)b * Z + z) * in->H + h) * PN;
    if (z + 1 < Z)
        *next = prev + in->H * PN;
    if (z == 0 && last)
        memcpy(prev, last, sizeof(float) * (size_t)PN);
    else if (z == 0)
        memset(prev, 0, sizeof(float) * (size_t)PN);
    return prev;
}

static void run_head(const struct fwd *o, struct space *w, const struct span *at, int b, int z,
                     int h)
{
    float *next, *prev = find_states(&next, o, at, b, z, h);
    ssd_load_head(&w->ch, o->in, o->delta, h);
    if (o->y)
        put_y(o, w, h, z > 0 || at->last ? prev : NULL);
    if (next)
        pass_state(w, o->in, next, prev);
}

/* A worker's share of the (b,h) pairs, the heads of a group together. */
static void fwd_share(void *arg, int worker, int n_workers)
{
    const struct fwd *o = arg;
    const struct ssd_in *in = o->in;
    struct scratch s = scratch_of(o->dev, o->shared_bytes, o->worker_bytes, worker);
    struct space w;
    size_t i, end;
    carve(&w, &s, min_int(in->Q, in->T), in->P, in->N);
    pool_share((size_t)(o->rows ? o->rows->R : in->B) * (size_t)in->H, 1, worker, n_workers, &i,
               &end);
    while (i < end) {
        const int b = (int)(i / (size_t)in->H), h0 = (int)(i % (size_t)in->H);
        const int per_group = in->H / in->G, g = h0 / per_group;
        const int h1 = min_int((g + 1) * per_group, h0 + (int)(end - i));
        const struct span at = span_of(o, b);
        for (int h = h0; o->y && h < h1; h++)
            step_sizes(o, &at, h);
        for (int z = 0; z < ssd_chunks(at.T, in->Q); z++) {
            ssd_load_group(&w.ch, in, at.r0, at.T, z, g);
            for (int h = h0; h < h1; h++)
                run_head(o, &w, &at, b, z, h);
        }
        i += (size_t)(h1 - h0);
    }
}

static void run(struct fwd *o)
{
    const struct ssd_in *in = o->in;
    o->worker_bytes = worker_bytes(min_int(in->Q, in->T), in->P, in->N);
    assert(o->dev->work_bytes >= o->shared_bytes + (size_t)n_workers_of(o->dev) * o->worker_bytes);
    pool_run(pool_of(o->dev), fwd_share, o);
}

void ssd_remake_states(struct dev *dev, float *states, size_t work_from, const float *delta,
                       const struct ssd_in *in)
{
    struct fwd o = {dev, in, NULL, (float *)delta, states, NULL, NULL, work_from, 0};
    run(&o);
}

void cpu_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                 const struct ssd_in *in)
{
    struct fwd o = {dev, in, y, delta, states, last, NULL, 0, 0};
    if (!states) {
        o.states = dev->work;
        o.shared_bytes = ssd_states_bytes(in);
    }
    run(&o);
}

void cpu_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                  const struct ssd_in *in, const struct read_rows *rows)
{
    struct fwd o = {dev, in, y, delta, NULL, state, rows, 0, 0};
    run(&o);
}
