/* train_args: the options of hm-train, and what a run is told after they met what its checkpoint
 * says. */
#ifndef HM_TRAIN_ARGS_H
#define HM_TRAIN_ARGS_H

#include "device.h"
#include "encode.h"
#include "model_args.h"
#include "train_run.h"

enum { TRAIN_ARGS_OPTS = 80 };

struct train_args {
    struct model_args model;
    struct train_opts opts;
    int64_t batch_tokens, threads;
    int64_t memory; /* bytes; 0: not given */
    const char *tok, *out, *log, *init_from, *device;
    struct cli_list valid;
    bool is_resume, is_plan, is_forced;
    struct cli_opt table[TRAIN_ARGS_OPTS];
    bool is_set[TRAIN_ARGS_OPTS];
};

/* Fills a with the defaults and t with the table, which lies in a. */
void train_args_table(struct train_args *a, struct cli_tool *t);
/* Checks that need no file. 0, or 2 after the mistake was printed. */
int train_args_check(struct train_args *a, const struct cli_tool *t, int n_operands);
/* Whether --recompute was given. */
bool train_args_has_recompute(const struct train_args *a);
/* Whether the final model goes to stdout and nothing else is kept. */
bool train_args_to_stdout(const struct train_args *a);

/* Config and options of a new run; vocab: of the tokenizer, 0 not known. */
MUST_USE int train_args_new(struct train_args *a, int vocab, struct train_head *h, struct err *err);
/* The same from an --init-from model's config: sizes that were given must agree, save --context. */
MUST_USE int train_args_init_from(struct train_args *a, const struct config *c,
                                  struct train_head *h, struct err *err);
/* h is a checkpoint's: takes over what may change, and refuses what may not, by name. Other limits
 * of length than the run's own make it longer or shorter. */
MUST_USE int train_args_resume(struct train_args *a, struct train_head *h, struct err *err);

#endif
