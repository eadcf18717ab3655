/* Tests of mamba_step: a pass of conv1d_step, ssd_step and gatenorm_fwd. Convolution, state and
 * gate are the same code, so that taps and state are equal to the bit; the norm sums head by head,
 * so that the output is equal by norm. */
#include "docs_test.h"

enum { SLOTS = 5, R = 3, STEPS = 6 };

struct shape {
    int H, P, N, G, K, gap;
};

/* Inputs in device memory: xbc, z and dt are slices of one projection (STEPS*R, ...). */
struct layer {
    struct shape s;
    struct tensor proj, conv_w, conv_b, norm_w, dt_bias, a_log, skip;
    const int32_t *slot;
};

static struct layer open_layer(struct dev *dev, const struct shape *s)
{
    const int64_t E = s->H * s->P, C = E + 2 * s->G * s->N, cols = E + C + s->H;
    const int32_t slot[R] = {3, 0, 1};
    struct layer l = {.s = *s};
    l.proj =
        t_tensor(dev, t_random((size_t)(STEPS * R * cols), 1, 1), STEPS * R, cols, cols + s->gap);
    l.conv_w = t_f32(dev, t_random((size_t)(C * s->K), 0.5, 2), C, s->K, 0);
    l.conv_b = t_vector(dev, t_random((size_t)C, 0.5, 3), C);
    l.norm_w = t_vector(dev, t_random((size_t)E, 1, 4), E);
    l.dt_bias = t_vector(dev, t_random((size_t)s->H, 1, 5), s->H);
    l.a_log = t_vector(dev, t_random((size_t)s->H, 1, 6), s->H);
    l.skip = t_vector(dev, t_random((size_t)s->H, 1, 7), s->H);
    l.slot = t_upload(dev, slot, sizeof slot);
    return l;
}

/* What a way of stepping leaves. */
struct result {
    struct tensor taps, state, out; /* (SLOTS,(K-1)*C) (SLOTS,H*P*N) (STEPS*R,E) */
};

static struct result open_result(struct dev *dev, const struct shape *s)
{
    const int64_t E = s->H * s->P, C = E + 2 * s->G * s->N;
    const int64_t n_taps = (s->K - 1) * C, n_state = E * s->N;
    return (struct result){t_f32(dev, t_random((size_t)(SLOTS * n_taps), 1, 8), SLOTS, n_taps, 0),
                           t_f32(dev, t_random((size_t)(SLOTS * n_state), 1, 9), SLOTS, n_state, 0),
                           t_garbage(dev, STEPS * R, E, E + s->gap)};
}

static struct ssd_in ssd_of(const struct layer *l, const struct tensor *proj, int rows)
{
    const struct shape *s = &l->s;
    const int64_t E = s->H * s->P, C = E + 2 * s->G * s->N;
    return (struct ssd_in){.dt = tensor_slice(proj, E + C, s->H),
                           .dt_bias = l->dt_bias,
                           .a_log = l->a_log,
                           .skip = l->skip,
                           .B = rows,
                           .T = 1,
                           .H = s->H,
                           .P = s->P,
                           .N = s->N,
                           .G = s->G,
                           .Q = 1};
}

/* Rows [first,first+rows) of step t by the fused op. */
static void fused(struct dev *dev, const struct layer *l, struct result *to, int t, int first,
                  int rows)
{
    const struct shape *s = &l->s;
    const int64_t E = s->H * s->P, C = E + 2 * s->G * s->N;
    const struct tensor proj = tensor_row_range(&l->proj, t * R + first, rows);
    const struct tensor z = tensor_slice(&proj, 0, E), xbc = tensor_slice(&proj, E, C);
    const struct ssd_in in = ssd_of(l, &proj, rows);
    struct tensor out = tensor_row_range(&to->out, t * R + first, rows);
    dev->ops->mamba_step(dev, &out, to->taps.data, to->state.data, &xbc, &z, &l->conv_w, &l->conv_b,
                         &l->norm_w, 1e-5f, &in, &(struct step_rows){l->slot + first, NULL, rows});
}

static void composed(struct dev *dev, const struct layer *l, struct result *to, int t)
{
    const struct shape *s = &l->s;
    const int64_t E = s->H * s->P, GN = s->G * s->N, C = E + 2 * GN;
    const struct step_rows rows = {l->slot, NULL, R};
    const struct tensor proj = tensor_row_range(&l->proj, t * R, R);
    const struct tensor z = tensor_slice(&proj, 0, E), xbc = tensor_slice(&proj, E, C);
    struct tensor out = tensor_row_range(&to->out, t * R, R), y = t_garbage(dev, R, E, 0);
    struct tensor conv = t_garbage(dev, R, C, 0), rstd = t_garbage_f32(dev, R, 1, 0);
    struct ssd_in in = ssd_of(l, &proj, R);
    in.x = tensor_slice(&conv, 0, E);
    in.bmat = tensor_slice(&conv, E, GN);
    in.cmat = tensor_slice(&conv, E + GN, GN);
    dev->ops->conv1d_step(dev, &conv, to->taps.data, &xbc, &l->conv_w, &l->conv_b, &rows);
    dev->ops->ssd_step(dev, &y, to->state.data, &in, &rows);
    dev->ops->gatenorm_fwd(dev, &out, rstd.data, &y, &z, &l->norm_w, 1e-5f);
}

static void check_shape(struct dev *dev, const struct shape *s)
{
    const struct layer l = open_layer(dev, s);
    struct result one = open_result(dev, s), two = one, alone = one;
    two = open_result(dev, s);
    alone = open_result(dev, s);
    const struct sizes sizes = {
        .B = R, .T = 1, .H = s->H, .P = s->P, .N = s->N, .G = s->G, .K = s->K, .Q = 1, .R = R};
    reserve(dev, OP_SSD, &sizes);
    for (int t = 0; t < STEPS; t++) {
        fused(dev, &l, &one, t, 0, R);
        composed(dev, &l, &two, t);
        for (int r = 0; r < R; r++)
            fused(dev, &l, &alone, t, r, 1);
    }
    const float *out = t_values(dev, &two.out);
    double *ref = t_zeros(tensor_count(&two.out));
    for (size_t i = 0; i < tensor_count(&two.out); i++)
        ref[i] = out[i];
    ok_within(t_error(dev, &one.out, ref), tol(dev, 1e-6),
              "%s: H%d P%d N%d G%d K%d: as the three ops", dev->name, s->H, s->P, s->N, s->G, s->K);
    ok(t_same(dev, &one.taps, &two.taps), "%s: same taps", dev->name);
    ok(t_same(dev, &one.state, &two.state), "%s: same states", dev->name);
    ok(t_same(dev, &one.out, &alone.out) && t_same(dev, &one.state, &alone.state) &&
           t_same(dev, &one.taps, &alone.taps),
       "%s: a row's bits do not depend on its neighbours", dev->name);
    ok(same_as_with_1_thread(dev,
                             s->N == 64    ? 1
                             : s->N == 256 ? 2
                                           : 0,
                             one.state.data, tensor_bytes(&one.state)),
       "%s: nor on threads", dev->name);
    ok(guard_ok(dev), "%s: workspace as planned", dev->name);
}

/* All STEPS*R rows in one step, in slots of their own, against fewer at a time. */
static void check_counts(struct dev *dev, const struct shape *s)
{
    enum { ROWS = STEPS * R };
    static const int counts[] = {7, 1, 2, 8, 9};
    const int64_t n_taps = (s->K - 1) * (s->H * s->P + 2 * s->G * s->N),
                  n_state = s->H * s->P * s->N;
    int32_t slot[ROWS];
    for (int r = 0; r < ROWS; r++)
        slot[r] = r * 5 % ROWS;
    struct layer l = open_layer(dev, s);
    l.slot = t_upload(dev, slot, sizeof slot);
    struct result all, some;
    for (int i = -1; i < (int)some_of(sizeof counts / sizeof *counts); i++) {
        struct result *to = i < 0 ? &all : &some;
        *to = open_result(dev, s);
        to->taps = t_f32(dev, t_random((size_t)(ROWS * n_taps), 1, 8), ROWS, n_taps, 0);
        to->state = t_f32(dev, t_random((size_t)(ROWS * n_state), 1, 9), ROWS, n_state, 0);
        const struct sizes sizes = {.B = ROWS,
                                    .T = 1,
                                    .H = s->H,
                                    .P = s->P,
                                    .N = s->N,
                                    .G = s->G,
                                    .K = s->K,
                                    .Q = 1,
                                    .R = ROWS};
        reserve(dev, OP_SSD, &sizes);
        const int step = i < 0 ? ROWS : counts[i];
        for (int r = 0; r < ROWS; r += step)
            fused(dev, &l, to, 0, r, r + step <= ROWS ? step : ROWS - r);
        ok(i < 0 || (t_same(dev, &all.out, &some.out) && t_same(dev, &all.state, &some.state) &&
                     t_same(dev, &all.taps, &some.taps)),
           "%s: H%d P%d N%d: %d rows at a time", dev->name, s->H, s->P, s->N, step);
    }
    ok(guard_ok(dev), "%s: workspace of many rows as planned", dev->name);
}

static void check(struct dev *dev)
{
    check_counts(dev, &(struct shape){16, 32, 128, 1, 4, 8});
    free_all();
    check_shape(dev, &(struct shape){4, 64, 64, 2, 4, 3});
    check_shape(dev, &(struct shape){3, 20, 37, 1, 3, 0});
    check_shape(dev, &(struct shape){2, 32, 256, 1, 2, 0});
}

int main(void)
{
    each_device(check);
    return tap_done();
}
