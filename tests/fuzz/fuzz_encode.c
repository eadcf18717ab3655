/* Any bytes as text, by a plain model and by one with user-defined and unused pieces: every byte
 * comes back, with and without a cache, in one go and in parts. */
#include "encode.h"
#include "tokmodel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tok *make(bool is_special)
{
    static const char *const pieces[] = {"th",
                                         "he",
                                         "the",
                                         "\xE2\x96\x81t",
                                         "\xE2\x96\x81the",
                                         "er",
                                         "in",
                                         "\xE2\x96\x81\xE2\x96\x81",
                                         "an",
                                         "nd",
                                         "and",
                                         "aa",
                                         "aaa",
                                         "aaaa",
                                         "\xC3\xA9\xC3\xA9",
                                         "t",
                                         "h",
                                         "e",
                                         "\xE2\x96\x81",
                                         "r",
                                         "i",
                                         "n",
                                         "a",
                                         "\xC3\xA9"};
    struct buf model = {0};
    struct tok *t;
    struct err err;
    put_specials(&model);
    for (int i = 0; i < (int)(sizeof pieces / sizeof *pieces); i++)
        put_piece(&model, pieces[i], -(float)(i / 2),
                  is_special && i == 2    ? PIECE_USER
                  : is_special && i == 11 ? PIECE_UNUSED
                                          : PIECE_NORMAL);
    put_settings(&model, &GOOD);
    if (tok_open_bytes(&t, model.data, model.size, &err) != 0)
        abort();
    buf_free(&model);
    return t;
}

static void check(const struct tok *t, struct tok_cache *cache, const uint8_t *data, size_t size)
{
    struct ids whole = {0}, parts = {0};
    struct buf back = {0};
    struct err err;
    if (tok_encode(t, data, size, &whole, &err) != 0 ||
        tok_decode(t, whole.data, whole.n, &back, &err) != 0 || back.size != size ||
        (size > 0 && memcmp(back.data, data, size) != 0))
        abort();
    for (size_t at = 0, n; at < size; at += n) {
        n = tok_cut(t, data + at, size - at, 1 + size / 7);
        if (n == 0 || n > size - at || tok_encode_cached(t, cache, data + at, n, &parts, &err) != 0)
            abort();
    }
    if (parts.n != whole.n ||
        (whole.n > 0 && memcmp(parts.data, whole.data, whole.n * sizeof *whole.data) != 0))
        abort();
    ids_free(&whole);
    ids_free(&parts);
    buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tok *toks[2];
    static struct tok_cache *caches[2];
    struct err err;
    for (int is_special = 0; is_special < 2; is_special++) {
        if (!toks[is_special])
            toks[is_special] = make(is_special != 0);
        if (!caches[is_special] && tok_cache_open(&caches[is_special], &err) != 0)
            abort();
        check(toks[is_special], caches[is_special], data, size);
        check(toks[is_special], caches[is_special], data, size); /* now from the cache */
    }
    return 0;
}
