/* train_opts: everything that a training run is told besides its model, as one table, so that the
 * command line, the checkpoint (JSON) and the comparison of a resumed run's options with the first
 * ones all speak of the same fields. */
#ifndef HM_TRAIN_OPTS_H
#define HM_TRAIN_OPTS_H

#include "model.h"
#include "schedule.h"

struct train_opts {
    int64_t seed;
    /* one step: batch rows of T positions, accum times */
    int64_t batch, accum;
    int dtype;     /* enum train_dtype */
    int recompute; /* enum recompute */
    double dropout, z_loss;
    /* AdamW */
    double beta1, beta2, eps, weight_decay, clip, outlier;
    int moments;       /* enum dtype: F32, or BF16, rounded stochastically */
    int64_t max_skips; /* steps in a row whose skipping stops the run */
    /* learning rate */
    int schedule; /* enum schedule_kind */
    double lr, min_lr, decay;
    int64_t warmup; /* -1: 100 steps, but no more than a tenth of the run */
    /* how long: the least of those given; 0: not given */
    int64_t max_steps, max_tokens;
    double max_time, epochs; /* seconds; passes over the shards */
    /* what is written when: 0 is never */
    int64_t valid_every, valid_tokens, save_every, keep, log_every;
    double save_time; /* seconds */
};

/* enum dtype; AUTO is what suits the device, and no longer there when training begins. */
enum train_dtype { TRAIN_F32, TRAIN_BF16, TRAIN_F16, TRAIN_AUTO };

enum train_field_kind { TRAIN_INT, TRAIN_REAL, TRAIN_ENUM };

struct train_field {
    const char *name; /* the long option, and the key in the checkpoint */
    enum train_field_kind kind;
    size_t at;     /* offset of the int64_t, double or int within struct train_opts */
    bool is_kept;  /* a resumed run must not change it: other steps would follow */
    bool is_limit; /* how long the run is */
    double min, max;
    const char *const *names; /* TRAIN_ENUM, NULL-terminated */
};

/* The table, ending with a NULL name; static. */
const struct train_field *train_fields(void);
/* The recipe that a new run starts from (FIELD: AdamW 0.9/0.95, weight decay 0.1, clip 1, WSD). */
void train_opts_default(struct train_opts *o);
/* Whether the field has the same value in both. */
bool train_field_equal(const struct train_field *f, const struct train_opts *a,
                       const struct train_opts *b);
/* Copies the field; *to keeps the others. */
void train_field_copy(const struct train_field *f, struct train_opts *to,
                      const struct train_opts *from);
/* The value as text, for messages; returns to. */
const char *train_field_text(const struct train_field *f, const struct train_opts *o, char *to,
                             size_t n);
/* Every value within its field's bounds; the error names the option. */
MUST_USE int train_opts_check(const struct train_opts *o, struct err *err);

/* One JSON object of all fields, and back (pure; missing, unknown or wrong fields are errors).
 * Numbers survive exactly. */
MUST_USE int train_opts_print(const struct train_opts *o, struct buf *to, struct err *err);
MUST_USE int train_opts_parse(struct train_opts *o, const char *json, size_t n, struct err *err);

/* Tokens of one step. */
int64_t train_step_tokens(const struct train_opts *o, const struct config *c);
/* Steps of the run that follow from max_steps, max_tokens and epochs alone; n_rows: of the corpus,
 * -1 for a stream. 0: no limit among them (max_time may be one). */
int64_t train_total(const struct train_opts *o, const struct config *c, int64_t n_rows);
/* The warm-up in steps once the total is known (0: not yet). */
int64_t train_warmup(const struct train_opts *o, int64_t total);

#endif
