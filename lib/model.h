/* model: a config, its weights on a device, and the passes over them.
 *
 * - Training: model_loss (forward and, if asked, backward) over rows of a batch, then the optimizer
 *   on the flat blocks and the handles, then model_refresh_norm.
 * - Reading: model_read_all takes texts of any length into slots of a state, many short ones in a
 * pass or a long one in several. What a slot gets does not depend on what is read beside it.
 * - Decoding: model_step takes one token each of R sequences; a row's bits are those it has alone.
 *
 * All memory is planned and taken in model_open; no pass allocates (but see model_opts.S). */
#ifndef HM_MODEL_H
#define HM_MODEL_H

#include "acts.h"
#include "batch.h"
#include "ops.h"
#include "params.h"
#include "state.h"

struct model_opts {
    enum dtype product; /* what products read: DT_F32 or DT_BF16; where the device's activations
                           are narrow, they decide */
    bool is_training;   /* gradients and backward activations are planned */
    int B, T;           /* the largest micro-batch of model_loss; 0: none */
    enum recompute recompute;
    float dropout;
    int read_T; /* tokens of one pass that reads; a longer text is read in pieces of it. 0: none */
    int read_R; /* the most texts of such a pass; 0: 1 */
    int step_R; /* the most rows of model_step; 0: none */
    int S; /* positions of the longest state; 0: the config's max_positions. The first pass over
              a longer one makes the workspace grow, the only time that a pass takes memory */
};

struct model {
    struct config c;
    struct model_opts opts;
    struct params params;
    struct dev *dev;       /* borrowed */
    float *master;         /* flat f32 block in device memory; training only, else NULL */
    float *grad;           /* the same layout; training only */
    struct tensor *value;  /* (params.n) f32 tensors on the device; data NULL where a matrix is kept
                              as a handle only. In the master when training. Owned */
    struct weight *weight; /* (params.n) handles, of the first matrix of each product; owned */
    float *head_norm;      /* (D) final norm / logits_scaling, for passes that return logits */
    struct step_ctl *ctl;  /* device memory */
    struct acts *acts;     /* owned */
    void *stage;           /* host: the inputs of a pass on their way to acts->inputs; owned */
    size_t stage_bytes;    /* of the pass with the most */
    int32_t *chosen;       /* host: results of model_choose_begin on their way; owned */
    unsigned n_begun, n_ended; /* calls of model_choose_begin and _end */
    void *block;               /* all device memory above, owned */
    struct arena plan;         /* bytes by kind: what was taken, MEM_WORK in dev->work */
    int work_S;                /* positions that the workspace is made for */
    uint64_t hash;             /* of the weights that model_set_weights was given */
};

/* Bytes by kind that model_open would take, workspace included; allocates nothing on the device. */
MUST_USE int model_plan(const struct config *c, const struct model_opts *opts,
                        const struct dev *dev, struct arena *plan, struct err *err);
/* Takes the memory; weights are undefined until model_set_weights. */
MUST_USE int model_open(struct model *m, const struct config *c, const struct model_opts *opts,
                        struct dev *dev, struct err *err);
void model_close(struct model *m);

/* Fills the master, where there is one, and the handles from a host block of params.count floats
 * (params.h's layout). Takes memory for the largest matrix while it runs. */
MUST_USE int model_set_weights(struct model *m, const float *host, struct err *err);
/* Fills the handles again after something else than the optimizer's step moved the master. */
void model_refresh(struct model *m);
/* What the optimizer's step leaves to be done: head_norm. */
void model_refresh_norm(struct model *m);
/* XXH3 of config and weights (in f32, whatever products read): what a saved state is checked
 * against. */
MUST_USE int model_hash(const struct model *m, uint64_t *hash, struct err *err);

/* Forward over rows, adding loss and target counts to ctl (see step_ctl; the caller zeroes them and
 * sets loss_scale before the step's first micro-batch). With is_backward also the gradients, added
 * to grad (the caller zeroes them with dev_zero). micro is the micro-batch's number within the
 * step: it keys dropout, which only backward passes apply. loss (B,T) host memory or NULL: the
 * per-target losses. */
MUST_USE int model_loss(struct model *m, const struct rows *rows, bool is_backward, int micro,
                        float *loss, struct err *err);

/* A text to be read into a slot, which may already hold some. */
struct read {
    int slot;
    const int32_t *ids;
    size_t n;
    const int32_t *target; /* (n) or NULL: loss (n) then gets -log p of target[i] after ids[..i], 0
                              where target < 0 */
    float *loss;
    float *logits; /* (V) or NULL: host copy after the last id */
};
/* Reads them all, into different slots. A slot's bits are those of its text read alone. Waits only
 * where there are losses or logits. */
MUST_USE int model_read_all(struct model *m, struct state *s, const struct read *texts, int n_texts,
                            struct err *err);
/* The same of one. */
MUST_USE int model_read(struct model *m, struct state *s, int slot, const int32_t *ids, size_t n,
                        const int32_t *target, float *loss, float *logits, struct err *err);

/* Decodes one token each: ids (R) into slots slot (R), host memory. *logits: (R,V) f32 in device
 * memory, owned by the model, valid until the next pass; feed it to ops->sample or download it. */
MUST_USE int model_step(struct model *m, struct state *s, const int32_t *slot, const int32_t *ids,
                        int R, struct tensor *logits, struct err *err);
/* The same, then ops->sample: row r's next token by choice[r] (host memory) and tables (device
 * memory). All goes to the device in one piece, comes back in one, and is there when
 * model_choose_end returns: it gives id and logp (R, host memory) of the oldest call that was not
 * ended. At most DEV_DOWNLOADS calls are open. ids NULL: row r goes on from what the call before,
 * the model's last pass and of as many rows, chose for its row r, whether or not the host has seen
 * it. */
MUST_USE int model_choose_begin(struct model *m, struct state *s, const int32_t *slot,
                                const int32_t *ids, int R, const struct sample_row *choice,
                                const struct sample_tables *tables, struct err *err);
MUST_USE int model_choose_end(struct model *m, int R, int32_t *id, float *logp, struct err *err);

/* Floating-point operations of one token at rows of T, multiply-adds counting 2: of the forward
 * pass, and of forward, backward (twice that) and what is recomputed. Counted, a token: 2 a weight
 * of every matrix product (the head's too); conv 2 K a channel; SSD, a head, with chunks of q =
 * min(Q,T): q P within the chunk, 4 P N through the state, and q N a group for C B^T; attention, a
 * head: 2 T P, half of T x T. Norms and elementwise work are left out. */
double model_flops_fwd(const struct config *c, int T);
double model_flops_train(const struct config *c, int T, enum recompute recompute);

#endif
