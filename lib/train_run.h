/* train_run: the loop of a training run: steps, validation, log, checkpoints, the end; and a caller
 * who is told of each and may stop it. */
#ifndef HM_TRAIN_RUN_H
#define HM_TRAIN_RUN_H

#include "run_dir.h"
#include "run_log.h"
#include "train.h"

enum train_event_kind {
    TRAIN_STEPPED,
    TRAIN_FIXED,     /* the number of steps follows from the measured speed */
    TRAIN_VALIDATED, /* loss, bits_per_byte */
    TRAIN_SAVED,     /* path */
    TRAIN_NOT_SAVED, /* err: a checkpoint on the way or rows of the log; the run goes on */
};

struct train_event {
    enum train_event_kind kind;
    int64_t step, total; /* total 0: not known yet */
    int64_t tokens;
    double loss, bits_per_byte, rate, gnorm; /* nats a target; NAN where unknown */
    double tok_s, left_s;                    /* NAN while unknown */
    int64_t skipped;                         /* steps since the run began */
    bool is_skipped;                         /* this one was */
    const char *path;
    const struct err *err;
};

/* The one who listens. is_stopped is asked after each step and within a validation. */
struct train_hook {
    void (*tell)(void *arg, const struct train_event *event);
    bool (*is_stopped)(void *arg);
    void *arg;
};

struct train_run {
    struct train *t;           /* borrowed; begun or restored */
    const struct run_dir *dir; /* borrowed; NULL: no checkpoints on the way */
    struct run_log *log;       /* borrowed, open (or with fd -1) */
    struct train_hook hook;
    double elapsed_s; /* of the processes before this one, as the log has it */
    /* the loop's own */
    double start_s, first_s, mark_s, saved_s; /* monotonic */
    double step_s;                            /* running mean of a step's time, 0: none yet */
    int64_t first, saved_step;                /* step when the loop began; of the last save, -1 */
    int64_t mark_step;                        /* step at mark_s */
};

enum train_end { TRAIN_DONE, TRAIN_STOPPED };

/* Runs to the end (TRAIN_DONE) or until the hook stops it, having saved a checkpoint
 * (TRAIN_STOPPED). A checkpoint that cannot be written on the way is told, and the run goes on: the
 * last good one stands; one that cannot be written at the end or when stopped is an error. So are
 * max_skips skipped steps in a row, with the last good checkpoint named. */
MUST_USE int train_run(struct train_run *r, enum train_end *end, struct err *err);

/* Adds a row that describes the run: event "run" or "resume", note: version, device, options,
 * config. */
MUST_USE int train_run_describe(struct train_run *r, const char *event, const char *version,
                                struct err *err);

/* Pure: steps that fit into max_time, when `steps` steps took `used_s` and each more takes step_s.
 */
int64_t train_fit_total(int64_t steps, double used_s, double step_s, double max_time);

#endif
