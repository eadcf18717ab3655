/* chat: turns over a state that is never read twice; see chat.h. */
#include "chat.h"

#include <string.h>

static const char user_text[] = "User:", next_user_text[] = "\nUser:";
static const char assistant_text[] = "\nAssistant:";

static int put_text(struct chat *c, const void *text, size_t n, struct err *err)
{
    return tok_encode(c->tok, text, n, &c->ids, err);
}

static int begin(struct chat *c, struct err *err)
{
    state_reset(&c->state, 0);
    c->ids.n = 0;
    c->n_marks = 0;
    TRY(ids_put(&c->ids, ID_BOS, err));
    const bool has_system = c->system.size > 0;
    if (has_system && c->has_markers && c->id_system >= 0) {
        TRY(ids_put(&c->ids, c->id_system, err));
        TRY(put_text(c, c->system.data, c->system.size, err));
        return ids_put(&c->ids, c->id_end, err);
    }
    if (has_system) {
        TRY(put_text(c, c->system.data, c->system.size, err));
        TRY(put_text(c, "\n\n", 2, err));
    }
    return c->has_markers ? 0 : put_text(c, user_text, strlen(user_text), err);
}

int chat_open(struct chat *c, struct model *m, const struct tok *tok, const struct gen_opts *opts,
              enum chat_form form, int S, struct err *err)
{
    *c = (struct chat){.model = m, .tok = tok};
    c->id_system = tok_control(tok, "<|system|>");
    c->id_user = tok_control(tok, "<|user|>");
    c->id_assistant = tok_control(tok, "<|assistant|>");
    c->id_end = tok_control(tok, "<|end|>");
    if (c->id_end < 0)
        c->id_end = ID_EOS;
    const bool can_mark = c->id_user >= 0 && c->id_assistant >= 0;
    c->has_markers = can_mark && form != CHAT_PLAIN;
    if (form == CHAT_MARKERS && !can_mark)
        return err_set(err, NULL, "chat in plain text",
                       "the tokenizer has no <|user|> and <|assistant|>");
    TRY(gen_opts_copy(&c->opts, opts, err));
    if (c->has_markers)
        c->opts.end_id = c->id_end;
    else
        TRY(stops_add(&c->opts.stops, next_user_text, strlen(next_user_text), err));
    TRY(state_open(&c->state, &m->c, m->dev, 1 + CHAT_UNDO, S, err));
    TRY(sampler_open(&c->sampler, m->dev, 1, m->c.V, err));
    return begin(c, err);
}

void chat_close(struct chat *c)
{
    gen_opts_free(&c->opts);
    sampler_close(&c->sampler);
    state_free(&c->state);
    ids_free(&c->ids);
    buf_free(&c->system);
    *c = (struct chat){0};
}

static int put_mark(struct chat *c, struct err *err)
{
    TRY(state_copy(&c->state, 1 + c->next_mark, &c->state, 0, err));
    c->mark[c->next_mark] = c->ids.n;
    c->next_mark = (c->next_mark + 1) % CHAT_UNDO;
    c->n_marks += c->n_marks < CHAT_UNDO;
    return 0;
}

static int undo(struct chat *c, struct err *err)
{
    c->next_mark = (c->next_mark + CHAT_UNDO - 1) % CHAT_UNDO;
    c->n_marks--;
    TRY(state_copy(&c->state, 0, &c->state, 1 + c->next_mark, err));
    c->ids.n = c->mark[c->next_mark];
    return 0;
}

int chat_undo(struct chat *c, struct err *err)
{
    if (c->n_marks == 0)
        return err_set(err, NULL, NULL, "nothing to undo (at most %d turns in a row)", CHAT_UNDO);
    return undo(c, err);
}

int chat_reset(struct chat *c, struct err *err)
{
    return begin(c, err);
}

int chat_system(struct chat *c, const void *text, size_t n, struct err *err)
{
    c->system.size = 0;
    if (n > 0)
        TRY(buf_put(&c->system, text, n, err));
    return begin(c, err);
}

static int put_user(struct chat *c, const void *text, size_t n, struct err *err)
{
    if (c->has_markers) {
        TRY(ids_put(&c->ids, c->id_user, err));
        TRY(put_text(c, text, n, err));
        TRY(ids_put(&c->ids, c->id_end, err));
        return ids_put(&c->ids, c->id_assistant, err);
    }
    struct buf turn = {0};
    int status = buf_put(&turn, " ", 1, err);
    if (status == 0)
        status = buf_put(&turn, text, n, err);
    if (status == 0)
        status = buf_put(&turn, assistant_text, strlen(assistant_text), err);
    if (status == 0)
        status = put_text(c, turn.data, turn.size, err);
    buf_free(&turn);
    return status;
}

/* Reads what waits, but for the last id. 1: cancelled. */
static int read_waiting(struct chat *c, const struct chat_calls *calls, struct err *err)
{
    if ((int64_t)c->ids.n > gen_room(&c->state))
        return err_set(err, NULL, "/reset, or /undo and say less, or start with a larger --context",
                       "the conversation is full: it would be %zu tokens, the state holds %lld",
                       c->ids.n, (long long)gen_room(&c->state));
    for (;;) {
        const size_t begin = (size_t)c->state.pos[0], left = c->ids.n - 1 - begin;
        const size_t most = (size_t)c->model->opts.read_T, n = left < most ? left : most;
        if (n == 0)
            return 0;
        if (calls->is_cancelled && calls->is_cancelled(calls->arg))
            return 1;
        TRY(model_read(c->model, &c->state, 0, c->ids.data + begin, n, NULL, NULL, NULL, err));
        c->n_read += n;
    }
}

static int show(struct chat *c, const struct chat_calls *calls, struct completion *a, bool is_last,
                struct err *err)
{
    size_t n;
    const uint8_t *at = flow_take(&a->flow, &c->opts.stops, is_last, &n);
    return n > 0 ? calls->show(calls->arg, at, n, err) : 0;
}

/* Each chosen id waits in ids until the next step reads it. */
static int decode(struct chat *c, const struct chat_calls *calls, struct completion *a,
                  struct err *err)
{
    const int32_t slot = 0;
    struct sample_opts o;
    TRY(gen_choice(&c->opts, c->model->c.V, &o, err));
    sampler_start(&c->sampler, 0, &o, (uint32_t)c->ids.n, c->ids.data, c->ids.n);
    while (a->stop == GEN_GOES_ON) {
        int32_t id;
        float logp;
        TRY(sampler_step(&c->sampler, c->model, &c->state, &slot, &c->ids.data[c->ids.n - 1], 1,
                         &id, &logp, err));
        c->n_read++;
        TRY(ids_put(&c->ids, id, err));
        TRY(completion_put(a, &c->opts, c->tok, id, logp, gen_room(&c->state) - c->state.pos[0],
                           err));
        if (a->stop == GEN_GOES_ON && calls->is_cancelled && calls->is_cancelled(calls->arg))
            a->stop = GEN_CANCELLED;
        TRY(show(c, calls, a, a->stop != GEN_GOES_ON, err));
    }
    return 0;
}

/* Bytes of text of the answer's tokens that were read: all but the last. */
static size_t read_bytes(const struct chat *c, const struct completion *a)
{
    size_t bytes = 0;
    for (size_t i = 0; i + 1 < a->ids.n; i++) {
        size_t n;
        tok_piece(c->tok, a->ids.data[i], &n);
        bytes += n;
    }
    return bytes;
}

/* Closes the turn: what must stand between this answer and the next user's text waits in ids.
 * After our own stop string (the last of the list) the last token is replaced: the state has read a
 * part of the answer and the stop string, and the rest of both is encoded anew. */
static int close_turn(struct chat *c, const struct completion *a, struct err *err)
{
    const int32_t last = c->ids.data[c->ids.n - 1];
    if (c->has_markers) {
        if (last == c->id_end)
            return 0;
        c->ids.n -= a->stop == GEN_EOS;
        return ids_put(&c->ids, c->id_end, err);
    }
    if (a->stop != GEN_STRING || a->flow.stop != c->opts.stops.n - 1) {
        c->ids.n -= a->stop == GEN_EOS;
        return put_text(c, next_user_text, strlen(next_user_text), err);
    }
    c->ids.n--;
    const size_t n_read = read_bytes(c, a), n_text = a->flow.text.size;
    if (n_read < n_text)
        TRY(put_text(c, a->flow.text.data + n_read, n_text - n_read, err));
    const size_t done = n_read > n_text ? n_read - n_text : 0;
    return put_text(c, next_user_text + done, strlen(next_user_text) - done, err);
}

int chat_say(struct chat *c, const void *text, size_t n, const struct chat_calls *calls,
             struct completion *answer, struct err *err)
{
    completion_init(answer);
    TRY(put_mark(c, err));
    int status = put_user(c, text, n, err);
    if (status == 0)
        status = read_waiting(c, calls, err);
    if (status == 0)
        status = decode(c, calls, answer, err);
    if (status == 0)
        return close_turn(c, answer, err);
    struct err ignored;
    if (undo(c, &ignored) != 0)
        *err = ignored;
    answer->stop = GEN_CANCELLED;
    return status < 0 ? -1 : 0;
}

int chat_save(const struct chat *c, struct out *out, struct err *err)
{
    uint64_t hash;
    TRY(model_hash(c->model, &hash, err));
    return state_save(&c->state, 0, c->ids.data, c->ids.n, hash, out, err);
}

int chat_load(struct chat *c, struct in *in, struct err *err)
{
    uint64_t hash;
    TRY(model_hash(c->model, &hash, err));
    c->n_marks = 0;
    struct ids ids = {0};
    int status = state_load(&c->state, 0, &ids, hash, in, err);
    if (status == 0)
        status = gen_check_ids(&ids, c->state.pos[0], c->model->c.V, in->path, err);
    if (status == 0) {
        ids_free(&c->ids);
        c->ids = ids;
        return 0;
    }
    ids_free(&ids);
    struct err ignored;
    if (begin(c, &ignored) != 0)
        *err = ignored;
    return -1;
}
