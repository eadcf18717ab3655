/* Tests of conv1d: forward, backward and step against the reference, the reference's gradient by
 * finite differences, packed documents, repeatability. test_read has what lies before a row. */
#include "docs_test.h"

struct shape {
    int B, T, C, K;
    enum docs docs;
    int gap; /* ld - columns; of dy and dx 1 and 2 more, unless all are multiples of 8 */
};

static const struct shape shapes[] = {
    {1, 1, 16, 4, DOCS_NONE, 0},     {2, 33, 100, 4, DOCS_NONE, 3},  {2, 50, 131, 4, DOCS_MIXED, 1},
    {3, 17, 300, 3, DOCS_SHORT, 0},  {1, 64, 24, 1, DOCS_NONE, 0},   {2, 20, 40, 7, DOCS_ONES, 5},
    {1, 3, 48, 5, DOCS_WHOLE, 0},    {2, 40, 260, 2, DOCS_MIXED, 0}, {2, 75, 264, 4, DOCS_MIXED, 8},
    {1, 330, 24, 4, DOCS_SHORT, 16}, {3, 2, 8, 4, DOCS_NONE, 8},     {1, 70, 9, 16, DOCS_MIXED, 0},
};

struct host {
    struct shape s;
    double *x, *w, *bias, *y, *dy, *dx, *dw, *dbias;
    size_t n, n_w;
    int32_t *seg;
};

static void fill(struct host *h, const struct shape *s)
{
    *h = (struct host){.s = *s};
    h->n = (size_t)(s->B * s->T * s->C);
    h->n_w = (size_t)(s->C * s->K);
    h->x = t_random(h->n, 1, 1);
    h->w = t_random(h->n_w, 0.5, 2);
    h->bias = t_random((size_t)s->C, 0.5, 3);
    h->dy = t_random(h->n, 1, 4);
    h->y = t_zeros(h->n);
    h->dx = t_zeros(h->n);
    h->dw = t_zeros(h->n_w);
    h->dbias = t_zeros((size_t)s->C);
    h->seg = docs_seg(s->docs, s->B, s->T);
}

static void ref_forward(struct host *h)
{
    const struct shape *s = &h->s;
    ref_conv1d_fwd(h->y, h->x, h->w, h->bias, h->seg, NULL, s->B, s->T, s->C, s->K);
}

static void ref_backward(struct host *h)
{
    const struct shape *s = &h->s;
    ref_conv1d_bwd(h->dx, h->dw, h->dbias, h->dy, h->x, h->w, h->bias, h->seg, s->B, s->T, s->C,
                   s->K);
}

struct device {
    struct tensor x, w, bias, y, dy, dx, dw, dbias;
    const int32_t *seg;
};

static struct device upload(struct dev *dev, const struct host *h)
{
    const struct shape *s = &h->s;
    const int64_t M = s->B * s->T, C = s->C, ld = C + s->gap;
    const int one = C % 8 == 0 && s->gap % 8 == 0 && s->gap > 0 ? 8 : 1;
    return (struct device){t_tensor(dev, h->x, M, C, ld),
                           t_f32(dev, h->w, C, s->K, 0),
                           t_vector(dev, h->bias, C),
                           t_garbage(dev, M, C, ld),
                           t_tensor(dev, h->dy, M, C, ld + one),
                           t_garbage(dev, M, C, ld + 2 * one),
                           t_f32(dev, h->dw, C, s->K, 0),
                           t_vector(dev, h->dbias, C),
                           docs_upload(dev, h->seg, s->B, s->T)};
}

static void check_shape(struct dev *dev, const struct shape *s)
{
    struct host h;
    char at[128];
    fill(&h, s);
    h.dw = t_random(h.n_w, 10, 5);
    h.dbias = t_random((size_t)s->C, 10, 6);
    snprintf(at, sizeof at, "%s: B%d T%d C%d K%d docs %d", dev->name, s->B, s->T, s->C, s->K,
             (int)s->docs);
    struct device d[2] = {upload(dev, &h), upload(dev, &h)};
    ref_forward(&h);
    ref_backward(&h);
    const struct sizes sizes = {.B = s->B, .T = s->T, .H = 1, .P = s->C, .K = s->K};
    reserve(dev, OP_CONV1D, &sizes);
    for (int i = 0; i < 2; i++) {
        dev->ops->conv1d_fwd(dev, &d[i].y, &d[i].x, &d[i].w, &d[i].bias, d[i].seg, s->B, s->T);
        dev->ops->conv1d_bwd(dev, &d[i].dx, &d[i].dw, &d[i].dbias, &d[i].dy, &d[i].x, &d[i].w,
                             &d[i].bias, d[i].seg, s->B, s->T);
    }
    ok_within(t_error(dev, &d->y, h.y), tol(dev, 5e-7), "%s: y", at);
    ok_within(t_error(dev, &d->dx, h.dx), tol(dev, 5e-7), "%s: dx", at);
    ok_within(t_error(dev, &d->dw, h.dw), tol(dev, 5e-7), "%s: dw added", at);
    ok_within(t_error(dev, &d->dbias, h.dbias), tol(dev, 5e-7), "%s: dbias added", at);
    ok(t_same(dev, &d[0].y, &d[1].y) && t_same(dev, &d[0].dx, &d[1].dx) &&
           t_same(dev, &d[0].dw, &d[1].dw) && t_same(dev, &d[0].dbias, &d[1].dbias) &&
           guard_ok(dev),
       "%s: the same bits again", at);
}

/* Three rows decode in slots 4, 0, 2, token by token: what the parallel pass gives, and the bits
 * that a row gives alone. */
static void check_steps(struct dev *dev)
{
    const struct shape s = {3, 9, 200, 4, DOCS_NONE, 1};
    const int32_t slot[3] = {4, 0, 2};
    const size_t n_taps = (size_t)(5 * (s.K - 1) * s.C);
    struct host h;
    fill(&h, &s);
    struct device d = upload(dev, &h);
    ref_forward(&h);
    struct tensor taps = t_f32(dev, t_zeros(n_taps), 5 * (s.K - 1), s.C, 0);
    struct tensor alone_taps = t_f32(dev, t_zeros(n_taps), 5 * (s.K - 1), s.C, 0);
    struct tensor alone = t_garbage(dev, s.B * s.T, s.C, s.C + s.gap);
    const int32_t *slots = t_upload(dev, slot, sizeof slot);
    for (int t = 0; t < s.T; t++) {
        struct tensor x = t_token(&d.x, t, 3, s.T), y = t_token(&d.y, t, 3, s.T);
        dev->ops->conv1d_step(dev, &y, taps.data, &x, &d.w, &d.bias,
                              &(struct step_rows){slots, NULL, 3});
        for (int r = 0; r < 3; r++) {
            struct tensor x1 = tensor_row_range(&d.x, r * s.T + t, 1);
            struct tensor y1 = tensor_row_range(&alone, r * s.T + t, 1);
            dev->ops->conv1d_step(dev, &y1, alone_taps.data, &x1, &d.w, &d.bias,
                                  &(struct step_rows){slots + r, NULL, 1});
        }
    }
    ok_within(t_error(dev, &d.y, h.y), tol(dev, 5e-7), "%s: step by step", dev->name);
    ok(t_same(dev, &d.y, &alone) && t_same(dev, &taps, &alone_taps),
       "%s: a row's bits do not depend on its neighbours", dev->name);
}

static void check(struct dev *dev)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(dev, &shapes[i]);
        free_all();
    }
    check_steps(dev);
}

static double objective(void *ctx)
{
    struct host *h = ctx;
    ref_forward(h);
    return dot(h->y, h->dy, h->n);
}

static void check_reference(void)
{
    const struct shape s = {2, 9, 3, 4, DOCS_SHORT, 0};
    struct host h;
    fill(&h, &s);
    ref_backward(&h);
    ok_within(fd_error(objective, &h, h.x, h.dx, h.n), fd_tol, "reference: dx");
    ok_within(fd_error(objective, &h, h.w, h.dw, h.n_w), fd_tol, "reference: dw");
    ok_within(fd_error(objective, &h, h.bias, h.dbias, 3), fd_tol, "reference: dbias");
    free_all();
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
