/* cpu_ops: the functions behind the CPU's table, one file an op; what each does is in ops.h. */
#ifndef HM_CPU_OPS_H
#define HM_CPU_OPS_H

#include "ops.h"

size_t cpu_plan(const struct dev *dev, enum op op, const struct sizes *s);

size_t cpu_weight_bytes(const struct dev *dev, int n, int k, enum dtype dtype);
void cpu_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src);

void cpu_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids, const struct weight *w,
                   float scale);
void cpu_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids, const struct tensor *dy,
                   float scale);

void cpu_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct weight *w);
void cpu_linear_read(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w);
void cpu_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                      const struct weight *w, bool add);
void cpu_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                      const struct tensor *x, enum dtype product);
void cpu_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w);
size_t cpu_linear_plan(const struct dev *dev, const struct sizes *s);

void cpu_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd, const struct tensor *x,
                     const struct tensor *w, float eps);
void cpu_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, const struct tensor *dy,
                     const struct tensor *x, const float *rstd, const struct tensor *w);
size_t cpu_rmsnorm_plan(const struct dev *dev, const struct sizes *s);

void cpu_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd, const struct tensor *y,
                      const struct tensor *z, const struct tensor *w, float eps);
void cpu_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz, struct tensor *dw,
                      const struct tensor *dout, const struct tensor *y, const struct tensor *z,
                      const float *rstd, const struct tensor *w);
size_t cpu_gatenorm_plan(const struct dev *dev, const struct sizes *s);

void cpu_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u);
void cpu_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y, const struct tensor *dy,
                    const struct tensor *u);

void cpu_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                   const struct tensor *branch, float scale, const struct drop *drop,
                   const struct step_ctl *ctl);
void cpu_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy, float scale,
                   const struct drop *drop, const struct step_ctl *ctl);

void cpu_cast(struct dev *dev, struct tensor *y, const struct tensor *x);

void cpu_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
              float scale, struct step_ctl *ctl);
size_t cpu_xent_plan(const struct dev *dev, const struct sizes *s);

void cpu_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n);
size_t cpu_gnorm_plan(const struct dev *dev, const struct sizes *s);
void cpu_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
               size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl);

void cpu_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                const struct sample_row *rows, const struct sample_tables *tables);
size_t cpu_sample_plan(const struct dev *dev, const struct sizes *s);

/* --- conv1d, rope --- */
void cpu_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct tensor *w, const struct tensor *bias, const int32_t *seg, int B,
                    int T);
void cpu_conv1d_read(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias,
                     const struct read_rows *rows);
void cpu_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, struct tensor *dbias,
                    const struct tensor *dy, const struct tensor *x, const struct tensor *w,
                    const struct tensor *bias, const int32_t *seg, int B, int T);
void cpu_conv1d_step(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias,
                     const struct step_rows *rows);
void cpu_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads, float theta,
              bool inverse);

/* --- SSD --- */
size_t cpu_ssd_states_bytes(const struct dev *dev, const struct sizes *s);
void cpu_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                 const struct ssd_in *in);
void cpu_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                  const struct ssd_in *in, const struct read_rows *rows);
void cpu_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                 struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                 struct tensor *dskip, const struct tensor *dy, const float *delta,
                 const void *states, const struct ssd_in *in);
void cpu_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                  const struct step_rows *rows);
void cpu_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                    const struct tensor *xbc, const struct tensor *z, const struct tensor *conv_w,
                    const struct tensor *conv_b, const struct tensor *norm_w, float eps,
                    const struct ssd_in *in, const struct step_rows *rows);
size_t cpu_mamba_step_plan(const struct dev *dev, const struct sizes *s);
size_t cpu_ssd_fwd_plan(const struct dev *dev, const struct sizes *s);
size_t cpu_ssd_bwd_plan(const struct dev *dev, const struct sizes *s);

/* --- attention --- */
void cpu_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in);
void cpu_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                   const struct tensor *q, const struct tensor *k, const struct tensor *v,
                   float scale, int H, int P, int G, const struct read_rows *rows);
void cpu_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                  const struct tensor *dout, const struct tensor *o, const float *lse,
                  const struct attn_in *in);
void cpu_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                   const struct tensor *q, const struct tensor *k, const struct tensor *v,
                   float scale, int H, int P, int G, const struct step_rows *rows);
size_t cpu_attn_step_plan(const struct dev *dev, const struct sizes *s);
size_t cpu_attn_fwd_plan(const struct dev *dev, const struct sizes *s);
size_t cpu_attn_bwd_plan(const struct dev *dev, const struct sizes *s);

#endif
