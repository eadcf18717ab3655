/* model: a config, its weights on a device, and the passes over them.
 *
 *   training   model_loss (forward and, if asked, backward) over rows of a batch, then the
 * optimizer (optim.h) on the flat blocks, then model_refresh reading    model_read: any number of
 * tokens of one sequence into a slot of a state, T at a time decoding   model_step: one token each
 * of R sequences, row by row the same bits as alone
 *
 * All memory is planned and taken in model_open; no pass allocates. */
#ifndef HM_MODEL_H
#define HM_MODEL_H

#include "arena.h"
#include "batch.h"
#include "ops.h"
#include "params.h"
#include "state.h"

struct acts; /* activations kept and recomputed: acts.h */

/* What is kept for the backward pass. BLOCK keeps each block's input and runs the block again; FULL
 * keeps the input of every ceil(sqrt(L))-th block only. All three give the same bits. */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_BLOCK, RECOMPUTE_FULL };

struct model_opts {
    enum dtype product; /* what products read: DT_F32 or DT_BF16 */
    bool is_training;   /* gradients and backward activations are planned */
    int B, T;           /* the largest micro-batch of model_loss; 0: none */
    enum recompute recompute;
    float dropout;
    int read_T; /* tokens of one pass of model_read; 0: none */
    int step_R; /* the most rows of model_step; 0: none */
};

struct model {
    struct config c;
    struct model_opts opts;
    struct params params;
    struct dev *dev;       /* borrowed */
    float *master;         /* flat f32 block in device memory; NULL when only handles are kept */
    float *grad;           /* the same layout; training only */
    struct weight *weight; /* (params.n) handles, of the matrices only; owned */
    struct step_ctl *ctl;  /* device memory; training only */
    struct acts *acts;     /* owned */
    void *block;           /* all device memory above, owned */
    struct arena plan;     /* bytes by kind: what was taken */
};

/* Bytes by kind that model_open would take, workspace included; allocates nothing on the device. */
MUST_USE int model_plan(const struct config *c, const struct model_opts *opts,
                        const struct dev *dev, struct arena *plan, struct err *err);
/* Takes the memory; weights are undefined until model_set_weights. */
MUST_USE int model_open(struct model *m, const struct config *c, const struct model_opts *opts,
                        struct dev *dev, struct err *err);
void model_close(struct model *m);

/* Fills the master from a host block of params.count floats, and the handles from it. */
MUST_USE int model_set_weights(struct model *m, const float *host, struct err *err);
/* Fills the handles again after the optimizer moved the master. */
void model_refresh(struct model *m);
/* XXH3 of config and weight bytes: what a saved state is checked against. */
MUST_USE int model_hash(const struct model *m, uint64_t *hash, struct err *err);

/* Forward over rows, adding loss and target counts to ctl (see step_ctl; the caller zeroes them and
 * sets loss_scale before the step's first micro-batch). With is_backward also the gradients, added
 * to grad (the caller zeroes them with dev_zero). micro is the micro-batch's number within the
 * step: it keys dropout, which only backward passes apply. loss (B,T) host memory or NULL: the
 * per-target losses. */
MUST_USE int model_loss(struct model *m, const struct rows *rows, bool is_backward, int micro,
                        float *loss, struct err *err);

/* Reads n ids into the slot (which may already hold text), read_T at a time. target (n) or NULL:
 * loss (n) then gets -log p of target[i] after ids[..i], 0 where target < 0. logits (V) or NULL:
 * host copy after the last id. */
MUST_USE int model_read(struct model *m, struct state *s, int slot, const int32_t *ids, size_t n,
                        const int32_t *target, float *loss, float *logits, struct err *err);

/* Decodes one token each: ids (R) into slots slot (R), host memory. *logits: (R,V) f32 in device
 * memory, owned by the model, valid until the next pass; feed it to ops->sample or download it. */
MUST_USE int model_step(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids,
                        int R, struct tensor *logits, struct err *err);

/* Floating-point operations of one token: forward, and forward + backward, at rows of T
 * (multiply-adds count 2). */
double model_flops_fwd(const struct config *c, int T);
double model_flops_train(const struct config *c, int T, enum recompute recompute);

#endif
