/* tasks: questions with known answers, from CSV records.
 *
 * Choice: task,id,context,label,choice_0..choice_N. Each choice is scored by the log-likelihood of
 * the ids it adds to its context: text = context + one space + choice (the choice alone where the
 * context is empty) is encoded as a whole, and what lies beyond the ids that the context shares
 * with all the texts of the question is scored. The state after the shared ids is read once.
 * Cloze: task,id,context,target. Is the target what greedy decoding says after the context, and
 * how likely is it; the same border rule.
 *
 * A choice is right when its score is the best; the best of k equal ones counts 1/k. Normalised:
 * by log-likelihood a byte of the choice. */
#ifndef HM_TASKS_H
#define HM_TASKS_H

#include "eval.h"

enum { TASK_MAX_CHOICES = 26, TASK_NAME_BYTES = 128 };
enum task_kind { TASK_CHOICE, TASK_CLOZE };

/* A field of a record; borrowed bytes. */
struct task_field {
    const char *data;
    size_t n;
};

/* Which column is what, told from a header. */
struct task_columns {
    enum task_kind kind;
    int n_fields, task, id, context, label, target;
    int choice[TASK_MAX_CHOICES], n_choices;
};
MUST_USE int task_columns_parse(struct task_columns *c, const struct task_field *field, int n,
                                struct err *err);

/* One question; its texts are borrowed from the record's fields. */
struct question {
    struct task_field task, id, context, target;
    struct task_field choice[TASK_MAX_CHOICES]; /* empty ones at the end are left out */
    int n_choices, label;
};
MUST_USE int question_parse(struct question *q, const struct task_columns *c,
                            const struct task_field *field, int n, struct err *err);

/* Sums over the questions of one task. */
struct task_score {
    char name[TASK_NAME_BYTES];
    enum task_kind kind;
    int n_choices;                 /* the most of any question */
    bool has_context;              /* of any question */
    int64_t n;                     /* questions */
    double right, right_squared;   /* sums of credits */
    double normal, normal_squared; /* choice: of credits by normalised score */
    double nats;                   /* cloze: of -log p of the targets */
    uint64_t n_tokens;             /* cloze: in the targets */
};
/* Mean of n credits and its standard error, sqrt of the sample variance / n; NaN for n < 2. */
double task_mean(double sum, int64_t n);
double task_stderr(double sum, double squared, int64_t n);
/* "choice", "pairs" (two choices, never a context), "cloze"; static. */
const char *task_kind_name(const struct task_score *s);

/* Credit of the answer `label`: 1/k when its score is the greatest, with k - 1 others; else 0. */
double task_credit(const double *score, int n, int label);

struct task_pending;
struct tasks {
    struct eval *eval;        /* borrowed; needs a tokenizer */
    struct task_score *score; /* (n_scores) owned; in the order of first sight */
    int n_scores;
    struct task_pending *pending; /* questions whose choices are packed but not run; owned */
    int n_pending;
    struct ids context,
        text[TASK_MAX_CHOICES]; /* of the question at hand; context has <s> in front */
    struct buf joined;
    float *logits; /* (V) owned */
};

MUST_USE int tasks_open(struct tasks *t, struct eval *e, struct err *err);
MUST_USE int tasks_put(struct tasks *t, const struct question *q, struct err *err);
/* Runs what is left; the scores are complete. */
MUST_USE int tasks_end(struct tasks *t, struct err *err);
/* Adds up the scores of all tasks into *all, whose name is "all". */
void tasks_total(const struct tasks *t, struct task_score *all);
void tasks_close(struct tasks *t);

#endif
