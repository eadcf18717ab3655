/* eval, score, tasks: figures by arithmetic where the model knows nothing, and by reading token by
 * token where it knows something. */
#include "score.h"
#include "tasks.h"
#include "tiny_model.h"

static struct err err;

static const struct model_opts model_opts = {.B = 3, .T = 32, .read_T = 8, .step_R = 1};

static void encode(struct tiny *t, const char *text, bool has_end, struct ids *ids)
{
    if (tok_encode(t->tok, text, strlen(text), ids, &err) != 0 ||
        (has_end && ids_put(ids, ID_EOS, &err) != 0))
        die(&err);
}

/* Documents of length 1 (only </s>), short ones, one of exactly T, ones longer than T. */
enum { N_DOCS = 8 };
static void make_docs(struct tiny *t, struct ids doc[N_DOCS])
{
    static const int length[N_DOCS] = {1, 5, 32, 33, 2, 100, 31, 64};
    memset(doc, 0, N_DOCS * sizeof *doc);
    for (int d = 0; d < N_DOCS; d++)
        for (int i = 0; i < length[d]; i++) {
            const int32_t id = i + 1 == length[d] ? ID_EOS : 12 + (i * 37 + d * 101) % 300;
            if (ids_put(&doc[d], id, &err) != 0)
                die(&err);
        }
    ok(doc[3].data[0] < t->model.c.V, "documents made");
}

static void free_docs(struct ids doc[N_DOCS])
{
    for (int d = 0; d < N_DOCS; d++)
        ids_free(&doc[d]);
}

/* -log p of targets begin..end-1 of a document when reading begins, from nothing, at `from`. */
static double slow_nats(struct eval *e, const struct ids *doc, size_t from, size_t begin,
                        size_t end)
{
    double nats = 0;
    state_reset(&e->state, 1);
    for (size_t i = from; i < end; i++) {
        const int32_t input = i ? doc->data[i - 1] : ID_BOS;
        float loss;
        if (model_read(e->model, &e->state, 1, &input, 1, &doc->data[i], &loss, NULL, &err) != 0)
            die(&err);
        if (i >= begin)
            nats += (double)loss;
    }
    return nats;
}

static struct text_score score(struct eval *e, const struct score_opts *o,
                               const struct ids doc[N_DOCS])
{
    struct scorer s;
    score_begin(&s, e, o);
    for (int d = 0; d < N_DOCS; d++)
        if (score_put(&s, doc[d].data, doc[d].n, &err) != 0)
            die(&err);
    if (score_end(&s, &err) != 0)
        die(&err);
    const struct text_score result = s.score;
    score_free(&s);
    return result;
}

static void test_documents(struct tiny *t, struct eval *e, const struct ids doc[N_DOCS])
{
    const struct score_opts o = {.protocol = EVAL_DOCUMENTS, .sep_bytes = 1};
    double want = 0;
    uint64_t n_tokens = 0;
    for (int d = 0; d < N_DOCS; d++) {
        want += slow_nats(e, &doc[d], 0, 0, doc[d].n);
        n_tokens += doc[d].n;
    }
    const struct text_score got = score(e, &o, doc);
    ok_within(fabs(got.nats - want) / want, 1e-5, "documents: as token by token");
    ok(got.n_tokens == n_tokens && got.n_docs == N_DOCS, "every token and every </s> counts");
}

/* A state that holds 40 positions begins afresh after each 40 targets. */
static void test_restart(struct tiny *t, const struct ids doc[N_DOCS])
{
    struct eval e;
    const struct score_opts o = {.protocol = EVAL_DOCUMENTS, .sep_bytes = 1};
    double want = 0;
    if (eval_open(&e, &t->model, t->tok, 40, &err) != 0)
        die(&err);
    for (int d = 0; d < N_DOCS; d++)
        for (size_t at = 0; at < doc[d].n; at += 40) {
            const size_t end = at + 40 < doc[d].n ? at + 40 : doc[d].n;
            want += slow_nats(&e, &doc[d], at, at, end);
        }
    ok_within(fabs(score(&e, &o, doc).nats - want) / want, 1e-5, "a full state begins afresh");
    eval_close(&e);
}

static void test_windows(struct tiny *t, struct eval *e, const struct ids doc[N_DOCS])
{
    for (int stride = 5; stride <= 12; stride += 7) {
        const struct score_opts o = {
            .protocol = EVAL_WINDOW, .window = 12, .stride = stride, .sep_bytes = 1};
        double want = 0;
        for (int d = 0; d < N_DOCS; d++) {
            size_t end = doc[d].n < 12 ? doc[d].n : 12;
            want += slow_nats(e, &doc[d], 0, 0, end);
            for (size_t begin = end; begin < doc[d].n; begin = end) {
                end = begin + (size_t)stride < doc[d].n ? begin + (size_t)stride : doc[d].n;
                want += slow_nats(e, &doc[d], end - 12, begin, end);
            }
        }
        ok_within(fabs(score(e, &o, doc).nats - want) / want, 1e-5, "windows of 12 at stride %d",
                  stride);
    }
}

/* Rows as the loader cuts them. */
static void test_rows(struct tiny *t, struct eval *e, const struct ids doc[N_DOCS])
{
    const struct score_opts o = {.protocol = EVAL_ROWS, .sep_bytes = 1};
    struct ids all = {0};
    double want = 0;
    int32_t prev = ID_EOS, in[32], target[32], seg[32], pos[32];
    float loss[32];
    for (int d = 0; d < N_DOCS; d++)
        if (ids_append(&all, doc[d].data, doc[d].n, &err) != 0)
            die(&err);
    for (size_t at = 0; at < all.n; at += 32) {
        const int n = all.n - at < 32 ? (int)(all.n - at) : 32;
        batch_fill_row(all.data + at, n, prev, 32, in, target, seg, pos);
        const struct rows rows = {in, target, seg, pos, 1, 32};
        if (model_loss(&t->model, &rows, false, 0, loss, &err) != 0)
            die(&err);
        for (int i = 0; i < n; i++)
            want += (double)loss[i];
        prev = all.data[at + (size_t)n - 1];
    }
    ok_within(fabs(score(e, &o, doc).nats - want) / want, 1e-5, "rows as the loader's");
    ids_free(&all);
}

/* A model whose weights are all zero: every id has probability 1/V. */
static void test_uniform(struct tiny *t, struct eval *e)
{
    static const char *const text[] = {"The cat sat on the mat", "", "a  dog\tand a cat \xC3\xA9"};
    const struct score_opts o = {.protocol = EVAL_DOCUMENTS, .sep_bytes = 1};
    const double V = t->model.c.V;
    struct scorer s;
    uint64_t n_tokens = 0, n_bytes = 0;
    score_begin(&s, e, &o);
    for (int i = 0; i < 3; i++) {
        struct ids ids = {0};
        encode(t, text[i], true, &ids);
        n_tokens += ids.n;
        n_bytes += strlen(text[i]) + 1;
        if (score_put(&s, ids.data, ids.n, &err) != 0)
            die(&err);
        ids_free(&ids);
    }
    if (score_end(&s, &err) != 0)
        die(&err);
    ok_within(fabs(exp(s.score.nats / (double)n_tokens) - V) / V, 1e-5, "perplexity is V");
    ok(s.score.n_tokens == n_tokens && s.score.n_bytes == n_bytes, "all bytes, separators too");
    ok(s.score.n_words == 6 + 6, "words: %llu", (unsigned long long)s.score.n_words);
    const double bits = s.score.nats / M_LN2 / (double)s.score.n_bytes;
    ok_within(fabs(bits - (double)n_tokens * log2(V) / (double)n_bytes) / bits, 1e-5,
              "bits per byte");
    score_free(&s);
}

static struct task_field field(const char *text)
{
    return (struct task_field){text, strlen(text)};
}

static struct question choice(const char *context, const char *a, const char *b, int label)
{
    return (struct question){.task = field("t"),
                             .id = field("1"),
                             .context = field(context),
                             .choice = {field(a), field(b)},
                             .n_choices = 2,
                             .label = label};
}

/* Answers the questions; the total is *all. */
static void answer(struct eval *e, const struct question *q, int n, struct task_score *all)
{
    struct tasks t;
    if (tasks_open(&t, e, &err) != 0)
        die(&err);
    for (int i = 0; i < n; i++)
        if (tasks_put(&t, &q[i], &err) != 0)
            die(&err);
    if (tasks_end(&t, &err) != 0)
        die(&err);
    tasks_total(&t, all);
    tasks_close(&t);
}

static void test_ties(struct tiny *t, struct eval *e)
{
    struct task_score s;
    struct question q = choice("", " cat", " dog", 0);
    answer(e, &q, 1, &s);
    ok(s.right == 0.5 && s.n == 1, "equal choices: a half");
    q = choice("the cat", "sat", "ran", 1);
    answer(e, &q, 1, &s);
    ok(s.right == 0.5, "after a context too");
    q = choice("", " cat", " cat cat", 1);
    answer(e, &q, 1, &s);
    ok(s.right == 0 && s.normal == 0.5, "one token of two: less likely, but alike by the byte");
    q = choice("", "zz", " house", 1);
    answer(e, &q, 1, &s);
    ok(s.right == 1 && s.normal == 1, "fewer tokens are likelier, and more bytes");
    struct question many[130];
    for (int i = 0; i < 130; i++)
        many[i] = choice(i % 2 ? "the" : "", "dog", i % 3 ? "zz zz" : "cat", i % 5 == 0);
    answer(e, many, 130, &s);
    ok(s.n == 130, "more questions than wait at a time: %lld", (long long)s.n);
}

/* log p of text after context, token by token, by the border rule. */
static double slow_choice(struct tiny *t, struct eval *e, const char *context, const char *text,
                          size_t n_shared)
{
    char joined[256];
    struct ids ids = {0};
    snprintf(joined, sizeof joined, "%s%s%s", context, *context ? " " : "", text);
    encode(t, joined, false, &ids);
    const double nats = slow_nats(e, &ids, 0, n_shared, ids.n);
    ids_free(&ids);
    return nats;
}

static void test_choices(struct tiny *t, struct eval *e)
{
    static const char *const context[] = {"", "the cat", "Once upon a time the dog ran"};
    static const char *const pair[][2] = {
        {"sat on the mat", "ran in the house"}, {"dog", "a cat and a dog"}, {"on", "in"}};
    for (int c = 0; c < 3; c++) {
        struct ids ids = {0};
        encode(t, context[c], false, &ids);
        for (int i = 0; i < 3; i++) {
            struct task_score s;
            const double a = slow_choice(t, e, context[c], pair[i][0], ids.n);
            const double b = slow_choice(t, e, context[c], pair[i][1], ids.n);
            const double by_byte_a = a / (double)strlen(pair[i][0]);
            const double by_byte_b = b / (double)strlen(pair[i][1]);
            const struct question q = choice(context[c], pair[i][0], pair[i][1], 0);
            answer(e, &q, 1, &s);
            ok(s.right == (a < b) && s.normal == (by_byte_a < by_byte_b),
               "context %d, pair %d: as token by token (%.3f and %.3f nats)", c, i, a, b);
        }
        ids_free(&ids);
    }
}

/* The border: "ca" + " " + "t" share no ids beyond what all texts begin with alike. */
static void test_border(struct tiny *t, struct eval *e)
{
    struct task_score s;
    struct question q = choice("the ", "cat", "dog", 0);
    answer(e, &q, 1, &s);
    struct ids context = {0}, a = {0}, b = {0};
    encode(t, "the ", false, &context);
    encode(t, "the  cat", false, &a);
    encode(t, "the  dog", false, &b);
    size_t n = 0;
    while (n < context.n && context.data[n] == a.data[n] && context.data[n] == b.data[n])
        n++;
    const double nats_a = slow_nats(e, &a, 0, n, a.n), nats_b = slow_nats(e, &b, 0, n, b.n);
    ok(s.right == (nats_a < nats_b), "a context that ends in a space");
    ids_free(&context);
    ids_free(&a);
    ids_free(&b);
}

/* What the model itself says greedily is a right target; another is wrong. */
static void test_cloze(struct tiny *t, struct eval *e, float *logits)
{
    static const char context[] = "the cat and the dog ran on";
    struct task_score s;
    struct ids ids = {0};
    size_t n;
    if (ids_put(&ids, ID_BOS, &err) != 0)
        die(&err);
    encode(t, context, false, &ids);
    double best_nats = 1e9;
    const char *best = NULL;
    static const char *const target[] = {"mat", "cat", "house", "dog", "time"};
    for (int i = 0; i < 5; i++) {
        const double nats = slow_choice(t, e, context, target[i], ids.n - 1);
        const struct question q = {.task = field("t"),
                                   .id = field("1"),
                                   .context = field(context),
                                   .target = field(target[i])};
        answer(e, &q, 1, &s);
        ok_within(fabs(s.nats - nats) / nats, 1e-5, "the loss of the target '%s'", target[i]);
        if (nats < best_nats) {
            best_nats = nats;
            best = target[i];
        }
        state_reset(&e->state, 1);
        if (model_read(e->model, &e->state, 1, ids.data, ids.n, NULL, NULL, logits, &err) != 0)
            die(&err);
        int top = 0;
        for (int v = 1; v < t->model.c.V; v++)
            top = logits[v] > logits[top] ? v : top;
        const char *piece = tok_piece(t->tok, top, &n);
        const bool is_top = n == strlen(target[i]) + 1 && piece[0] == ' ' &&
                            memcmp(piece + 1, target[i], n - 1) == 0;
        ok(s.right == is_top, "greedy or not");
    }
    ok(best != NULL, "one target is the likeliest");
    ids_free(&ids);
}

/* With all weights zero the lowest id, 0, is the greedy one: no text has it. A model of zero
 * weights but for a norm and one row of a head says that row's id. */
static void test_cloze_right(void)
{
    struct tiny t;
    struct eval e;
    struct task_score s;
    struct ids cat = {0};
    tiny_open(&t, "m", 0, &model_opts, 1);
    encode(&t, " cat", false, &cat);
    const struct param *embed = &t.params.list[t.params.embed];
    const struct param *norm = &t.params.list[t.params.final_norm];
    for (size_t i = 0; i < norm->count; i++)
        t.weights[norm->offset + i] = 1;
    /* every input but <s> has the embedding 1, and " cat" the greatest product with it */
    for (size_t v = 0; v < (size_t)t.model.c.V; v++)
        for (size_t i = 0; i < 32; i++)
            t.weights[embed->offset + v * 32 + i] = (int32_t)v == cat.data[0] ? 2 : 1;
    if (cat.n != 1 || model_set_weights(&t.model, t.weights, &err) != 0 ||
        eval_open(&e, &t.model, t.tok, 64, &err) != 0)
        die(&err);
    struct question q = {
        .task = field("t"), .id = field("1"), .context = field("the"), .target = field("cat cat")};
    answer(&e, &q, 1, &s);
    ok(s.right == 1 && s.n_tokens == 2, "a target of two tokens, both greedy");
    q.target = field("cat dog");
    answer(&e, &q, 1, &s);
    ok(s.right == 0, "only the first is greedy: wrong");
    q.target = field("dog cat");
    answer(&e, &q, 1, &s);
    ok(s.right == 0, "only the last is greedy: wrong");
    eval_close(&e);
    ids_free(&cat);
    tiny_close(&t);
}

static void test_hash(struct eval *a, struct eval *b)
{
    uint64_t first, again, other;
    if (eval_logits_hash(a, &first, &err) != 0 || eval_logits_hash(a, &again, &err) != 0 ||
        eval_logits_hash(b, &other, &err) != 0)
        die(&err);
    ok(first == again, "the hash of logits is repeatable");
    ok(first != other, "and another model's is another");
}

int main(void)
{
    struct tiny random, zero;
    struct eval e, z;
    struct ids doc[N_DOCS];
    tiny_open(&random, "mtm", 8, &model_opts, 1);
    tiny_open(&zero, "mt", 0, &model_opts, 1);
    float *logits = malloc((size_t)random.model.c.V * sizeof *logits);
    if (!logits || eval_open(&e, &random.model, random.tok, 256, &err) != 0 ||
        eval_open(&z, &zero.model, zero.tok, 256, &err) != 0)
        die(&err);
    make_docs(&random, doc);
    test_documents(&random, &e, doc);
    test_restart(&random, doc);
    test_windows(&random, &e, doc);
    test_rows(&random, &e, doc);
    test_uniform(&zero, &z);
    test_ties(&zero, &z);
    test_choices(&random, &e);
    test_border(&random, &e);
    test_cloze(&random, &e, logits);
    test_cloze_right();
    test_hash(&e, &z);
    free_docs(doc);
    free(logits);
    eval_close(&e);
    eval_close(&z);
    tiny_close(&random);
    tiny_close(&zero);
    return tap_done();
}
