/* plan: workspace of each CPU op; the formulas stand beside the ops that use them. */
#include "cpu_ops.h"

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
    default:
        return 0;
    }
}
