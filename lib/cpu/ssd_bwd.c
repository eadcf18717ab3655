/* ssd_bwd: the gradient of the chunked scan; see ssd.c for the forward and its letters. Chunks run
 * backwards and carry dstate, the gradient of the state behind the chunk. With
 *   m(t,u) = (C_t . B_u) decay(t,u),  dm(t,u) = dy_t . xs_u:
 *   dxs_u = sum_t m(t,u) dy_t + decay(n-1,u) dstate B_u
 *   dC_t  = sum_u dm(t,u) decay(t,u) B_u + decay(t,-1) dy_t S
 *   dB_u  = sum_t dm(t,u) decay(t,u) C_t + decay(n-1,u) xs_u dstate
 *   dS    = decay(n-1,-1) dstate + sum_t decay(t,-1) dy_t C_t^T
 * Each decay is the exponential of a sum of log decays a: what pulls at a_t is every product above
 * whose decay spans t. Those are summed as differences of running sums in double: at each token
 * what ends there counts +, what begins there counts -.
 *
 * A worker owns a group of one sequence, or, where groups are few, a part of its heads: see
 * parts.h. */
#include "ssd.h"

#include "cpu_ops.h"
#include "parts.h"
#include "vmath.h"

#include <assert.h>

struct bwd {
    struct dev *dev;
    const struct ssd_in *in;
    struct tensor *dx, *ddt;
    const struct tensor *dy;
    const float *delta, *states;
    double *dparam;     /* (B,H,3) shares of ddt_bias, da_log, dskip */
    struct parts parts; /* of dB and dC */
    size_t shared_bytes, worker_bytes;
};

struct space {
    struct ssd_chunk ch;
    struct mat dcb, db, dc; /* (Q,Q) (Q,N) (Q,N) sums over heads */
    struct mat decay, dm;   /* (SSD_TILE,Q) */
    struct mat m, xt;       /* (Q,Q) (P,Q) xs transposed */
    struct mat dy, dxs;     /* (Q,P) */
    struct mat sp, sn, snt; /* (Q,P) scaled xs or dy, (Q,N) scaled B, (Q,N) a product */
    struct mat dstate_t;    /* (N,P) */
    float *dstate;          /* (heads,P,N) */
    double *pull;           /* (Q) what ends at t less what begins at t */
    float *begins;          /* (Q) within the chunk */
};

static void carve(struct space *w, struct scratch *s, int Q, int P, int N, int heads)
{
    ssd_carve_chunk(&w->ch, s, Q, P, N);
    w->dcb = scratch_mat(s, Q, Q);
    w->db = scratch_mat(s, Q, N);
    w->dc = scratch_mat(s, Q, N);
    w->decay = scratch_mat(s, SSD_TILE, Q);
    w->dm = scratch_mat(s, SSD_TILE, Q);
    w->m = scratch_mat(s, Q, Q);
    w->xt = scratch_mat(s, P, Q);
    w->dy = scratch_mat(s, Q, P);
    w->dxs = scratch_mat(s, Q, P);
    w->sp = scratch_mat(s, Q, P);
    w->sn = scratch_mat(s, Q, N);
    w->snt = scratch_mat(s, Q, N);
    w->dstate_t = scratch_mat(s, N, P);
    w->dstate = scratch_floats(s, (size_t)heads * (size_t)P * (size_t)N);
    w->pull = scratch_take(s, (size_t)Q * sizeof(double));
    w->begins = scratch_floats(s, (size_t)Q);
}

static size_t worker_bytes(int Q, int P, int N, int heads)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, Q, P, N, heads);
    return s.used;
}

static size_t dparam_bytes(int B, int H)
{
    return scratch_padded((size_t)B * (size_t)H * 3 * sizeof(double));
}

size_t cpu_ssd_bwd_plan(const struct dev *dev, const struct sizes *s)
{
    const int n_workers = n_workers_of(dev), heads = s->H / s->G;
    return ssd_plan_states(s) + dparam_bytes(s->B, s->H) +
           parts_plan(n_workers, s->B * s->G, heads, s->T, s->N) +
           (size_t)n_workers * worker_bytes(min_int(s->Q, s->T), s->P, s->N, heads);
}

static void clear(struct mat a, int rows, int cols)
{
    for (int i = 0; i < rows; i++)
        memset(mat_at(a, i, 0).p, 0, sizeof(float) * (size_t)cols);
}

static inline float dot(const float *restrict a, const float *restrict b, int n)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Row t of the chunk's own pairs, columns [0,t1): m from decays, the sum of dC B^T, and what pulls
 * at the decays, which leaves out u = t (no decay). dm, decay and m are rows. */
static void pair_row(struct space *w, const float *restrict dm, float *restrict decay, int t,
                     int t1)
{
    float *restrict m = mat_at(w->m, t, 0).p, *restrict dcb = mat_at(w->dcb, t, 0).p;
    float *restrict begins = w->begins;
    const float *restrict cb = mat_at(w->ch.cb, t, 0).p;
    float ends = 0;
    decay[t] = 0;
#pragma omp simd reduction(+ : ends)
    for (int u = 0; u < t1; u++) {
        const float dcb_u = dm[u] * decay[u], pull = dcb_u * cb[u];
        m[u] = cb[u] * decay[u];
        dcb[u] += dcb_u;
        begins[u] += pull;
        ends += pull;
    }
    m[t] = cb[t];
    dcb[t] += dm[t];
    w->pull[t] = ends;
}

/* Pairs of the chunk: m, dxs, the sum of dC B^T, pull. */
static void within(struct space *w, const struct ssd_in *in)
{
    const struct ssd_chunk *ch = &w->ch;
    const int n = ch->n, P = in->P;
    mm_transpose(w->xt, ch->xs, n, P);
    memset(w->begins, 0, sizeof(float) * (size_t)n);
    for (int t0 = 0; t0 < n; t0 += SSD_TILE) {
        const int t1 = min_int(t0 + SSD_TILE, n);
        ssd_decay_tile(w->decay, ch, t0, t1);
        mm_ab(w->dm, mat_at(w->dy, t0, 0), w->xt, t1 - t0, t1, P, false);
        for (int t = t0; t < t1; t++)
            pair_row(w, mat_at(w->dm, t - t0, 0).p, mat_at(w->decay, t - t0, 0).p, t, t1);
    }
    for (int u0 = 0; u0 < n; u0 += SSD_TILE)
        mm_atb(mat_at(w->dxs, u0, 0), mat_at(w->m, u0, u0), mat_at(w->dy, u0, 0),
               min_int(SSD_TILE, n - u0), P, n - u0, false);
    for (int t = 0; t < n; t++)
        w->pull[t] -= w->begins[t];
}

/* to += from, and out[t] = from_t . with_t */
static void add_and_dot(struct mat to, struct mat from, struct mat with, float *out, int rows,
                        int cols)
{
    for (int t = 0; t < rows; t++) {
        float *restrict a = to.p + t * to.ld;
        const float *restrict b = from.p + t * from.ld;
        for (int i = 0; i < cols; i++)
            a[i] += b[i];
        out[t] = dot(b, with.p + t * with.ld, cols);
    }
}

/* What the state before the chunk gave to y. */
static void from_state(struct space *w, const struct ssd_in *in, float *state)
{
    const struct ssd_chunk *ch = &w->ch;
    const struct mat s = {state, in->N};
    float ends[SSD_TILE];
    for (int t0 = 0; t0 < ch->n_live; t0 += SSD_TILE) {
        const int rows = min_int(SSD_TILE, ch->n_live - t0);
        mm_ab(w->snt, mat_at(w->sp, t0, 0), s, rows, in->N, in->P, false);
        add_and_dot(mat_at(w->dc, t0, 0), w->snt, mat_at(ch->c, t0, 0), ends, rows, in->N);
        for (int t = 0; t < rows; t++)
            w->pull[t0 + t] += ends[t];
    }
}

/* What the chunk gave to the state behind it. Returns what pulls at the decays up to the chunk's
 * end. */
static double to_state(struct space *w, const struct ssd_in *in, float *dstate)
{
    const struct ssd_chunk *ch = &w->ch;
    const int cut = ch->n_cut, left = ch->n - cut, P = in->P, N = in->N;
    const struct mat ds = {dstate, N};
    float begins[SSD_TILE];
    double all = 0;
    scale_rows(w->sp, ch->to_end + cut, mat_at(ch->xs, cut, 0), left, P);
    for (int t0 = 0; t0 < left; t0 += SSD_TILE) {
        const int rows = min_int(SSD_TILE, left - t0);
        mm_ab(w->snt, mat_at(w->sp, t0, 0), ds, rows, N, P, false);
        add_and_dot(mat_at(w->db, cut + t0, 0), w->snt, mat_at(ch->b, cut + t0, 0), begins, rows,
                    N);
        for (int t = 0; t < rows; t++) {
            w->pull[cut + t0 + t] -= begins[t];
            all += begins[t];
        }
    }
    scale_rows(w->sn, ch->to_end + cut, mat_at(ch->b, cut, 0), left, N);
    mm_transpose(w->dstate_t, ds, P, N);
    mm_ab(mat_at(w->dxs, cut, 0), w->sn, w->dstate_t, left, P, N, true);
    return all;
}

/* The sums over the chunk of a head's parameter gradients, and dx and ddt. at_end: what pulls at
 * all decays of the last document up to the chunk's end. */
static void finish_tokens(const struct bwd *o, struct space *w, double *dparam, double at_end,
                          int h)
{
    const struct ssd_in *in = o->in;
    const struct ssd_chunk *ch = &w->ch;
    const float a = -expf(((const float *)in->a_log.data)[h]);
    const float bias = ((const float *)in->dt_bias.data)[h];
    const float skip = ((const float *)in->skip.data)[h];
    double da = at_end;
    for (int t = ch->n - 1; t >= 0; t--) {
        const int64_t r = ch->r0 + t, hp = (int64_t)h * in->P;
        const float *restrict x = row(&in->x, r) + hp, *restrict dy = mat_at(w->dy, t, 0).p;
        const float *restrict dxs = mat_at(w->dxs, t, 0).p;
        float *restrict dx = row(o->dx, r) + hp;
        const float delta = ch->delta[t], v = row(&in->dt, r)[h] + bias;
        da += w->pull[t];
        if (ch->start[t] == t)
            da = 0; /* no decay leads into a first token */
        for (int p = 0; p < in->P; p++)
            dx[p] = delta * dxs[p] + skip * dy[p];
        const float ddelta = dot(x, dxs, in->P) + a * (float)da;
        const float ddt = v > 20.0f ? ddelta : ddelta * vsigmoid(v);
        row(o->ddt, r)[h] = ddt;
        dparam[0] += ddt;
        dparam[1] += a * delta * da;
        dparam[2] += dot(dy, x, in->P);
    }
}

static bool is_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0) /* true for NaN, too */
            return false;
    return true;
}

static void run_head(const struct bwd *o, struct space *w, int b, int z, int h, float *dstate)
{
    const struct ssd_in *in = o->in;
    const struct ssd_chunk *ch = &w->ch;
    const int P = in->P, N = in->N, Z = ssd_chunks(in->T, in->Q);
    const size_t PN = (size_t)P * (size_t)N;
    float *state =
        (float *)o->states + (((size_t)b * (size_t)Z + (size_t)z) * (size_t)in->H + (size_t)h) * PN;
    const bool has_state = z > 0 || !is_zero(state, PN);
    double at_end = 0;

    ssd_load_head(&w->ch, in, o->delta, h);
    for (int t = 0; t < ch->n; t++)
        memcpy(mat_at(w->dy, t, 0).p, row(o->dy, ch->r0 + t) + (int64_t)h * P,
               sizeof(float) * (size_t)P);
    within(w, in);
    if (z + 1 < Z) {
        at_end = to_state(w, in, dstate);
        if (ch->through != 0)
            at_end += (double)ch->through * dot(dstate, state, (int)PN);
        for (size_t i = 0; i < PN; i++)
            dstate[i] *= ch->through;
    } else {
        memset(dstate, 0, sizeof(float) * PN);
    }
    if (has_state && ch->n_live > 0) {
        scale_rows(w->sp, ch->from_start, w->dy, ch->n_live, P);
        from_state(w, in, state);
        mm_atb((struct mat){dstate, N}, w->sp, ch->c, P, N, ch->n_live, true);
    }
    finish_tokens(o, w, o->dparam + ((int64_t)b * in->H + h) * 3, at_end, h);
}

static void copy_rows(struct mat to, struct mat from, int rows, int cols)
{
    for (int i = 0; i < rows; i++)
        memcpy(mat_at(to, i, 0).p, mat_at(from, i, 0).p, sizeof(float) * (size_t)cols);
}

/* Part `part` of the heads of group g, sequence b. */
static void run_part(const struct bwd *o, struct space *w, int b, int g, int part)
{
    const struct ssd_in *in = o->in;
    const int heads = in->H / in->G, N = in->N;
    const int h0 = g * heads + heads * part / o->parts.n;
    const int h1 = g * heads + heads * (part + 1) / o->parts.n;
    for (int z = ssd_chunks(in->T, in->Q) - 1; z >= 0; z--) {
        ssd_load_group(&w->ch, in, (int64_t)b * in->T, in->T, z, g);
        const int n = w->ch.n;
        clear(w->dcb, n, n);
        clear(w->db, n, N);
        clear(w->dc, n, N);
        for (int h = h0; h < h1; h++)
            run_head(o, w, b, z, h, w->dstate + (int64_t)(h - h0) * in->P * N);
        for (int t0 = 0; t0 < n; t0 += SSD_TILE) {
            const int rows = min_int(SSD_TILE, n - t0);
            mm_ab(mat_at(w->dc, t0, 0), mat_at(w->dcb, t0, 0), w->ch.b, rows, N, t0 + rows, true);
            mm_atb(mat_at(w->db, t0, 0), mat_at(w->dcb, t0, t0), mat_at(w->ch.c, t0, 0), rows, N,
                   n - t0, true);
        }
        copy_rows(parts_at(&o->parts, part, 0, w->ch.r0, g), w->db, n, N);
        copy_rows(parts_at(&o->parts, part, 1, w->ch.r0, g), w->dc, n, N);
    }
}

static void bwd_share(void *arg, int worker, int n_workers)
{
    const struct bwd *o = arg;
    const struct ssd_in *in = o->in;
    struct scratch s = scratch_of(o->dev, o->shared_bytes, o->worker_bytes, worker);
    struct space w;
    size_t begin, end;
    carve(&w, &s, min_int(in->Q, in->T), in->P, in->N, in->H / in->G);
    pool_share((size_t)in->B * (size_t)in->G * (size_t)o->parts.n, 1, worker, n_workers, &begin,
               &end);
    for (size_t i = begin; i < end; i++) {
        const int part = (int)i % o->parts.n, bg = (int)i / o->parts.n;
        run_part(o, &w, bg / in->G, bg % in->G, part);
    }
}

void cpu_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                 struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                 struct tensor *dskip, const struct tensor *dy, const float *delta,
                 const void *states, const struct ssd_in *in)
{
    const int n_workers = n_workers_of(dev), heads = in->H / in->G;
    struct scratch s = {dev->work, states ? 0 : ssd_states_bytes(in)};
    struct bwd o = {.dev = dev,
                    .in = in,
                    .dx = dx,
                    .ddt = ddt,
                    .dy = dy,
                    .delta = delta,
                    .states = states ? states : dev->work,
                    .parts = {.to = {dbmat, dcmat}, .width = in->N, .heads = heads}};
    if (!states)
        ssd_remake_states(dev, dev->work, s.used, delta, in);
    o.worker_bytes = worker_bytes(min_int(in->Q, in->T), in->P, in->N, heads);
    o.dparam = scratch_take(&s, dparam_bytes(in->B, in->H));
    parts_carve(&o.parts, &s, n_workers, in->B * in->G, in->T);
    o.shared_bytes = s.used;
    assert(dev->work_bytes >= o.shared_bytes + (size_t)n_workers * o.worker_bytes);
    memset(o.dparam, 0, dparam_bytes(in->B, in->H));
    pool_run(pool_of(dev), bwd_share, &o);
    parts_add(&o.parts, dev);
    struct tensor *const to[3] = {ddt_bias, da_log, dskip};
    for (int i = 0; i < 3; i++)
        for (int h = 0; h < in->H; h++) {
            double sum = 0;
            for (int b = 0; b < in->B; b++)
                sum += o.dparam[((int64_t)b * in->H + h) * 3 + i];
            ((float *)to[i]->data)[h] += (float)sum;
        }
}
