/* plan: workspace of each CPU op; the formulas stand beside the ops that use them. */
#include "cpu_ops.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t cpu_plan(const struct dev *dev, enum op op, const struct sizes *s)
{
    switch (op) {
    case OP_LINEAR:
        return cpu_linear_plan(dev, s);
    case OP_RMSNORM:
        return cpu_rmsnorm_plan(dev, s);
    case OP_GATENORM:
        return cpu_gatenorm_plan(dev, s);
    case OP_XENT:
        return cpu_xent_plan(dev, s);
    case OP_GNORM:
        return cpu_gnorm_plan(dev, s);
    case OP_SAMPLE:
        return cpu_sample_plan(dev, s);

    case OP_SSD:
        return larger(larger(cpu_ssd_fwd_plan(dev, s), cpu_ssd_bwd_plan(dev, s)),
                      cpu_mamba_step_plan(dev, s));
    case OP_ATTN:
        return larger(larger(cpu_attn_fwd_plan(dev, s), cpu_attn_bwd_plan(dev, s)),
                      cpu_attn_step_plan(dev, s));
    default:
        return 0;
    }
}
