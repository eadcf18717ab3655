/* Tests of ssd: forward and backward against the plain recurrence, the reference's gradient by
 * finite differences, carried states, packed documents, repeatability, decode steps. */
#include "docs_test.h"

struct shape {
    int B, T, H, P, N, G, Q;
    enum docs docs;
    int gap; /* ld - columns */
};

static const struct shape shapes[] = {
    {1, 1, 1, 16, 16, 1, 64, DOCS_NONE, 0},     {1, 64, 2, 16, 32, 1, 64, DOCS_WHOLE, 0},
    {2, 65, 4, 16, 16, 2, 32, DOCS_NONE, 3},    {1, 130, 3, 32, 48, 3, 64, DOCS_MIXED, 5},
    {2, 100, 4, 20, 33, 2, 128, DOCS_SHORT, 0}, {1, 150, 2, 64, 64, 1, 50, DOCS_MIXED, 1},
    {3, 40, 2, 16, 24, 2, 7, DOCS_SHORT, 0},    {1, 33, 6, 16, 16, 1, 16, DOCS_ONES, 2},
    {2, 256, 2, 16, 16, 1, 256, DOCS_NONE, 0},  {1, 140, 3, 64, 128, 1, 64, DOCS_MIXED, 8},
    {1, 36, 2, 128, 200, 1, 64, DOCS_SHORT, 0}, {1, 150, 2, 128, 80, 1, 64, DOCS_NONE, 0},
    {2, 70, 6, 64, 128, 2, 64, DOCS_SHORT, 0},  {1, 193, 2, 64, 128, 1, 64, DOCS_MIXED, 0},
    {1, 150, 3, 64, 128, 1, 64, DOCS_NONE, 0},
};

enum { N_IN = 7, N_SHAPES = sizeof shapes / sizeof *shapes };

/* Inputs x dt bmat cmat dt_bias a_log skip on the host, and gradients in the same order. */
struct host {
    struct shape s;
    double *in[N_IN], *grad[N_IN], *y, *dy, *last;
    size_t n[N_IN];
    int32_t *seg;
};

static struct ref_ssd ref_in(const struct host *h)
{
    const struct shape *s = &h->s;
    return (struct ref_ssd){h->in[0], h->in[1], h->in[2], h->in[3], h->in[4], h->in[5], h->in[6],
                            h->seg,   s->B,     s->T,     s->H,     s->P,     s->N,     s->G};
}

static void fill(struct host *h, const struct shape *s)
{
    const size_t M = (size_t)(s->B * s->T), H = (size_t)s->H, E = H * (size_t)s->P;
    const size_t GN = (size_t)(s->G * s->N);
    const size_t n[N_IN] = {M * E, M * H, M * GN, M * GN, H, H, H};
    const double scale[N_IN] = {1, 1, 0.5, 0.5, 0.3, 0.7, 1};
    *h = (struct host){.s = *s};
    for (int i = 0; i < N_IN; i++) {
        h->n[i] = n[i];
        h->in[i] = t_random(n[i], scale[i], (uint32_t)i);
        h->grad[i] = i < 4 ? t_zeros(n[i]) : t_random(n[i], 1, 20 + (uint32_t)i);
    }
    for (size_t i = 0; i < H; i++)
        h->in[4][i] = (float)(h->in[4][i] - 2);
    if (H > 2)
        h->in[4][2] = 21; /* beyond softplus's bend */
    h->seg = docs_seg(s->docs, s->B, s->T);
    h->y = t_zeros(M * E);
    h->dy = t_random(M * E, 1, 10);
}

static void ref_backward(struct host *h)
{
    const struct ref_ssd in = ref_in(h);
    ref_ssd_bwd(h->grad[0], h->grad[1], h->grad[2], h->grad[3], h->grad[4], h->grad[5], h->grad[6],
                h->dy, &in);
}

/* Inputs and outputs in device memory. */
struct device {
    struct ssd_in in;
    struct tensor t[N_IN], grad[N_IN], y, dy;
    float *delta;
    void *states;
};

/* Vectors of parameters have one dimension. */
static struct tensor on_device(struct dev *dev, const struct host *h, int i, const double *values)
{
    const int64_t rows = h->s.B * h->s.T, cols = (int64_t)h->n[i] / rows;
    if (i >= 4)
        return t_vector(dev, values, h->s.H);
    return t_tensor(dev, values, rows, cols, cols + h->s.gap);
}

static struct sizes sizes_of(const struct shape *s, bool keeps_states)
{
    return (struct sizes){.B = s->B,
                          .T = s->T,
                          .H = s->H,
                          .P = s->P,
                          .N = s->N,
                          .G = s->G,
                          .Q = s->Q,
                          .keeps_states = keeps_states};
}

static struct device upload(struct dev *dev, const struct host *h)
{
    const struct shape *s = &h->s;
    const int64_t M = s->B * s->T, E = s->H * s->P;
    struct device d;
    for (int i = 0; i < N_IN; i++) {
        d.t[i] = on_device(dev, h, i, h->in[i]);
        d.grad[i] = i < 4 ? t_garbage(dev, M, tensor_cols(&d.t[i]), d.t[i].ld)
                          : on_device(dev, h, i, h->grad[i]);
    }
    d.y = t_garbage(dev, M, E, E + s->gap);
    d.dy = t_tensor(dev, h->dy, M, E, E + s->gap);
    d.delta = t_garbage_f32(dev, M, s->H, 0).data;
    const struct sizes sizes = sizes_of(s, true);
    const size_t words = dev->ops->ssd_states_bytes(dev, &sizes) / 4 + 1;
    d.states = t_garbage_f32(dev, 1, (int64_t)words, 0).data;
    d.in = (struct ssd_in){d.t[0], d.t[1], d.t[2], d.t[3],
                           d.t[4], d.t[5], d.t[6], docs_upload(dev, h->seg, s->B, s->T),
                           s->B,   s->T,   s->H,   s->P,
                           s->N,   s->G,   s->Q};
    return d;
}

static void forward(struct dev *dev, struct device *d, float *last)
{
    dev->ops->ssd_fwd(dev, &d->y, d->delta, d->states, last, &d->in);
}

static void backward(struct dev *dev, struct device *d)
{
    struct tensor *g = d->grad;
    dev->ops->ssd_bwd(dev, &g[0], &g[1], &g[2], &g[3], &g[4], &g[5], &g[6], &d->dy, d->delta,
                      d->states, &d->in);
}

static void reserve_for(struct dev *dev, const struct shape *s, bool keeps_states)
{
    const struct sizes sizes = sizes_of(s, keeps_states);
    reserve(dev, OP_SSD, &sizes);
}

/* The root of the sum of squares of what all tokens add to parameter gradient i. */
static double norm_of_terms(const struct host *h, int i)
{
    const struct shape *s = &h->s;
    double sum = 0;
    for (int at = 0; at < s->B * s->T * s->H; at++) {
        const int head = at % s->H;
        const double v = h->in[1][at] + h->in[4][head], ddt = h->grad[1][at];
        double pull = (v > 20 ? v : log1p(exp(v))) * ddt * (1 + exp(-v)), dyx = 0;
        for (int p = at * s->P; p < (at + 1) * s->P; p++) {
            pull -= h->in[0][p] * (h->grad[0][p] - h->in[6][head] * h->dy[p]);
            dyx += h->in[0][p] * h->dy[p];
        }
        const double term = i == 4 ? ddt : i == 5 ? pull : dyx;
        sum += term * term;
    }
    return sqrt(sum);
}

/* How far a gradient is off, by norm: that of the gradient, or for sums over tokens, in which terms
 * may cancel but not their errors, that of the terms, if greater. */
static double grad_error(struct dev *dev, const struct device *d, const struct host *h, int i)
{
    const double norm = sqrt(dot(h->grad[i], h->grad[i], h->n[i]));
    const double terms = i < 4 ? 0 : norm_of_terms(h, i);
    return t_error(dev, &d->grad[i], h->grad[i]) * (norm / fmax(norm, terms));
}

/* is_twice: the same call again gives the same bits. */
static void check_shape(struct dev *dev, const struct shape *s, bool is_twice)
{
    static const char *const name[N_IN] = {"x", "dt", "bmat", "cmat", "dt_bias", "a_log", "skip"};
    struct host h;
    fill(&h, s);
    const struct ref_ssd in = ref_in(&h);
    ref_ssd_fwd(h.y, NULL, &in);
    struct device d = upload(dev, &h), again = upload(dev, &h);
    char at[128];
    snprintf(at, sizeof at, "%s: B%d T%d H%d P%d N%d G%d Q%d docs %d", dev->name, s->B, s->T, s->H,
             s->P, s->N, s->G, s->Q, (int)s->docs);
    reserve_for(dev, s, true);
    forward(dev, &d, NULL);
    ok_within(t_error(dev, &d.y, h.y), tol(dev, 1e-6), "%s: y", at);
    ref_backward(&h);
    backward(dev, &d);
    for (int i = 0; i < N_IN; i++)
        ok_within(grad_error(dev, &d, &h, i), tol(dev, i < 4 ? 5e-6 : 2e-5), "%s: d%s", at,
                  name[i]);
    ok(guard_ok(dev), "%s: workspace as planned", at);
    if (!is_twice)
        return;
    forward(dev, &again, NULL);
    backward(dev, &again);
    bool is_same = t_same(dev, &d.y, &again.y);
    for (int i = 0; i < N_IN; i++)
        is_same = is_same && t_same(dev, &d.grad[i], &again.grad[i]);
    ok(is_same, "%s: the same bits again", at);
}

/* States that are not kept are made again: the same bits on a device that sums in one order, and
 * the workspace for them is planned. */
static void check_not_kept(struct dev *dev, const struct shape *s)
{
    struct host h;
    fill(&h, s);
    struct device d = upload(dev, &h), without = upload(dev, &h);
    without.states = NULL;
    reserve_for(dev, s, false);
    forward(dev, &d, NULL);
    backward(dev, &d);
    forward(dev, &without, NULL);
    backward(dev, &without);
    bool is_same = t_same(dev, &d.y, &without.y);
    for (int i = 0; i < N_IN; i++)
        is_same = is_same && t_same(dev, &d.grad[i], &without.grad[i]);
    ok(is_same && guard_ok(dev), "%s: states that were not kept change no bit", dev->name);
}

/* Tokens [t,t+n) of a one-row device, as an own sequence without documents. */
static struct device part_of(const struct device *d, int t, int n)
{
    struct device p = *d;
    p.in.x = tensor_row_range(&d->in.x, t, n);
    p.in.dt = tensor_row_range(&d->in.dt, t, n);
    p.in.bmat = tensor_row_range(&d->in.bmat, t, n);
    p.in.cmat = tensor_row_range(&d->in.cmat, t, n);
    p.in.seg = NULL;
    p.in.T = n;
    p.y = tensor_row_range(&d->y, t, n);
    p.dy = tensor_row_range(&d->dy, t, n);
    for (int i = 0; i < 4; i++)
        p.grad[i] = tensor_row_range(&d->grad[i], t, n);
    return p;
}

/* A sequence read in pieces with a carried state equals one piece, the state left too. */
static void check_pieces(struct dev *dev)
{
    const struct shape s = {1, 150, 4, 32, 20, 2, 32, DOCS_NONE, 2};
    const int cuts[] = {0, 1, 33, 65, 150}, size = s.H * s.P * s.N;
    struct host h;
    fill(&h, &s);
    double *last = t_random((size_t)size, 1, 30);
    struct tensor state = t_f32(dev, last, s.H, s.P * s.N, 0);
    struct device d = upload(dev, &h);
    const struct ref_ssd in = ref_in(&h);
    ref_ssd_fwd(h.y, last, &in);
    reserve_for(dev, &s, true);
    for (int i = 0; i < 4; i++) {
        struct device piece = part_of(&d, cuts[i], cuts[i + 1] - cuts[i]);
        forward(dev, &piece, state.data);
    }
    ok_within(t_error(dev, &d.y, h.y), tol(dev, 1e-6), "%s: read in pieces", dev->name);
    ok_within(t_error(dev, &state, last), tol(dev, 1e-6), "%s: state left by pieces", dev->name);
}

/* Packed documents equal separate ones, forward and backward. */
static void check_packed(struct dev *dev)
{
    const struct shape s = {1, 170, 4, 16, 32, 2, 48, DOCS_MIXED, 0};
    struct host h;
    fill(&h, &s);
    struct device packed = upload(dev, &h), apart = upload(dev, &h);
    reserve_for(dev, &s, true);
    forward(dev, &packed, NULL);
    backward(dev, &packed);
    for (int t = 0, end; t < s.T; t = end) {
        end = docs_end(h.seg, 0, t, s.T);
        struct device one = part_of(&apart, t, end - t);
        forward(dev, &one, NULL);
        backward(dev, &one);
    }
    const float *y = t_values(dev, &packed.y);
    for (size_t i = 0; i < h.n[0]; i++)
        h.y[i] = y[i];
    ok_within(t_error(dev, &apart.y, h.y), tol(dev, 1e-6), "%s: packed documents: y", dev->name);
    for (int k = 0; k < N_IN; k++) {
        const float *g = t_values(dev, &packed.grad[k]);
        for (size_t i = 0; i < h.n[k]; i++)
            h.grad[k][i] = g[i];
        ok_within(t_error(dev, &apart.grad[k], h.grad[k]), tol(dev, k < 4 ? 5e-6 : 2e-5),
                  "%s: packed documents: gradient %d", dev->name, k);
    }
}

/* Token t of each row, with the parameters. */
static struct ssd_in token_in(const struct device *d, int t, int first, int R)
{
    struct ssd_in in = d->in;
    struct tensor *const view[4] = {&in.x, &in.dt, &in.bmat, &in.cmat};
    for (int i = 0; i < 4; i++) {
        *view[i] = t_token(view[i], t + first * d->in.T, R, d->in.T);
    }
    in.B = R;
    in.T = 1;
    return in;
}

/* Three rows decode in slots 4, 0, 2 of 5. */
static void check_steps(struct dev *dev, const struct shape *s)
{
    const int32_t slot[3] = {4, 0, 2};
    const int PN = s->H * s->P * s->N;
    struct host h;
    fill(&h, s);
    struct device d = upload(dev, &h), alone = upload(dev, &h);
    double *state = t_random((size_t)(5 * PN), 1, 40);
    double *last = t_zeros((size_t)(3 * PN));
    for (int r = 0; r < 3; r++)
        memcpy(last + r * PN, state + slot[r] * PN, sizeof *last * (size_t)PN);
    struct tensor device_state = t_f32(dev, state, 5, PN, 0);
    struct tensor alone_state = t_f32(dev, state, 5, PN, 0);
    const int32_t *slots = t_upload(dev, slot, sizeof slot);
    for (int t = 0; t < s->T; t++) {
        const struct ssd_in in = token_in(&d, t, 0, 3);
        struct tensor y = t_token(&d.y, t, 3, s->T);
        dev->ops->ssd_step(dev, &y, device_state.data, &in, &(struct step_rows){slots, NULL, 3});
        for (int r = 0; r < 3; r++) {
            const struct ssd_in in1 = token_in(&alone, t, r, 1);
            struct tensor y1 = tensor_row_range(&alone.y, r * s->T + t, 1);
            dev->ops->ssd_step(dev, &y1, alone_state.data, &in1,
                               &(struct step_rows){slots + r, NULL, 1});
        }
    }
    const struct ref_ssd in = ref_in(&h);
    ref_ssd_fwd(h.y, last, &in);
    for (int r = 0; r < 3; r++)
        memcpy(state + slot[r] * PN, last + r * PN, sizeof *last * (size_t)PN);
    ok_within(t_error(dev, &d.y, h.y), tol(dev, 1e-6), "%s: step by step: y", dev->name);
    ok_within(t_error(dev, &device_state, state), tol(dev, 1e-6), "%s: step by step: all slots",
              dev->name);
    ok(t_same(dev, &d.y, &alone.y) && t_same(dev, &device_state, &alone_state),
       "%s: a row's bits do not depend on its neighbours", dev->name);
    ok(same_as_with_1_thread(dev, s->N == 64, device_state.data, (size_t)(5 * PN) * sizeof(float)),
       "%s: nor on threads", dev->name);
}

static void check(struct dev *dev)
{
    for (int i = 0; i < N_SHAPES; i++) {
        check_shape(dev, &shapes[i], i % 4 == 1);
        free_all();
    }
    check_not_kept(dev, &shapes[2]);
    check_not_kept(dev, &shapes[5]);
    check_not_kept(dev, &shapes[9]);
    check_pieces(dev);
    check_packed(dev);
    free_all();
    check_steps(dev, &(struct shape){3, 11, 4, 64, 64, 2, 64, DOCS_NONE, 1});
    check_steps(dev, &(struct shape){3, 4, 2, 18, 37, 1, 64, DOCS_NONE, 0});
}

/* --- the reference's gradient --- */

static double objective(void *ctx)
{
    struct host *h = ctx;
    const struct ref_ssd in = ref_in(h);
    ref_ssd_fwd(h->y, NULL, &in);
    return dot(h->y, h->dy, h->n[0]);
}

static void check_reference(void)
{
    const struct shape s[] = {{2, 7, 3, 2, 3, 3, 0, DOCS_NONE, 0},
                              {2, 9, 4, 3, 2, 2, 0, DOCS_SHORT, 0}};
    for (int k = 0; k < 2; k++) {
        struct host h;
        fill(&h, &s[k]);
        for (int i = 4; i < N_IN; i++)
            memset(h.grad[i], 0, sizeof(double) * h.n[i]);
        ref_backward(&h);
        for (int i = 0; i < N_IN; i++)
            ok_within(fd_error(objective, &h, h.in[i], h.grad[i], h.n[i]), fd_tol,
                      "reference, case %d: gradient %d by finite differences", k, i);
        free_all();
    }
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
