/* eval: how likely a model finds given text.
 *
 * Runs of ids that fit a row are packed into rows of model_loss, each in a segment of its own: no
 * run sees another, and the figures are those of reading each alone. Longer runs are read through a
 * state. Sums are taken in double, in the order of the input. */
#ifndef HM_EVAL_H
#define HM_EVAL_H

#include "encode.h"
#include "model.h"

struct eval_span;

struct eval {
    struct model *model;   /* borrowed; opts.B and T are the rows, read_T and step_R > 0 */
    const struct tok *tok; /* borrowed */
    struct state state;    /* slots 0 and 1 */
    int B, T;
    int32_t *ids, *target, *seg, *pos; /* (B,T) owned */
    float *loss;                       /* (B,T) owned */
    int n_rows, n_used;                /* rows begun; positions taken in the last of them */
    struct eval_span *span;            /* (B*T) owned: what lies where */
    int n_spans;
    int32_t *read_target; /* (EVAL_PIECE) owned */
    int32_t *read_ids;    /* (EVAL_PIECE) owned */
    float *read_loss;     /* (EVAL_PIECE) owned */
};

enum { EVAL_PIECE = 4096 };

/* S: positions a state holds (of 't' layers). */
MUST_USE int eval_open(struct eval *e, struct model *m, const struct tok *tok, int S,
                       struct err *err);
void eval_close(struct eval *e);

/* Packs a run of n <= T targets, the first of which follows the input `first`. *nats gets the sum
 * of -log p of targets skip..n-1 added at the latest in eval_flush; it must live until then. */
MUST_USE int eval_pack(struct eval *e, int32_t first, const int32_t *target, size_t n, size_t skip,
                       double *nats, struct err *err);
/* Runs what is packed. */
MUST_USE int eval_flush(struct eval *e, struct err *err);
/* Reads n targets through a slot of the state, which goes on from where it stands; the first input
 * is `first`. Adds -log p of all of them to *nats, at once. */
MUST_USE int eval_read(struct eval *e, int slot, int32_t first, const int32_t *target, size_t n,
                       double *nats, struct err *err);
/* Positions that the state's slots can be filled to (see gen_room). */
int64_t eval_room(const struct eval *e);

/* A quick check that two builds or machines compute the same numbers: XXH64 of the f32 logits after
 * 64 fixed pseudo-random ids, read at once, and after 8 more, one by one. */
MUST_USE int eval_logits_hash(struct eval *e, uint64_t *hash, struct err *err);

#endif
