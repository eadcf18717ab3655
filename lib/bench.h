/* bench: the phases of training and of generation, repeated and timed. A pass is a training step, a
 * prompt read, a token each of R rows. Each phase is timed as it runs for a user, then some passes
 * more under the trace, which tells its parts and ops. */
#ifndef HM_BENCH_H
#define HM_BENCH_H

#include "batch.h"
#include "optim.h"
#include "roofline.h"
#include "sampler.h"
#include "trace.h"

struct bench_opts {
    double time_s; /* of a measurement */
    int n_blocks;  /* it is cut into; the median counts. 1 .. TRACE_BLOCKS */
};

/* What came out: the median block's time of a pass, and what a pass has to do. */
struct bench_time {
    double pass_s;
};

/* Runs pass(arg) in blocks of time_s / n_blocks, at least one pass each; ends early where passes
 * are so long that three times time_s are over. With trace NULL one pass more goes before,
 * unmeasured; else the passes are traced, and must have run before. */
MUST_USE int bench_repeat(struct bench_time *out, const struct bench_opts *o, struct trace *trace,
                          int (*pass)(void *arg, struct err *err), void *arg, struct err *err);

/* A measured phase. Its ops and parts stay in the trace until the next phase. */
struct bench_phase {
    struct bench_time time;
    double tokens;  /* of a pass */
    double flops;   /* of a pass, as in model.h */
    double bytes;   /* of a pass: the ops' */
    double floor_s; /* of a pass: the sum of what each op needs at the roofline */
};

/* Passes where nothing but `trace` is shared between them. */
struct bench {
    struct trace *trace; /* borrowed; its device is open */
    const struct roofline *roof;
    struct bench_opts opts;
};

/* --- training --- */

struct bench_train {
    const struct bench *bench;
    struct model model;
    struct optim optim;
    struct batch *data;  /* borrowed */
    struct step_ctl ctl; /* host copy of what a step begins with */
};

/* Takes the memory of a run: weights (params.count floats) as for model_set_weights; NULL: initial
 * ones. opts: product, is_training, B, T, recompute. data has accum 1 and rows of B, T. */
MUST_USE int bench_train_open(struct bench_train *b, const struct bench *bench,
                              const struct config *c, const struct model_opts *opts,
                              const float *weights, struct batch *data, struct err *err);
void bench_train_close(struct bench_train *b);
/* Steps as hm-train makes them: TRACE_LOADER is waiting for the rows, TRACE_OPTIMIZER also the
 * clearing of the gradients. The weights do move. */
MUST_USE int bench_train_run(struct bench_train *b, struct bench_phase *out, struct err *err);

/* --- generation --- */

struct bench_read {
    const struct bench *bench;
    struct model model;
};

/* opts: product, read_T, step_R, S. */
MUST_USE int bench_read_open(struct bench_read *b, const struct bench *bench,
                             const struct config *c, const struct model_opts *opts,
                             const float *weights, struct err *err);
void bench_read_close(struct bench_read *b);
/* R prompts of T tokens each, and the logits after their last ones. Their slots hold what was read
 * before, which takes no less time than nothing. */
MUST_USE int bench_prefill(struct bench_read *b, int R, int T, struct bench_phase *out,
                           struct err *err);
/* A token each of R sequences that have read `depth` tokens, and the greedy choice of the next. The
 * caches hold zeros, which take no less time than text. */
MUST_USE int bench_decode(struct bench_read *b, int R, int depth, struct bench_phase *out,
                          struct err *err);

#endif
