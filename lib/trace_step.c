/* trace_step: the timing table's second half: decode steps, optimizer, sampling; see trace_ops.c.
 */
#include "trace_cost.h"

/* --- products of a decode step --- */

static void timed_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                              const struct weight *w)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_step(dev, y, x, w);
    end_product(t, "linear_step", y, w->rows, w->cols, size_of(y) + size_of(x) + weight_size(w),
                x->dtype != DT_F32);
}

static void timed_linear_step_fused(struct dev *dev, struct tensor *y, const struct tensor *x,
                                    const struct weight *w, const struct step_fuse *fuse)
{
    struct trace *t = trace_begin(dev);
    t->inner->linear_step_fused(dev, y, x, w, fuse);
    end_product(t, "linear_step_fused", y, w->rows, w->cols,
                size_of(y) + size_of(x) + weight_size(w) +
                    (fuse->norm_w ? size_of(fuse->norm_w) : 0) +
                    (fuse->resid ? size_of(fuse->resid) : 0),
                w->dtype != DT_F32);
}

/* --- convolution, SSD, attention of a decode step --- */

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

/* --- optimizer and sampling --- */

static void timed_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
    struct trace *t = trace_begin(dev);
    t->inner->gnorm(dev, ctl, g, n);
    trace_end(t,
              COST("gnorm", "n", {(int64_t)n}, .bytes = 4.0 * (double)n, .flops = 2.0 * (double)n));
}

/* reads p m v g, writes p m v and the copies */
static void timed_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v,
                        const float *g, size_t n, const struct adamw_runs *runs,
                        const struct step_ctl *ctl)
{
    struct trace *t = trace_begin(dev);
    t->inner->adamw(dev, p, m, v, g, n, runs, ctl);
    trace_end(t, COST("adamw", "n", {(int64_t)n},
                      .bytes = (12.0 + 4.0 * (double)dtype_size(m->dtype)) * (double)n +
                               (double)runs->copy_bytes,
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

void trace_wrap_steps(struct ops *table)
{
    table->linear_step = timed_linear_step;
    if (table->linear_step_fused)
        table->linear_step_fused = timed_linear_step_fused;
    table->conv1d_step = timed_conv1d_step;
    table->ssd_step = timed_ssd_step;
    if (table->mamba_step)
        table->mamba_step = timed_mamba_step;
    table->attn_step = timed_attn_step;
    table->gnorm = timed_gnorm;
    table->adamw = timed_adamw;
    table->sample = timed_sample;
}
