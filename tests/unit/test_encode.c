/* The encoder against libsentencepiece, id for id, on trained and on random models; and every byte
 * back from any bytes. */
#include "encode.h"

#include "ref/spm_ref.h"
#include "rng.h"
#include "tap.h"
#include "tokmodel.h"
#include "utf8.h"
#include "words.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct err err;

static uint32_t draw(uint64_t *state, uint32_t below)
{
    return philox(7, 0, (*state)++).v[0] % below;
}

/* --- models: trained, and put together by hand --- */

/* Lines of made-up words: letters by a skewed law, so that merges repeat. */
static void make_text(struct buf *text, int n_lines, uint64_t seed)
{
    static const char *const parts[] = {"the", "in",   "re",       "an", "ing",
                                        "qu",  "st",   "\xC3\xA9", "o",  "e",
                                        "ma",  "l",    "b",        "u",  "\xD0\xB6\xD0\xB8",
                                        "x",   "tion", "a",        "i",  "d"};
    uint64_t s = seed << 32;
    for (int line = 0; line < n_lines; line++) {
        const int n_words = 1 + (int)draw(&s, 14);
        for (int w = 0; w < n_words; w++) {
            static const char *const gaps[] = {" ", " ", " ", " ", "  ", ", ", ". ", "\t", "-"};
            const int n_parts = 1 + (int)draw(&s, 4);
            for (int p = 0; p < n_parts; p++)
                (void)!buf_printf(text, &err, "%s", parts[draw(&s, 1 + draw(&s, 20))]);
            if (draw(&s, 20) == 0)
                (void)!buf_printf(text, &err, "%u", draw(&s, 2000));
            (void)!buf_printf(text, &err, "%s", w + 1 < n_words ? gaps[draw(&s, 9)] : "\n");
        }
    }
}

static int count_lines(struct words *w, const struct buf *text)
{
    for (size_t i = 0; i < text->size;) {
        const uint8_t *nl = memchr(text->data + i, '\n', text->size - i);
        const size_t n = nl ? (size_t)(nl - text->data) - i : text->size - i;
        TRY(words_add(w, text->data + i, n, &err));
        i += n + 1;
    }
    return 0;
}

static int train(const struct buf *text, const struct spm_spec *spec, struct buf *model)
{
    struct words w;
    TRY(words_init(&w, 1 << 20, spec->has_space_runs, &err));
    int rc = count_lines(&w, text);
    if (rc == 0)
        rc = spm_train(spec, w.list, w.n, model, &err);
    words_free(&w);
    return rc;
}

static const char *const LETTERS[] = {"a", "b", "c", "\xE2\x96\x81", "\xC3\xA9", "\xE6\xBC\xA2",
                                      "."};

/* Pieces of 1 to 5 letters, scores often equal, some user-defined or unused. The space is always a
 * piece: without it sentencepiece loses spaces. */
static void make_model(struct buf *model, uint64_t *s, int n_pieces, bool is_special)
{
    char made[64][32];
    int n = 0;
    put_specials(model);
    for (int i = 0; i < n_pieces; i++) {
        char text[32] = "";
        const int len = i < 6 ? 1 : 2 + (int)draw(s, 4);
        for (int k = 0; k < len; k++)
            strcat(text, LETTERS[i == 0 ? 3 : draw(s, 7)]);
        bool is_new = true;
        for (int k = 0; k < n; k++)
            is_new &= strcmp(made[k], text) != 0;
        if (!is_new)
            continue;
        strcpy(made[n++], text);
        const uint32_t kind = is_special && i > 0 ? draw(s, 8) : 7;
        put_piece(model, text, -(float)draw(s, 12),
                  kind == 0   ? PIECE_USER
                  : kind <= 2 ? PIECE_UNUSED
                              : PIECE_NORMAL);
    }
    put_settings(model, &GOOD);
}

/* --- comparisons --- */

static bool same_ids(const struct ids *a, const struct ids *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, a->n * sizeof *a->data) == 0);
}

static bool equals_ref(const struct tok *t, struct tok_cache *cache, const struct spm_ref *r,
                       const void *text, size_t n)
{
    struct ids a = {0}, b = {0};
    const bool is_same = tok_encode_cached(t, cache, text, n, &a, &err) == 0 &&
                         spm_ref_encode(r, text, n, &b, &err) == 0 && same_ids(&a, &b);
    ids_free(&a);
    ids_free(&b);
    return is_same;
}

static bool comes_back(const struct tok *t, struct tok_cache *cache, const void *text, size_t n)
{
    struct ids ids = {0};
    struct buf back = {0};
    const bool is_same = tok_encode_cached(t, cache, text, n, &ids, &err) == 0 &&
                         tok_decode(t, ids.data, ids.n, &back, &err) == 0 && back.size == n &&
                         (n == 0 || memcmp(back.data, text, n) == 0);
    ids_free(&ids);
    buf_free(&back);
    return is_same;
}

/* Encodes in parts that tok_cut gives, and compares with the whole. */
static bool cuts_well(const struct tok *t, const uint8_t *text, size_t n, size_t near)
{
    struct ids parts = {0}, whole = {0};
    bool is_ok = tok_encode(t, text, n, &whole, &err) == 0;
    for (size_t at = 0, len; is_ok && at < n; at += len) {
        len = tok_cut(t, text + at, n - at, near);
        is_ok = len > 0 && tok_encode(t, text + at, len, &parts, &err) == 0;
    }
    is_ok = is_ok && same_ids(&parts, &whole);
    ids_free(&parts);
    ids_free(&whole);
    return is_ok;
}

static void random_bytes(uint8_t *to, size_t n, uint64_t *s)
{
    static const char *const bits[] = {" ",
                                       "the",
                                       "\xE2\x96\x81",
                                       "\xE2\x96",
                                       "\xED\xA0\x80",
                                       "\xF0\x9F\x98\x80",
                                       "\xC0\xAF",
                                       "\xF4\x90\x80\x80",
                                       "<s>",
                                       "\r\n",
                                       "\xEF\xBF\xBD",
                                       "\xE2\x96\x85"};
    for (size_t i = 0; i < n;) {
        const uint32_t kind = draw(s, 3);
        if (kind == 0) {
            const char *b = bits[draw(s, 12)];
            for (; *b && i < n; b++)
                to[i++] = (uint8_t)*b;
        } else {
            to[i++] = (uint8_t)(kind == 1 ? draw(s, 256) : 'a' + draw(s, 26));
        }
    }
}

/* --- the tests --- */

static void test_trained(const struct buf *text, const struct spm_spec *spec, const char *name)
{
    struct buf model = {0}, again = {0};
    struct tok *t = NULL;
    struct spm_ref *r = NULL;
    struct tok_cache *cache = NULL;
    if (!ok(train(text, spec, &model) == 0, "%s: trains", name) ||
        !ok(tok_open_bytes(&t, model.data, model.size, &err) == 0, "%s: opens", name) ||
        spm_ref_open(&r, model.data, model.size, &err) != 0 || tok_cache_open(&cache, &err) != 0)
        return;
    ok(tok_vocab(t) == spec->vocab && spm_ref_vocab(r) == spec->vocab, "%s: vocabulary", name);
    struct vocab v;
    size_t n_wrong = vocab_read(&v, model.data, model.size, &err) != 0;
    for (int i = 0; i < v.V; i++) {
        size_t n;
        const char *piece = spm_ref_piece(r, i, &n);
        n_wrong += n != v.pieces[i].n || memcmp(piece, v.pieces[i].text, n) != 0 ||
                   spm_ref_score(r, i) != v.pieces[i].score;
    }
    vocab_free(&v);
    ok(n_wrong == 0, "%s: pieces and scores as libsentencepiece reads them", name);
    n_wrong = 0;
    for (size_t i = 0; i < text->size;) {
        const size_t n =
            (size_t)((uint8_t *)memchr(text->data + i, '\n', text->size - i) - (text->data + i));
        n_wrong += !equals_ref(t, NULL, r, text->data + i, n);
        n_wrong += !equals_ref(t, cache, r, text->data + i, n);
        i += n + 1;
    }
    ok(n_wrong == 0, "%s: ids of every line", name);
    ok(equals_ref(t, cache, r, text->data, text->size), "%s: ids of the whole text", name);
    ok(comes_back(t, cache, text->data, text->size), "%s: every byte comes back", name);
    ok(cuts_well(t, text->data, text->size, 1) && cuts_well(t, text->data, text->size, 100),
       "%s: parts give the ids of the whole", name);
    ok(train(text, spec, &again) == 0 && again.size == model.size &&
           memcmp(again.data, model.data, model.size) == 0,
       "%s: same words, same model bytes", name);
    tok_cache_close(cache);
    spm_ref_close(r);
    tok_close(t);
    buf_free(&model);
    buf_free(&again);
}

/* What tok-train makes is what sentencepiece makes of the lines themselves, piece for piece. Tabs
 * and digits are in the text. */
static void test_words_equal_lines(struct buf *text, const struct spm_spec *spec)
{
    struct buf model = {0}, direct = {0};
    const char *lines[4096];
    size_t n_lines = 0, n_wrong = 0;
    bool is_ok = train(text, spec, &model) == 0;
    for (char *p = (char *)text->data, *end = p + text->size; p < end && n_lines < 4096;) {
        lines[n_lines++] = p;
        p = memchr(p, '\n', (size_t)(end - p));
        *p++ = '\0';
    }
    is_ok = is_ok && spm_ref_train(spec, lines, n_lines, &direct, &err) == 0;
    struct vocab a = {0}, b = {0};
    is_ok = is_ok && vocab_read(&a, model.data, model.size, &err) == 0 &&
            vocab_read(&b, direct.data, direct.size, &err) == 0 && a.V == b.V;
    for (int i = 0; is_ok && i < a.V; i++)
        n_wrong += a.pieces[i].n != b.pieces[i].n || a.pieces[i].score != b.pieces[i].score ||
                   memcmp(a.pieces[i].text, b.pieces[i].text, a.pieces[i].n) != 0;
    ok(is_ok && n_wrong == 0, "counted words train the model that lines do");
    vocab_free(&a);
    vocab_free(&b);
    buf_free(&model);
    buf_free(&direct);
}

static void test_random_models(bool is_special, const char *name)
{
    uint64_t s = is_special ? 1ull << 40 : 2ull << 40;
    int n_wrong = 0, n_models = 0;
    for (int k = 0; k < 60; k++) {
        struct buf model = {0};
        struct tok *t = NULL;
        struct spm_ref *r = NULL;
        make_model(&model, &s, 10 + (int)draw(&s, 50), is_special);
        if (tok_open_bytes(&t, model.data, model.size, &err) == 0 &&
            spm_ref_open(&r, model.data, model.size, &err) == 0) {
            n_models++;
            for (int i = 0; i < 12; i++) {
                char text[1024] = "";
                const int n = (int)draw(&s, i < 8 ? 20 : 200);
                for (int j = 0; j < n; j++) { /* U+2581 is lossy: a space makes it */
                    const uint32_t l = draw(&s, 8);
                    strcat(text, l == 3 ? " " : l == 7 ? "z" : LETTERS[l]);
                }
                const bool is_same = equals_ref(t, NULL, r, text, strlen(text)) &&
                                     comes_back(t, NULL, text, strlen(text)) &&
                                     cuts_well(t, (uint8_t *)text, strlen(text), 3);
                n_wrong += !is_same;
            }
        }
        tok_close(t);
        spm_ref_close(r);
        buf_free(&model);
    }
    ok(n_models == 60 && n_wrong == 0, "%s: %d random models, %d texts differ", name, n_models,
       n_wrong);
}

static void test_bytes(const struct tok *t)
{
    static uint8_t text[4096];
    struct tok_cache *cache = NULL;
    uint64_t s = 3ull << 40;
    int n_wrong = tok_cache_open(&cache, &err) != 0;
    for (int i = 0; i < 500; i++) {
        const size_t n = draw(&s, i < 400 ? 40 : sizeof text);
        random_bytes(text, n, &s);
        n_wrong += !comes_back(t, cache, text, n) || !comes_back(t, NULL, text, n) ||
                   !cuts_well(t, text, n, 1 + draw(&s, 50));
    }
    ok(n_wrong == 0, "random bytes come back");
    tok_cache_close(cache);
    struct ids ids = {0};
    int n_bytes = 0;
    (void)!tok_encode(t, "\xE2\x96\x81\xFF\xC3", 5, &ids, &err);
    for (size_t i = 0; i < ids.n; i++) {
        size_t n;
        n_bytes +=
            ids.data[i] >= 12 && ids.data[i] < 268 && tok_piece(t, ids.data[i], &n) && n == 1;
    }
    ok(ids.n == 5 && n_bytes == 5, "U+2581 and invalid bytes are byte pieces");
    ids.n = 0;
    const char *markers = "<unk><s></s><pad><|user|><|end|><0x41>";
    (void)!tok_encode(t, markers, strlen(markers), &ids, &err);
    bool is_plain = true;
    for (size_t i = 0; i < ids.n; i++)
        is_plain &= ids.data[i] >= 12 && ids.data[i] != 12 + 'A';
    ok(is_plain && ids.n > 20, "text never makes a control piece");
    ok(tok_control(t, "<|system|>") == 4 && tok_control(t, "<|end|>") == 7 &&
           tok_control(t, "the") == -1,
       "markers are found by name");
    ids_free(&ids);
    struct buf out = {0};
    ok(tok_decode(t, (int32_t[]){0, 1, 2, 3, 4, 12 + 'A'}, 6, &out, &err) == 0 && out.size == 1 &&
           out.data[0] == 'A',
       "control ids decode to nothing");
    ok(tok_decode(t, (int32_t[]){tok_vocab(t)}, 1, &out, &err) == -1 &&
           tok_decode(t, (int32_t[]){-1}, 1, &out, &err) == -1,
       "an id outside the vocabulary is an error");
    buf_free(&out);
}

static void test_long(const struct tok *t, const struct spm_ref *r)
{
    const size_t n = 300000;
    uint8_t *text = malloc(n);
    if (!text)
        return;
    memset(text, 'e', n);
    ok(equals_ref(t, NULL, r, text, n), "a long run of one letter");
    uint64_t s = 4ull << 40;
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t) "aeiotn"[draw(&s, 6)];
    ok(equals_ref(t, NULL, r, text, n), "a long text without spaces");
    free(text);
}

/* Words that fill the cache and share their first 16 bytes: of 24 letters, with 6 to 12 ids. */
static void test_cache(void)
{
    enum { N_WORDS = 40000, WORD = 24 };
    struct buf model = {0}, text = {0};
    struct ids a = {0}, b = {0};
    struct tok *t = NULL;
    struct tok_cache *cache = NULL;
    uint64_t s = 5ull << 40;
    put_specials(&model);
    for (int len = 1, i = 0; len <= 4; len *= 2)
        for (int k = 0; k < 1 << 2 * len; k++, i++) {
            char piece[5] = "";
            for (int c = 0; c < len; c++)
                piece[c] = (char)('a' + (k >> 2 * c & 3));
            if (len < 4 || k == 0 || draw(&s, 2))
                put_piece(&model, piece, -(float)i, PIECE_NORMAL);
        }
    put_settings(&model, &GOOD);
    for (int i = 0; i < N_WORDS; i++)
        for (int c = 0; c < WORD; c++)
            put_byte(&text, c < 16 ? 'a' : 'a' + draw(&s, 4));
    int n_wrong =
        tok_open_bytes(&t, model.data, model.size, &err) != 0 || tok_cache_open(&cache, &err) != 0;
    for (int pass = 0; n_wrong == 0 && pass < 2; pass++)
        for (size_t i = 0; i < N_WORDS; i++) {
            a.n = b.n = 0;
            n_wrong += tok_encode(t, text.data + WORD * i, WORD, &a, &err) != 0 ||
                       tok_encode_cached(t, cache, text.data + WORD * i, WORD, &b, &err) != 0 ||
                       !same_ids(&a, &b);
        }
    ok(n_wrong == 0, "the cache tells words apart");
    tok_cache_close(cache);
    tok_close(t);
    ids_free(&a);
    ids_free(&b);
    buf_free(&model);
    buf_free(&text);
}

static void test_utf8(void)
{
    uint32_t code = 0;
    size_t n_wrong = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        const uint8_t p[4] = {(uint8_t)(0xF0 | c >> 18), (uint8_t)(0x80 | (c >> 12 & 0x3F)),
                              (uint8_t)(0x80 | (c >> 6 & 0x3F)), (uint8_t)(0x80 | (c & 0x3F))};
        const uint8_t three[3] = {(uint8_t)(0xE0 | (c >> 12 & 0xF)), p[2], p[3]};
        const uint8_t two[2] = {(uint8_t)(0xC0 | (c >> 6 & 0x1F)), p[3]}, one[1] = {(uint8_t)c};
        const bool is_half = c >= 0xD800 && c < 0xE000;
        n_wrong += (utf8_char(p, 4, &code) == 4) != (c >= 0x10000);
        if (c < 0x10000)
            n_wrong += (utf8_char(three, 3, &code) == 3) != (c >= 0x800 && !is_half);
        if (c < 0x800)
            n_wrong += (utf8_char(two, 2, &code) == 2) != (c >= 0x80);
        if (c < 0x100)
            n_wrong += (utf8_char(one, 1, &code) == 1) != (c < 0x80);
        n_wrong += utf8_char(p, 4, &code) == 4 && code != c;
        n_wrong += utf8_char(p, 3, &code) != 0;
    }
    n_wrong += utf8_char((const uint8_t *)"\xF4\x90\x80\x80", 4, &code) != 0;
    ok(n_wrong == 0, "characters: every code, short and long forms, halves of pairs");
}

static int open_with(const struct model_settings *s, void (*specials)(struct buf *))
{
    struct buf model = {0};
    struct tok *t = NULL;
    specials(&model);
    put_piece(&model, "a", -1, PIECE_NORMAL);
    put_settings(&model, s);
    const int rc = tok_open_bytes(&t, model.data, model.size, &err);
    tok_close(t);
    buf_free(&model);
    return rc;
}

static void no_bytes(struct buf *to)
{
    put_piece(to, "<unk>", 0, PIECE_UNKNOWN);
    put_piece(to, "<s>", 0, PIECE_CONTROL);
    put_piece(to, "</s>", 0, PIECE_CONTROL);
    put_piece(to, "<pad>", 0, PIECE_CONTROL);
}

static void doubled(struct buf *to)
{
    put_specials(to);
    put_piece(to, "a", -2, PIECE_NORMAL);
}

static void test_refusals(const struct buf *model)
{
    ok(open_with(&GOOD, put_specials) == 0, "a small model opens");
    ok(open_with(&(struct model_settings){1, 1, 0, 0, 1, ""}, put_specials) == -1,
       "refuses Unigram");
    ok(open_with(&(struct model_settings){2, 0, 0, 0, 1, ""}, put_specials) == -1,
       "no byte fallback");
    ok(open_with(&(struct model_settings){2, 1, 1, 0, 1, ""}, put_specials) == -1, "dummy prefix");
    ok(open_with(&(struct model_settings){2, 1, 0, 1, 1, ""}, put_specials) == -1,
       "removed spaces");
    ok(open_with(&(struct model_settings){2, 1, 0, 0, 0, ""}, put_specials) == -1,
       "spaces as they are");
    ok(open_with(&(struct model_settings){2, 1, 0, 0, 1, "x"}, put_specials) == -1,
       "rewriting rules");
    ok(open_with(&GOOD, no_bytes) == -1, "no byte pieces");
    ok(open_with(&GOOD, doubled) == -1, "a piece twice");
    int n_opened = 0;
    struct tok *t = NULL;
    for (size_t n = 0; n < model->size; n++)
        n_opened += tok_open_bytes(&t, model->data, n, &err) == 0;
    ok(n_opened == 0, "no truncated model opens");
    uint8_t *copy = malloc(model->size);
    for (size_t i = 0; copy && i < 8 * model->size; i += 3) {
        memcpy(copy, model->data, model->size);
        copy[i / 8] ^= (uint8_t)(1 << i % 8);
        if (tok_open_bytes(&t, copy, model->size, &err) == 0) {
            n_opened += !comes_back(t, NULL, "the thing a\xFF", 12);
            tok_close(t);
        }
    }
    ok(n_opened == 0, "a flipped bit: refused, or every byte still comes back");
    free(copy);
}

int main(void)
{
    struct buf text = {0}, model = {0};
    make_text(&text, 1500, 1);
    const struct spm_spec spec = {.vocab = 600, .coverage = 0.9995, .max_chars = 16};
    const struct spm_spec runs = {.vocab = 420, .coverage = 1, .max_chars = 8, true};
    test_trained(&text, &spec, "trained");
    test_trained(&text, &runs, "with runs of spaces");
    test_random_models(false, "plain");
    test_random_models(true, "user-defined and unused pieces");
    struct tok *t = NULL;
    struct spm_ref *r = NULL;
    if (train(&text, &spec, &model) == 0 && tok_open_bytes(&t, model.data, model.size, &err) == 0 &&
        spm_ref_open(&r, model.data, model.size, &err) == 0) {
        test_bytes(t);
        test_long(t, r);
        test_refusals(&model);
    }
    tok_close(t);
    spm_ref_close(r);
    test_words_equal_lines(&text, &spec);
    test_cache();
    test_utf8();
    buf_free(&model);
    buf_free(&text);
    return tap_done();
}
