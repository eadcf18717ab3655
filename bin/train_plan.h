/* train_plan: hm-train's --plan, and the check that a run fits into memory before it starts. */
#ifndef HM_TRAIN_PLAN_H
#define HM_TRAIN_PLAN_H

#include "cli.h"
#include "train.h"

/* Bytes that this process may still take: MemAvailable, or what is left of the control group's
 * limit; 0: cannot be found out. */
double train_memory_free(void);

/* What the run may take: of `memory` (0: of what is free on the device) what the driver's own
 * context leaves. 0: not known. */
double train_plan_budget(const struct dev *dev, double memory);
/* Sets batch, accum and recompute to the fastest that fits into the budget and makes up the same
 * rows of a step. Where none fits, the smallest. may_split: batch and accum are free; else only
 * recompute is. */
MUST_USE int train_plan_choose(struct train_head *h, const struct dev *dev, double budget,
                               bool may_split, struct err *err);

/* Prints the plan as CSV on stdout: item, value, unit, and the value as people read it. memory: as
 * for train_plan_budget. */
MUST_USE int train_plan_print(const struct train_head *h, const struct dev *dev, double memory,
                              struct err *err);
/* Fails with the flags that would make the run fit, found by planning them, where it does not fit
 * into free_bytes (0: not known, fits). */
MUST_USE int train_plan_check(const struct train_head *h, const struct dev *dev, double free_bytes,
                              struct err *err);

#endif
