/* ops: the table of everything a backend computes, forward and backward.
 *
 * Letters: B sequences, T tokens, M = B*T rows, D model width, E = H*P inner width of the SSM
 * mixer, H heads, P channels a head, N state size, G groups (heads that share B and C; KV heads), K
 * conv taps, F MLP width, V vocabulary, Q chunk length, Z = ceil(T/Q) chunks, S cache positions, R
 * rows of a decode step.
 *
 * Rules, for every op:
 * - Outputs first, then inputs. Activations have the device's act_dtype and may be column slices
 * (ld); everything marked f32 is f32 on every backend. Vectors of parameters are dense f32.
 * - Gradients of parameters are added to (+=), in f32. Gradients of activations are overwritten
 * (=), save the residual stream's, which is marked (+=).
 * - Sums are taken in an order that depends on sizes and worker count only: the same call twice
 * gives the same bits. *_step and *_read ops treat each row alone, so a row's bits do not depend on
 * the rows beside it.
 * - An op allocates nothing. plan() says what workspace it wants; dev->work is at least that.
 * - What changes between steps (learning rate, seed, step, scales, skip) is read from struct
 * step_ctl, which lies in device memory, so a step can be captured once and replayed.
 * - Sizes are checked by the caller (config_check); ops assert.
 * - An entry marked (optional) may be NULL: lib composes it from the others. */
#ifndef HM_OPS_H
#define HM_OPS_H

#include "dev.h"

/* A matrix as the backend wants it for products (plain f32, bf16, packed, quantised, on the
 * device). Callers pass it on and look no further than rows and cols. It borrows memory that
 * weight_bytes sized. */
struct weight {
    int rows, cols;   /* n outputs, k inputs, as the (n, k) tensor of the checkpoint */
    enum dtype dtype; /* what products read: F32 or BF16 */
    int layout; /* 0: a dense copy, row by row, as training wants it; else the backend's own */
    void *data; /* in device memory; in the plain f32 layout, the master tensor itself */
};

/* Sizes from which an op's workspace follows; unused letters stay 0. A read of R rows has B 1 and T
 * tokens in all, a step of R rows T 1. */
struct sizes {
    int B, T, D, H, P, N, G, K, F, V, Q, S, R;
    bool keeps_states; /* the caller keeps the SSD's states for the backward pass */
    enum dtype dtype;  /* of products */
};

/* Device memory. Set by lib before a step (first part), written by ops (second part). Layout is
 * shared by host and device: fixed-width members only. */
struct step_ctl {
    uint64_t seed;
    int64_t step; /* optimizer steps done before this one */
    float lr, beta1, beta2, eps, weight_decay;
    float clip;       /* greatest gradient norm; 0: none */
    float loss_scale; /* 1 / targets of the whole step: what dlogits are multiplied with */
    float z_coef;     /* weight of the z-loss lse^2 */
    /* skip when loss or norm lies so many deviations above its mean; 0: never */
    float outlier_sigma;
    int32_t micro; /* number of the micro-batch within the step: keys dropout */
    /* written by the ops */
    double loss_sum;  /* sum over targets of -log p, z-loss not included; zeroed by lib */
    double n_targets; /* targets counted by xent; zeroed by lib */
    double gnorm;     /* of the unscaled sum of gradients */
    float grad_scale; /* what adamw multiplies gradients with: clip factor / fp16_scale */
    int32_t skip;     /* 1: not finite or an outlier; adamw leaves everything as it was */
    int32_t skipped_in_row;
    /* Dynamic loss scale, a power of two: dlogits are multiplied with it, gnorm takes it out again.
     * gnorm halves it where a norm is not finite, and doubles it after 2000 steps without that. 0:
     * there is none (act_dtype is not F16), read as 1. */
    float fp16_scale;
    int64_t skipped, applied; /* since the run began */
    int64_t fp16_good;        /* finite steps since fp16_scale last changed */
    /* running statistics of accepted steps for the outlier test: exponential means and variances */
    double loss_mean, loss_var, gnorm_mean, gnorm_var;
};

/* Where dropout happens. Element i of the tensor takes number ctl->micro * M*D + i of the stream
 * (seed; RNG_DROPOUT, site, step), see rng.h. */
struct drop {
    float p;       /* probability of zero; 0: none. Kept elements are scaled by 1/(1-p) */
    uint32_t site; /* unique to the place: layer*4 + which */
};

/* Neighbouring parameters that are alike for the optimizer: elements [begin, the next run's
 * begin), multiples of 16. The first n_copy of them are also written, rounded, to where products
 * read them: the memory of a handle, which the run's (n,k) matrix fills row by row. */
struct adamw_run {
    int64_t begin;
    int32_t has_decay;  /* weight decay applies: p -= lr weight_decay p */
    int32_t copy_dtype; /* enum dtype, BF16 or F16 */
    void *copy;         /* NULL: nowhere. Aligned as handles are */
    int64_t n_copy;
};
/* All of them, in order; the first begins at 0. */
struct adamw_runs {
    const struct adamw_run *run; /* (n) device memory */
    int n;
    size_t copy_bytes; /* of all copies */
};

/* What a decode product does before and after, in one pass over the weights:
 * y = [resid + scale *] g(f(x) w^T) with f = RMSNorm (norm_w not NULL) or nothing, g = SwiGLU
 * (is_glu: w has 2 n rows, gates first) or nothing. */
struct step_fuse {
    const struct tensor *norm_w; /* (k) or NULL */
    float eps;
    bool is_glu;
    const struct tensor *resid; /* (R,n) or NULL; may be y itself */
    float scale;
};

/* Inputs of the SSD op (Mamba-2; Dao & Gu 2024, "Transformers are SSMs", section 6; INTEROP maths):
 *   delta = softplus(dt + dt_bias); a = -exp(a_log);
 *   S <- exp(delta a) S + delta x B^T (P x N, a head); y = S C + skip x. */
struct ssd_in {
    struct tensor x;                    /* (B,T,H*P) */
    struct tensor dt;                   /* (B,T,H), before bias and softplus */
    struct tensor bmat;                 /* (B,T,G*N) */
    struct tensor cmat;                 /* (B,T,G*N) */
    struct tensor dt_bias, a_log, skip; /* (H) f32 */
    const int32_t *seg; /* (B,T) document number of each position, rising; NULL: one document */
    int B, T, H, P, N, G, Q;
};

/* Inputs of attention: softmax(scale q k^T) v over keys that are not later and of the same segment.
 * Query head h reads KV head h / (H/G). */
struct attn_in {
    struct tensor q;    /* (B,T,H*P) */
    struct tensor k, v; /* (B,T,G*P) */
    const int32_t *seg; /* (B,T) or NULL: one document */
    float scale;
    int B, T, H, P, G;
};

/* Rows of a decode step: row r belongs to slot slot[r] of the state and is at position pos[r]
 * (tokens before it). Device memory. No slot appears twice. */
struct step_rows {
    const int32_t *slot, *pos; /* (R) */
    int R;
};

/* Rows of a read: a list of M tokens, in which a piece of text of each of R sequences has its
 * place: row r is tokens begin[r] .. begin[r+1]-1, at least one, belongs to slot[r] of the state
 * and is at position pos[r] (tokens before it). begin[0] is 0; tokens from begin[R] on belong to no
 * row and may come out as anything. Device memory. No slot appears twice. */
struct read_rows {
    const int32_t *begin;      /* (R+1) */
    const int32_t *slot, *pos; /* (R) */
    int R, T;                  /* no row is longer than T, which is at most M */
};

/* How one row's next token is chosen; device memory, one a row. Order: penalties and bias, then
 * (unless temperature is 0: arg max, lowest id on ties) temperature, top_k, typical, top_p, min_p,
 * each on the softmax of what the one before left, then the first number of the stream (seed;
 * RNG_SAMPLE, prompt, position) picks from the cumulative distribution in id order. A filter keeps
 * at least one token, the lower id first among equals. */
struct sample_row {
    uint64_t seed;
    uint32_t prompt, position; /* the stream's name: which prompt, which token of its completion */
    float temperature, top_p, min_p, typical_p;       /* 0; 1; 0; 1 switch them off */
    float repeat_penalty, freq_penalty, pres_penalty; /* 1; 0; 0 switch them off */
    int32_t top_k;                                    /* 0: off */
    int32_t n_recent; /* ids of recent[] that the penalties look at */
    int32_t n_bias;   /* entries of bias_id/bias */
    int32_t pad;
};

/* Tables for sample, row r at r*cap. Device memory. */
struct sample_tables {
    const int32_t *recent;  /* (R,recent_cap) last ids, oldest first */
    const int32_t *bias_id; /* (R,bias_cap) */
    const float *bias;      /* (R,bias_cap) added to the logit */
    int recent_cap, bias_cap;
};

enum op {
    OP_EMBED,
    OP_LINEAR,
    OP_RMSNORM,
    OP_GATENORM,
    OP_CONV1D,
    OP_SSD,
    OP_ROPE,
    OP_ATTN,
    OP_SWIGLU,
    OP_RESID,
    OP_CAST,
    OP_XENT,
    OP_GNORM,
    OP_ADAMW,
    OP_SAMPLE,
    OP_COUNT
};

struct ops {
    /* --- memory and order: what dev.h says of dev_alloc ... dev_sync --- */
    /* upload: the host's bytes may change as soon as it returns. */
    int (*alloc)(struct dev *, void **p, size_t bytes, struct err *);
    void (*free)(struct dev *, void *p);
    void (*zero)(struct dev *, void *p, size_t bytes);
    void (*upload)(struct dev *, void *to, const void *host, size_t bytes);
    void (*download)(struct dev *, void *host, const void *from, size_t bytes);
    /* (optional) download in two halves, so that work can be asked for in between. */
    void (*download_begin)(struct dev *, void *host, const void *from, size_t bytes);
    void (*download_end)(struct dev *);
    void (*copy)(struct dev *, void *to, const void *from, size_t bytes);
    void (*sync)(struct dev *);
    void (*close)(struct dev *);
    /* (optional) -1 where anything the device was asked for has failed since it was opened; ops
     * after a failure do nothing that counts. What is still under way may fail later. */
    int (*status)(struct dev *, struct err *);
    /* (optional) Runs work(arg), which calls only ops and dev_zero/dev_copy, as one unit that is
     * recorded once and replayed from then on. The same key must mean the same calls with the same
     * arguments; only what lies in device memory differs. See dev_run. */
    void (*run)(struct dev *, uint64_t key, void (*work)(void *), void *arg);
    /* (optional) Forgets what run recorded: the memory it refers to goes away. */
    void (*forget)(struct dev *);

    /* Workspace bytes that any call of the op with sizes up to these wants: forward, backward or
     * step. OP_SSD stands for mamba_step, too (R rows); OP_ATTN's S bounds what a row holds after a
     * read. */
    size_t (*plan)(const struct dev *, enum op, const struct sizes *);
    /* Bytes of the states that ssd_fwd keeps for ssd_bwd, in the backend's own form. */
    size_t (*ssd_states_bytes)(const struct dev *, const struct sizes *);

    /* --- weight handles --- */
    /* Bytes of handle memory for an (n,k) matrix read by products in dtype; 0: the master is used
     * as it is. */
    size_t (*weight_bytes)(const struct dev *, int n, int k, enum dtype);
    /* Fills w's memory from the (n,k) tensor src (F32 or BF16; device memory). Again after each
     * change of it but adamw's, which fills handles itself. */
    void (*weight_fill)(struct dev *, struct weight *w, const struct tensor *src);

    /* --- embedding: y(M,D) = scale * w[ids] --- */
    void (*embed_fwd)(struct dev *, struct tensor *y, const int32_t *ids, const struct weight *w,
                      float scale);
    void (*embed_bwd)(struct dev *, struct tensor *dw /* (V,D) f32 += */, const int32_t *ids,
                      const struct tensor *dy, float scale);

    /* --- linear: y(M,n) = x(M,k) w^T --- y may be f32 whatever act_dtype is (logits). With bf16
     * weights fwd and bwd round the other operand to bf16 too; step, bound by memory, does not. */
    void (*linear_fwd)(struct dev *, struct tensor *y, const struct tensor *x,
                       const struct weight *w);
    void (*linear_bwd_x)(struct dev *, struct tensor *dx, const struct tensor *dy,
                         const struct weight *w, bool add /* dx += instead of = */);
    void (*linear_bwd_w)(struct dev *, struct tensor *dw /* (n,k) f32 += */,
                         const struct tensor *dy, const struct tensor *x, enum dtype product);
    void (*linear_step)(struct dev *, struct tensor *y, const struct tensor *x,
                        const struct weight *w);

    /* linear_fwd where M is a multiple of dev->read_unit and a row's bits do not depend on M. */
    void (*linear_read)(struct dev *, struct tensor *y, const struct tensor *x,
                        const struct weight *w);

    /* (optional) linear_fwd, or linear_read, and the residual after it: y = resid + scale * x w^T;
     * y may be resid. */
    void (*linear_resid_fwd)(struct dev *, struct tensor *y, const struct tensor *resid,
                             const struct tensor *x, const struct weight *w, float scale);
    void (*linear_resid_read)(struct dev *, struct tensor *y, const struct tensor *resid,
                              const struct tensor *x, const struct weight *w, float scale);
    /* (optional) linear_step with what stands around it. */
    void (*linear_step_fused)(struct dev *, struct tensor *y, const struct tensor *x,
                              const struct weight *w, const struct step_fuse *);

    /* --- RMSNorm (Zhang & Sennrich 2019): y = w * x / sqrt(mean(x^2) + eps); rstd (M) f32 is
     * kept, unless NULL --- */
    void (*rmsnorm_fwd)(struct dev *, struct tensor *y, float *rstd, const struct tensor *x,
                        const struct tensor *w, float eps);
    void (*rmsnorm_bwd)(struct dev *, struct tensor *dx /* += */, struct tensor *dw /* += */,
                        const struct tensor *dy, const struct tensor *x, const float *rstd,
                        const struct tensor *w);

    /* --- gated RMSNorm, gate before norm (Mamba-2): v = y silu(z); out = w * v / sqrt(mean(v^2) +
     * eps); rstd may be NULL: not kept --- */
    void (*gatenorm_fwd)(struct dev *, struct tensor *out, float *rstd, const struct tensor *y,
                         const struct tensor *z, const struct tensor *w, float eps);
    void (*gatenorm_bwd)(struct dev *, struct tensor *dy, struct tensor *dz,
                         struct tensor *dw /* += */, const struct tensor *dout,
                         const struct tensor *y, const struct tensor *z, const float *rstd,
                         const struct tensor *w);

    /* --- causal depthwise conv + SiLU over (B,T,C); w (C,K), tap K-1 meets the current token ---
     */
    void (*conv1d_fwd)(struct dev *, struct tensor *y, const struct tensor *x,
                       const struct tensor *w, const struct tensor *bias, const int32_t *seg, int B,
                       int T);
    void (*conv1d_bwd)(struct dev *, struct tensor *dx, struct tensor *dw /* += */,
                       struct tensor *dbias /* += */, const struct tensor *dy,
                       const struct tensor *x, const struct tensor *w, const struct tensor *bias,
                       const int32_t *seg, int B, int T);
    /* x, y (M,C); taps (slots,K-1,C) f32, oldest first: the inputs before a row, replaced by its
     * last K-1 inputs */
    void (*conv1d_read)(struct dev *, struct tensor *y, float *taps, const struct tensor *x,
                        const struct tensor *w, const struct tensor *bias,
                        const struct read_rows *);
    /* the same, shifted in place */
    void (*conv1d_step)(struct dev *, struct tensor *y, float *taps, const struct tensor *x,
                        const struct tensor *w, const struct tensor *bias,
                        const struct step_rows *);

    /* --- SSD --- */
    /* y (B,T,H*P). delta (B,T,H) f32 and states (before each chunk) are kept for the backward;
     * states NULL: not kept, ssd_bwd (given NULL, too) makes them again, with the same bits. Q is a
     * chunk's length; a backend may work in chunks of its own. last (B,H,P,N) f32 or NULL: the
     * state before t = 0, replaced by the one after T. NULL: starts at zero. */
    void (*ssd_fwd)(struct dev *, struct tensor *y, float *delta, void *states, float *last,
                    const struct ssd_in *in);
    /* dx, ddt, dbmat, dcmat overwrite; the three parameter gradients (H) add. */
    void (*ssd_bwd)(struct dev *, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                    struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                    struct tensor *dskip, const struct tensor *dy, const float *delta,
                    const void *states, const struct ssd_in *in);
    /* in->B = 1, in->T = M, seg NULL; delta (M,H) f32; state (slots,H,P,N) f32: before a row,
     * replaced by the one after it. */
    void (*ssd_read)(struct dev *, struct tensor *y, float *delta, float *state,
                     const struct ssd_in *in, const struct read_rows *);
    /* One token a row: in->B = R, in->T = 1, seg NULL; state (slots,H,P,N) f32 is advanced in
     * place. */
    void (*ssd_step)(struct dev *, struct tensor *y, float *state, const struct ssd_in *in,
                     const struct step_rows *);
    /* (optional) conv1d_step, ssd_step and gatenorm_fwd of one layer in a pass: xbc (R,H*P+2*G*N)
     * and z, dt from one projection; out (R,H*P). in's x, bmat, cmat are ignored. */
    void (*mamba_step)(struct dev *, struct tensor *out, float *taps, float *state,
                       const struct tensor *xbc, const struct tensor *z,
                       const struct tensor *conv_w, const struct tensor *conv_b,
                       const struct tensor *norm_w, float eps, const struct ssd_in *in,
                       const struct step_rows *);

    /* --- rotary positions (Su et al. 2021), half-split pairs (i, i+P/2), in place on x
     * (M,n_heads*P) --- */
    /* pos (M). inverse: the transpose, for gradients. */
    void (*rope)(struct dev *, struct tensor *x, const int32_t *pos, int n_heads, float theta,
                 bool inverse);

    /* --- attention in tiles (Dao et al. 2022, FlashAttention): o (B,T,H*P), lse (B,H,T) f32 is
     * kept --- */
    void (*attn_fwd)(struct dev *, struct tensor *o, float *lse, const struct attn_in *in);
    void (*attn_bwd)(struct dev *, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                     const struct tensor *dout, const struct tensor *o, const float *lse,
                     const struct attn_in *in);
    /* q (M,H*P), k and v (M,G*P). Stores k and v in kcache and vcache (slots,S,G*P), from position
     * pos of a row's slot on; then its token t attends to positions 0..pos+t. */
    void (*attn_read)(struct dev *, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                      const struct tensor *q, const struct tensor *k, const struct tensor *v,
                      float scale, int H, int P, int G, const struct read_rows *);
    /* q (R,H*P), k and v (R,G*P) of the new token. Stores k and v at position pos of the row's slot
     * in kcache and vcache (slots,S,G*P), then attends to positions 0..pos. */
    void (*attn_step)(struct dev *, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                      const struct tensor *q, const struct tensor *k, const struct tensor *v,
                      float scale, int H, int P, int G, const struct step_rows *);

    /* --- SwiGLU (Shazeer 2020): y(M,F) = silu(u[:, :F]) * u[:, F:], u (M,2F). The backward makes y
     * again on the way, with the same bits; NULL: it is not wanted --- */
    void (*swiglu_fwd)(struct dev *, struct tensor *y, const struct tensor *u);
    void (*swiglu_bwd)(struct dev *, struct tensor *du, struct tensor *y, const struct tensor *dy,
                       const struct tensor *u);

    /* --- residual: y(M,D) = x + scale * drop(branch); x and y may be the same tensor. drop NULL or
     * p 0: no dropout, ctl is not read --- */
    void (*resid_fwd)(struct dev *, struct tensor *y, const struct tensor *x,
                      const struct tensor *branch, float scale, const struct drop *,
                      const struct step_ctl *);
    void (*resid_bwd)(struct dev *, struct tensor *dbranch, const struct tensor *dy, float scale,
                      const struct drop *, const struct step_ctl *);

    /* --- y = x, element by element: other strides, other dtype (F32, BF16, F16) --- */
    void (*cast)(struct dev *, struct tensor *y, const struct tensor *x);

    /* --- cross-entropy over rows of logits (M,V), f32 or act_dtype, chunk by chunk --- */
    /* loss[m] = -log softmax(logits[m] * scale)[target[m]] in f32, 0 where target < 0; loss may be
     * NULL. ctl not NULL: adds to ctl->loss_sum and ctl->n_targets, and logits become dlogits =
     * fp16_scale * loss_scale * scale * (softmax - onehot + 2 z_coef lse softmax), 0 where target <
     * 0. */
    void (*xent)(struct dev *, float *loss, struct tensor *logits, const int32_t *target,
                 float scale, struct step_ctl *ctl);

    /* --- optimizer --- */
    /* ctl->gnorm = ||g|| over n gradients (f32, summed in double), then the verdict on the step:
     * skip = 1 where loss (loss_sum / n_targets: a step without targets too) or norm is not finite,
     * or, once 64 steps were applied, lies more than outlier_sigma deviations above its running
     * mean. Means and variances move by 1/64 a step (in the first 64 by 1/applied, so that these
     * are the plain ones); an outlier moves them as if it lay at the limit, so that a lasting
     * change of level is soon accepted, and what is not finite leaves them. A step counts in
     * applied and clears skipped_in_row, or counts in skipped and skipped_in_row; the latter not
     * where the loss is finite and fp16_scale, above 1, can still be halved: it was too large.
     * grad_scale = min(1, clip / gnorm), 1 where clip is 0; gradients, norm and grad_scale are
     * those of the loss itself, fp16_scale taken out. */
    void (*gnorm)(struct dev *, struct step_ctl *ctl, const float *g, size_t n);
    /* AdamW (Loshchilov & Hutter 2019) on the n elements of all parameters, unless ctl->skip. Runs
     * after gnorm: the bias correction's step number is ctl->applied, which counts this step. m, v
     * (n) are F32, or BF16 rounded stochastically: element i's 16 low bits are compared with those
     * of number i of the stream (seed; RNG_ROUND, 0 for m and 1 for v, step). */
    void (*adamw)(struct dev *, float *p, struct tensor *m, struct tensor *v, const float *g,
                  size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl);

    /* --- sampling: id (R) and logp (R) of the chosen token under the unmodified softmax --- */
    /* Logits may be -infinity; a row with a NaN, +infinity or nothing finite gives id 0, logp NaN.
     */
    void (*sample)(struct dev *, int32_t *id, float *logp,
                   const struct tensor *logits /* (R,V) f32 */, const struct sample_row *rows,
                   const struct sample_tables *tables);
};

#endif
