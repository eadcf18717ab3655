/* eval_print: the figures of hm-eval, as CSV (a figure a record) or as tables for people. */
#ifndef HM_EVAL_PRINT_H
#define HM_EVAL_PRINT_H

#include "io.h"
#include "score.h"
#include "tasks.h"

struct eval_print {
    struct out *out; /* borrowed */
    bool is_table;
    struct buf text; /* being built */
};

/* A fact of the run ("version", "device"). */
MUST_USE int eval_print_run(struct eval_print *p, const char *metric, const char *value,
                            struct err *err);
/* The header of the CSV; nothing for tables. */
MUST_USE int eval_print_begin(struct eval_print *p, struct err *err);
MUST_USE int eval_print_score(struct eval_print *p, const char *source, const struct scorer *s,
                              struct err *err);
/* Every task, and all together where there is more than one. */
MUST_USE int eval_print_tasks(struct eval_print *p, const char *source, const struct tasks *t,
                              struct err *err);
void eval_print_free(struct eval_print *p);

#endif
