/* step_plan: workspace of the decode ops, for the plans of the ops that share their rows of the
 * table. */
#ifndef HM_STEP_PLAN_CUH
#define HM_STEP_PLAN_CUH

#include "cuda.cuh"

size_t cuda_mamba_step_plan(const struct sizes *s); /* OP_SSD */
size_t cuda_attn_step_plan(const struct sizes *s);  /* OP_ATTN */

#endif
