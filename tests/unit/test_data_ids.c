/* With DATA=DIR (make test DATA=DIR): the ids of every file of DIR and DIR/nasty against
 * libsentencepiece's, line by line and as one text, wherever it carries the text losslessly; and
 * every byte back. Of a large file the first and the middle 64 KiB are taken. */
#include "encode.h"
#include "ref/spm_ref.h"
#include "tap.h"
#include "utf8.h"
#include "words.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 1 << 16, MAX_FILES = 200 };

static struct err err;

struct text {
    char name[128];
    struct buf bytes;
};
static struct text texts[MAX_FILES];
static int n_texts;

/* Reads a file, unpacked where it is a .zst: its first SAMPLE bytes, and SAMPLE more from 1 MiB on.
 */
static void read_text(const char *folder, const char *name)
{
    char command[600], skipped[4096];
    struct text *t = &texts[n_texts];
    const size_t n = strlen(name);
    const bool is_packed = n > 4 && strcmp(name + n - 4, ".zst") == 0;
    if (n_texts == MAX_FILES || strchr(folder, '\'') || strchr(name, '\'') ||
        snprintf(command, sizeof command, "%s '%s/%s' 2>/dev/null", is_packed ? "zstd -dc" : "cat",
                 folder, name) >= (int)sizeof command)
        return;
    FILE *f = popen(command, "r");
    if (!f || buf_reserve(&t->bytes, 2 * SAMPLE, &err) != 0)
        return;
    t->bytes.size = fread(t->bytes.data, 1, SAMPLE, f);
    for (size_t left = (1 << 20) - SAMPLE, got = 1; left > 0 && got > 0; left -= got)
        got = fread(skipped, 1, left < sizeof skipped ? left : sizeof skipped, f);
    t->bytes.size += fread(t->bytes.data + t->bytes.size, 1, SAMPLE, f);
    pclose(f);
    snprintf(t->name, sizeof t->name, "%.127s", name);
    n_texts++;
}

static void read_folder(const char *folder)
{
    struct dirent **entries;
    const int n = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (entries[i]->d_type != DT_DIR)
            read_text(folder, entries[i]->d_name);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

/* Whether sentencepiece gives all of it back. */
static bool is_lossless(const uint8_t *p, size_t n)
{
    uint32_t code = 0;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_char(p + i, n - i, &code);
        if (len == 0 || code == 0x2581)
            return false;
    }
    return true;
}

struct sides {
    struct tok *tok;
    struct tok_cache *cache;
    struct spm_ref *ref;
};

static bool same(const struct sides *s, const uint8_t *text, size_t n)
{
    struct ids a = {0}, b = {0};
    struct buf back = {0};
    bool is_same = tok_encode_cached(s->tok, s->cache, text, n, &a, &err) == 0 &&
                   tok_decode(s->tok, a.data, a.n, &back, &err) == 0 && back.size == n &&
                   (n == 0 || memcmp(back.data, text, n) == 0);
    if (is_same && is_lossless(text, n))
        is_same = spm_ref_encode(s->ref, text, n, &b, &err) == 0 && a.n == b.n &&
                  (a.n == 0 || memcmp(a.data, b.data, a.n * sizeof *a.data) == 0);
    ids_free(&a);
    ids_free(&b);
    buf_free(&back);
    return is_same;
}

static void test_text(const struct sides *s, const struct text *t)
{
    const uint8_t *p = t->bytes.data;
    size_t n_lines = 0, n_wrong = 0;
    for (size_t i = 0; i < t->bytes.size;) {
        const uint8_t *nl = memchr(p + i, '\n', t->bytes.size - i);
        const size_t n = nl ? (size_t)(nl - p) - i : t->bytes.size - i;
        n_wrong += !same(s, p + i, n);
        n_lines++;
        i += n + 1;
    }
    n_wrong += !same(s, p, t->bytes.size);
    ok(n_wrong == 0, "%s: %zu lines and the whole", t->name, n_lines);
}

static void test_model(int vocab, bool has_space_runs)
{
    struct words w;
    struct buf model = {0};
    struct sides s = {0};
    const struct spm_spec spec = {vocab, 0.98, 16, has_space_runs};
    bool is_ok = words_init(&w, 1 << 22, has_space_runs, &err) == 0;
    for (int i = 0; is_ok && i < n_texts; i++)
        is_ok = words_add(&w, texts[i].bytes.data, texts[i].bytes.size, &err) == 0;
    is_ok = is_ok && spm_train(&spec, w.list, w.n, &model, &err) == 0 &&
            tok_open_bytes(&s.tok, model.data, model.size, &err) == 0 &&
            spm_ref_open(&s.ref, model.data, model.size, &err) == 0 &&
            tok_cache_open(&s.cache, &err) == 0;
    if (ok(is_ok, "a model of %d pieces: %s", vocab, is_ok ? "" : err.what))
        for (int i = 0; i < n_texts; i++)
            test_text(&s, &texts[i]);
    tok_cache_close(s.cache);
    spm_ref_close(s.ref);
    tok_close(s.tok);
    words_free(&w);
    buf_free(&model);
}

int main(void)
{
    const char *data = getenv("DATA");
    char nasty[512];
    if (!data || !*data) {
        printf("1..0 # SKIP no DATA\n");
        return 0;
    }
    read_folder(data);
    snprintf(nasty, sizeof nasty, "%s/nasty", data);
    read_folder(nasty);
    ok(n_texts > 0, "%d files", n_texts);
    test_model(4000, false);
    test_model(3000, true);
    for (int i = 0; i < n_texts; i++)
        buf_free(&texts[i].bytes);
    return tap_done();
}
