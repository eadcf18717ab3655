/* eval_data: what hm-eval scores, from shards, token streams, text and task tables. */
#ifndef HM_EVAL_DATA_H
#define HM_EVAL_DATA_H

#include "cli.h"
#include "score.h"
#include "split.h"
#include "tasks.h"

enum eval_kind { EVAL_SHARDS, EVAL_STREAM, EVAL_TEXT, EVAL_TASKS };

/* How a run goes; borrowed by the calls below. */
struct eval_feed {
    struct eval *eval;
    struct score_opts opts; /* sep_bytes and piece_bytes are filled in by each call */
    struct split split;     /* of text */
    int64_t limit;          /* documents or questions; 0: all */
    struct cli_progress *progress;
};

/* What a file is, by its name (.csv) and its first bytes; an error for what is none of ours. "-"
 * and what is no regular file are streams. */
MUST_USE int eval_kind_of(const char *path, enum eval_kind *kind, struct err *err);

/* Each scores its files as one text, into *s, which the caller frees. -1 also when a signal came:
 * see cli_signal. */
MUST_USE int eval_feed_shards(const struct eval_feed *f, const char *const *paths, int n,
                              struct scorer *s, struct err *err);
MUST_USE int eval_feed_stream(const struct eval_feed *f, const char *path, struct scorer *s,
                              struct err *err);
MUST_USE int eval_feed_text(const struct eval_feed *f, const char *const *paths, int n,
                            struct scorer *s, struct err *err);
/* All questions of a table. */
MUST_USE int eval_feed_tasks(const struct eval_feed *f, const char *path, struct tasks *t,
                             struct err *err);

#endif
