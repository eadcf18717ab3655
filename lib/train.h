/* train: one training run in memory: model, optimizer, loader and counters, and the deeds of its
 * loop: step, validate, save, restore. train_run.h is the loop itself. Nothing here prints.
 *
 *   train_open, then one of train_init, train_begin_from, train_restore, then any of the others. */
#ifndef HM_TRAIN_H
#define HM_TRAIN_H

#include "batch.h"
#include "optim.h"
#include "train_ckpt.h"

/* What a run reads: shard files, or "-" alone for a stream on stdin. valid may be empty. */
struct train_data {
    const char *const *shards, *const *valid;
    int n_shards, n_valid;
};

struct train {
    struct train_head head; /* config, options, counters */
    struct buf tok;         /* the tokenizer's bytes, owned */
    struct dev *dev;        /* borrowed */
    struct model model;
    struct optim optim;
    struct batch *data, *valid; /* valid: NULL without validation shards */
    struct corpus_info info, valid_info;
    struct step_ctl ctl;    /* host copy, as of the last train_measure */
    struct train_blocks io; /* host copies of the blocks; owned where the device has its own
                               memory, views of it where it is the host's */
};

/* Bytes by kind that train_open takes of the device, workspace included; allocates nothing there.
 */
MUST_USE int train_plan(const struct config *c, const struct train_opts *o, const struct dev *dev,
                        struct arena *plan, struct err *err);

/* Opens the data, checks that it was made with the tokenizer (its bytes and its fingerprint), takes
 * all memory. head: config and options of a new run, or those of a checkpoint; its state is kept.
 * Weights are undefined. */
MUST_USE int train_open(struct train *t, const struct train_head *head, const struct train_data *d,
                        const struct buf *tok, uint64_t tok_hash, struct dev *dev, struct err *err);
/* Accepts a zeroed struct. */
void train_close(struct train *t);

/* A new run: initial weights drawn from the seed, or copied (params.count floats); step 0. */
MUST_USE int train_init(struct train *t, struct err *err);
MUST_USE int train_begin_from(struct train *t, const float *weights, struct err *err);
/* Goes on where the checkpoint was saved: train_open was given its head, with total 0 where the
 * length is to follow from the options again. The corpus must be the same. */
MUST_USE int train_restore(struct train *t, const char *path, struct err *err);

/* One optimizer step of accum micro-batches. 1: done; 0: the stream is over and nothing was done;
 * -1. Waits for nothing on the device: the outcome is known after train_measure. */
MUST_USE int train_step(struct train *t, struct err *err);
/* Waits, and copies the last step's outcome into t->ctl and t->head.state. */
MUST_USE int train_measure(struct train *t, struct err *err);
/* Mean loss of the last measured step, in nats a target. */
double train_loss(const struct train *t);
/* The rate that the next step will have, and bits a byte of the validation text that a mean loss
 * stands for (NAN where the bytes are not known). */
double train_rate(const struct train *t);
double train_bits_per_byte(const struct train *t, double loss);
/* Whether the last step was made, and validated where there is something to validate on. */
bool train_is_done(const struct train *t);
/* Sets the length of the run, and the warm-up that follows from it unless that is over. */
void train_set_total(struct train *t, int64_t total);

/* Mean loss over the first valid_tokens of the validation shards, in nats a target; moves best_loss
 * and best_step, and valid_step. is_stopped (may be NULL) is asked between micro-batches: 1 is
 * returned when it gave up because of it, and nothing has changed. */
MUST_USE int train_validate(struct train *t, bool (*is_stopped)(void *), void *arg, double *loss,
                            struct err *err);

/* Writes the resumable checkpoint; the final model (bf16). */
MUST_USE int train_save(struct train *t, const char *path, struct err *err);
MUST_USE int train_save_model(struct train *t, const char *path, struct err *err);

#endif
