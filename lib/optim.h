/* optim: the optimizer's memory and its step. Moments are two flat blocks of the same layout as the
 * model's master weights, in device memory, f32 or bf16 (see adamw in ops.h). */
#ifndef HM_OPTIM_H
#define HM_OPTIM_H

#include "model.h"

struct optim {
    struct dev *dev;        /* borrowed */
    struct tensor m, v;     /* (params.count) first and second moments */
    struct adamw_runs runs; /* in device memory, as all of them */
    void *block;            /* device memory of all three, owned */
};

/* Adds the moments' bytes to the plan. */
void optim_plan(const struct params *p, enum dtype moments, struct arena *plan);
/* Takes the memory, on the model's device; the moments are zero. The step writes the model's
 * handles, which stay where they are. */
MUST_USE int optim_open(struct optim *o, const struct model *m, enum dtype moments,
                        struct err *err);
void optim_close(struct optim *o);

/* Ends a step whose gradients are in m->grad: verdict and norm (ops->gnorm), AdamW on every
 * parameter, fresh handles. Reads and writes m->ctl; waits for nothing. */
void optim_step(struct optim *o, struct model *m);

#endif
