/* Linear: forward, both gradients, f32 and bf16 products, and the decode step, whose rows must not
 * depend on each other. */
#include "ops_test.h"

struct shape {
    int M, n, k, pad; /* pad: columns between the rows of x, y and their gradients */
};
static const struct shape shapes[] = {{1, 1, 1, 0},    {3, 5, 7, 2},      {17, 33, 19, 1},
                                      {64, 48, 96, 0}, {130, 61, 257, 3}, {37, 530, 70, 5},
                                      {520, 9, 523, 0}};

struct fd {
    const double *r, *x, *w;
    int M, n, k;
};

static double projected(void *ctx)
{
    const struct fd *c = ctx;
    double *y = malloc((size_t)(c->M * c->n) * sizeof *y);
    ref_linear_fwd(y, c->x, c->w, c->M, c->n, c->k);
    const double sum = dot(c->r, y, (size_t)(c->M * c->n));
    free(y);
    return sum;
}

static void check_reference(void)
{
    enum { M = 3, n = 4, k = 5 };
    double *x = t_random(M * k, 1, 1), *w = t_random(n * k, 1, 2), *r = t_random(M * n, 1, 3);
    double *dx = t_zeros(M * k), *dw = t_zeros(n * k);
    ref_linear_bwd(dx, dw, r, x, w, M, n, k);
    struct fd ctx = {r, x, w, M, n, k};
    ok_within(fd_error(projected, &ctx, x, dx, M * k), fd_tol, "reference: dx");
    ok_within(fd_error(projected, &ctx, w, dw, n * k), fd_tol, "reference: dw");
    dw[3] += 0.01;
    ok(!(fd_error(projected, &ctx, w, dw, n * k) <= fd_tol), "reference: a wrong gradient is seen");
    dw[3] = NAN;
    ok(!(fd_error(projected, &ctx, w, dw, n * k) <= fd_tol), "reference: a NaN is seen");
}

/* What products in that type read: the value itself or its neighbour of 16 bits. */
static double *read_as(enum dtype dtype, const double *x, size_t n)
{
    double *y = t_copy(x, n);
    for (size_t i = 0; i < n; i++)
        y[i] = ref_cast(y[i], dtype);
    return y;
}

/* How much larger a relative error may be because the sum of `added` and the rest came out small:
 * (||added|| + ||rest||) / ||sum||. */
static double cancelled(const double *sum, const double *added, size_t n)
{
    double all = 0, one = 0, other = 0;
    for (size_t i = 0; i < n; i++) {
        all += sum[i] * sum[i];
        one += added[i] * added[i];
        other += (sum[i] - added[i]) * (sum[i] - added[i]);
    }
    return (sqrt(one) + sqrt(other)) / sqrt(all);
}

static void check_products(struct dev *dev, const struct shape *s, enum dtype dtype)
{
    const int M = s->M, n = s->n, k = s->k;
    const size_t n_x = (size_t)(M * k), n_y = (size_t)(M * n), n_w = (size_t)(n * k);
    const double *x = t_random_f32(n_x, 1, 1), *w = t_random_f32(n_w, 1, 2),
                 *dy = t_random_f32(n_y, 1, 3);
    const double *x_in = read_as(dtype, x, n_x), *w_in = read_as(dtype, w, n_w),
                 *dy_in = read_as(dtype, dy, n_y);
    double *y_ref = t_zeros(n_y), *dx_ref = t_zeros(n_x), *dw_ref = t_random_f32(n_w, 1, 4);
    const double *dw_0 = t_copy(dw_ref, n_w), *dx_0 = t_random(n_x, 1, 5);
    ref_linear_fwd(y_ref, x_in, w_in, M, n, k);
    ref_linear_bwd(dx_ref, dw_ref, dy_in, x_in, w_in, M, n, k);

    struct sizes sizes = {.B = 1, .T = M, .dtype = dtype};
    reserve(dev, OP_LINEAR, &sizes);
    struct tensor tx = t_tensor(dev, x, M, k, k + s->pad), tw = t_f32(dev, w, n, k, 0);
    struct tensor tdy = t_tensor(dev, dy, M, n, n + s->pad);
    struct tensor ty = t_garbage(dev, M, n, n + s->pad), tdx = t_garbage(dev, M, k, k + s->pad);
    struct tensor tdx_add = t_tensor(dev, dx_0, M, k, k + s->pad);
    struct tensor tdw = t_f32(dev, dw_0, n, k, 0);
    struct weight h = t_weight(dev, &tw, dtype);
    dev->ops->linear_fwd(dev, &ty, &tx, &h);
    dev->ops->linear_bwd_x(dev, &tdx, &tdy, &h, false);
    dev->ops->linear_bwd_x(dev, &tdx_add, &tdy, &h, true);
    dev->ops->linear_bwd_w(dev, &tdw, &tdy, &tx, dtype);

    const char *type = dtype_name(dtype);
    ok_within(t_error(dev, &ty, y_ref), tol(dev, f32_tol(k)), "%s %s %dx%dx%d: y", dev->name, type,
              M, n, k);
    ok_within(t_error(dev, &tdx, dx_ref), tol(dev, f32_tol(n)), "%s %s %dx%dx%d: dx", dev->name,
              type, M, n, k);
    for (size_t i = 0; i < n_x; i++)
        dx_ref[i] += dx_0[i];
    ok_within(t_error(dev, &tdx_add, dx_ref), tol(dev, f32_tol(n)) * cancelled(dx_ref, dx_0, n_x),
              "%s %s %dx%dx%d: dx +=", dev->name, type, M, n, k);
    ok_within(t_error(dev, &tdw, dw_ref), f32_tol(M) * cancelled(dw_ref, dw_0, n_w),
              "%s %s %dx%dx%d: dw +=", dev->name, type, M, n, k);

    struct tensor again = t_garbage(dev, M, n, n + s->pad);
    dev->ops->linear_fwd(dev, &again, &tx, &h);
    ok(t_same(dev, &again, &ty) && guard_ok(dev),
       "%s %s %dx%dx%d: the same bits twice, within the workspace", dev->name, type, M, n, k);
}

/* What only some backends have: logits in f32 out of 16-bit activations, and the residual with the
 * product, into another tensor and in place. */
static void check_more(struct dev *dev, const struct shape *s)
{
    const int M = s->M, n = s->n, k = s->k;
    const enum dtype dtype = dev->act_dtype;
    const size_t n_x = (size_t)(M * k), n_y = (size_t)(M * n), n_w = (size_t)(n * k);
    const float scale = 0.25f;
    const double *x = t_random(n_x, 1, 1), *w = t_random(n_w, 1, 2), *resid = t_random(n_y, 1, 3);
    double *y_ref = t_zeros(n_y), *sum_ref = t_copy(resid, n_y);
    ref_linear_fwd(y_ref, x, w, M, n, k);
    for (size_t i = 0; i < n_y; i++)
        sum_ref[i] += (double)scale * y_ref[i];

    struct sizes sizes = {.B = 1, .T = M, .dtype = dtype};
    reserve(dev, OP_LINEAR, &sizes);
    struct tensor tx = t_tensor(dev, x, M, k, k + s->pad), tw = t_f32(dev, w, n, k, 0);
    struct tensor tr = t_tensor(dev, resid, M, n, n + s->pad);
    struct tensor logits = t_garbage_f32(dev, M, n, 0), ty = t_garbage(dev, M, n, 0);
    struct weight h = t_weight(dev, &tw, dtype);
    dev->ops->linear_fwd(dev, &logits, &tx, &h);
    dev->ops->linear_resid_fwd(dev, &ty, &tr, &tx, &h, scale);
    const bool is_kept = t_error(dev, &tr, resid) == 0;
    dev->ops->linear_resid_fwd(dev, &tr, &tr, &tx, &h, scale);
    ok_within(t_error(dev, &logits, y_ref), f32_tol(k), "%s %dx%dx%d: y in f32", dev->name, M, n,
              k);
    ok_within(t_error(dev, &ty, sum_ref), tol(dev, f32_tol(k)) * cancelled(sum_ref, resid, n_y),
              "%s %dx%dx%d: resid + y", dev->name, M, n, k);
    ok(is_kept && guard_ok(dev), "%s %dx%dx%d: the residual is kept", dev->name, M, n, k);
    ok_within(t_error(dev, &tr, sum_ref), tol(dev, f32_tol(k)) * cancelled(sum_ref, resid, n_y),
              "%s %dx%dx%d: in place", dev->name, M, n, k);
}

static void check_step(struct dev *dev, int n, int k, enum dtype dtype)
{
    enum { R = 7 };
    const double *x = t_random_f32(R * (size_t)k, 1, 1), *w = t_random_f32((size_t)(n * k), 1, 2);
    double *y_ref = t_zeros(R * (size_t)n);
    ref_linear_fwd(y_ref, x, read_as(dtype, w, (size_t)(n * k)), R, n, k);
    struct tensor tx = t_tensor(dev, x, R, k, k + 3), tw = t_f32(dev, w, n, k, 0);
    struct weight h = t_weight(dev, &tw, dtype);
    struct tensor ty = t_garbage(dev, R, n, n + 1);
    dev->ops->linear_step(dev, &ty, &tx, &h);
    ok_within(t_error(dev, &ty, y_ref), tol(dev, f32_tol(k)), "%s step %s %dx%d", dev->name,
              dtype_name(dtype), n, k);
    bool is_same = true;
    for (int count = 1; count <= (int)some_of(5); count++)
        for (int r = 0; r + count <= R; r++) {
            struct tensor some = t_garbage(dev, count, n, 0);
            const struct tensor from = tensor_row_range(&tx, r, count);
            dev->ops->linear_step(dev, &some, &from, &h);
            const struct tensor same = tensor_row_range(&ty, r, count);
            is_same = is_same && t_same(dev, &some, &same);
        }
    ok(is_same, "%s step %s %dx%d: a row's bits do not depend on its neighbours", dev->name,
       dtype_name(dtype), n, k);
}

enum around { PLAIN, NORM, GLU, NORM_GLU, AROUNDS };

/* A product of up to `rows` rows with what stands around it. */
struct fused {
    int n, k, pad, rows;
    enum around around;
    bool has_resid, is_f32; /* is_f32: y whatever activations are */
};

static bool has_norm(const struct fused *s)
{
    return s->around == NORM || s->around == NORM_GLU;
}
static bool has_glu(const struct fused *s)
{
    return s->around == GLU || s->around == NORM_GLU;
}

/* y = resid + scale * g(f(x) w^T) */
static double *ref_fused(const struct fused *s, const double *x, const double *w,
                         const double *norm_w, const double *resid, double scale)
{
    const int rows = s->rows, n = has_glu(s) ? 2 * s->n : s->n;
    double *in = t_copy(x, (size_t)(rows * s->k)), *y = t_zeros((size_t)(rows * n));
    double *rstd = t_zeros((size_t)rows), *gated = t_zeros((size_t)(rows * s->n));
    if (has_norm(s))
        ref_rmsnorm_fwd(in, rstd, x, norm_w, 1e-5, rows, s->k);
    ref_linear_fwd(y, in, w, rows, n, s->k);
    if (has_glu(s)) {
        ref_swiglu_fwd(gated, y, rows, s->n);
        y = gated;
    }
    for (int i = 0; s->has_resid && i < rows * s->n; i++)
        y[i] = resid[i] + scale * y[i];
    return y;
}

static void check_fused(struct dev *dev, const struct fused *s)
{
    static const int counts[] = {7, 1, 2, 8, 9, 16, 17, 20, 33, 64, 100};
    const int rows = s->rows, w_rows = has_glu(s) ? 2 * s->n : s->n;
    const double *x = t_random((size_t)(rows * s->k), 1, 1), *norm_w = t_random((size_t)s->k, 1, 3);
    const double *w = t_random((size_t)(w_rows * s->k), 0.25, 2);
    const double *resid = t_random((size_t)(rows * s->n), 1, 4);
    const double *ref = ref_fused(s, x, w, norm_w, resid, 0.5);
    const struct tensor tx = t_tensor(dev, x, rows, s->k, s->k + s->pad);
    const struct tensor tw = t_f32(dev, w, w_rows, s->k, 0), tnorm = t_vector(dev, norm_w, s->k);
    const struct tensor tresid = t_tensor(dev, resid, rows, s->n, s->n + s->pad);
    const struct weight h = t_weight(dev, &tw, dev->act_dtype);
    const struct sizes sizes = {.D = s->k, .R = rows, .dtype = dev->act_dtype};
    struct step_fuse f = {has_norm(s) ? &tnorm : NULL, 1e-5f, has_glu(s),
                          s->has_resid ? &tresid : NULL, 0.5f};
    struct tensor all = s->is_f32 ? t_garbage_f32(dev, rows, s->n, s->n + s->pad)
                                  : t_garbage(dev, rows, s->n, s->n + s->pad);
    reserve(dev, OP_LINEAR, &sizes);
    dev->ops->linear_step_fused(dev, &all, &tx, &h, &f);
    /* gates and what they gate have errors of their own */
    const double within = tol(dev, f32_tol(s->k)) * (has_glu(s) ? 2 : 1);
    ok_within(t_error(dev, &all, ref), within, "%s fused step %dx%d around %d", dev->name, s->n,
              s->k, (int)s->around);
    bool is_same = true;
    for (size_t i = 0; i < some_of(sizeof counts / sizeof *counts) && counts[i] < rows; i++) {
        const int R = counts[i], r = rows - R - (rows > R + 1);
        const struct tensor from = tensor_row_range(&tx, r, R), same = tensor_row_range(&all, r, R);
        /* in place: y is the residual */
        struct tensor some = t_tensor(dev, resid + r * s->n, R, s->n, 0);
        if (s->is_f32)
            some = t_f32(dev, resid + r * s->n, R, s->n, 0);
        const struct tensor part = tensor_row_range(&tresid, r, R);
        f.resid = !s->has_resid ? NULL : s->is_f32 ? &part : &some;
        dev->ops->linear_step_fused(dev, &some, &from, &h, &f);
        is_same = is_same && t_same(dev, &some, &same);
    }
    ok(is_same && guard_ok(dev), "%s fused step %dx%d around %d: rows alone are rows of a batch",
       dev->name, s->n, s->k, (int)s->around);
}

static void check_all_fused(struct dev *dev)
{
    /* one and several segments of k, a last one that is short, odd sizes, tiles and their edges */
    static const int sizes[][4] = {
        {40, 64, 8, 102}, {72, 192, 8, 40}, {37, 67, 3, 34}, {24, 1088, 8, 34}};
    static const struct fused wide[] = {{2049, 64, 0, 34, NORM, false, false},
                                        {4100, 64, 0, 34, NORM, false, true},
                                        {16400, 64, 0, 9, PLAIN, false, true},
                                        /* rows of x kept in shared memory, several tiles of w */
                                        {300, 512, 8, 70, NORM, false, false},
                                        {60, 384, 8, 70, NORM, false, false},
                                        {530, 256, 0, 68, NORM, false, true},
                                        {140, 512, 8, 70, NORM_GLU, false, false},
                                        /* segments over warps */
                                        {72, 1024, 8, 70, PLAIN, true, false},
                                        {37, 1984, 1, 68, PLAIN, false, true}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < AROUNDS; k++) {
            check_fused(dev, &(struct fused){sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3],
                                             (enum around)k, k != NORM, i == 1});
            free_all();
        }
    for (size_t i = 0; dev->act_dtype != DT_F32 && i < sizeof wide / sizeof *wide; i++) {
        check_fused(dev, &wide[i]);
        free_all();
    }
}

static void check(struct dev *dev)
{
    enum dtype types[2];
    const int n_types = product_types(dev, types);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        for (int k = 0; k < n_types; k++)
            check_products(dev, &shapes[i], types[k]);
        if (is_cuda(dev))
            check_more(dev, &shapes[i]);
        free_all();
    }
    static const int steps[][2] = {{1, 1}, {5, 7}, {37, 67}, {640, 255}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        for (int k = 0; k < n_types; k++)
            check_step(dev, steps[i][0], steps[i][1], types[k]);
        free_all();
    }
    if (is_cuda(dev))
        check_all_fused(dev);
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
