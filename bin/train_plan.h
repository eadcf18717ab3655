/* train_plan: hm-train's --plan, and the check that a run fits into memory before it starts. */
#ifndef HM_TRAIN_PLAN_H
#define HM_TRAIN_PLAN_H

#include "cli.h"
#include "train.h"

/* Bytes that this process may still take: MemAvailable, or what is left of the control group's
 * limit; 0: cannot be found out. */
double train_memory_free(void);

/* Prints the plan as CSV on stdout: item, value, unit, and the value as people read it. */
MUST_USE int train_plan_print(const struct train_head *h, const struct dev *dev, struct err *err);
/* Fails with the flags that would make the run fit, found by planning them, where it does not fit
 * into free_bytes (0: not known, fits). */
MUST_USE int train_plan_check(const struct train_head *h, const struct dev *dev, double free_bytes,
                              struct err *err);

#endif
