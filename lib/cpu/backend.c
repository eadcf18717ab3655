/* backend: the CPU's table of ops, compiled once an instruction set under the name CPU_OPS. Memory
 * is the host's. */
#include "cpu_ops.h"
#include "gemm.h"
#include "local.h"

#include <stdlib.h>
#include <string.h>

static int cpu_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    return *p ? 0 : err_oom(err, bytes);
}

static void cpu_free(struct dev *dev, void *p)
{
    free(p);
}

static void cpu_zero(struct dev *dev, void *p, size_t bytes)
{
    memset(p, 0, bytes);
}

static void cpu_upload(struct dev *dev, void *to, const void *host, size_t bytes)
{
    memcpy(to, host, bytes);
}

static void cpu_download(struct dev *dev, void *host, const void *from, size_t bytes)
{
    memcpy(host, from, bytes);
}

static void cpu_copy(struct dev *dev, void *to, const void *from, size_t bytes)
{
    memmove(to, from, bytes);
}

static void cpu_sync(struct dev *dev)
{
}

static void cpu_close(struct dev *dev)
{
    struct cpu *cpu = dev->impl;
    pool_close(cpu->pool);
    cpu_gemm_close(cpu->gemm);
    free(cpu);
}

extern const struct ops CPU_OPS;
const struct ops CPU_OPS = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .zero = cpu_zero,
    .upload = cpu_upload,
    .download = cpu_download,
    .copy = cpu_copy,
    .sync = cpu_sync,
    .close = cpu_close,

    .plan = cpu_plan,
    .weight_bytes = cpu_weight_bytes,
    .weight_fill = cpu_weight_fill,

    .embed_fwd = cpu_embed_fwd,
    .embed_bwd = cpu_embed_bwd,
    .linear_fwd = cpu_linear_fwd,
    .linear_read = cpu_linear_read,
    .linear_bwd_x = cpu_linear_bwd_x,
    .linear_bwd_w = cpu_linear_bwd_w,
    .linear_step = cpu_linear_step,
    .rmsnorm_fwd = cpu_rmsnorm_fwd,
    .rmsnorm_bwd = cpu_rmsnorm_bwd,
    .gatenorm_fwd = cpu_gatenorm_fwd,
    .gatenorm_bwd = cpu_gatenorm_bwd,
    .swiglu_fwd = cpu_swiglu_fwd,
    .swiglu_bwd = cpu_swiglu_bwd,
    .resid_fwd = cpu_resid_fwd,
    .resid_bwd = cpu_resid_bwd,
    .cast = cpu_cast,
    .xent = cpu_xent,
    .gnorm = cpu_gnorm,
    .adamw = cpu_adamw,
    .sample = cpu_sample,

    .conv1d_fwd = cpu_conv1d_fwd,
    .conv1d_read = cpu_conv1d_read,
    .conv1d_bwd = cpu_conv1d_bwd,
    .conv1d_step = cpu_conv1d_step,
    .ssd_states_bytes = cpu_ssd_states_bytes,
    .ssd_fwd = cpu_ssd_fwd,
    .ssd_read = cpu_ssd_read,
    .ssd_bwd = cpu_ssd_bwd,
    .ssd_step = cpu_ssd_step,
    .mamba_step = cpu_mamba_step,
    .rope = cpu_rope,
    .attn_fwd = cpu_attn_fwd,
    .attn_read = cpu_attn_read,
    .attn_bwd = cpu_attn_bwd,
    .attn_step = cpu_attn_step,
};
