/* generate: order, neighbours, batch sizes, seeds, limits, stop strings, prefixes. */
#include "generate.h"
#include "tiny_model.h"

#include <unistd.h>

enum { MAX_PROMPTS = 16 };

static struct err err;

/* A list of prompts in, texts and ids out. */
struct list {
    const char *prompt[MAX_PROMPTS];
    struct gen_opts opts[MAX_PROMPTS];
    int n, next, n_done;
    bool is_ordered;
    struct ids ids[MAX_PROMPTS];
    struct buf text[MAX_PROMPTS];
    float logp[MAX_PROMPTS]; /* sum */
    enum gen_stop stop[MAX_PROMPTS];
    struct buf shown;
    struct gen_totals totals;
    const char *save; /* file for the first prompt's state */
};

static int next(void *arg, struct gen_prompt *p, struct err *e)
{
    struct list *l = arg;
    if (l->next == l->n)
        return 0;
    const char *text = l->prompt[l->next];
    TRY(gen_opts_copy(&p->opts, &l->opts[l->next++], e));
    TRY(*text ? buf_put(&p->text, text, strlen(text), e) : 0);
    return 1;
}

static int done(void *arg, const struct gen_result *r, struct err *e)
{
    struct list *l = arg;
    const int i = l->n_done++;
    l->is_ordered &= r->number == i;
    l->stop[i] = r->completion->stop;
    for (size_t k = 0; k < r->completion->ids.n; k++)
        l->logp[i] += r->completion->logp[k];
    TRY(ids_append(&l->ids[i], r->completion->ids.data, r->completion->ids.n, e));
    const struct buf *text = &r->completion->flow.text;
    return text->size ? buf_put(&l->text[i], text->data, text->size, e) : 0;
}

static int show(void *arg, const void *bytes, size_t n, struct err *e)
{
    struct list *l = arg;
    return buf_put(&l->shown, bytes, n, e);
}

static bool tick(void *arg, const struct gen_totals *t)
{
    ((struct list *)arg)->totals = *t;
    return false;
}

static int save(void *arg, const struct state *s, int slot, const struct ids *ids, uint64_t hash,
                struct err *e)
{
    struct list *l = arg;
    struct out out;
    TRY(out_open(&out, l->save, e));
    TRY(state_save(s, slot, ids->data, ids->n, hash, &out, e));
    return out_commit(&out, e);
}

static void list_init(struct list *l)
{
    static const char *const prompts[] = {
        "The cat", "",    "Once upon a time", "the dog ran and the cat sat on the mat in a house",
        "a",       "dog", "User said the"};
    *l = (struct list){.n = 7, .is_ordered = true};
    for (int i = 0; i < l->n; i++) {
        l->prompt[i] = prompts[i];
        gen_defaults(&l->opts[i]);
        l->opts[i].max_tokens = 5 + 7 * i % 13;
        l->opts[i].ignore_eos = true;
    }
}

static void list_free(struct list *l)
{
    for (int i = 0; i < MAX_PROMPTS; i++) {
        ids_free(&l->ids[i]);
        buf_free(&l->text[i]);
        gen_opts_free(&l->opts[i]);
    }
    buf_free(&l->shown);
}

/* Runs the list on a fresh struct gen of n_slots. */
static void run(struct list *l, struct tiny *t, int n_slots, int S, const char *prefix)
{
    struct gen g;
    const struct gen_calls calls = {l, next, done, show, l->save ? save : NULL, tick};
    l->next = l->n_done = 0;
    int rc = gen_open(&g, &t->model, t->tok, n_slots, S, &err);
    if (rc == 0 && prefix) {
        struct in in;
        rc = in_open(&in, prefix, &err);
        if (rc == 0) {
            rc = gen_load_prefix(&g, &in, &err);
            in_close(&in);
        }
    }
    if (rc != 0 || gen_run(&g, &calls, &err) != 0)
        die(&err);
    gen_close(&g);
}

static bool same_ids(const struct ids *a, const struct ids *b)
{
    return a->n == b->n && memcmp(a->data, b->data, a->n * sizeof *a->data) == 0;
}

static bool same_lists(const struct list *a, const struct list *b)
{
    bool same = a->n_done == b->n_done;
    for (int i = 0; same && i < a->n_done; i++)
        same = same_ids(&a->ids[i], &b->ids[i]) && a->logp[i] == b->logp[i] &&
               a->stop[i] == b->stop[i];
    return same;
}

static void test_batches(struct tiny *t)
{
    struct list one, many;
    list_init(&one);
    run(&one, t, 1, 64, NULL);
    ok(one.is_ordered && one.n_done == 7, "seven completions in order");
    bool are_long = true;
    for (int i = 0; i < 7; i++)
        are_long &= one.ids[i].n == (size_t)one.opts[i].max_tokens && one.stop[i] == GEN_LENGTH;
    ok(are_long, "each of its own max_tokens");
    int64_t sum = 0;
    for (int i = 0; i < 7; i++)
        sum += one.opts[i].max_tokens;
    ok(one.totals.n_decoded == sum && one.totals.n_done == 7, "tokens and prompts are counted");
    for (int n_slots = 2; n_slots <= 8; n_slots += 3) {
        list_init(&many);
        run(&many, t, n_slots, 64, NULL);
        ok(many.is_ordered && same_lists(&one, &many), "the same bits with %d slots", n_slots);
        list_free(&many);
    }
    bool differ = false;
    for (int i = 1; i < 7; i++)
        differ |= one.ids[i].n && one.ids[0].n && one.ids[i].data[0] != one.ids[0].data[0];
    ok(differ, "completions are not all alike");
    list_free(&one);
}

/* A prompt that names its seed gives the same wherever it stands; one that does not is keyed by its
 * number. */
static void test_seeds(struct tiny *t)
{
    struct list l;
    list_init(&l);
    l.n = 4;
    for (int i = 0; i < 4; i++) {
        l.prompt[i] = "The cat sat";
        l.opts[i].max_tokens = 12;
        l.opts[i].sample.temperature = 1.5f;
        if (i >= 2 && gen_set(&l.opts[i], "seed", 1, &err) != 1)
            die(&err);
    }
    run(&l, t, 3, 64, NULL);
    ok(!same_ids(&l.ids[0], &l.ids[1]), "two prompts alike differ by their number");
    ok(same_ids(&l.ids[2], &l.ids[3]), "two with a seed of their own do not");
    ok(same_ids(&l.ids[0], &l.ids[2]), "a seed of its own is that of a first prompt");
    list_free(&l);
}

static void test_limits(struct tiny *t)
{
    struct list l;
    list_init(&l);
    for (int i = 0; i < l.n; i++)
        l.opts[i].max_tokens = 1000;
    l.opts[4].max_tokens = 0;
    run(&l, t, 3, 12, NULL);
    ok(l.stop[0] == GEN_CONTEXT && l.ids[0].n > 0, "a full state ends a completion");
    ok(l.stop[3] == GEN_CONTEXT && l.ids[3].n == 0, "a prompt that does not fit is not completed");
    ok(l.stop[4] == GEN_LENGTH && l.ids[4].n == 0, "max_tokens 0 only reads");
    ok(l.is_ordered && l.n_done == 7, "and all come back in order");
    struct ids prompt = {0};
    if (ids_put(&prompt, ID_BOS, &err) != 0 || tok_encode(t->tok, "The cat", 7, &prompt, &err) != 0)
        die(&err);
    ok(prompt.n + l.ids[0].n == 12 + 1, "up to the last position");
    ids_free(&prompt);
    list_free(&l);
}

/* Greedy text, then the same with a stop string taken from its middle. */
static void test_stop(struct tiny *t)
{
    struct list l, stopped;
    list_init(&l);
    l.n = 1;
    l.opts[0].max_tokens = 40;
    l.opts[0].sample.temperature = 2;
    run(&l, t, 1, 64, NULL);
    ok(l.shown.size <= l.text[0].size && memcmp(l.shown.data, l.text[0].data, l.shown.size) == 0 &&
           l.text[0].size - l.shown.size < 4,
       "what was shown is the text");
    const size_t at = l.text[0].size / 2;
    list_init(&stopped);
    stopped.n = 1;
    stopped.opts[0].max_tokens = 40;
    stopped.opts[0].sample.temperature = 2;
    if (stops_add(&stopped.opts[0].stops, l.text[0].data + at, 6, &err) != 0)
        die(&err);
    run(&stopped, t, 1, 64, NULL);
    const uint8_t *first = memmem(l.text[0].data, l.text[0].size, l.text[0].data + at, 6);
    ok(stopped.stop[0] == GEN_STRING, "a stop string of several tokens ends it");
    ok(stopped.text[0].size == (size_t)(first - l.text[0].data) &&
           memcmp(stopped.text[0].data, l.text[0].data, stopped.text[0].size) == 0,
       "the text before it is unchanged");
    ok(stopped.ids[0].n < l.ids[0].n &&
           memcmp(stopped.ids[0].data, l.ids[0].data, stopped.ids[0].n * sizeof(int32_t)) == 0,
       "so are the ids, and no more were decoded");
    list_free(&l);
    list_free(&stopped);
}

static void test_eos(struct tiny *t)
{
    struct list l;
    list_init(&l);
    l.n = 1;
    l.opts[0].ignore_eos = false;
    l.opts[0].max_tokens = 20;
    if (sample_add_bias(&l.opts[0].sample, ID_EOS, 1e6, t->model.c.V, &err) != 0)
        die(&err);
    run(&l, t, 1, 64, NULL);
    ok(l.stop[0] == GEN_EOS && l.ids[0].n == 1 && l.ids[0].data[0] == ID_EOS && l.text[0].size == 0,
       "</s> ends a completion, is among the ids and not in the text");
    list_free(&l);
}

static void test_prefix(struct tiny *t, const char *folder)
{
    char path[256];
    struct list whole, first, rest;
    snprintf(path, sizeof path, "%s/state", folder);
    list_init(&whole);
    whole.n = 1;
    whole.prompt[0] = "Once upon a time the cat";
    run(&whole, t, 1, 64, NULL);
    list_init(&first);
    first.n = 1;
    first.prompt[0] = "Once upon a";
    first.opts[0].max_tokens = 0;
    first.save = path;
    run(&first, t, 1, 64, NULL);
    list_init(&rest);
    rest.n = 2;
    rest.prompt[0] = " time the cat";
    rest.prompt[1] = "";
    run(&rest, t, 2, 64, path);
    ok(same_ids(&rest.ids[0], &whole.ids[0]), "a prompt read in two parts, through a file");
    list_free(&whole);
    list_init(&whole);
    whole.n = 2;
    whole.prompt[1] = "Once upon a";
    run(&whole, t, 2, 64, NULL);
    ok(same_ids(&rest.ids[1], &whole.ids[1]) && rest.logp[1] == whole.logp[1],
       "an empty prompt goes on from the loaded state, bit for bit");
    list_free(&whole);
    list_free(&first);
    list_free(&rest);
    unlink(path);
}

int main(void)
{
    struct tiny t;
    char folder[] = "/tmp/test_generate.XXXXXX";
    if (!mkdtemp(folder))
        return 1;
    const struct model_opts opts = {.read_T = 8, .step_R = 8};
    tiny_open(&t, "mtm", 20, &opts, 2);
    test_batches(&t);
    test_seeds(&t);
    test_limits(&t);
    test_stop(&t);
    test_eos(&t);
    test_prefix(&t, folder);
    tiny_close(&t);
    rmdir(folder);
    return tap_done();
}
