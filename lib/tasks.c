/* tasks: multiple choice, minimal pairs and cloze; see tasks.h. */
#include "tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PENDING = 64 };

struct task_pending {
    int score; /* index */
    int n, label;
    double nats[TASK_MAX_CHOICES];
    size_t bytes[TASK_MAX_CHOICES];
    int same_as[TASK_MAX_CHOICES]; /* the first choice of the same ids, which alone is scored: rows
                                    * and places change last bits, and what is like ties */
};

int tasks_open(struct tasks *t, struct eval *e, struct err *err)
{
    *t = (struct tasks){.eval = e};
    if (!e->tok)
        return err_set(err, NULL, "name one with --tokenizer", "tasks need a tokenizer");
    t->pending = calloc(PENDING, sizeof *t->pending);
    t->logits = calloc((size_t)e->model->c.V, sizeof *t->logits);
    if (!t->pending || !t->logits) {
        tasks_close(t);
        return err_oom(err, PENDING * sizeof *t->pending);
    }
    return 0;
}

void tasks_close(struct tasks *t)
{
    free(t->score);
    free(t->pending);
    free(t->logits);
    ids_free(&t->context);
    for (int i = 0; i < TASK_MAX_CHOICES; i++)
        ids_free(&t->text[i]);
    buf_free(&t->joined);
    *t = (struct tasks){0};
}

/* The score of that task, made when it is new; -1 when memory is out. */
static int find_score(struct tasks *t, const struct question *q, enum task_kind kind,
                      struct err *err)
{
    char name[TASK_NAME_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)(q->task.n < sizeof name ? q->task.n : sizeof name),
             q->task.data);
    for (int i = 0; i < t->n_scores; i++)
        if (strcmp(t->score[i].name, name) == 0 && t->score[i].kind == kind)
            return i;
    struct task_score *score = realloc(t->score, (size_t)(t->n_scores + 1) * sizeof *score);
    if (!score)
        return err_oom(err, (size_t)(t->n_scores + 1) * sizeof *score);
    t->score = score;
    t->score[t->n_scores] = (struct task_score){.kind = kind};
    memcpy(t->score[t->n_scores].name, name, sizeof name);
    return t->n_scores++;
}

/* Encodes context + space + text as one. */
static int encode_joined(struct tasks *t, const struct task_field *context,
                         const struct task_field *text, struct ids *to, struct err *err)
{
    t->joined.size = 0;
    to->n = 0;
    if (context->n > 0) {
        TRY(buf_put(&t->joined, context->data, context->n, err));
        TRY(buf_put(&t->joined, " ", 1, err));
    }
    TRY(buf_put(&t->joined, text->data, text->n, err));
    return tok_encode(t->eval->tok, t->joined.data, t->joined.size, to, err);
}

/* Ids that the context, which begins with <s>, and a text, which does not, have in common. */
static size_t common_prefix(const struct ids *context, const struct ids *text, size_t at_most)
{
    size_t n = 0;
    while (n < at_most && n < text->n && context->data[n + 1] == text->data[n])
        n++;
    return n;
}

static int check_room(const struct tasks *t, const struct question *q, const struct ids *text,
                      struct err *err)
{
    if ((int64_t)text->n <= eval_room(t->eval))
        return 0;
    return err_set(err, NULL, "raise --context", "question %.*s has %zu tokens, a state holds %lld",
                   (int)(q->id.n < 64 ? q->id.n : 64), q->id.data, text->n,
                   (long long)eval_room(t->eval));
}

/* The ids before which nothing is scored: those that the context and every text share. */
static size_t count_shared(const struct tasks *t, int n_texts)
{
    size_t n = t->context.n - 1;
    for (int i = 0; i < n_texts; i++)
        n = common_prefix(&t->context, &t->text[i], n);
    return n;
}

/* Reads <s> and all but the last of the shared ids into slot 0. */
static int read_shared(struct tasks *t, size_t n_shared, struct err *err)
{
    struct eval *e = t->eval;
    state_reset(&e->state, 0);
    if (n_shared == 0)
        return 0;
    return model_read(e->model, &e->state, 0, t->context.data, n_shared, NULL, NULL, NULL, err);
}

/* Whether choices are packed whole with those of other questions: where each fits a row, and
 * reading again what they share costs less than passes of their own. */
static bool is_packed(const struct tasks *t, const struct question *q, size_t n_shared)
{
    enum { READ_AGAIN = 256 };
    if (n_shared * (size_t)(q->n_choices - 1) > READ_AGAIN)
        return false;
    for (int i = 0; i < q->n_choices; i++)
        if (t->text[i].n > (size_t)t->eval->T)
            return false;
    return true;
}

/* Scores every choice: packed, or from copies of the shared state. */
static int score_choices(struct tasks *t, const struct question *q, struct task_pending *p,
                         struct err *err)
{
    struct eval *e = t->eval;
    const size_t n_shared = count_shared(t, q->n_choices);
    if (is_packed(t, q, n_shared)) {
        for (int i = 0; i < q->n_choices; i++)
            if (p->same_as[i] == i)
                TRY(eval_pack(e, ID_BOS, t->text[i].data, t->text[i].n, n_shared, &p->nats[i],
                              err));
        return 0;
    }
    TRY(read_shared(t, n_shared, err));
    for (int i = 0; i < q->n_choices; i++) {
        if (p->same_as[i] != i)
            continue;
        TRY(check_room(t, q, &t->text[i], err));
        TRY(state_copy(&e->state, 1, &e->state, 0, err));
        TRY(eval_read(e, 1, t->context.data[n_shared], t->text[i].data + n_shared,
                      t->text[i].n - n_shared, &p->nats[i], err));
    }
    return 0;
}

static void judge(struct tasks *t, const struct task_pending *p)
{
    struct task_score *s = &t->score[p->score];
    double plain[TASK_MAX_CHOICES], normal[TASK_MAX_CHOICES];
    for (int i = 0; i < p->n; i++) {
        plain[i] = -p->nats[p->same_as[i]];
        normal[i] = plain[i] / (double)p->bytes[i];
    }
    const double right = task_credit(plain, p->n, p->label);
    const double by_byte = task_credit(normal, p->n, p->label);
    s->n++;
    s->right += right;
    s->right_squared += right * right;
    s->normal += by_byte;
    s->normal_squared += by_byte * by_byte;
}

int tasks_end(struct tasks *t, struct err *err)
{
    TRY(eval_flush(t->eval, err));
    for (int i = 0; i < t->n_pending; i++)
        judge(t, &t->pending[i]);
    t->n_pending = 0;
    return 0;
}

/* The first text that is like text i, which may be itself. */
static int first_like(const struct tasks *t, int i)
{
    const struct ids *text = t->text;
    int k = 0;
    while (text[k].n != text[i].n ||
           memcmp(text[k].data, text[i].data, text[i].n * sizeof *text[i].data) != 0)
        k++;
    return k;
}

static int put_choice(struct tasks *t, const struct question *q, int score, struct err *err)
{
    if (t->n_pending == PENDING)
        TRY(tasks_end(t, err));
    struct task_pending *p = &t->pending[t->n_pending++];
    *p = (struct task_pending){.score = score, .n = q->n_choices, .label = q->label};
    struct task_score *s = &t->score[score];
    s->has_context |= q->context.n > 0;
    if (q->n_choices > s->n_choices)
        s->n_choices = q->n_choices;
    for (int i = 0; i < q->n_choices; i++) {
        p->bytes[i] = q->choice[i].n;
        TRY(encode_joined(t, &q->context, &q->choice[i], &t->text[i], err));
        p->same_as[i] = first_like(t, i);
    }
    return score_choices(t, q, p, err);
}

/* -log p of target under the logits, and whether it is their greatest (the lowest id on ties). */
static double judge_logits(const float *logits, int V, int32_t target, bool *is_best)
{
    int best = 0;
    double sum = 0;
    for (int v = 1; v < V; v++)
        if (logits[v] > logits[best])
            best = v;
    for (int v = 0; v < V; v++)
        sum += exp((double)logits[v] - (double)logits[best]);
    *is_best = best == target;
    return log(sum) + (double)logits[best] - (double)logits[target];
}

static int put_cloze(struct tasks *t, const struct question *q, int score, struct err *err)
{
    struct eval *e = t->eval;
    struct task_score *s = &t->score[score];
    bool is_right = true;
    TRY(encode_joined(t, &q->context, &q->target, &t->text[0], err));
    TRY(check_room(t, q, &t->text[0], err));
    const size_t n_shared = count_shared(t, 1);
    int32_t input = t->context.data[n_shared];
    TRY(read_shared(t, n_shared, err));
    for (size_t i = n_shared; i < t->text[0].n; i++) {
        bool is_best;
        struct tensor logits;
        const int32_t target = t->text[0].data[i], slot = 0;
        TRY(model_step(e->model, &e->state, &slot, &input, 1, &logits, err));
        dev_download(e->model->dev, t->logits, logits.data,
                     (size_t)e->model->c.V * sizeof *t->logits);
        s->nats += judge_logits(t->logits, e->model->c.V, target, &is_best);
        is_right &= is_best;
        input = target;
    }
    s->n++;
    s->right += is_right;
    s->right_squared += is_right;
    s->n_tokens += t->text[0].n - n_shared;
    s->has_context |= q->context.n > 0;
    return 0;
}

int tasks_put(struct tasks *t, const struct question *q, struct err *err)
{
    const enum task_kind kind = q->n_choices ? TASK_CHOICE : TASK_CLOZE;
    const int score = find_score(t, q, kind, err);
    if (score < 0)
        return -1;
    t->context.n = 0;
    TRY(ids_put(&t->context, ID_BOS, err));
    if (q->context.n > 0)
        TRY(tok_encode(t->eval->tok, q->context.data, q->context.n, &t->context, err));
    return kind == TASK_CHOICE ? put_choice(t, q, score, err) : put_cloze(t, q, score, err);
}

void tasks_total(const struct tasks *t, struct task_score *all)
{
    *all = (struct task_score){.name = "all"};
    for (int i = 0; i < t->n_scores; i++) {
        const struct task_score *s = &t->score[i];
        all->kind = s->kind;
        if (s->n_choices > all->n_choices)
            all->n_choices = s->n_choices;
        all->has_context |= s->has_context;
        all->n += s->n;
        all->right += s->right;
        all->right_squared += s->right_squared;
        all->normal += s->normal;
        all->normal_squared += s->normal_squared;
        all->nats += s->nats;
        all->n_tokens += s->n_tokens;
    }
}
