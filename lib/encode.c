/* encode: opens a tokenizer, cuts text into chunks, remembers the ids of short ones; see encode.h.
 *
 * Text is cut wherever no piece has these two bytes side by side: no merge can reach across, so
 * each chunk stands alone. With a usual model a chunk is a word with the space before it, and most
 * come out of the cache. A cut may fall inside a character that no piece has: its bytes become byte
 * pieces anyway. Models with user-defined or unused pieces have rules that span the text, which is
 * then one chunk. */
#include "encode.h"

#include "bpe.h"
#include "io.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct tok {
    struct buf bytes;
    struct vocab vocab; /* its pieces point into bytes */
    struct merges merges;
    uint64_t hash;
};

/* --- opening --- */

static int check_settings(const struct vocab *v, struct err *err)
{
    const char *const mend = "train one with tok-train";
    if (v->model_type != 2)
        return err_set(err, NULL, mend, "is no BPE model");
    if (!v->has_byte_fallback)
        return err_set(err, NULL, mend, "has no byte fallback, so it would lose characters");
    if (v->has_rules || !v->escapes_spaces)
        return err_set(err, NULL, mend, "rewrites the text, so it could not be given back");
    if (v->has_dummy_prefix || v->removes_spaces)
        return err_set(err, NULL, mend, "adds or removes spaces, so text could not be given back");
    return 0;
}

static int check_control(const struct vocab *v, int id, const char *text, enum piece_type type,
                         struct err *err)
{
    const struct piece *p = id < v->V ? &v->pieces[id] : NULL;
    if (!p || p->type != type || p->n != strlen(text) || memcmp(p->text, text, p->n) != 0)
        return err_set(err, NULL, "train one with tok-train", "id %d is not the special piece %s",
                       id, text);
    return 0;
}

static int prepare(struct tok *t, struct err *err)
{
    const struct vocab *v = &t->vocab;
    TRY(vocab_read(&t->vocab, t->bytes.data, t->bytes.size, err));
    TRY(check_settings(v, err));
    TRY(check_control(v, ID_UNK, "<unk>", PIECE_UNKNOWN, err));
    TRY(check_control(v, ID_BOS, "<s>", PIECE_CONTROL, err));
    TRY(check_control(v, ID_EOS, "</s>", PIECE_CONTROL, err));
    TRY(check_control(v, ID_PAD, "<pad>", PIECE_CONTROL, err));
    t->hash = XXH64(t->bytes.data, t->bytes.size, 0);
    return merges_build(&t->merges, v, err);
}

/* Takes over *bytes. */
static int open_owned(struct tok **t, struct buf *bytes, struct err *err)
{
    struct tok *made = calloc(1, sizeof *made);
    if (!made) {
        buf_free(bytes);
        return err_oom(err, sizeof *made);
    }
    made->bytes = *bytes;
    if (prepare(made, err) != 0) {
        tok_close(made);
        return -1;
    }
    *t = made;
    return 0;
}

int tok_open(struct tok **t, const char *path, struct err *err)
{
    struct buf bytes = {0};
    if (io_read_file(path, &bytes, MODEL_MAX_BYTES, err) != 0) {
        buf_free(&bytes);
        return -1;
    }
    return open_owned(t, &bytes, err) == 0 ? 0 : err_file(err, path);
}

int tok_open_bytes(struct tok **t, const void *bytes, size_t n, struct err *err)
{
    struct buf copy = {0};
    if (buf_put(&copy, bytes, n, err) != 0)
        return -1;
    return open_owned(t, &copy, err);
}

void tok_close(struct tok *t)
{
    if (!t)
        return;
    merges_free(&t->merges);
    vocab_free(&t->vocab);
    buf_free(&t->bytes);
    free(t);
}

int tok_vocab(const struct tok *t)
{
    return t->vocab.V;
}

uint64_t tok_hash(const struct tok *t)
{
    return t->hash;
}

const struct buf *tok_bytes(const struct tok *t)
{
    return &t->bytes;
}

int32_t tok_control(const struct tok *t, const char *piece)
{
    const size_t n = strlen(piece);
    for (int i = 0; i < t->vocab.V; i++) {
        const struct piece *p = &t->vocab.pieces[i];
        if (p->type == PIECE_CONTROL && p->n == n && memcmp(p->text, piece, n) == 0)
            return i;
    }
    return -1;
}

/* --- the cache: a word of up to 24 bytes and its up to 9 ids in a cache line --- */

enum { WORD_BYTES = 24, WORD_IDS = 9, CACHE_BITS = 14 };

struct word {
    uint64_t key[3]; /* the bytes, zeros behind */
    uint8_t n, n_ids;
    int32_t ids[WORD_IDS];
};

struct tok_cache {
    struct word words[1 << CACHE_BITS];
};

int tok_cache_open(struct tok_cache **cache, struct err *err)
{
    *cache = aligned_alloc(64, sizeof **cache);
    if (!*cache)
        return err_oom(err, sizeof **cache);
    memset(*cache, 0, sizeof **cache);
    return 0;
}

void tok_cache_close(struct tok_cache *cache)
{
    free(cache);
}

/* Loads 1..24 bytes, of `there` that may be read, with zeros behind. */
static inline void load_key(uint64_t key[3], const uint8_t *text, size_t n, size_t there)
{
    if (there < WORD_BYTES) {
        memset(key, 0, WORD_BYTES);
        memcpy(key, text, n);
        return;
    }
    memcpy(key, text, WORD_BYTES);
    const size_t whole = n / 8, rest = n % 8;
    if (rest)
        key[whole] &= UINT64_MAX >> (64 - 8 * rest);
    for (size_t i = whole + (rest > 0); i < 3; i++)
        key[i] = 0;
}

static int encode_cached(const struct tok *t, struct tok_cache *cache, const uint8_t *text,
                         size_t n, size_t there, struct ids *to, struct err *err)
{
    uint64_t key[3];
    load_key(key, text, n, there);
    const uint64_t hash = key[0] * 0x9E3779B97F4A7C15u + key[1] * 0xC2B2AE3D27D4EB4Fu +
                          key[2] * 0x165667B19E3779F9u + n;
    struct word *w = &cache->words[(hash ^ hash >> 32) * 0x9E3779B97F4A7C15u >> (64 - CACHE_BITS)];
    if (w->n == n && w->key[0] == key[0] && w->key[1] == key[1] && w->key[2] == key[2])
        return ids_append(to, w->ids, w->n_ids, err);
    const size_t start = to->n;
    TRY(bpe_encode(&t->merges, text, n, to, err));
    if (to->n - start > WORD_IDS)
        return 0;
    *w = (struct word){.n = (uint8_t)n, .n_ids = (uint8_t)(to->n - start)};
    memcpy(w->key, key, sizeof key);
    memcpy(w->ids, to->data + start, w->n_ids * sizeof *w->ids);
    return 0;
}

/* --- whole texts --- */

/* The end of the chunk that begins at `begin`. */
static inline size_t chunk_end(const struct merges *m, const uint8_t *text, size_t begin, size_t n)
{
    size_t end = begin + 1;
    while (end < n && merges_joins(m, text[end - 1], text[end]))
        end++;
    return end;
}

int tok_encode_cached(const struct tok *t, struct tok_cache *cache, const void *text, size_t n,
                      struct ids *to, struct err *err)
{
    const uint8_t *p = text;
    if (n > 0 && merges_need_whole_text(&t->merges))
        return bpe_encode(&t->merges, p, n, to, err);
    for (size_t begin = 0, end; begin < n; begin = end) {
        end = chunk_end(&t->merges, p, begin, n);
        const size_t len = end - begin;
        if (cache && len <= WORD_BYTES)
            TRY(encode_cached(t, cache, p + begin, len, n - begin, to, err));
        else
            TRY(bpe_encode(&t->merges, p + begin, len, to, err));
    }
    return 0;
}

int tok_encode(const struct tok *t, const void *text, size_t n, struct ids *to, struct err *err)
{
    return tok_encode_cached(t, NULL, text, n, to, err);
}

size_t tok_cut(const struct tok *t, const void *text, size_t n, size_t near)
{
    const uint8_t *p = text;
    if (near >= n || merges_need_whole_text(&t->merges))
        return n;
    for (size_t i = near; i > 0; i--)
        if (!merges_joins(&t->merges, p[i - 1], p[i]))
            return i;
    return near == 0 ? chunk_end(&t->merges, p, 0, n) : chunk_end(&t->merges, p, near - 1, n);
}

const char *tok_piece(const struct tok *t, int32_t id, size_t *n)
{
    return (const char *)merges_text(&t->merges, id, n);
}

int tok_decode(const struct tok *t, const int32_t *ids, size_t n, struct buf *to, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocab.V)
            return err_set(err, NULL, "use the tokenizer that made the ids",
                           "id %d is outside the vocabulary of %d", (int)ids[i], t->vocab.V);
        size_t len;
        const char *piece = tok_piece(t, ids[i], &len);
        TRY(buf_put(to, piece, len, err));
    }
    return 0;
}
