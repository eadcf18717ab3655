/* eval_print: see eval_print.h. */
#include "eval_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- CSV --- */

/* A field, quoted where it must be. */
static int put_field(struct buf *to, const char *text, struct err *err)
{
    if (!strpbrk(text, ",\"\r\n"))
        return buf_put(to, text, strlen(text), err);
    TRY(buf_put(to, "\"", 1, err));
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            TRY(buf_put(to, "\"", 1, err));
        TRY(buf_put(to, p, 1, err));
    }
    return buf_put(to, "\"", 1, err);
}

/* What all records of one result share. */
struct record_head {
    const char *source, *task, *kind, *protocol;
};

static int put_text_record(struct buf *to, const struct record_head *h, const char *metric,
                           const char *value, const char *error, uint64_t n, struct err *err)
{
    const char *const first[] = {h->source, h->task, h->kind, metric, value, error};
    for (int i = 0; i < 6; i++) {
        TRY(put_field(to, first[i], err));
        TRY(buf_put(to, ",", 1, err));
    }
    TRY(n ? buf_printf(to, err, "%" PRIu64 ",", n) : buf_put(to, ",", 1, err));
    TRY(put_field(to, h->protocol, err));
    return buf_put(to, "\n", 1, err);
}

/* A figure over n things; error: NaN where it has none. A figure that is not known is left out. */
static int put_record(struct buf *to, const struct record_head *h, const char *metric, double value,
                      double error, uint64_t n, struct err *err)
{
    char text[32], error_text[32] = "";
    if (isnan(value))
        return 0;
    snprintf(text, sizeof text, "%.9g", value);
    if (!isnan(error))
        snprintf(error_text, sizeof error_text, "%.4g", error);
    return put_text_record(to, h, metric, text, error_text, n, err);
}

/* Writes what was built, a record or a table at a time. */
static int flush(struct eval_print *p, struct err *err)
{
    TRY(out_write(p->out, p->text.data, p->text.size, err));
    p->text.size = 0;
    return out_flush(p->out, err);
}

int eval_print_begin(struct eval_print *p, struct err *err)
{
    if (p->is_table)
        return 0;
    TRY(buf_printf(&p->text, err, "source,task,kind,metric,value,stderr,n,protocol\n"));
    return flush(p, err);
}

int eval_print_run(struct eval_print *p, const char *metric, const char *value, struct err *err)
{
    const struct record_head h = {"", "", "run", ""};
    TRY(p->is_table ? buf_printf(&p->text, err, "%-12s %s\n", metric, value)
                    : put_text_record(&p->text, &h, metric, value, "", 0, err));
    return flush(p, err);
}

/* --- a corpus --- */

/* NaN where the divisor is not known. */
static double per(double sum, uint64_t n)
{
    return n > 0 ? sum / (double)n : NAN;
}

static int score_csv(struct buf *to, const struct record_head *h, const struct text_score *s,
                     struct err *err)
{
    const double loss = per(s->nats, s->n_tokens);
    TRY(put_record(to, h, "loss_nats_per_token", loss, NAN, s->n_tokens, err));
    TRY(put_record(to, h, "perplexity_per_token", exp(loss), NAN, s->n_tokens, err));
    TRY(put_record(to, h, "perplexity_per_word", exp(per(s->nats, s->n_words)), NAN, s->n_words,
                   err));
    TRY(put_record(to, h, "bits_per_byte", per(s->nats / M_LN2, s->n_bytes), NAN, s->n_bytes, err));
    return put_record(to, h, "documents", (double)s->n_docs, NAN, 0, err);
}

static int put_line(struct buf *to, const char *name, double value, const char *unit, uint64_t n,
                    const char *what, struct err *err)
{
    if (isnan(value))
        return 0;
    return buf_printf(to, err, "  %-14s %12.5g %-12s %14" PRIu64 " %s\n", name, value, unit, n,
                      what);
}

static int score_table(struct buf *to, const struct record_head *h, const struct text_score *s,
                       struct err *err)
{
    const double loss = per(s->nats, s->n_tokens);
    TRY(buf_printf(to, err, "\n%s: %" PRIu64 " documents\n  %s\n", h->source, s->n_docs,
                   h->protocol));
    TRY(put_line(to, "loss", loss, "nats/token", s->n_tokens, "tokens", err));
    TRY(put_line(to, "perplexity", exp(loss), "per token", s->n_tokens, "tokens", err));
    TRY(put_line(to, "perplexity", exp(per(s->nats, s->n_words)), "per word", s->n_words, "words",
                 err));
    return put_line(to, "bits per byte", per(s->nats / M_LN2, s->n_bytes), "", s->n_bytes, "bytes",
                    err);
}

int eval_print_score(struct eval_print *p, const char *source, const struct scorer *s,
                     struct err *err)
{
    struct buf protocol = {0};
    int rc = score_describe(s, &protocol, err);
    if (rc == 0)
        rc = buf_put(&protocol, "", 1, err);
    if (rc == 0) {
        const struct record_head h = {source, "", "text", (const char *)protocol.data};
        rc = p->is_table ? score_table(&p->text, &h, &s->score, err)
                         : score_csv(&p->text, &h, &s->score, err);
    }
    buf_free(&protocol);
    return rc == 0 ? flush(p, err) : -1;
}

/* --- tasks --- */

static const char choice_protocol[] =
    "ids beyond those shared with the context; space between; ties 1/k; normalised a byte of the "
    "choice";
static const char cloze_protocol[] =
    "ids beyond those shared with the context; space between; greedy match of the whole target";

static int task_csv(struct buf *to, const char *source, const struct task_score *s, struct err *err)
{
    const bool is_cloze = s->kind == TASK_CLOZE;
    const uint64_t n = (uint64_t)s->n;
    const struct record_head h = {source, s->name, task_kind_name(s),
                                  is_cloze ? cloze_protocol : choice_protocol};
    TRY(put_record(to, &h, "accuracy", task_mean(s->right, s->n),
                   task_stderr(s->right, s->right_squared, s->n), n, err));
    if (!is_cloze)
        return put_record(to, &h, "accuracy_normalised", task_mean(s->normal, s->n),
                          task_stderr(s->normal, s->normal_squared, s->n), n, err);
    TRY(put_record(to, &h, "perplexity_per_target", exp(per(s->nats, n)), NAN, n, err));
    return put_record(to, &h, "perplexity_per_token", exp(per(s->nats, s->n_tokens)), NAN,
                      s->n_tokens, err);
}

static int put_share(struct buf *to, double value, double error, struct err *err)
{
    TRY(buf_printf(to, err, "  %8.4f", value));
    return isnan(error) ? buf_printf(to, err, " %8s", "") : buf_printf(to, err, " +- %.4f", error);
}

static int task_line(struct buf *to, const struct task_score *s, struct err *err)
{
    TRY(buf_printf(to, err, "  %-44.44s %-6s %7lld", s->name, task_kind_name(s), (long long)s->n));
    TRY(put_share(to, task_mean(s->right, s->n), task_stderr(s->right, s->right_squared, s->n),
                  err));
    if (s->kind == TASK_CHOICE)
        TRY(put_share(to, task_mean(s->normal, s->n),
                      task_stderr(s->normal, s->normal_squared, s->n), err));
    else
        TRY(buf_printf(to, err, "  %10.5g", exp(per(s->nats, (uint64_t)s->n))));
    return buf_put(to, "\n", 1, err);
}

static int put_task(struct eval_print *p, const char *source, const struct task_score *s,
                    struct err *err)
{
    return p->is_table ? task_line(&p->text, s, err) : task_csv(&p->text, source, s, err);
}

int eval_print_tasks(struct eval_print *p, const char *source, const struct tasks *t,
                     struct err *err)
{
    struct task_score all;
    tasks_total(t, &all);
    if (p->is_table) {
        const bool is_cloze = all.kind == TASK_CLOZE;
        TRY(buf_printf(&p->text, err, "\n%s\n  %s\n  %-44s %-6s %7s  %-18s  %s\n", source,
                       is_cloze ? cloze_protocol : choice_protocol, "task", "kind", "n", "accuracy",
                       is_cloze ? "perplexity per target" : "normalised"));
    }
    for (int i = 0; i < t->n_scores; i++)
        TRY(put_task(p, source, &t->score[i], err));
    if (t->n_scores != 1)
        TRY(put_task(p, source, &all, err));
    return flush(p, err);
}

void eval_print_free(struct eval_print *p)
{
    buf_free(&p->text);
}
