/* cpu_ops: the functions behind the CPU's table, one file an op; what each does is in ops.h. */
#ifndef HM_CPU_OPS_H
#define HM_CPU_OPS_H

#include "ops.h"

size_t cpu_plan(const struct dev *dev, enum op op, const struct sizes *s);

#endif
