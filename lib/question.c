/* question: what a task's CSV says and what its figures mean; pure logic, see tasks.h. */
#include "tasks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_named(const struct task_field *f, const char *name)
{
    return f->n == strlen(name) && memcmp(f->data, name, f->n) == 0;
}

/* Index of the column of that name, -1: none, -2: more than one. */
static int find_column(const struct task_field *field, int n, const char *name)
{
    int at = -1;
    for (int i = 0; i < n; i++)
        if (is_named(&field[i], name)) {
            if (at >= 0)
                return -2;
            at = i;
        }
    return at;
}

int task_columns_parse(struct task_columns *c, const struct task_field *field, int n,
                       struct err *err)
{
    *c = (struct task_columns){.n_fields = n};
    const char *const name[] = {"task", "id", "context", "label", "target"};
    int *const to[] = {&c->task, &c->id, &c->context, &c->label, &c->target};
    for (int i = 0; i < 5; i++)
        if ((*to[i] = find_column(field, n, name[i])) == -2)
            return err_set(err, NULL, NULL, "column '%s' is there twice", name[i]);
    for (c->n_choices = 0; c->n_choices < TASK_MAX_CHOICES; c->n_choices++) {
        char choice[32];
        snprintf(choice, sizeof choice, "choice_%d", c->n_choices);
        if ((c->choice[c->n_choices] = find_column(field, n, choice)) == -2)
            return err_set(err, NULL, NULL, "column '%s' is there twice", choice);
        if (c->choice[c->n_choices] == -1)
            break;
    }
    const bool is_choice = c->label >= 0 && c->n_choices >= 2 && c->target < 0;
    const bool is_cloze = c->target >= 0 && c->n_choices == 0 && c->label < 0;
    if (c->task < 0 || c->context < 0 || is_choice == is_cloze)
        return err_set(err, NULL,
                       "columns are task,id,context,label,choice_0,choice_1,... or "
                       "task,id,context,target",
                       "the header is that of no task");
    c->kind = is_choice ? TASK_CHOICE : TASK_CLOZE;
    return 0;
}

static int parse_label(const struct task_field *f, int n_choices, int *label, struct err *err)
{
    int v = 0;
    for (size_t i = 0; i < f->n && v < 1000; i++) {
        if (f->data[i] < '0' || f->data[i] > '9')
            v = 1000;
        v = v * 10 + (f->data[i] - '0');
    }
    if (f->n == 0 || v >= n_choices)
        return err_set(err, NULL, "give the number of the right one, from 0",
                       "label '%.*s' names none of the %d choices", (int)(f->n < 32 ? f->n : 32),
                       f->data, n_choices);
    *label = v;
    return 0;
}

int question_parse(struct question *q, const struct task_columns *c, const struct task_field *field,
                   int n, struct err *err)
{
    *q = (struct question){0};
    if (n != c->n_fields)
        return err_set(err, NULL, "quote fields that hold commas or line breaks",
                       "%d fields, the header has %d", n, c->n_fields);
    q->task = field[c->task];
    q->context = field[c->context];
    if (c->id >= 0)
        q->id = field[c->id];
    if (c->kind == TASK_CLOZE) {
        q->target = field[c->target];
        return q->target.n ? 0 : err_set(err, NULL, NULL, "the target is empty");
    }
    q->n_choices = c->n_choices;
    while (q->n_choices > 0 && field[c->choice[q->n_choices - 1]].n == 0)
        q->n_choices--;
    for (int i = 0; i < q->n_choices; i++) {
        q->choice[i] = field[c->choice[i]];
        if (q->choice[i].n == 0)
            return err_set(err, NULL, NULL, "choice_%d is empty, a later one is not", i);
    }
    if (q->n_choices < 2)
        return err_set(err, NULL, NULL, "fewer than two choices");
    return parse_label(&field[c->label], q->n_choices, &q->label, err);
}

double task_mean(double sum, int64_t n)
{
    return n > 0 ? sum / (double)n : NAN;
}

double task_stderr(double sum, double squared, int64_t n)
{
    if (n < 2)
        return NAN;
    const double mean = sum / (double)n;
    const double variance = (squared - (double)n * mean * mean) / (double)(n - 1);
    return variance > 0 ? sqrt(variance / (double)n) : 0;
}

const char *task_kind_name(const struct task_score *s)
{
    if (s->kind == TASK_CLOZE)
        return "cloze";
    return s->n_choices == 2 && !s->has_context ? "pairs" : "choice";
}

double task_credit(const double *score, int n, int label)
{
    int n_equal = 0;
    for (int i = 0; i < n; i++) {
        if (!(score[i] <= score[label]))
            return 0;
        n_equal += score[i] == score[label];
    }
    return n_equal > 0 ? 1.0 / n_equal : 0;
}
