/* shard_print: shards as a table, a token stream or llm.c's data file; see shard_print.h. */
#include "shard_print.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LLMC_HEAD = 256 * 4, LLMC_MAGIC = 20240520, LLMC_VERSION = 1 };

void shard_list_head(FILE *to)
{
    fprintf(to, "file,tokens,documents,text_bytes,size_bytes,bytes_per_token,frames,width,vocab,"
                "tokenizer,separator\n");
}

/* A field of CSV, quoted where it must be. */
static void print_field(FILE *to, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', to);
        fputc(*text, to);
    }
    fputc('"', to);
}

int shard_list(const char *path, FILE *to, struct err *err)
{
    struct shard s;
    TRY(shard_open(&s, path, err));
    const struct shard_head *h = &s.s;
    print_field(to, path);
    fprintf(to, ",%" PRIu64 ",%" PRIu64 ",", h->n_tokens, h->n_docs);
    if (h->h.piece_bytes)
        fprintf(to, "%" PRIu64, h->n_bytes);
    fprintf(to, ",%" PRIu64 ",%.3f,%u,%d,%d,%016" PRIx64 ",%s\n", s.size,
            h->n_tokens ? (double)s.size / (double)h->n_tokens : 0, h->n_frames, h->h.width,
            h->h.vocab, h->h.tok_hash, stream_sep_name(h->h.sep));
    shard_close(&s);
    return 0;
}

int shard_verify(const char *path, struct err *err)
{
    struct shard s;
    struct shard_scratch x;
    TRY(shard_open(&s, path, err));
    int rc = shard_scratch_init(&x, err);
    rc = rc ? rc : shard_scan(&s, &x, NULL, NULL, err);
    shard_scratch_free(&x);
    shard_close(&s);
    return rc;
}

/* --- cat --- */

struct shards {
    struct shard *shard; /* (n) owned */
    int n;
    struct shard_scratch scratch;
};

static int open_all(struct shards *a, const char *const *paths, int n, struct err *err)
{
    *a = (struct shards){.shard = calloc((size_t)n, sizeof *a->shard)};
    if (!a->shard)
        return err_oom(err, (size_t)n * sizeof *a->shard);
    for (int i = 0; i < n; i++) {
        TRY(shard_open(&a->shard[i], paths[i], err));
        a->n++;
        TRY(shard_agree(&a->shard[0].s.h, paths[0], &a->shard[i].s.h, paths[i], err));
    }
    return shard_scratch_init(&a->scratch, err);
}

static void close_all(struct shards *a)
{
    for (int i = 0; i < a->n; i++)
        shard_close(&a->shard[i]);
    shard_scratch_free(&a->scratch);
    free(a->shard);
}

/* Whether a </s> must be put before shard i: the ids before it end inside a document that the shard
 * does not go on with. */
static bool has_gap(const struct shards *a, int i)
{
    if (a->shard[i].s.n_tokens == 0 || a->shard[i].s.is_rest)
        return false;
    while (--i >= 0 && a->shard[i].s.n_tokens == 0)
        ;
    return i >= 0 && a->shard[i].s.is_open;
}

static int cat_all(struct shards *a, int (*fn)(void *, const int32_t *, size_t, struct err *),
                   void *arg, struct err *err)
{
    for (int i = 0; i < a->n; i++) {
        const int32_t eos = a->shard[0].s.h.eos;
        if (has_gap(a, i))
            TRY(fn(arg, &eos, 1, err));
        TRY(shard_scan(&a->shard[i], &a->scratch, fn, arg, err));
    }
    return 0;
}

/* The first shard's header; without the table of lengths where another shard has none or another
 * one, as text bytes are then not known. Widths may differ: the vocabulary's own is taken. */
static struct stream_header common_header(const struct shards *a)
{
    struct stream_header h = a->shard[0].s.h;
    h.width = 0;
    for (int i = 1; i < a->n && h.piece_bytes; i++) {
        const uint8_t *other = a->shard[i].s.h.piece_bytes;
        if (!other || memcmp(other, h.piece_bytes, (size_t)h.vocab) != 0)
            h.piece_bytes = NULL;
    }
    return h;
}

static int put_stream(void *arg, const int32_t *ids, size_t n, struct err *err)
{
    return stream_put(arg, ids, n, err);
}

int shard_cat_stream(const char *const *paths, int n, struct out *out, struct err *err)
{
    struct shards a;
    struct stream_writer w = {0};
    int rc = open_all(&a, paths, n, err);
    if (rc == 0) {
        const struct stream_header h = common_header(&a);
        rc = stream_begin(&w, &h, out, err);
    }
    rc = rc ? rc : cat_all(&a, put_stream, &w, err);
    rc = rc ? rc : stream_end(&w, err);
    stream_writer_free(&w);
    close_all(&a);
    return rc;
}

static int put_llmc(void *arg, const int32_t *ids, size_t n, struct err *err)
{
    enum { STEP = 4096 };
    uint8_t bytes[STEP * 2];
    for (size_t i = 0; i < n; i += STEP) {
        const size_t k = n - i < STEP ? n - i : STEP;
        stream_narrow(bytes, ids + i, 2, k);
        TRY(out_write(arg, bytes, k * 2, err));
    }
    return 0;
}

static int write_llmc(struct shards *a, struct out *out, struct err *err)
{
    uint8_t head[LLMC_HEAD] = {0};
    uint64_t n_tokens = 0;
    for (int i = 0; i < a->n; i++)
        n_tokens += a->shard[i].s.n_tokens + has_gap(a, i);
    if (a->shard[0].s.h.vocab > 65536)
        return err_set(err, a->shard[0].in.path, "write a token stream instead",
                       "vocabulary of %d does not fit the 2 bytes of llm.c's ids",
                       a->shard[0].s.h.vocab);
    if (n_tokens > INT32_MAX)
        return err_set(err, a->shard[0].in.path, "name fewer shards",
                       "%" PRIu64 " tokens are more than llm.c's header can count", n_tokens);
    set_u32(head, LLMC_MAGIC);
    set_u32(head + 4, LLMC_VERSION);
    set_u32(head + 8, (uint32_t)n_tokens);
    TRY(out_write(out, head, sizeof head, err));
    return cat_all(a, put_llmc, out, err);
}

int shard_cat_llmc(const char *const *paths, int n, struct out *out, struct err *err)
{
    struct shards a;
    int rc = open_all(&a, paths, n, err);
    rc = rc ? rc : write_llmc(&a, out, err);
    close_all(&a);
    return rc;
}
