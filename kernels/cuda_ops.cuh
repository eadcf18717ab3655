/* cuda_ops: the entries of the ops table, one file an op (ops.h says what each does), and what
 * workspace each wants of dev->work. */
#ifndef HM_CUDA_OPS_CUH
#define HM_CUDA_OPS_CUH

#include "cuda.cuh"

size_t cuda_weight_bytes(const struct dev *dev, int n, int k, enum dtype dtype);
void cuda_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src);
void cuda_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids, const struct weight *w,
                    float scale);
void cuda_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids, const struct tensor *dy,
                    float scale);
void cuda_linear_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct weight *w);
void cuda_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                       const struct weight *w, bool add);
void cuda_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                       const struct tensor *x, enum dtype product);
void cuda_linear_step(struct dev *dev, struct tensor *y, const struct tensor *x,
                      const struct weight *w);
void cuda_linear_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *resid,
                           const struct tensor *x, const struct weight *w, float scale);
void cuda_linear_read(struct dev *dev, struct tensor *y, const struct tensor *x,
                      const struct weight *w);
void cuda_linear_resid_read(struct dev *dev, struct tensor *y, const struct tensor *resid,
                            const struct tensor *x, const struct weight *w, float scale);
void cuda_linear_step_fused(struct dev *dev, struct tensor *y, const struct tensor *x,
                            const struct weight *w, const struct step_fuse *fuse);
void cuda_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd, const struct tensor *x,
                      const struct tensor *w, float eps);
void cuda_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                      const struct tensor *dy, const struct tensor *x, const float *rstd,
                      const struct tensor *w);
void cuda_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd, const struct tensor *y,
                       const struct tensor *z, const struct tensor *w, float eps);
void cuda_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz, struct tensor *dw,
                       const struct tensor *dout, const struct tensor *y, const struct tensor *z,
                       const float *rstd, const struct tensor *w);
void cuda_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias, const int32_t *seg, int B,
                     int T);
void cuda_conv1d_read(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                      const struct tensor *w, const struct tensor *bias,
                      const struct read_rows *rows);
void cuda_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, struct tensor *dbias,
                     const struct tensor *dy, const struct tensor *x, const struct tensor *w,
                     const struct tensor *bias, const int32_t *seg, int B, int T);
void cuda_conv1d_step(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                      const struct tensor *w, const struct tensor *bias,
                      const struct step_rows *rows);
size_t cuda_ssd_states_bytes(const struct dev *dev, const struct sizes *s);
void cuda_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                  const struct ssd_in *in);
void cuda_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                   const struct ssd_in *in, const struct read_rows *rows);
void cuda_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                  struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                  struct tensor *dskip, const struct tensor *dy, const float *delta,
                  const void *states, const struct ssd_in *in);
void cuda_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                   const struct step_rows *rows);
void cuda_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                     const struct tensor *xbc, const struct tensor *z, const struct tensor *conv_w,
                     const struct tensor *conv_b, const struct tensor *norm_w, float eps,
                     const struct ssd_in *in, const struct step_rows *rows);
void cuda_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads, float theta,
               bool inverse);
void cuda_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in);
void cuda_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                    const struct tensor *q, const struct tensor *k, const struct tensor *v,
                    float scale, int H, int P, int G, const struct read_rows *rows);
void cuda_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                   const struct tensor *dout, const struct tensor *o, const float *lse,
                   const struct attn_in *in);
void cuda_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                    const struct tensor *q, const struct tensor *k, const struct tensor *v,
                    float scale, int H, int P, int G, const struct step_rows *rows);
void cuda_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u);
void cuda_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y, const struct tensor *dy,
                     const struct tensor *u);
void cuda_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct tensor *branch, float scale, const struct drop *drop,
                    const struct step_ctl *ctl);
void cuda_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy, float scale,
                    const struct drop *drop, const struct step_ctl *ctl);
void cuda_cast(struct dev *dev, struct tensor *y, const struct tensor *x);
void cuda_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
               float scale, struct step_ctl *ctl);
void cuda_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n);
void cuda_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
                size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl);
void cuda_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                 const struct sample_row *rows, const struct sample_tables *tables);

/* Workspace bytes of the ops that want some; see ops->plan. */
size_t cuda_embed_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_linear_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_norm_plan(const struct dev *dev, const struct sizes *s); /* both norms */
size_t cuda_conv1d_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_attn_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_xent_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_gnorm_plan(const struct dev *dev, const struct sizes *s);
size_t cuda_sample_plan(const struct dev *dev, const struct sizes *s);

#endif
