/* chat: nothing is read twice, undo is bit for bit, saved conversations go on alike. */
#include "chat.h"
#include "tiny_model.h"

#include <unistd.h>

static struct err err;

struct shown {
    struct buf text;
    int n_polls, cancel_at; /* cancel at that poll; 0: never */
};

static int show(void *arg, const void *bytes, size_t n, struct err *e)
{
    return buf_put(&((struct shown *)arg)->text, bytes, n, e);
}

static bool is_cancelled(void *arg)
{
    struct shown *s = arg;
    return ++s->n_polls == s->cancel_at;
}

/* One turn; the answer's ids are put into *ids where it is not NULL. */
static enum gen_stop say(struct chat *c, const char *text, int cancel_at, struct ids *ids)
{
    struct completion answer;
    struct shown s = {.cancel_at = cancel_at};
    const struct chat_calls calls = {&s, show, is_cancelled};
    if (chat_say(c, text, strlen(text), &calls, &answer, &err) != 0)
        die(&err);
    ok(s.text.size <= answer.flow.text.size &&
           (s.text.size == 0 || memcmp(s.text.data, answer.flow.text.data, s.text.size) == 0),
       "what is shown of an answer is its text");
    if (ids && ids_append(ids, answer.ids.data, answer.ids.n, &err) != 0)
        die(&err);
    const enum gen_stop stop = answer.stop;
    completion_free(&answer);
    buf_free(&s.text);
    return stop;
}

/* A saved state's bytes: all that a conversation is. */
static void save(const struct chat *c, const char *path, struct buf *to)
{
    struct out out;
    if (out_open(&out, path, &err) != 0 || chat_save(c, &out, &err) != 0 ||
        out_commit(&out, &err) != 0 || io_read_file(path, to, 1 << 26, &err) != 0)
        die(&err);
}

static bool same_bytes(const struct buf *a, const struct buf *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static bool same_ids(const struct ids *a, const struct ids *b)
{
    return a->n == b->n && memcmp(a->data, b->data, a->n * sizeof *a->data) == 0;
}

static void open_chat(struct chat *c, struct tiny *t, enum chat_form form, int max_tokens, int S)
{
    struct gen_opts o;
    gen_defaults(&o);
    o.max_tokens = max_tokens;
    o.sample.temperature = 1.5f;
    if (chat_open(c, &t->model, t->tok, &o, form, S, &err) != 0)
        die(&err);
}

static void test_turns(struct tiny *t, const char *path, enum chat_form form)
{
    struct chat c;
    struct buf before = {0}, after = {0};
    struct ids first = {0}, again = {0};
    open_chat(&c, t, form, 9, 512);
    ok(c.has_markers == (form != CHAT_PLAIN), "the form is as asked");
    for (int i = 0; i < 3; i++)
        say(&c, "the cat sat on", 0, NULL);
    ok(c.n_read == (uint64_t)c.state.pos[0], "every token was read once: %llu",
       (unsigned long long)c.n_read);
    ok(c.ids.n > c.n_read, "what closes the turn waits");
    save(&c, path, &before);
    say(&c, "a dog", 0, &first);
    ok(chat_undo(&c, &err) == 0, "undo");
    save(&c, path, &after);
    ok(same_bytes(&before, &after), "undo restores the state bit for bit");
    say(&c, "a dog", 0, &again);
    ok(same_ids(&first, &again), "the same turn again gives the same answer");
    for (int i = 0; i < 4; i++)
        ok(chat_undo(&c, &err) == 0, "undo turn %d", 4 - i);
    ok(chat_undo(&c, &err) == -1, "there is nothing more to undo");
    ok(c.state.pos[0] == 0, "and nothing is read any more");
    chat_close(&c);
    buf_free(&before);
    buf_free(&after);
    ids_free(&first);
    ids_free(&again);
}

static void test_ring(struct tiny *t)
{
    struct chat c;
    open_chat(&c, t, CHAT_AUTO, 2, 512);
    for (int i = 0; i < CHAT_UNDO + 3; i++)
        say(&c, "a", 0, NULL);
    int n = 0;
    while (chat_undo(&c, &err) == 0)
        n++;
    ok(n == CHAT_UNDO && c.state.pos[0] > 0, "undo goes back %d turns", CHAT_UNDO);
    chat_close(&c);
}

static void test_saved(struct tiny *t, const char *path, enum chat_form form)
{
    struct chat a, b;
    struct buf bytes = {0};
    struct ids here = {0}, there = {0};
    struct in in;
    open_chat(&a, t, form, 6, 512);
    say(&a, "Once upon a time", 0, NULL);
    save(&a, path, &bytes);
    open_chat(&b, t, form, 6, 512);
    if (in_open(&in, path, &err) != 0 || chat_load(&b, &in, &err) != 0)
        die(&err);
    in_close(&in);
    ok(b.n_read == 0 && same_ids(&a.ids, &b.ids), "a conversation is loaded without reading it");
    say(&a, "and the dog", 0, &here);
    say(&b, "and the dog", 0, &there);
    ok(same_ids(&here, &there), "and goes on as the one that was saved");
    bytes.data[bytes.size - 1] ^= 1;
    if (in_memory(&in, "flipped", bytes.data, bytes.size, &err) != 0)
        die(&err);
    ok(chat_load(&b, &in, &err) == -1, "a damaged file is refused");
    in_close(&in);
    chat_close(&a);
    chat_close(&b);
    buf_free(&bytes);
    ids_free(&here);
    ids_free(&there);
}

static void test_cancel(struct tiny *t, const char *path)
{
    struct chat c;
    struct buf before = {0}, after = {0};
    open_chat(&c, t, CHAT_AUTO, 50, 512);
    if (sample_add_bias(&c.opts.sample, ID_EOS, -1e6, t->model.c.V, &err) != 0 ||
        sample_add_bias(&c.opts.sample, c.id_end, -1e6, t->model.c.V, &err) != 0)
        die(&err);
    say(&c, "the house", 0, NULL);
    save(&c, path, &before);
    const size_t n = c.ids.n;
    ok(say(&c, "the cat sat on the mat and the dog ran in the house", 1, NULL) == GEN_CANCELLED,
       "cancelled while the text is read");
    save(&c, path, &after);
    ok(same_bytes(&before, &after), "the turn did not happen");
    const enum gen_stop stop = say(&c, "a", 4, NULL);
    ok(stop == GEN_CANCELLED && c.ids.n > n, "cancelled in the answer: it stays");
    ok(c.ids.data[c.ids.n - 1] == c.id_end, "and is closed");
    chat_close(&c);
    buf_free(&before);
    buf_free(&after);
}

/* The ids of a conversation in plain text decode to the template, whatever ended the answers. */
static void test_template(struct tiny *t, int32_t likely, int max_tokens, const char *want)
{
    struct chat c;
    struct buf text = {0};
    open_chat(&c, t, CHAT_PLAIN, max_tokens, 512);
    if (chat_system(&c, "the", 3, &err) != 0 ||
        sample_add_bias(&c.opts.sample, likely, 1e6, t->model.c.V, &err) != 0)
        die(&err);
    say(&c, "a cat", 0, NULL);
    if (tok_decode(t->tok, c.ids.data, c.ids.n, &text, &err) != 0)
        die(&err);
    ok(text.size == strlen(want) && memcmp(text.data, want, text.size) == 0,
       "the conversation is the template");
    bool has_eos = false;
    for (size_t i = 0; i < c.ids.n; i++)
        has_eos |= c.ids.data[i] == ID_EOS;
    ok(!has_eos, "and no document ends in it");
    chat_close(&c);
    buf_free(&text);
}

/* Forces an answer token by token: before each choice the one bias moves to the next id. */
struct forced {
    struct chat *c;
    struct ids want;
};

static int ignore(void *arg, const void *bytes, size_t n, struct err *e)
{
    return 0;
}

static bool force_next(void *arg)
{
    const struct forced *f = arg;
    const size_t i = f->c->sampler.slot_row[0].position;
    if (i < f->want.n) {
        f->c->sampler.slot.bias_id[0] = f->want.data[i];
        f->c->sampler.sent[0] = 0;
    }
    return false;
}

/* An answer that runs into the template: what the state has read of "\nUser:" is not said again,
 * whatever tokens it came in. */
static void test_stop_string(struct tiny *t, const char *const *part, int n_parts)
{
    struct chat c;
    struct forced f = {&c, {0}};
    struct buf text = {0};
    struct completion answer;
    const struct chat_calls calls = {&f, ignore, force_next};
    static const char want[] = "User: a cat\nAssistant: the\nUser:";
    for (int i = 0; i < n_parts; i++)
        if (tok_encode(t->tok, part[i], strlen(part[i]), &f.want, &err) != 0)
            die(&err);
    open_chat(&c, t, CHAT_PLAIN, 50, 512);
    if (sample_add_bias(&c.opts.sample, f.want.data[0], 1e6, t->model.c.V, &err) != 0 ||
        chat_say(&c, "a cat", 5, &calls, &answer, &err) != 0 ||
        tok_decode(t->tok, c.ids.data, c.ids.n, &text, &err) != 0)
        die(&err);
    ok(answer.stop == GEN_STRING && answer.flow.text.size == 4, "a stop string ends the answer");
    ok(text.size == strlen(want) && memcmp(text.data, want, text.size) == 0 &&
           c.n_read == (uint64_t)c.state.pos[0],
       "the conversation is the template, nothing read twice");
    completion_free(&answer);
    chat_close(&c);
    ids_free(&f.want);
    buf_free(&text);
}

static void test_full(struct tiny *t)
{
    struct chat c;
    struct completion answer;
    struct shown s = {0};
    const struct chat_calls calls = {&s, show, NULL};
    open_chat(&c, t, CHAT_AUTO, 100, 24);
    const char text[] = "the cat sat";
    ok(chat_say(&c, text, 11, &calls, &answer, &err) == 0 && answer.stop == GEN_CONTEXT,
       "an answer ends where the state is full");
    completion_free(&answer);
    const int32_t pos = c.state.pos[0];
    ok(chat_say(&c, text, 11, &calls, &answer, &err) == -1 && c.state.pos[0] == pos,
       "a turn that does not fit is an error and changes nothing");
    completion_free(&answer);
    ok(chat_undo(&c, &err) == 0 && c.state.pos[0] == 0, "and the one before can be undone");
    chat_close(&c);
    buf_free(&s.text);
}

int main(void)
{
    struct tiny t;
    char folder[] = "/tmp/test_chat.XXXXXX", path[64];
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/state", folder);
    const struct model_opts opts = {.read_T = 8, .step_R = 1};
    tiny_open(&t, "mtm", 20, &opts, 1);
    test_turns(&t, path, CHAT_AUTO);
    test_turns(&t, path, CHAT_PLAIN);
    test_ring(&t);
    test_saved(&t, path, CHAT_AUTO);
    test_saved(&t, path, CHAT_PLAIN);
    test_cancel(&t, path);
    struct ids cat = {0};
    if (tok_encode(t.tok, " cat", 4, &cat, &err) != 0 || cat.n != 1)
        die(&err);
    test_template(&t, cat.data[0], 2, "the\n\nUser: a cat\nAssistant: cat cat\nUser:");
    test_template(&t, ID_EOS, 2, "the\n\nUser: a cat\nAssistant:\nUser:");
    ids_free(&cat);
    static const char *const whole[] = {" the", "\nUser: more"};
    static const char *const letters[] = {" t", "h", "e", "\n", "U", "s", "e", "r", ":"};
    test_stop_string(&t, whole, 2);
    test_stop_string(&t, letters, 9);
    test_full(&t);
    tiny_close(&t);
    unlink(path);
    rmdir(folder);
    return tap_done();
}
