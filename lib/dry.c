/* dry: see dry.h. */
#include "dry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NVIDIA's data sheets and architecture papers. GeForce cards multiply 16-bit numbers at half their
 * headline rate where sums are f32. */
static const struct gpu gpus[] = {
    {"rtx4060", 272e9, 30.2e12, 15.1e12}, {"rtx4090", 1008e9, 165.2e12, 82.6e12},
    {"rtx3090", 936e9, 71e12, 35.6e12},   {"a100", 2039e9, 312e12, 19.5e12},
    {"h100", 3350e9, 989e12, 67e12},      {"h200", 4800e9, 989e12, 67e12},
};
enum { N_GPUS = sizeof gpus / sizeof gpus[0] };

const struct gpu *gpu_known(int i)
{
    return i >= 0 && i < N_GPUS ? &gpus[i] : NULL;
}

const struct gpu *gpu_find(const char *name)
{
    for (int i = 0; i < N_GPUS; i++)
        if (strcmp(gpus[i].name, name) == 0)
            return &gpus[i];
    return NULL;
}

struct roofline gpu_roofline(const struct gpu *gpu)
{
    /* about what an empty kernel takes as one of many in a CUDA graph */
    return (struct roofline){.byte_s = gpu->byte_s,
                             .f32_flop_s = gpu->f32_flop_s,
                             .bf16_flop_s = gpu->tensor_flop_s,
                             .least_s = 1.5e-6};
}

/* --- memory: addresses that nobody follows, one after the other --- */

struct dry {
    uintptr_t next;
};

static int dry_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    struct dry *dry = dev->impl;
    memcpy(p, &dry->next, sizeof *p); /* a number that nobody follows */
    dry->next += (bytes + 255) / 256 * 256;
    return 0;
}

static void dry_free(struct dev *dev, void *p)
{
}
static void dry_zero(struct dev *dev, void *p, size_t bytes)
{
}
static void dry_upload(struct dev *dev, void *to, const void *host, size_t bytes)
{
}
static void dry_copy(struct dev *dev, void *to, const void *from, size_t bytes)
{
}
static void dry_sync(struct dev *dev)
{
}

static void dry_download(struct dev *dev, void *host, const void *from, size_t bytes)
{
    memset(host, 0, bytes);
}

static void dry_close(struct dev *dev)
{
    free(dev->impl);
}

static size_t dry_plan(const struct dev *dev, enum op op, const struct sizes *s)
{
    return 0;
}

static size_t dry_weight_bytes(const struct dev *dev, int n, int k, enum dtype dtype)
{
    return dtype == DT_F32 ? 0 : (size_t)n * (size_t)k * dtype_size(dtype);
}

/* --- ops: the table of a GPU backend, fused ones included --- */

static void dry_weight_fill(struct dev *dev, struct weight *w, const struct tensor *src)
{
}
static void dry_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids,
                          const struct weight *w, float scale)
{
}
static void dry_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids,
                          const struct tensor *dy, float scale)
{
}
static void dry_linear(struct dev *dev, struct tensor *y, const struct tensor *x,
                       const struct weight *w)
{
}
static void dry_linear_bwd_x(struct dev *dev, struct tensor *dx, const struct tensor *dy,
                             const struct weight *w, bool add)
{
}
static void dry_linear_bwd_w(struct dev *dev, struct tensor *dw, const struct tensor *dy,
                             const struct tensor *x, enum dtype product)
{
}
static void dry_linear_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *resid,
                                 const struct tensor *x, const struct weight *w, float scale)
{
}
static void dry_linear_step_fused(struct dev *dev, struct tensor *y, const struct tensor *x,
                                  const struct weight *w, const struct step_fuse *fuse)
{
}
static void dry_rmsnorm_fwd(struct dev *dev, struct tensor *y, float *rstd, const struct tensor *x,
                            const struct tensor *w, float eps)
{
}
static void dry_rmsnorm_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                            const struct tensor *dy, const struct tensor *x, const float *rstd,
                            const struct tensor *w)
{
}
static void dry_gatenorm_fwd(struct dev *dev, struct tensor *out, float *rstd,
                             const struct tensor *y, const struct tensor *z, const struct tensor *w,
                             float eps)
{
}
static void dry_gatenorm_bwd(struct dev *dev, struct tensor *dy, struct tensor *dz,
                             struct tensor *dw, const struct tensor *dout, const struct tensor *y,
                             const struct tensor *z, const float *rstd, const struct tensor *w)
{
}
static void dry_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                           const struct tensor *w, const struct tensor *bias, const int32_t *seg,
                           int B, int T)
{
}
static void dry_conv1d_read(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                            const struct tensor *w, const struct tensor *bias,
                            const struct read_rows *rows)
{
}
static void dry_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw,
                           struct tensor *dbias, const struct tensor *dy, const struct tensor *x,
                           const struct tensor *w, const struct tensor *bias, const int32_t *seg,
                           int B, int T)
{
}
static void dry_conv1d_step(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                            const struct tensor *w, const struct tensor *bias,
                            const struct step_rows *rows)
{
}
static size_t dry_ssd_states_bytes(const struct dev *dev, const struct sizes *s)
{
    return 0;
}
static void dry_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                        const struct ssd_in *in)
{
}
static void dry_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                         const struct ssd_in *in, const struct read_rows *rows)
{
}
static void dry_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt,
                        struct tensor *dbmat, struct tensor *dcmat, struct tensor *ddt_bias,
                        struct tensor *da_log, struct tensor *dskip, const struct tensor *dy,
                        const float *delta, const void *states, const struct ssd_in *in)
{
}
static void dry_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                         const struct step_rows *rows)
{
}
static void dry_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                           const struct tensor *xbc, const struct tensor *z,
                           const struct tensor *conv_w, const struct tensor *conv_b,
                           const struct tensor *norm_w, float eps, const struct ssd_in *in,
                           const struct step_rows *rows)
{
}
static void dry_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads,
                     float theta, bool inverse)
{
}
static void dry_attn_fwd(struct dev *dev, struct tensor *o, float *lse, const struct attn_in *in)
{
}
static void dry_attn_read(struct dev *dev, struct tensor *o, struct tensor *kcache,
                          struct tensor *vcache, const struct tensor *q, const struct tensor *k,
                          const struct tensor *v, float scale, int H, int P, int G,
                          const struct read_rows *rows)
{
}
static void dry_attn_bwd(struct dev *dev, struct tensor *dq, struct tensor *dk, struct tensor *dv,
                         const struct tensor *dout, const struct tensor *o, const float *lse,
                         const struct attn_in *in)
{
}
static void dry_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache,
                          struct tensor *vcache, const struct tensor *q, const struct tensor *k,
                          const struct tensor *v, float scale, int H, int P, int G,
                          const struct step_rows *rows)
{
}
static void dry_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
}
static void dry_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y,
                           const struct tensor *dy, const struct tensor *u)
{
}
static void dry_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                          const struct tensor *branch, float scale, const struct drop *drop,
                          const struct step_ctl *ctl)
{
}
static void dry_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy,
                          float scale, const struct drop *drop, const struct step_ctl *ctl)
{
}
static void dry_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
}
static void dry_xent(struct dev *dev, float *loss, struct tensor *logits, const int32_t *target,
                     float scale, struct step_ctl *ctl)
{
}
static void dry_gnorm(struct dev *dev, struct step_ctl *ctl, const float *g, size_t n)
{
}
static void dry_adamw(struct dev *dev, float *p, struct tensor *m, struct tensor *v, const float *g,
                      size_t n, const struct adamw_runs *runs, const struct step_ctl *ctl)
{
}
static void dry_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                       const struct sample_row *rows, const struct sample_tables *tables)
{
}

static const struct ops dry_ops = {
    .alloc = dry_alloc,
    .free = dry_free,
    .zero = dry_zero,
    .upload = dry_upload,
    .download = dry_download,
    .copy = dry_copy,
    .sync = dry_sync,
    .close = dry_close,
    .plan = dry_plan,
    .weight_bytes = dry_weight_bytes,
    .weight_fill = dry_weight_fill,
    .embed_fwd = dry_embed_fwd,
    .embed_bwd = dry_embed_bwd,
    .linear_fwd = dry_linear,
    .linear_bwd_x = dry_linear_bwd_x,
    .linear_bwd_w = dry_linear_bwd_w,
    .linear_read = dry_linear,
    .linear_step = dry_linear,
    .linear_resid_fwd = dry_linear_resid_fwd,
    .linear_resid_read = dry_linear_resid_fwd,
    .linear_step_fused = dry_linear_step_fused,
    .rmsnorm_fwd = dry_rmsnorm_fwd,
    .rmsnorm_bwd = dry_rmsnorm_bwd,
    .gatenorm_fwd = dry_gatenorm_fwd,
    .gatenorm_bwd = dry_gatenorm_bwd,
    .conv1d_fwd = dry_conv1d_fwd,
    .conv1d_read = dry_conv1d_read,
    .conv1d_bwd = dry_conv1d_bwd,
    .conv1d_step = dry_conv1d_step,
    .ssd_states_bytes = dry_ssd_states_bytes,
    .ssd_fwd = dry_ssd_fwd,
    .ssd_read = dry_ssd_read,
    .ssd_bwd = dry_ssd_bwd,
    .ssd_step = dry_ssd_step,
    .mamba_step = dry_mamba_step,
    .rope = dry_rope,
    .attn_fwd = dry_attn_fwd,
    .attn_read = dry_attn_read,
    .attn_bwd = dry_attn_bwd,
    .attn_step = dry_attn_step,
    .swiglu_fwd = dry_swiglu_fwd,
    .swiglu_bwd = dry_swiglu_bwd,
    .resid_fwd = dry_resid_fwd,
    .resid_bwd = dry_resid_bwd,
    .cast = dry_cast,
    .xent = dry_xent,
    .gnorm = dry_gnorm,
    .adamw = dry_adamw,
    .sample = dry_sample,
};

int dry_open(struct dev *dev, const struct gpu *gpu, enum dtype act, struct err *err)
{
    struct dry *dry = malloc(sizeof *dry);
    if (!dry)
        return err_oom(err, sizeof *dry);
    dry->next = (uintptr_t)1 << 40;
    *dev = (struct dev){.ops = &dry_ops,
                        .act_dtype = act,
                        .read_unit = 64,
                        .read_T = 8192,
                        .head_rows = 2048,
                        .impl = dry};
    snprintf(dev->name, sizeof dev->name, "%s, predicted", gpu->name);
    return 0;
}
