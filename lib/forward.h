/* forward, backward: the passes over blocks that model_loss and model_read_all are made of.
 * Internal to the model. */
#ifndef HM_FORWARD_H
#define HM_FORWARD_H

#include "model.h"

/* A pass under way; a is carved for it and holds its inputs. */
struct pass {
    struct model *m;
    struct acts *a;
    const int32_t *seg; /* (B,T) in device memory, NULL: one document */
    bool is_dropping;
    struct state *state;          /* of a read or step: what slots remember is read and moved on */
    const struct read_rows *rows; /* of a read, else NULL */
};

/* What dev_run knows a piece of work by: what is done, its shape, the memory it is done in, and
 * what else it refers to (a state, tables; NULL: nothing). */
enum run_kind { RUN_TRAIN, RUN_LOSS, RUN_READ, RUN_STEP, RUN_CHOOSE, RUN_GO_ON };
uint64_t model_key(const struct model *m, enum run_kind kind, int B, int T, const void *with);

/* The parts of one projection: z (M,E), xbc (M,E+2GN) and dt (M,H). */
struct mamba_parts {
    struct tensor z, xbc, dt;
};
struct mamba_parts mamba_split(const struct config *c, const struct tensor *proj);
/* The SSD's inputs of an 'm' layer, B sequences of T: its views of conv's output and of dt. */
struct ssd_in ssd_inputs(const struct model *m, int layer, const struct tensor *conv,
                         const struct tensor *dt, const int32_t *seg, int B, int T);
struct attn_in attn_inputs(const struct pass *p, const struct layer_acts *l);
/* Where the branch of mixer (which 0) or MLP (1) is dropped. */
struct drop drop_of(const struct pass *p, int layer, int which);

/* Where the forward's norms, gates and convolutions were not kept, what a block's MLP, or its
 * mixer, needs of them for its gradients, but for SwiGLU, whose backward makes it again. */
void remake_mlp(const struct pass *p, int i);
void remake_mixer(const struct pass *p, int i);

/* Fails where one of the n ids is below `lowest`, or none of the vocabulary. */
MUST_USE int model_check_ids(const struct model *m, const int32_t *ids, size_t n, int32_t lowest,
                             struct err *err);
/* The weights (D) that passes norm with which return logits. */
struct tensor model_head_norm(const struct model *m);
/* Makes the workspace large enough for attention over the state, see model_opts.S. */
MUST_USE int model_reserve(struct model *m, const struct state *s, struct err *err);

void forward_embed(const struct pass *p);
/* Block i: layer[i].x to layer[i+1].x. is_again: only what backward needs, so no output. */
void forward_block(const struct pass *p, int i, bool is_again);
/* The last block of a read, whose output is wanted behind each row's last token alone, in tail.x
 * (has_output), or not at all. */
void forward_last_block(const struct pass *p, bool has_output);
/* The stream behind the last block at each row's last token: layer[L].x to tail.x. */
void forward_pick_last(const struct pass *p);
/* The final norm with weights w (D): layer[L].x to h. */
void forward_norm(const struct pass *p, const struct tensor *w);
/* Logits of n rows of h from `row` on, in a->logits; n <= its rows. */
struct tensor forward_logits(const struct pass *p, int64_t row, int64_t n);

/* The head and its gradient chunk by chunk, then all blocks: adds to m->grad. */
void backward(const struct pass *p);
/* Losses only: into a->loss, and ctl's sums where ctl is not NULL. scale: of the logits. */
void forward_loss(const struct pass *p, float scale, struct step_ctl *ctl);

#endif
