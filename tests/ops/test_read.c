/* Tests of the ops of a read: rows of several lengths in one list, each with a slot of the state,
 * against the references of each row; slots that no row has stay as they were; a row alone gives
 * the bits that it gives among others. Products: rows alone and in batches. */
#include "ops_test.h"

enum { R = 6, SLOTS = 8, LEAST_GAP = 3 };

/* The rows; a list of tokens is longer than they are together. */
static const int lens[R] = {5, 1, 40, 270, 33, 2}, slots[R] = {4, 0, 2, 5, 1, 7};
static const int positions[R] = {0, 9, 3, 21, 150, 0};

static int longest(int first, int n)
{
    int T = 0;
    for (int r = first; r < first + n; r++)
        T = lens[r] > T ? lens[r] : T;
    return T;
}

static int begin_of(int r)
{
    int at = 0;
    for (int i = 0; i < r; i++)
        at += lens[i];
    return at;
}

/* Tokens of a list that rows [first, first+n) are read from. */
static int list_of(const struct dev *dev, int first, int n)
{
    const int M = begin_of(first + n) - begin_of(first), unit = dev->read_unit;
    return (M + LEAST_GAP + unit - 1) / unit * unit;
}

static struct read_rows rows_of(struct dev *dev, int first, int n)
{
    int32_t begin[R + 1], slot[R], pos[R];
    for (int i = 0; i <= n; i++)
        begin[i] = begin_of(first + i) - begin_of(first);
    for (int i = 0; i < n; i++) {
        slot[i] = slots[first + i];
        pos[i] = positions[first + i];
    }
    return (struct read_rows){t_upload(dev, begin, sizeof *begin * (size_t)(n + 1)),
                              t_upload(dev, slot, sizeof *slot * (size_t)n),
                              t_upload(dev, pos, sizeof *pos * (size_t)n), n,
                              longest(first, n) + 7 * (first % 2)};
}

/* Tokens of rows [first, first+n) from all = values (M,cols) of all rows, and behind them values
 * that nobody may use. */
static struct tensor tokens_of(struct dev *dev, const double *all, int cols, int gap, int first,
                               int n)
{
    const int M = begin_of(first + n) - begin_of(first), list = list_of(dev, first, n);
    double *x = t_zeros((size_t)(list * cols));
    for (int i = 0; i < list * cols; i++)
        x[i] = i < M * cols ? all[begin_of(first) * cols + i] : 512;
    return t_tensor(dev, x, list, cols, cols + gap);
}

/* The rows of a result on the host, without what lies behind them. */
static struct tensor front(const struct tensor *t, int first, int n)
{
    return tensor_row_range(t, 0, begin_of(first + n) - begin_of(first));
}

/* --- convolution --- */

struct conv_case {
    int C, K, gap;
    double *x, *w, *bias, *taps; /* of all rows; (C,K); (C); (SLOTS,K-1,C) */
};

static struct tensor run_conv(struct dev *dev, const struct conv_case *c, struct tensor *taps,
                              int first, int n)
{
    const struct tensor x = tokens_of(dev, c->x, c->C, c->gap, first, n);
    const struct tensor w = t_f32(dev, c->w, c->C, c->K, 0), bias = t_vector(dev, c->bias, c->C);
    const struct read_rows rows = rows_of(dev, first, n);
    struct tensor y = t_garbage(dev, tensor_rows(&x), c->C, c->C + c->gap);
    dev->ops->conv1d_read(dev, &y, taps->data, &x, &w, &bias, &rows);
    return front(&y, first, n);
}

static void check_conv(struct dev *dev, int C, int K, int gap)
{
    const int M = begin_of(R), n_taps = (K - 1) * C;
    struct conv_case c = {C,
                          K,
                          gap,
                          t_random((size_t)(M * C), 1, 1),
                          t_random((size_t)(C * K), 0.5, 2),
                          t_random((size_t)C, 0.5, 3),
                          t_random((size_t)(SLOTS * n_taps), 1, 4)};
    struct tensor taps = t_f32(dev, c.taps, SLOTS, n_taps, 0);
    struct tensor alone = t_f32(dev, c.taps, SLOTS, n_taps, 0);
    const struct tensor y = run_conv(dev, &c, &taps, 0, R);
    bool is_same = true;
    for (int r = 0; r < R; r++) {
        const struct tensor one = run_conv(dev, &c, &alone, r, 1);
        const struct tensor same = tensor_row_range(&y, begin_of(r), lens[r]);
        is_same = is_same && t_same(dev, &one, &same);
    }
    ok(is_same && t_same(dev, &taps, &alone), "%s: conv1d C%d K%d: rows alone are rows of a batch",
       dev->name, C, K);
    double *ref = t_zeros((size_t)(M * C));
    for (int r = 0; r < R; r++)
        ref_conv1d_fwd(ref + begin_of(r) * C, c.x + begin_of(r) * C, c.w, c.bias, NULL,
                       c.taps + slots[r] * n_taps, 1, lens[r], C, K);
    ok_within(t_error(dev, &y, ref), tol(dev, 5e-7), "%s: conv1d C%d K%d: y", dev->name, C, K);
    ok_within(t_error(dev, &taps, c.taps), 0, "%s: conv1d C%d K%d: all slots", dev->name, C, K);
}

/* --- SSD --- */

struct ssd_case {
    int H, P, N, G, Q;
    double *in[7]; /* x dt bmat cmat dt_bias a_log skip */
    double *state; /* (SLOTS,H,P,N) */
};

static struct tensor run_ssd(struct dev *dev, const struct ssd_case *c, struct tensor *state,
                             int first, int n)
{
    const int cols[4] = {c->H * c->P, c->H, c->G * c->N, c->G * c->N},
              list = list_of(dev, first, n);
    const struct sizes sizes = {
        .B = 1, .T = list, .H = c->H, .P = c->P, .N = c->N, .G = c->G, .Q = c->Q, .R = n};
    const struct read_rows rows = rows_of(dev, first, n);
    struct tensor t[7];
    for (int i = 0; i < 7; i++)
        t[i] =
            i < 4 ? tokens_of(dev, c->in[i], cols[i], 8, first, n) : t_vector(dev, c->in[i], c->H);
    struct tensor y = t_garbage(dev, list, cols[0], cols[0] + 8);
    const struct tensor delta = t_garbage_f32(dev, list, c->H, 0);
    const struct ssd_in in = {t[0], t[1], t[2], t[3], t[4], t[5], t[6], NULL,
                              1,    list, c->H, c->P, c->N, c->G, c->Q};
    reserve(dev, OP_SSD, &sizes);
    dev->ops->ssd_read(dev, &y, delta.data, state->data, &in, &rows);
    ok(guard_ok(dev), "%s: ssd: workspace as planned", dev->name);
    return front(&y, first, n);
}

static void fill_ssd(struct ssd_case *c)
{
    const int M = begin_of(R);
    const int n[7] = {
        M * c->H * c->P, M * c->H, M * c->G * c->N, M * c->G * c->N, c->H, c->H, c->H};
    static const double scale[7] = {1, 1, 0.5, 0.5, 0.3, 0.7, 1};
    for (int i = 0; i < 7; i++)
        c->in[i] = t_random((size_t)n[i], scale[i], (uint32_t)i);
    for (int h = 0; h < c->H; h++)
        c->in[4][h] = (float)(c->in[4][h] - 2);
    c->state = t_random((size_t)(SLOTS * c->H * c->P * c->N), 1, 9);
}

static void check_ssd(struct dev *dev, int H, int P, int N, int G, int Q)
{
    struct ssd_case c = {.H = H, .P = P, .N = N, .G = G, .Q = Q};
    const int E = H * P, HPN = E * N, GN = G * N;
    fill_ssd(&c);
    struct tensor state = t_f32(dev, c.state, SLOTS, HPN, 0);
    struct tensor alone = t_f32(dev, c.state, SLOTS, HPN, 0);
    const struct tensor y = run_ssd(dev, &c, &state, 0, R);
    bool is_same = true;
    for (int r = 0; r < R; r++) {
        const struct tensor one = run_ssd(dev, &c, &alone, r, 1);
        const struct tensor same = tensor_row_range(&y, begin_of(r), lens[r]);
        is_same = is_same && t_same(dev, &one, &same);
    }
    ok(is_same && t_same(dev, &state, &alone),
       "%s: ssd H%d P%d N%d G%d Q%d: rows alone are rows of a batch", dev->name, H, P, N, G, Q);
    double *ref = t_zeros((size_t)(begin_of(R) * E));
    for (int r = 0; r < R; r++) {
        const int at = begin_of(r);
        const struct ref_ssd in = {c.in[0] + at * E,
                                   c.in[1] + at * H,
                                   c.in[2] + at * GN,
                                   c.in[3] + at * GN,
                                   c.in[4],
                                   c.in[5],
                                   c.in[6],
                                   NULL,
                                   1,
                                   lens[r],
                                   H,
                                   P,
                                   N,
                                   G};
        ref_ssd_fwd(ref + at * E, c.state + slots[r] * HPN, &in);
    }
    ok_within(t_error(dev, &y, ref), tol(dev, 1e-6), "%s: ssd H%d P%d N%d G%d Q%d: y", dev->name, H,
              P, N, G, Q);
    ok_within(t_error(dev, &state, c.state), tol(dev, 1e-6), "%s: ssd H%d P%d N%d: all slots",
              dev->name, H, P, N);
}

/* --- attention --- */

struct attn_case {
    int H, P, G, S;
    double *q, *kv[2], *cache[2]; /* of all rows; (SLOTS,S,G*P) */
};

static struct tensor cache_of(struct dev *dev, const struct attn_case *c, int i)
{
    struct tensor t = t_tensor(dev, c->cache[i], SLOTS * c->S, c->G * c->P, c->G * c->P + 8 * i);
    t.n_dims = 3;
    t.dim[0] = SLOTS;
    t.dim[1] = c->S;
    t.dim[2] = c->G * c->P;
    return t;
}

static struct tensor run_attn(struct dev *dev, const struct attn_case *c, struct tensor *cache,
                              int first, int n)
{
    const int HP = c->H * c->P, GP = c->G * c->P, list = list_of(dev, first, n);
    const struct sizes sizes = {
        .B = 1, .T = list, .H = c->H, .P = c->P, .G = c->G, .S = c->S, .R = n};
    const struct read_rows rows = rows_of(dev, first, n);
    const struct tensor q = tokens_of(dev, c->q, HP, 8, first, n);
    const struct tensor k = tokens_of(dev, c->kv[0], GP, 8, first, n);
    const struct tensor v = tokens_of(dev, c->kv[1], GP, 0, first, n);
    struct tensor o = t_garbage(dev, list, HP, HP + 8);
    reserve(dev, OP_ATTN, &sizes);
    dev->ops->attn_read(dev, &o, &cache[0], &cache[1], &q, &k, &v, 0.25f, c->H, c->P, c->G, &rows);
    ok(guard_ok(dev), "%s: attn: workspace as planned", dev->name);
    return front(&o, first, n);
}

/* Puts row r's new keys and values into the host's caches, and its answer into o. */
static void ref_attn_row(const struct attn_case *c, int r, double *o)
{
    const int HP = c->H * c->P, GP = c->G * c->P, at = begin_of(r);
    double *cached[2];
    for (int i = 0; i < 2; i++) {
        cached[i] = c->cache[i] + slots[r] * c->S * GP;
        memcpy(cached[i] + positions[r] * GP, c->kv[i] + at * GP,
               sizeof(double) * (size_t)(lens[r] * GP));
    }
    const struct ref_attn in = {c->q + at * HP, cached[0], cached[1], NULL, 0.25,        1,
                                lens[r],        c->H,      c->P,      c->G, positions[r]};
    ref_attn_fwd(o + at * HP, t_zeros((size_t)(c->H * lens[r])), &in);
}

/* n values that activations can hold. */
static double *held(const struct dev *dev, size_t n, uint32_t seed)
{
    double *x = t_random(n, 1, seed);
    for (size_t i = 0; i < n; i++)
        x[i] = ref_cast(x[i], dev->act_dtype);
    return x;
}

static void check_attn(struct dev *dev, int H, int P, int G)
{
    const int M = begin_of(R), S = 340, HP = H * P, GP = G * P;
    struct attn_case c = {.H = H, .P = P, .G = G, .S = S, .q = t_random((size_t)(M * HP), 1, 1)};
    struct tensor cache[2], alone[2];
    for (int i = 0; i < 2; i++) {
        c.kv[i] = held(dev, (size_t)(M * GP), 2 + (uint32_t)i);
        c.cache[i] = held(dev, (size_t)(SLOTS * S * GP), 4 + (uint32_t)i);
        for (int r = 0; r < R; r++) /* what nobody may read */
            for (int k = positions[r] * GP; k < S * GP; k++)
                c.cache[i][slots[r] * S * GP + k] = 19968;
        cache[i] = cache_of(dev, &c, i);
        alone[i] = cache_of(dev, &c, i);
    }
    const struct tensor o = run_attn(dev, &c, cache, 0, R);
    bool is_same = true;
    for (int r = 0; r < R; r++) {
        const struct tensor one = run_attn(dev, &c, alone, r, 1);
        const struct tensor same = tensor_row_range(&o, begin_of(r), lens[r]);
        is_same = is_same && t_same(dev, &one, &same);
    }
    ok(is_same && t_same(dev, &cache[0], &alone[0]) && t_same(dev, &cache[1], &alone[1]),
       "%s: attn H%d P%d G%d: rows alone are rows of a batch", dev->name, H, P, G);
    double *ref = t_zeros((size_t)(M * HP));
    for (int r = 0; r < R; r++)
        ref_attn_row(&c, r, ref);
    ok_within(t_error(dev, &o, ref), tol(dev, 1e-6), "%s: attn H%d P%d G%d: o", dev->name, H, P, G);
    for (int i = 0; i < 2; i++)
        ok_within(t_error(dev, &cache[i], c.cache[i]), 0, "%s: attn H%d P%d G%d: cache %d",
                  dev->name, H, P, G, i);
}

/* --- products --- */

static void product(struct dev *dev, struct tensor *y, const struct tensor *resid,
                    const struct tensor *x, const struct weight *w)
{
    if (resid)
        dev->ops->linear_resid_read(dev, y, resid, x, w, 0.5f);
    else
        dev->ops->linear_read(dev, y, x, w);
}

/* Batches of several sizes, whose rows come from all places of the greatest. */
static void check_linear(struct dev *dev, int n, int k, enum dtype dtype, bool has_resid)
{
    const int unit = dev->read_unit, M = 11 * unit;
    const double *x = t_random((size_t)(M * k), 1, 1), *w = t_random((size_t)(n * k), 0.25, 2);
    const double *resid = t_random((size_t)(M * n), 1, 3);
    double *ref = t_zeros((size_t)(M * n));
    const struct sizes sizes = {.B = 1, .T = M, .R = R, .dtype = dtype};
    const struct tensor tx = t_tensor(dev, x, M, k, k + 8), tw = t_f32(dev, w, n, k, 0);
    const struct tensor tr = t_tensor(dev, resid, M, n, n + 8);
    const struct weight h = t_weight(dev, &tw, dtype);
    struct tensor all = t_garbage(dev, M, n, n + 8);
    reserve(dev, OP_LINEAR, &sizes);
    product(dev, &all, has_resid ? &tr : NULL, &tx, &h);
    ref_linear_fwd(ref, x, w, M, n, k);
    for (int i = 0; has_resid && i < M * n; i++)
        ref[i] = resid[i] + 0.5 * ref[i];
    ok_within(t_error(dev, &all, ref), tol(dev, f32_tol(k)), "%s %s: linear %dx%d resid %d: y",
              dev->name, dtype_name(dtype), n, k, has_resid);
    bool is_same = true;
    for (int some = 1; some < 11; some = some < 4 ? some + 1 : 2 * some - 1)
        for (int at = 0; at + some * unit <= M; at += unit / 2 + 5) {
            const struct tensor from = tensor_row_range(&tx, at, some * unit);
            const struct tensor part = tensor_row_range(&tr, at, some * unit);
            const struct tensor same = tensor_row_range(&all, at, some * unit);
            struct tensor y = t_garbage(dev, some * unit, n, n + 8);
            product(dev, &y, has_resid ? &part : NULL, &from, &h);
            is_same = is_same && t_same(dev, &y, &same);
        }
    ok(is_same && guard_ok(dev), "%s %s: linear %dx%d resid %d: rows depend on no other", dev->name,
       dtype_name(dtype), n, k, has_resid);
}

static bool is_emulated(const struct dev *dev)
{
    return strstr(dev->name, "emulated") != NULL;
}

static void check_products(struct dev *dev)
{
    static const int sizes[][2] = {{48, 64}, {37, 67}, {520, 96}, {300, 515}, {1100, 40}};
    enum dtype types[2];
    const int n_types = product_types(dev, types);
    const size_t n_sizes = is_emulated(dev) ? 2 : sizeof sizes / sizeof *sizes; /* plain loops */
    for (size_t i = 0; i < n_sizes; i++)
        for (int t = 0; t < n_types; t++) {
            check_linear(dev, sizes[i][0], sizes[i][1], types[t], false);
            if (is_cuda(dev))
                check_linear(dev, sizes[i][0], sizes[i][1], types[t], true);
            free_all();
        }
}

static void check(struct dev *dev)
{
    check_products(dev);
    check_conv(dev, 40, 4, 8);
    check_conv(dev, 37, 4, 1);
    check_conv(dev, 24, 6, 0);
    free_all();
    check_ssd(dev, 4, 16, 24, 2, 32);
    free_all();
    check_ssd(dev, 2, 64, 128, 1, 64);
    free_all();
    check_ssd(dev, 3, 18, 37, 3, 7);
    free_all();
    check_attn(dev, 4, 64, 2);
    free_all();
    check_attn(dev, 3, 20, 1);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
