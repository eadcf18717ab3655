/* score: documents scored one after the other; see score.h. */
#include "score.h"

#include <string.h>

void score_begin(struct scorer *c, struct eval *e, const struct score_opts *opts)
{
    *c = (struct scorer){.eval = e, .opts = *opts, .prev = ID_EOS};
}

void score_free(struct scorer *c)
{
    ids_free(&c->held);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Bytes and words of a document. */
static void count_text(struct scorer *c, const int32_t *ids, size_t n)
{
    bool is_in_word = false;
    for (size_t i = 0; i < n; i++) {
        size_t size = 0;
        const char *piece = c->eval->tok ? tok_piece(c->eval->tok, ids[i], &size) : NULL;
        for (size_t k = 0; k < size; k++) {
            const bool was_in_word = is_in_word;
            is_in_word = !is_space(piece[k]);
            c->score.n_words += is_in_word && !was_in_word;
        }
        if (c->opts.piece_bytes)
            size = c->opts.piece_bytes[ids[i]];
        else if (ids[i] == ID_EOS)
            size = (size_t)c->opts.sep_bytes;
        c->score.n_bytes += size;
    }
}

/* Through the state, which starts afresh (without <s>) whenever it is full. */
static int put_long(struct scorer *c, const int32_t *ids, size_t n, struct err *err)
{
    const size_t room = (size_t)eval_room(c->eval);
    for (size_t done = 0; done < n; done += room) {
        const size_t take = n - done < room ? n - done : room;
        state_reset(&c->eval->state, 0);
        TRY(eval_read(c->eval, 0, done ? ids[done - 1] : ID_BOS, ids + done, take, &c->score.nats,
                      err));
    }
    return 0;
}

/* The first window scores all its targets, each later one its last `stride`. */
static int put_windows(struct scorer *c, const int32_t *ids, size_t n, struct err *err)
{
    const size_t window = (size_t)c->opts.window, stride = (size_t)c->opts.stride;
    size_t end = n < window ? n : window;
    TRY(eval_pack(c->eval, ID_BOS, ids, end, 0, &c->score.nats, err));
    while (end < n) {
        const size_t fresh = n - end < stride ? n - end : stride;
        end += fresh;
        const size_t begin = end - window;
        const int32_t first = begin ? ids[begin - 1] : ID_BOS;
        TRY(eval_pack(c->eval, first, ids + begin, window, window - fresh, &c->score.nats, err));
    }
    return 0;
}

/* The row rule of batch.h, row by row: inputs and segments follow from the ids alone. */
static int put_row(struct scorer *c, struct err *err)
{
    const int32_t *ids = c->held.data;
    int32_t first = c->prev == ID_EOS ? ID_BOS : c->prev;
    size_t begin = 0;
    for (size_t i = 0; i < c->held.n; i++)
        if (ids[i] == ID_EOS || i + 1 == c->held.n) {
            TRY(eval_pack(c->eval, first, ids + begin, i + 1 - begin, 0, &c->score.nats, err));
            begin = i + 1;
            first = ID_BOS;
        }
    if (c->held.n > 0)
        c->prev = ids[c->held.n - 1];
    c->held.n = 0;
    return 0;
}

static int put_rows(struct scorer *c, const int32_t *ids, size_t n, struct err *err)
{
    const size_t T = (size_t)c->eval->T;
    if (c->is_open) { /* the document before had no </s>: this one sees nothing of it all the same
                       */
        TRY(put_row(c, err));
        c->prev = ID_EOS;
    }
    c->is_open = n > 0 && ids[n - 1] != ID_EOS;
    while (n > 0) {
        const size_t room = T - c->held.n, take = n < room ? n : room;
        TRY(ids_append(&c->held, ids, take, err));
        if (c->held.n == T)
            TRY(put_row(c, err));
        ids += take;
        n -= take;
    }
    return 0;
}

int score_put(struct scorer *c, const int32_t *ids, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->eval->model->c.V)
            return err_set(err, NULL, "encode with the model's tokenizer",
                           "id %d, but the model has %d", (int)ids[i], c->eval->model->c.V);
    count_text(c, ids, n);
    c->score.n_docs++;
    c->score.n_tokens += n;
    if (c->opts.protocol == EVAL_ROWS)
        return put_rows(c, ids, n, err);
    if (c->opts.protocol == EVAL_WINDOW)
        return put_windows(c, ids, n, err);
    if (n <= (size_t)c->eval->T)
        return eval_pack(c->eval, ID_BOS, ids, n, 0, &c->score.nats, err);
    return put_long(c, ids, n, err);
}

int score_end(struct scorer *c, struct err *err)
{
    TRY(put_row(c, err));
    return eval_flush(c->eval, err);
}

int score_describe(const struct scorer *c, struct buf *to, struct err *err)
{
    switch (c->opts.protocol) {
    case EVAL_DOCUMENTS:
        TRY(buf_printf(to, err, "each document from <s>; state carried"));
        if (eval_room(c->eval) < INT32_MAX)
            TRY(buf_printf(to, err, " over at most %d tokens", c->eval->state.S));
        break;
    case EVAL_WINDOW:
        TRY(buf_printf(to, err, "each document from <s>; windows of %d tokens at stride %d",
                       c->opts.window, c->opts.stride));
        break;
    case EVAL_ROWS:
        TRY(buf_printf(to, err, "rows of %d tokens as in training", c->eval->T));
        break;
    }
    return buf_printf(to, err, "; every token and every </s> scored; all bytes with separators");
}
