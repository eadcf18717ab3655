/* ref: a plain twin in double of every op of lib/ops.h, written for reading; backends are checked
 * against these, and these by finite differences.
 *
 * Arrays are dense, row-major, host memory. Outputs first. As in ops.h, gradients of parameters are
 * added (+=) and gradients of activations overwritten (=) unless said otherwise. M is rows. */
#ifndef HM_REF_H
#define HM_REF_H

#include "ops.h"

/* --- embedding, products --- */
void ref_embed_fwd(double *y, const int32_t *ids, const double *w, double scale, int M, int D);
void ref_embed_bwd(double *dw, const int32_t *ids, const double *dy, double scale, int M, int D);
/* y (M,n), x (M,k), w (n,k) */
void ref_linear_fwd(double *y, const double *x, const double *w, int M, int n, int k);
void ref_linear_bwd(double *dx, double *dw /* += */, const double *dy, const double *x,
                    const double *w, int M, int n, int k);

/* --- norms: w (D); rstd (M) --- */
void ref_rmsnorm_fwd(double *y, double *rstd, const double *x, const double *w, double eps, int M,
                     int D);
void ref_rmsnorm_bwd(double *dx /* += */, double *dw /* += */, const double *dy, const double *x,
                     const double *w, double eps, int M, int D);
void ref_gatenorm_fwd(double *out, double *rstd, const double *y, const double *z, const double *w,
                      double eps, int M, int E);
void ref_gatenorm_bwd(double *dy, double *dz, double *dw /* += */, const double *dout,
                      const double *y, const double *z, const double *w, double eps, int M, int E);

/* --- SwiGLU: y (M,F), u (M,2F); residual --- */
void ref_swiglu_fwd(double *y, const double *u, int M, int F);
void ref_swiglu_bwd(double *du, const double *dy, const double *u, int M, int F);
/* Dropout's factor of element (m,d): 0 or 1/(1-p). */
double ref_drop(const struct drop *drop, const struct step_ctl *ctl, int64_t n, int64_t i);
void ref_resid_fwd(double *y, const double *x, const double *branch, double scale,
                   const struct drop *drop, const struct step_ctl *ctl, int M, int D);
void ref_resid_bwd(double *dbranch, const double *dy, double scale, const struct drop *drop,
                   const struct step_ctl *ctl, int M, int D);

/* x as an element of that type (F32, BF16, F16). */
double ref_cast(double x, enum dtype to);

/* --- conv1d: x and y (B,T,C), w (C,K); taps (B,K-1,C): the inputs before t = 0, replaced by the
 * last K-1; NULL: zeros --- */
void ref_conv1d_fwd(double *y, const double *x, const double *w, const double *bias,
                    const int32_t *seg, double *taps, int B, int T, int C, int K);
/* taps was NULL. */
void ref_conv1d_bwd(double *dx, double *dw /* += */, double *dbias /* += */, const double *dy,
                    const double *x, const double *w, const double *bias, const int32_t *seg, int B,
                    int T, int C, int K);

/* --- SSD: the plain recurrence and its plain reverse; members as in struct ssd_in --- */
struct ref_ssd {
    const double *x, *dt, *bmat, *cmat, *dt_bias, *a_log, *skip;
    const int32_t *seg;
    int B, T, H, P, N, G;
};
/* last (B,H,P,N) or NULL as in ops.h. */
void ref_ssd_fwd(double *y, double *last, const struct ref_ssd *in);
/* last was NULL. The three gradients of parameters add. */
void ref_ssd_bwd(double *dx, double *ddt, double *dbmat, double *dcmat, double *ddt_bias,
                 double *da_log, double *dskip, const double *dy, const struct ref_ssd *in);

/* --- rotary positions, in place on x (M,n_heads*P) --- */
void ref_rope(double *x, const int32_t *pos, int M, int n_heads, int P, double theta, bool inverse);

/* --- attention: members as in struct attn_in --- */
struct ref_attn {
    const double *q, *k, *v;
    const int32_t *seg;
    double scale;
    int B, T, H, P, G, past;
};
/* o (B,T,H*P), lse (B,H,T). */
void ref_attn_fwd(double *o, double *lse, const struct ref_attn *in);
/* past is 0. */
void ref_attn_bwd(double *dq, double *dk, double *dv, const double *dout,
                  const struct ref_attn *in);

/* --- loss, optimizer, sampling --- */
/* loss (M). dlogits (M,V) may be NULL: loss_scale * scale * (softmax - onehot + 2 z_coef lse
 * softmax). */
void ref_xent(double *loss, double *dlogits, const double *logits, const int32_t *target,
              double scale, double loss_scale, double z_coef, int M, int V);
void ref_gnorm(struct step_ctl *ctl, const float *g, size_t n);
void ref_adamw(double *p, double *m, double *v, const double *g, size_t n, bool decay,
               const struct step_ctl *ctl);
/* One row. p (V): the distribution after penalties and filters, 0 for tokens left out; u is the
 * number drawn in [0,1). Returns the token. */
int ref_sample(double *p, double u, const double *logits, int V, const struct sample_row *row,
               const int32_t *recent, const int32_t *bias_id, const float *bias);

#endif
