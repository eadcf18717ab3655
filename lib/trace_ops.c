/* trace_ops: the timing table. Each entry passes the call on and says what it costs: the letters
 * and sizes it is listed by, bytes, and FLOPs.
 *
 * Bytes are the compulsory ones: each operand once, twice where it is added to; weights in the
 * type that products read. FLOPs count a multiply-add as 2 and exp, division and root as 1; those
 * of products, SSD and attention follow model.h. */
#include "trace.h"

#include <stddef.h>

#define COST(...) (&(const struct trace_call){__VA_ARGS__})

static double size_of(const struct tensor *t)
{
    return (double)tensor_bytes(t);
}

static double count_of(const struct tensor *t)
{
    return (double)tensor_count(t);
}

static double weight_size(const struct weight *w)
{
    return (double)w->rows * w->cols * (double)dtype_size(w->dtype);
}

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

static void end_product(struct trace *t, const char *op, const struct tensor *of_rows, int n, int k,
                        double bytes, bool is_bf16)
{
    const int64_t M = tensor_rows(of_rows);
    trace_end(t, COST(op, "Mnk", {M, n, k}, .bytes = bytes,
                      .flops = 2.0 * (double)M * (double)n * (double)k, .is_bf16 = is_bf16));
}

static void timed_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                             const struct weight *w)
{
    struct trace *t = (struct trace *)(void *)dev;
    if (w == t->head && t->section == TRACE_FORWARD)
        trace_enter(t, TRACE_HEAD);
    trace_begin(dev);
    t->inner->linear_fwd(dev, y, x, w);
    end_product(t, "linear_fwd", y, w->rows, w->cols, size_of(y) + size_of(x) + weight_size(w),
                w->dtype == DT_BF16);
}

static void timed_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                               const struct weight *w, bool add)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_bwd_x(dev, dx, dy, w, add);
    end_product(t, "linear_bwd_x", dy, w->rows, w->cols,
                size_of(dx) * (add ? 2 : 1) + size_of(dy) + weight_size(w), w->dtype == DT_BF16);
}

static void timed_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                               const struct tensor *x, enum dtype product)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_bwd_w(dev, dw, dy, x, product);
    end_product(t, "linear_bwd_w", dy, (int)tensor_cols(dy), (int)tensor_cols(x),
                2 * size_of(dw) + size_of(dy) + size_of(x), product == DT_BF16);
}

static void timed_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                              const struct weight *w)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_step(dev, y, x, w);
    end_product(t, "linear_step", y, w->rows, w->cols, size_of(y) + size_of(x) + weight_size(w),
                false);
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
    struct trace *t = trace_begin(dev);
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
                             float *taps, int B, int T)
{
    struct trace *t = trace_begin(dev);
    t->inner->conv1d_fwd(dev, y, x, w, bias, seg, taps, B, T);
    trace_end(t, COST("conv1d_fwd", "BTC", {B, T, tensor_cols(x)},
                      .bytes = size_of(x) + size_of(y) + size_of(w) + size_of(bias),
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

/* taps (K-1) are read and written, a row */
static double step_taps(const struct tensor *w, const struct step_rows *rows)
{
    return 2 * 4.0 * rows->R * (double)(tensor_cols(w) - 1) * (double)tensor_rows(w);
}

static void timed_conv1d_step(struct dev *dev, struct tensor *y, float *taps,
                              const struct tensor *x, const struct tensor *w,
                              const struct tensor *bias, const struct step_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->conv1d_step(dev, y, taps, x, w, bias, rows);
    trace_end(
        t, COST("conv1d_step", "RC", {rows->R, tensor_cols(x)},
                .bytes = size_of(x) + size_of(y) + size_of(w) + size_of(bias) + step_taps(w, rows),
                .flops = (2.0 * (double)tensor_cols(w) + 5) * count_of(x)));
}

/* --- SSD: within chunks of q = min(Q,T), and through the states before each --- */

static double ssd_inputs_size(const struct ssd_in *in)
{
    return size_of(&in->x) + size_of(&in->dt) + size_of(&in->bmat) + size_of(&in->cmat) +
           3 * size_of(&in->skip);
}

static double ssd_states_size(const struct ssd_in *in)
{
    const int Z = (in->T + in->Q - 1) / in->Q;
    return 4.0 * in->B * Z * in->H * in->P * in->N;
}

static double ssd_flops(const struct ssd_in *in)
{
    const double q = in->Q < in->T ? in->Q : in->T, P = in->P, N = in->N;
    return (double)in->B * in->T * (in->H * (q * P + 4 * P * N) + in->G * q * N);
}

static void timed_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, float *states,
                          float *last, const struct ssd_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_fwd(dev, y, delta, states, last, in);
    const double one_state = 4.0 * in->B * in->H * in->P * in->N;
    trace_end(t, COST("ssd_fwd", "BTHN", {in->B, in->T, in->H, in->N},
                      .bytes = ssd_inputs_size(in) + size_of(y) + 4.0 * in->B * in->T * in->H +
                               ssd_states_size(in) + (last ? 2 * one_state : 0),
                      .flops = ssd_flops(in)));
}

static void timed_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt,
                          struct tensor *dbmat, struct tensor *dcmat, struct tensor *ddt_bias,
                          struct tensor *da_log, struct tensor *dskip, const struct tensor *dy,
                          const float *delta, const float *states, const struct ssd_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_bwd(dev, dx, ddt, dbmat, dcmat, ddt_bias, da_log, dskip, dy, delta, states, in);
    trace_end(t, COST("ssd_bwd", "BTHN", {in->B, in->T, in->H, in->N},
                      .bytes = 2 * ssd_inputs_size(in) + size_of(dy) + 4.0 * in->B * in->T * in->H +
                               ssd_states_size(in),
                      .flops = 2 * ssd_flops(in)));
}

/* the state is decayed, added to, written, and read by C: 5 P N a head */
static double ssd_step_state(const struct ssd_in *in)
{
    return (double)in->B * in->H * in->P * in->N;
}

static void timed_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                           const struct step_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->ssd_step(dev, y, state, in, rows);
    trace_end(t, COST("ssd_step", "RHPN", {rows->R, in->H, in->P, in->N},
                      .bytes = ssd_inputs_size(in) + size_of(y) + 2 * 4.0 * ssd_step_state(in),
                      .flops = 5 * ssd_step_state(in)));
}

static void timed_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                             const struct tensor *xbc, const struct tensor *z,
                             const struct tensor *conv_w, const struct tensor *conv_b,
                             const struct tensor *norm_w, float eps, const struct ssd_in *in,
                             const struct step_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->mamba_step(dev, out, taps, state, xbc, z, conv_w, conv_b, norm_w, eps, in, rows);
    trace_end(t, COST("mamba_step", "RHPN", {rows->R, in->H, in->P, in->N},
                      .bytes = size_of(xbc) + size_of(z) + size_of(out) + size_of(&in->dt) +
                               size_of(conv_w) + size_of(conv_b) + size_of(norm_w) +
                               3 * size_of(&in->skip) + step_taps(conv_w, rows) +
                               2 * 4.0 * ssd_step_state(in),
                      .flops = (2.0 * (double)tensor_cols(conv_w) + 5) * count_of(xbc) +
                               5 * ssd_step_state(in) + 9 * count_of(out)));
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
    return (double)in->B * in->T * (in->past + (in->T + 1) / 2.0);
}

static double attn_inputs_size(const struct attn_in *in)
{
    return size_of(&in->q) + size_of(&in->k) + size_of(&in->v);
}

static void timed_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_fwd(dev, o, lse, in);
    trace_end(t, COST("attn_fwd", "BTSH", {in->B, in->T, in->past + in->T, in->H},
                      .bytes = attn_inputs_size(in) + size_of(o) + 4.0 * in->B * in->T * in->H,
                      .flops = 4.0 * in->H * in->P * attn_pairs(in)));
}

static void timed_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                           const struct tensor *dout, const struct tensor *o, const float *lse,
                           const struct attn_in *in)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_bwd(dev, dq, dk, dv, dout, o, lse, in);
    trace_end(t, COST("attn_bwd", "BTSH", {in->B, in->T, in->T, in->H},
                      .bytes = 2 * attn_inputs_size(in) + size_of(o) + size_of(dout) +
                               4.0 * in->B * in->T * in->H,
                      .flops = 10.0 * in->H * in->P * attn_pairs(in)));
}

static void timed_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache,
                            struct tensor *vcache, const struct tensor *q, const struct tensor *k,
                            const struct tensor *v, float scale, int H, int P, int G,
                            const struct step_rows *rows)
{
    struct trace *t = trace_begin(dev);
    t->inner->attn_step(dev, o, kcache, vcache, q, k, v, scale, H, P, G, rows);
    const double S = t->depth + 1.0;
    trace_end(t, COST("attn_step", "RSHG", {rows->R, t->depth + 1, H, G},
                      .bytes = (S + 1) * (size_of(k) + size_of(v)) + size_of(q) + size_of(o),
                      .flops = 4.0 * rows->R * S * H * P));
}

/* --- elementwise --- */

static void timed_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
    struct trace *t = trace_begin(dev);
    t->inner->swiglu_fwd(dev, y, u);
    trace_end(t, COST("swiglu_fwd", "MF", {tensor_rows(y), tensor_cols(y)},
                      .bytes = size_of(y) + size_of(u), .flops = 5 * count_of(y)));
}

static void timed_swiglu_bwd(struct dev *dev, struct tensor *du, const struct tensor *dy,
                             const struct tensor *u)
{
    struct trace *t = trace_begin(dev);
    t->inner->swiglu_bwd(dev, du, dy, u);
    trace_end(t, COST("swiglu_bwd", "MF", {tensor_rows(dy), tensor_cols(dy)},
                      .bytes = size_of(dy) + size_of(u) + size_of(du), .flops = 12 * count_of(dy)));
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
    struct trace *t = (struct trace *)(void *)dev;
    if (t->section == TRACE_HEAD)
        trace_enter(t, TRACE_BACKWARD);
    trace_begin(dev);
    t->inner->resid_bwd(dev, dbranch, dy, scale, drop, ctl);
    trace_end(t, COST("resid_bwd", "MD", {tensor_rows(dy), tensor_cols(dy)},
                      .bytes = size_of(dbranch) + size_of(dy), .flops = count_of(dy)));
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

/* --- optimizer and sampling --- */

static void timed_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    struct trace *t = trace_begin(dev);
    t->inner->gnorm(dev, ctl, g, n);
    trace_end(t,
              COST("gnorm", "n", {(int64_t)n}, .bytes = 4.0 * (double)n, .flops = 2.0 * (double)n));
}

/* reads p m v g, writes p m v */
static void timed_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v,
                        const float *g, size_t n, const struct adamw_run *runs, int n_runs,
                        const struct step_ctl *ctl)
{
    struct trace *t = trace_begin(dev);
    t->inner->adamw(dev, p, m, v, g, n, runs, n_runs, ctl);
    trace_end(t, COST("adamw", "n", {(int64_t)n},
                      .bytes = (12.0 + 4.0 * (double)dtype_size(m->dtype)) * (double)n,
                      .flops = 14.0 * (double)n));
}

static void timed_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                         const struct sample_row *rows, const struct sample_tables *tables)
{
    struct trace *t = trace_begin(dev);
    t->inner->sample(dev, id, logp, logits, rows, tables);
    trace_end(t, COST("sample", "RV", {tensor_rows(logits), tensor_cols(logits)},
                      .bytes = size_of(logits), .flops = 4 * count_of(logits)));
}

void trace_wrap(struct ops *table)
{
    table->zero = timed_zero;
    table->weight_fill = timed_weight_fill;
    table->embed_fwd = timed_embed_fwd;
    table->embed_bwd = timed_embed_bwd;
    table->linear_fwd = timed_linear_fwd;
    table->linear_bwd_x = timed_linear_bwd_x;
    table->linear_bwd_w = timed_linear_bwd_w;
    table->linear_step = timed_linear_step;
    table->rmsnorm_fwd = timed_rmsnorm_fwd;
    table->rmsnorm_bwd = timed_rmsnorm_bwd;
    table->gatenorm_fwd = timed_gatenorm_fwd;
    table->gatenorm_bwd = timed_gatenorm_bwd;
    table->conv1d_fwd = timed_conv1d_fwd;
    table->conv1d_bwd = timed_conv1d_bwd;
    table->conv1d_step = timed_conv1d_step;
    table->ssd_fwd = timed_ssd_fwd;
    table->ssd_bwd = timed_ssd_bwd;
    table->ssd_step = timed_ssd_step;
    if (table->mamba_step)
        table->mamba_step = timed_mamba_step;
    table->rope = timed_rope;
    table->attn_fwd = timed_attn_fwd;
    table->attn_bwd = timed_attn_bwd;
    table->attn_step = timed_attn_step;
    table->swiglu_fwd = timed_swiglu_fwd;
    table->swiglu_bwd = timed_swiglu_bwd;
    table->resid_fwd = timed_resid_fwd;
    table->resid_bwd = timed_resid_bwd;
    table->xent = timed_xent;
    table->gnorm = timed_gnorm;
    table->adamw = timed_adamw;
    table->sample = timed_sample;
}
