/* optim: the optimizer's memory and its step. Moments are two flat f32 blocks of the same layout as
 * the model's master weights, in device memory. */
#ifndef HM_OPTIM_H
#define HM_OPTIM_H

#include "model.h"

/* Neighbouring parameters that are alike for the optimizer. */
struct optim_run {
    size_t offset, count; /* elements of the flat block */
    bool has_decay;
};

struct optim {
    struct dev *dev;       /* borrowed */
    float *m, *v;          /* (params.count) first and second moments */
    void *block;           /* device memory of both, owned */
    struct optim_run *run; /* owned */
    int n_runs;
};

/* Adds the moments' bytes to the plan. */
void optim_plan(const struct params *p, struct arena *plan);
/* Takes the memory; the moments are zero. */
MUST_USE int optim_open(struct optim *o, const struct params *p, struct dev *dev, struct err *err);
void optim_close(struct optim *o);

/* Ends a step whose gradients are in m->grad: verdict and norm (ops->gnorm), AdamW on every
 * parameter, fresh handles. Reads and writes m->ctl; waits for nothing. */
void optim_step(struct optim *o, struct model *m);

#endif
