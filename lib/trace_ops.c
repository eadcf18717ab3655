/* trace_ops: the timing table. Each entry passes the call on and says what it costs: the letters
 * and sizes it is listed by, bytes, and FLOPs (trace_cost.h says how they are counted). */
#include "trace_cost.h"

#include <stddef.h>

/* --- memory and handles --- */

static void timed_zero(struct dev *dev, void *p, size_t bytes)
{
    struct trace *t = trace_begin(dev);
    t->inner->zero(dev, p, bytes);
    trace_end(t, COST("zero", "n", {(int64_t)bytes}, .bytes = (double)bytes));
}

/* n k: read, and written in the type of products; nothing where the master is used as it is. */
static void timed_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src)
{
    struct trace *t = trace_begin(dev);
    t->inner->weight_fill(dev, w, src);
    trace_end(t, COST("weight_fill", "nk", {w->rows, w->cols},
                      .bytes = w->data == src->data ? 0 : size_of(src) + weight_size(w)));
}

/* --- embedding: a row of the matrix a token --- */

static void timed_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids,
                            const struct weight *w, float scale)
{
    struct trace *t = trace_begin(dev);
    t->inner->embed_fwd(dev, y, ids, w, scale);
    trace_end(t, COST("embed_fwd", "MD", {tensor_rows(y), tensor_cols(y)},
                      .bytes = 4.0 * (double)tensor_rows(y) + size_of(y) +
                               count_of(y) * (double)dtype_size(w->dtype),
                      .flops = count_of(y)));
}

static void timed_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids,
                            const struct tensor *dy, float scale)
{
    struct trace *t = trace_begin(dev);
    t->inner->embed_bwd(dev, dw, ids, dy, scale);
    trace_end(t, COST("embed_bwd", "MD", {tensor_rows(dy), tensor_cols(dy)},
                      .bytes = 4.0 * (double)tensor_rows(dy) + size_of(dy) + 2 * 4.0 * count_of(dy),
                      .flops = 2 * count_of(dy)));
}

/* --- linear: M n k, 2 M n k operations --- */

static void timed_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                             const struct weight *w)
{
    struct trace *t = (struct trace *)(void *)dev;
    if (w == t->head && t->section == TRACE_FORWARD)
        trace_enter(t, TRACE_HEAD);
    trace_begin(dev);
    t->inner->linear_fwd(dev, y, x, w);
    end_product(t, "linear_fwd", y, w->rows, w->cols, size_of(y) + size_of(x) + weight_size(w),
                w->dtype != DT_F32);
}

static void timed_linear_read(struct dev *dev, struct tensor *y, const struct tensor *x,
                              const struct weight *w)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_read(dev, y, x, w);
    end_product(t, "linear_read", y, w->rows, w->cols, size_of(y) + size_of(x) + weight_size(w),
                w->dtype != DT_F32);
}

static void timed_linear_resid_read(struct dev *dev, struct tensor *y, const struct tensor *resid,
                                    const struct tensor *x, const struct weight *w, float scale)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_resid_read(dev, y, resid, x, w, scale);
    end_product(t, "linear_resid_read", y, w->rows, w->cols,
                size_of(y) + size_of(resid) + size_of(x) + weight_size(w), w->dtype != DT_F32);
}

static void timed_linear_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *resid,
                                   const struct tensor *x, const struct weight *w, float scale)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_resid_fwd(dev, y, resid, x, w, scale);
    end_product(t, "linear_resid_fwd", y, w->rows, w->cols,
                size_of(y) + size_of(resid) + size_of(x) + weight_size(w), w->dtype != DT_F32);
}

static void timed_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                               const struct weight *w, bool add)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_bwd_x(dev, dx, dy, w, add);
    end_product(t, "linear_bwd_x", dy, w->rows, w->cols,
                size_of(dx) * (add ? 2 : 1) + size_of(dy) + weight_size(w), w->dtype != DT_F32);
}

static void timed_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                               const struct tensor *x, enum dtype product)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_bwd_w(dev, dw, dy, x, product);
    end_product(t, "linear_bwd_w", dy, (int)tensor_cols(dy), (int)tensor_cols(x),
                2 * size_of(dw) + size_of(dy) + size_of(x), product != DT_F32);
}

/* --- norms: M rows of D or E --- */

static void timed_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd,
                              const struct tensor *x, const struct tensor *w, float eps)
{
    struct trace *t = trace_begin(dev);
    t->inner->rmsnorm_fwd(dev, y, rstd, x, w, eps);
    trace_end(t, COST("rmsnorm_fwd", "MD", {tensor_rows(x), tensor_cols(x)},
                      .bytes = size_of(x) + size_of(y) + size_of(w) +
                               (rstd ? 4.0 * (double)tensor_rows(x) : 0),
                      .flops = 4 * count_of(x)));
}

static void timed_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                              const struct tensor *dy, const struct tensor *x, const float *rstd,
                              const struct tensor *w)
{
    struct trace *t = (struct trace *)(void *)dev;
    if (t->section == TRACE_HEAD) /* the head's product is over: the final norm */
        trace_enter(t, TRACE_BACKWARD);
    trace_begin(dev);
    t->inner->rmsnorm_bwd(dev, dx, dw, dy, x, rstd, w);
    trace_end(t, COST("rmsnorm_bwd", "MD", {tensor_rows(x), tensor_cols(x)},
                      .bytes = size_of(dy) + size_of(x) + 2 * size_of(dx) + size_of(w) +
                               2 * size_of(dw) + 4.0 * (double)tensor_rows(x),
                      .flops = 10 * count_of(x)));
}

static void timed_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd,
                               const struct tensor *y, const struct tensor *z,
                               const struct tensor *w, float eps)
{
    struct trace *t = trace_begin(dev);
    t->inner->gatenorm_fwd(dev, out, rstd, y, z, w, eps);
    trace_end(t, COST("gatenorm_fwd", "ME", {tensor_rows(y), tensor_cols(y)},
                      .bytes = size_of(y) + size_of(z) + size_of(out) + size_of(w) +
                               (rstd ? 4.0 * (double)tensor_rows(y) : 0),
                      .flops = 9 * count_of(y)));
}

static void timed_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz,
                               struct tensor *dw, const struct tensor *dout, const struct tensor *y,
                               const struct tensor *z, const float *rstd, const struct tensor *w)
{
    struct trace *t = trace_begin(dev);
    t->inner->gatenorm_bwd(dev, dy, dz, dw, dout, y, z, rstd, w);
    trace_end(t, COST("gatenorm_bwd", "ME", {tensor_rows(y), tensor_cols(y)},
                      .bytes = size_of(dout) + size_of(y) + size_of(z) + size_of(dy) + size_of(dz) +
                               size_of(w) + 2 * size_of(dw) + 4.0 * (double)tensor_rows(y),
                      .flops = 21 * count_of(y)));
}

/* --- convolution: C channels, K taps, and SiLU --- */

static void timed_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                             const struct tensor *w, const struct tensor *bias, const int32_t *seg,
                             int B, int T)
{
    struct trace *t = trace_begin(dev);
    t->inner->conv1d_fwd(dev, y, x, w, bias, seg, B, T);
    trace_end(t, COST("conv1d_fwd", "BTC", {B, T, tensor_cols(x)},
                      .bytes = size_of(x) + size_of(y) + size_of(w) + size_of(bias),
                      .flops = (2.0 * (double)tensor_cols(w) + 5) * count_of(x)));
}

/* M tokens of R rows, whose taps are read and written */
static void timed_conv1d_read(struct dev *dev, struct tensor *y, float *taps,
                              const struct tensor *x, const struct tensor *w,
                              const struct tensor *bias, const struct read_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->conv1d_read(dev, y, taps, x, w, bias, rows);
    trace_end(t,
              COST("conv1d_read", "RMC", {rows->R, tensor_rows(x), tensor_cols(x)},
                   .bytes = size_of(x) + size_of(y) + size_of(w) + size_of(bias) +
                            8.0 * rows->R * (double)(tensor_cols(w) - 1) * (double)tensor_cols(x),
                   .flops = (2.0 * (double)tensor_cols(w) + 5) * count_of(x)));
}

static void timed_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                             struct tensor *dbias, const struct tensor *dy, const struct tensor *x,
                             const struct tensor *w, const struct tensor *bias, const int32_t *seg,
                             int B, int T)
{
    struct trace *t = trace_begin(dev);
    t->inner->conv1d_bwd(dev, dx, dw, dbias, dy, x, w, bias, seg, B, T);
    trace_end(t, COST("conv1d_bwd", "BTC", {B, T, tensor_cols(x)},
                      .bytes = size_of(dy) + size_of(x) + size_of(dx) + 3 * size_of(w) +
                               3 * size_of(bias),
                      .flops = (6.0 * (double)tensor_cols(w) + 9) * count_of(x)));
}

/* --- SSD: within chunks of q = min(Q,T), and through the states before each --- */

static double ssd_states_size(const struct trace *t, const struct dev *dev, const struct ssd_in *in)
{
    const struct sizes s = {
        .B = in->B, .T = in->T, .H = in->H, .P = in->P, .N = in->N, .G = in->G, .Q = in->Q};
    return (double)t->inner->ssd_states_bytes(dev, &s);
}

static double ssd_flops(const struct ssd_in *in)
{
    const double q = in->Q < in->T ? in->Q : in->T, P = in->P, N = in->N;
    return (double)in->B * in->T * (in->H * (q * P + 4 * P * N) + in->G * q * N);
}

static void timed_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states,
                          float *last, const struct ssd_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_fwd(dev, y, delta, states, last, in);
    const double one_state = 4.0 * in->B * in->H * in->P * in->N;
    trace_end(t,
              COST("ssd_fwd", "BTHN", {in->B, in->T, in->H, in->N},
                   .bytes = ssd_inputs_size(in) + size_of(y) + 4.0 * in->B * in->T * in->H +
                            (states ? ssd_states_size(t, dev, in) : 0) + (last ? 2 * one_state : 0),
                   .flops = ssd_flops(in), .is_16bit = y->dtype != DT_F32));
}

static void timed_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                           const struct ssd_in *in, const struct read_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_read(dev, y, delta, state, in, rows);
    const double one_state = 4.0 * rows->R * in->H * in->P * in->N;
    trace_end(t,
              COST("ssd_read", "RMHN", {rows->R, in->T, in->H, in->N},
                   .bytes = ssd_inputs_size(in) + size_of(y) + 4.0 * in->T * in->H + 2 * one_state,
                   .flops = ssd_flops(in), .is_16bit = y->dtype != DT_F32));
}

static void timed_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt,
                          struct tensor *dbmat, struct tensor *dcmat, struct tensor *ddt_bias,
                          struct tensor *da_log, struct tensor *dskip, const struct tensor *dy,
                          const float *delta, const void *states, const struct ssd_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_bwd(dev, dx, ddt, dbmat, dcmat, ddt_bias, da_log, dskip, dy, delta, states, in);
    trace_end(t, COST("ssd_bwd", "BTHN", {in->B, in->T, in->H, in->N},
                      .bytes = 2 * ssd_inputs_size(in) + size_of(dy) + 4.0 * in->B * in->T * in->H +
                               (states ? ssd_states_size(t, dev, in) : 0),
                      .flops = 2 * ssd_flops(in), .is_16bit = dy->dtype != DT_F32));
}

/* --- attention: 4 P a head and pair of query and key; backward makes 5 products of 2 --- */

static void timed_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads,
                       float theta, bool inverse)
{
    struct trace *t = trace_begin(dev);
    t->inner->rope(dev, x, pos, n_heads, theta, inverse);
    trace_end(t, COST("rope", "MD", {tensor_rows(x), tensor_cols(x)},
                      .bytes = 2 * size_of(x) + 4.0 * (double)tensor_rows(x),
                      .flops = 3 * count_of(x)));
}

/* documents do not count: all earlier keys */
static double attn_pairs(const struct attn_in *in)
{
    return (double)in->B * in->T * (in->T + 1) / 2;
}

static double attn_inputs_size(const struct attn_in *in)
{
    return size_of(&in->q) + size_of(&in->k) + size_of(&in->v);
}

static void timed_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_fwd(dev, o, lse, in);
    trace_end(t,
              COST("attn_fwd", "BTH", {in->B, in->T, in->H},
                   .bytes = attn_inputs_size(in) + size_of(o) + 4.0 * in->B * in->T * in->H,
                   .flops = 4.0 * in->H * in->P * attn_pairs(in), .is_16bit = o->dtype != DT_F32));
}

/* as if the rows were alike and began at 0: where they lie is known to the device alone */
static void timed_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache,
                            struct tensor *vcache, const struct tensor *q, const struct tensor *k,
                            const struct tensor *v, float scale, int H, int P, int G,
                            const struct read_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_read(dev, o, kcache, vcache, q, k, v, scale, H, P, G, rows);
    const double M = (double)tensor_rows(q), pairs = M * (M / rows->R + 1) / 2;
    trace_end(t, COST("attn_read", "RMH", {rows->R, tensor_rows(q), H},
                      .bytes = size_of(q) + size_of(o) + 2 * (size_of(k) + size_of(v)),
                      .flops = 4.0 * H * P * pairs, .is_16bit = o->dtype != DT_F32));
}

static void timed_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                           const struct tensor *dout, const struct tensor *o, const float *lse,
                           const struct attn_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_bwd(dev, dq, dk, dv, dout, o, lse, in);
    trace_end(t,
              COST("attn_bwd", "BTH", {in->B, in->T, in->H},
                   .bytes = 2 * attn_inputs_size(in) + size_of(o) + size_of(dout) +
                            4.0 * in->B * in->T * in->H,
                   .flops = 10.0 * in->H * in->P * attn_pairs(in), .is_16bit = o->dtype != DT_F32));
}

/* --- elementwise --- */

static void timed_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
    struct trace *t = trace_begin(dev);
    t->inner->swiglu_fwd(dev, y, u);
    trace_end(t, COST("swiglu_fwd", "MF", {tensor_rows(y), tensor_cols(y)},
                      .bytes = size_of(y) + size_of(u), .flops = 5 * count_of(y)));
}

static void timed_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y,
                             const struct tensor *dy, const struct tensor *u)
{
    struct trace *t = trace_begin(dev);
    t->inner->swiglu_bwd(dev, du, y, dy, u);
    trace_end(t, COST("swiglu_bwd", "MF", {tensor_rows(dy), tensor_cols(dy)},
                      .bytes = size_of(dy) + size_of(u) + size_of(du) + (y ? size_of(y) : 0),
                      .flops = 12 * count_of(dy)));
}

static void timed_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                            const struct tensor *branch, float scale, const struct drop *drop,
                            const struct step_ctl *ctl)
{
    struct trace *t = trace_begin(dev);
    t->inner->resid_fwd(dev, y, x, branch, scale, drop, ctl);
    trace_end(t,
              COST("resid_fwd", "MD", {tensor_rows(y), tensor_cols(y)},
                   .bytes = size_of(y) + size_of(x) + size_of(branch), .flops = 2 * count_of(y)));
}

static void timed_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy,
                            float scale, const struct drop *drop, const struct step_ctl *ctl)
{
    struct trace *t = trace_begin(dev);
    t->inner->resid_bwd(dev, dbranch, dy, scale, drop, ctl);
    trace_end(t, COST("resid_bwd", "MD", {tensor_rows(dy), tensor_cols(dy)},
                      .bytes = size_of(dbranch) + size_of(dy), .flops = count_of(dy)));
}

static void timed_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
    struct trace *t = trace_begin(dev);
    t->inner->cast(dev, y, x);
    trace_end(
        t, COST("cast", "MC", {tensor_rows(y), tensor_cols(y)}, .bytes = size_of(y) + size_of(x)));
}

/* logits are read once, and with ctl written as gradients */
static void timed_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
                       float scale, struct step_ctl *ctl)
{
    struct trace *t = trace_begin(dev);
    t->inner->xent(dev, loss, logits, target, scale, ctl);
    trace_end(t, COST("xent", "MV", {tensor_rows(logits), tensor_cols(logits)},
                      .bytes = size_of(logits) * (ctl ? 2 : 1) + 8.0 * (double)tensor_rows(logits),
                      .flops = (ctl ? 7 : 5) * count_of(logits)));
}

void trace_wrap(struct ops *table)
{
    table->zero = timed_zero;
    table->weight_fill = timed_weight_fill;
    table->embed_fwd = timed_embed_fwd;
    table->embed_bwd = timed_embed_bwd;
    table->linear_fwd = timed_linear_fwd;
    table->linear_read = timed_linear_read;
    table->linear_bwd_x = timed_linear_bwd_x;
    table->linear_bwd_w = timed_linear_bwd_w;
    if (table->linear_resid_fwd)
        table->linear_resid_fwd = timed_linear_resid_fwd;
    if (table->linear_resid_read)
        table->linear_resid_read = timed_linear_resid_read;
    table->rmsnorm_fwd = timed_rmsnorm_fwd;
    table->rmsnorm_bwd = timed_rmsnorm_bwd;
    table->gatenorm_fwd = timed_gatenorm_fwd;
    table->gatenorm_bwd = timed_gatenorm_bwd;
    table->conv1d_fwd = timed_conv1d_fwd;
    table->conv1d_read = timed_conv1d_read;
    table->conv1d_bwd = timed_conv1d_bwd;
    table->ssd_fwd = timed_ssd_fwd;
    table->ssd_read = timed_ssd_read;
    table->ssd_bwd = timed_ssd_bwd;
    table->rope = timed_rope;
    table->attn_fwd = timed_attn_fwd;
    table->attn_read = timed_attn_read;
    table->attn_bwd = timed_attn_bwd;
    table->swiglu_fwd = timed_swiglu_fwd;
    table->swiglu_bwd = timed_swiglu_bwd;
    table->resid_fwd = timed_resid_fwd;
    table->resid_bwd = timed_resid_bwd;
    table->cast = timed_cast;
    table->xent = timed_xent;
    table->run = NULL; /* what is replayed as one cannot be timed apart */
    trace_wrap_steps(table);
}
