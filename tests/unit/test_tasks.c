/* tasks: headers and records of task CSV, credits, means and their errors. */
#include "tasks.h"
#include "tap.h"

#include <string.h>

static struct err err;

enum { MAX_FIELDS = 32 };

/* Splits "a,b,c" (no quotes) into fields. */
static int split(const char *line, struct task_field *field)
{
    int n = 0;
    for (const char *p = line;; p++) {
        const size_t len = strcspn(p, ",");
        field[n++] = (struct task_field){p, len};
        p += len;
        if (*p == '\0')
            return n;
    }
}

static int parse_header(struct task_columns *c, const char *line)
{
    struct task_field field[MAX_FIELDS];
    return task_columns_parse(c, field, split(line, field), &err);
}

static int parse_question(struct question *q, const struct task_columns *c, const char *line)
{
    struct task_field field[MAX_FIELDS];
    return question_parse(q, c, field, split(line, field), &err);
}

static void test_headers(void)
{
    static const char *const bad[] = {
        "id,context,label,choice_0,choice_1",
        "task,id,context,label,choice_0",
        "task,id,context,label",
        "task,id,label,choice_0,choice_1",
        "task,id,context,target,label,choice_0,choice_1",
        "task,id,context,choice_0,choice_1",
        "task,task,context,target",
        "task,id,context,label,choice_0,choice_1,choice_1",
        "",
    };
    struct task_columns c;
    ok(parse_header(&c, "task,id,context,label,choice_0,choice_1,choice_2") == 0 &&
           c.kind == TASK_CHOICE && c.n_choices == 3,
       "three choices");
    ok(parse_header(&c, "task,id,context,target") == 0 && c.kind == TASK_CLOZE, "cloze");
    ok(parse_header(&c, "choice_1,note,label,context,choice_0,task") == 0 && c.choice[1] == 0 &&
           c.id == -1,
       "any order, further columns, no id");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ok(parse_header(&c, bad[i]) == -1, "no task: '%s'", bad[i]);
}

static void test_questions(void)
{
    struct task_columns c;
    struct question q;
    ok(parse_header(&c, "task,id,context,label,choice_0,choice_1,choice_2") == 0, "header");
    ok(parse_question(&q, &c, "t,7,ctx,1,a,b,c") == 0 && q.n_choices == 3 && q.label == 1 &&
           q.choice[2].n == 1 && q.choice[2].data[0] == 'c',
       "a question");
    ok(parse_question(&q, &c, "t,7,,0,a,b,") == 0 && q.n_choices == 2, "an unused choice");
    ok(parse_question(&q, &c, "t,7,,2,a,b,") == -1, "a label that names an unused choice");
    ok(parse_question(&q, &c, "t,7,,3,a,b,c") == -1, "a label beyond the last");
    ok(parse_question(&q, &c, "t,7,,-1,a,b,c") == -1, "a negative label");
    ok(parse_question(&q, &c, "t,7,,,a,b,c") == -1, "an empty label");
    ok(parse_question(&q, &c, "t,7,,1x,a,b,c") == -1, "a label that is no number");
    ok(parse_question(&q, &c, "t,7,,99999999999999999999,a,b,c") == -1, "a huge label");
    ok(parse_question(&q, &c, "t,7,,0,a,,c") == -1, "a hole among the choices");
    ok(parse_question(&q, &c, "t,7,,0,a,,") == -1, "one choice");
    ok(parse_question(&q, &c, "t,7,,0,a,b") == -1, "a record too short");
    ok(parse_question(&q, &c, "t,7,,0,a,b,c,d") == -1, "a record too long");
    ok(parse_header(&c, "task,id,context,target") == 0, "header");
    ok(parse_question(&q, &c, "t,7,ctx,word") == 0 && q.target.n == 4 && q.n_choices == 0, "cloze");
    ok(parse_question(&q, &c, "t,7,ctx,") == -1, "an empty target");
}

static void test_credits(void)
{
    const double score[] = {-3, -1, -1, -2}, nan_score[] = {NAN, -1};
    ok(task_credit(score, 4, 0) == 0 && task_credit(score, 4, 3) == 0, "not the best: 0");
    ok(task_credit(score, 4, 1) == 0.5 && task_credit(score, 4, 2) == 0.5, "two best: a half each");
    ok(task_credit(score + 2, 2, 0) == 1, "alone the best: 1");
    ok(task_credit(nan_score, 2, 0) == 0 && task_credit(nan_score, 2, 1) == 0,
       "not a number is never right");
    /* credits 1, 0, 0.5, 0.5: mean 0.5, sample variance (0.25 + 0.25) / 3 */
    ok(task_mean(2, 4) == 0.5, "mean");
    ok(fabs(task_stderr(2, 1.5, 4) - sqrt(0.5 / 3 / 4)) < 1e-15, "standard error");
    ok(isnan(task_stderr(1, 1, 1)) && isnan(task_mean(0, 0)), "too few questions for either");
    ok(task_stderr(4, 4, 4) == 0, "all right: no spread");
}

static void test_kinds(void)
{
    const struct task_score pairs = {.n_choices = 2}, choice = {.n_choices = 3},
                            context = {.n_choices = 2, .has_context = true},
                            cloze = {.kind = TASK_CLOZE};
    ok(strcmp(task_kind_name(&pairs), "pairs") == 0, "two sentences are a pair");
    ok(strcmp(task_kind_name(&choice), "choice") == 0, "three are a choice");
    ok(strcmp(task_kind_name(&context), "choice") == 0, "so are two after a context");
    ok(strcmp(task_kind_name(&cloze), "cloze") == 0, "cloze");
}

int main(void)
{
    test_headers();
    test_questions();
    test_credits();
    test_kinds();
    return tap_done();
}
