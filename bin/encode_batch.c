/* encode_batch: see encode_batch.h. Long documents are cut where tok_cut allows, so that a book
 * keeps all threads busy as well as many lines do. */
#include "encode_batch.h"

#include <stdlib.h>

enum { PART_BYTES = 1 << 16 };

struct batch_part {
    size_t begin, n; /* of the batch's text */
    bool is_end;     /* </s> follows */
};

struct batch_hand {
    struct tok_cache *cache;
    struct ids ids;
    struct err err;
    bool has_failed;
};

int encode_batch_open(struct encode_batch *b, const struct tok *tok, struct pool *pool,
                      struct err *err)
{
    const int n = pool_size(pool);
    *b = (struct encode_batch){.tok = tok, .pool = pool};
    b->hands = calloc((size_t)n, sizeof *b->hands);
    if (!b->hands)
        return err_oom(err, (size_t)n * sizeof *b->hands);
    for (; b->n_hands < n; b->n_hands++)
        TRY(tok_cache_open(&b->hands[b->n_hands].cache, err));
    return 0;
}

void encode_batch_close(struct encode_batch *b)
{
    for (int i = 0; i < b->n_hands; i++) {
        tok_cache_close(b->hands[i].cache);
        ids_free(&b->hands[i].ids);
    }
    free(b->hands);
    free(b->parts);
    buf_free(&b->text);
    *b = (struct encode_batch){0};
}

static int add_part(struct encode_batch *b, size_t begin, size_t n, bool is_end, struct err *err)
{
    if (b->n_parts == b->cap) {
        const size_t cap = b->cap ? 2 * b->cap : 1024;
        struct batch_part *grown = realloc(b->parts, cap * sizeof *grown);
        if (!grown)
            return err_oom(err, cap * sizeof *grown);
        b->parts = grown;
        b->cap = cap;
    }
    b->parts[b->n_parts++] = (struct batch_part){begin, n, is_end};
    return 0;
}

int encode_batch_add(struct encode_batch *b, const void *text, size_t n, bool is_ended,
                     struct err *err)
{
    size_t begin = b->text.size;
    TRY(buf_reserve(&b->text, n + 1, err)); /* data is not NULL from here on */
    TRY(buf_put(&b->text, text, n, err));
    while (b->text.size - begin > PART_BYTES) {
        const size_t left = b->text.size - begin;
        const size_t len = tok_cut(b->tok, b->text.data + begin, left, PART_BYTES);
        if (len == left)
            break;
        TRY(add_part(b, begin, len, false, err));
        begin += len;
    }
    return add_part(b, begin, b->text.size - begin, is_ended, err);
}

static int encode_part(struct encode_batch *b, struct batch_hand *h, const struct batch_part *p)
{
    TRY(tok_encode_cached(b->tok, h->cache, b->text.data + p->begin, p->n, &h->ids, &h->err));
    return p->is_end ? ids_put(&h->ids, ID_EOS, &h->err) : 0;
}

/* A thread takes the parts that begin in its share of the bytes. */
static void work(void *arg, int worker, int n_workers)
{
    struct encode_batch *b = arg;
    struct batch_hand *h = &b->hands[worker];
    const size_t lo = b->text.size / (size_t)n_workers * (size_t)worker;
    const size_t hi = b->text.size / (size_t)n_workers * ((size_t)worker + 1);
    for (size_t i = 0; i < b->n_parts && !h->has_failed; i++) {
        const struct batch_part *p = &b->parts[i];
        const bool is_mine = p->begin >= lo && (p->begin < hi || worker == n_workers - 1);
        if (is_mine)
            h->has_failed = encode_part(b, h, p) != 0;
    }
}

int encode_batch_run(struct encode_batch *b, struct err *err)
{
    pool_run(b->pool, work, b);
    for (int i = 0; i < b->n_hands; i++) {
        if (!b->hands[i].has_failed)
            continue;
        *err = b->hands[i].err;
        return -1;
    }
    return 0;
}

const struct ids *encode_batch_ids(const struct encode_batch *b, int hand)
{
    return &b->hands[hand].ids;
}

void encode_batch_clear(struct encode_batch *b)
{
    b->text.size = 0;
    b->n_parts = 0;
    for (int i = 0; i < b->n_hands; i++)
        b->hands[i].ids.n = 0;
}
