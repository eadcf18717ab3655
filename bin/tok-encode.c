/* tok-encode: text in, a token stream out (hm-stream(5)); with --decode the other way round. */
#include "cli.h"
#include "encode_batch.h"
#include "records.h"
#include "stream.h"

#include <stdlib.h>
#include <string.h>

struct app {
    struct cli_tool tool;
    const char *model, *out, *split_name;
    int64_t threads;
    bool is_decode, is_text, skips_bad, is_forced, has_split;
    const char *const *paths;
    int n_paths;
    struct split split;
    struct tok *tok;
    struct pool *pool;
    struct encode_batch batch;
    struct out to;
    struct stream_writer writer;
    struct cli_progress progress;
    uint64_t n_docs, n_bytes, n_ids;
};

static const char examples[] = "  cat corpus.txt | tok-encode | shard\n"
                               "  tok-encode --split=csv:text -m tok.model a.csv b.csv -o ab.tok\n"
                               "  tok-encode --decode < ab.tok";

static void parse(struct app *a, int argc, char **argv, int *first)
{
    const struct cli_opt opts[] = {
        {CLI_TEXT, 'm', "model", &a->model, "FILE",
         "tokenizer (default tok.model in the working directory)", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "split", &a->split_name, "HOW",
         "documents: line, para, nul, sep:BYTES, whole, jsonl:FIELD, csv:COLUMN", 0, 0, NULL,
         &a->has_split},
        {CLI_FLAG, 0, "skip-bad", &a->skips_bad, NULL,
         "pass over bad JSON lines and CSV records, and count them", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "decode", &a->is_decode, NULL,
         "token streams in, text out; --split then says what to write between documents", 0, 0,
         NULL, NULL},
        {CLI_FLAG, 0, "ids", &a->is_text, NULL,
         "print ids as decimal numbers, a document a line, </s> left out", 0, 0, NULL, NULL},
        {CLI_TEXT, 'o', "output", &a->out, "FILE", "the stream or the text; - is stdout", 0, 0,
         NULL, NULL},
        {CLI_FLAG, 0, "force", &a->is_forced, NULL, "write a stream even to a terminal", 0, 0, NULL,
         NULL},
        cli_threads_opt(&a->threads),
        {0},
    };
    a->tool.opts = opts;
    cli_parse(&a->tool, argc, argv, first);
    a->tool.opts = NULL;
}

/* --- text to ids --- */

static enum stream_sep stream_sep_of(enum split_kind kind)
{
    static const enum stream_sep of[] = {
        [SPLIT_LINE] = STREAM_LINE,      [SPLIT_NUL] = STREAM_NUL,     [SPLIT_SEP] = STREAM_BYTES,
        [SPLIT_PARA] = STREAM_PARAGRAPH, [SPLIT_WHOLE] = STREAM_WHOLE, [SPLIT_JSONL] = STREAM_JSONL,
        [SPLIT_CSV] = STREAM_CSV,
    };
    return of[kind];
}

/* The bytes of text that each id stands for, or NULL where one has more than a byte can say. */
static int make_lengths(const struct app *a, uint8_t **lengths, struct err *err)
{
    const int V = tok_vocab(a->tok);
    *lengths = malloc((size_t)V);
    if (!*lengths)
        return err_oom(err, (size_t)V);
    for (int i = 0; i < V; i++) {
        size_t n;
        tok_piece(a->tok, i, &n);
        if (n > UINT8_MAX) {
            free(*lengths);
            *lengths = NULL;
            return 0;
        }
        (*lengths)[i] = (uint8_t)n;
    }
    (*lengths)[ID_EOS] = (uint8_t)a->split.n_sep;
    return 0;
}

static int begin_stream(struct app *a, struct err *err)
{
    struct stream_header h = {.vocab = tok_vocab(a->tok),
                              .eos = ID_EOS,
                              .sep = stream_sep_of(a->split.kind),
                              .sep_len = (int)a->split.n_sep,
                              .tok_hash = tok_hash(a->tok)};
    memcpy(h.sep_bytes, a->split.sep, a->split.n_sep);
    TRY(make_lengths(a, &h.piece_bytes, err));
    const int rc = stream_begin(&a->writer, &h, &a->to, err);
    free(h.piece_bytes);
    return rc;
}

/* Ids as text; is_open: a line has been begun. */
static int put_text(struct app *a, const struct ids *ids, bool *is_open, struct err *err)
{
    for (size_t i = 0; i < ids->n; i++) {
        char text[16];
        const bool is_end = ids->data[i] == ID_EOS;
        const int n = snprintf(text, sizeof text,
                               is_end     ? "\n"
                               : *is_open ? " %d"
                                          : "%d",
                               (int)ids->data[i]);
        TRY(out_write(&a->to, text, is_end ? 1 : (size_t)n, err));
        *is_open = !is_end;
    }
    return 0;
}

static int flush_batch(struct app *a, bool *is_open, struct err *err)
{
    TRY(encode_batch_run(&a->batch, err));
    for (int i = 0; i < a->batch.n_hands; i++) {
        const struct ids *ids = encode_batch_ids(&a->batch, i);
        a->n_ids += ids->n;
        TRY(a->is_text ? put_text(a, ids, is_open, err)
                       : stream_put(&a->writer, ids->data, ids->n, err));
    }
    encode_batch_clear(&a->batch);
    char bytes[32], ids[32];
    if (cli_progress_due(&a->progress))
        cli_progress_line(&a->progress, "%s, %s ids, %s/s",
                          cli_bytes(bytes, sizeof bytes, (double)a->n_bytes),
                          cli_count(ids, sizeof ids, (double)a->n_ids),
                          cli_bytes((char[32]){0}, 32,
                                    (double)a->n_bytes / (cli_now() - a->progress.start_s + 1e-9)));
    return 0;
}

static int encode_all(struct app *a, struct records *r, struct err *err)
{
    struct record rec;
    bool is_open = false;
    int more;
    while ((more = records_next(r, &rec, err)) == 1 && !cli_signal()) {
        TRY(encode_batch_add(&a->batch, rec.text, rec.n, rec.is_ended, err));
        a->n_docs++;
        a->n_bytes += rec.n + (rec.is_ended ? a->split.n_sep : 0);
        if (encode_batch_is_full(&a->batch))
            TRY(flush_batch(a, &is_open, err));
    }
    if (more < 0 || cli_signal())
        return -1;
    TRY(flush_batch(a, &is_open, err));
    return is_open ? out_write(&a->to, "\n", 1, err) : 0;
}

/* Says what a reader passed over or joined. */
static void tell_oddities(const struct app *a, const struct records *r)
{
    if (r->n_bad > 0)
        cli_warn(&a->tool, "%llu bad records passed over; the first: %s: %s",
                 (unsigned long long)r->n_bad, r->first_bad.file, r->first_bad.what);
    if (r->n_joined > 0)
        cli_warn(&a->tool, "%d files began in a document that the file before had left open",
                 r->n_joined);
}

static int encode(struct app *a, struct err *err)
{
    struct records records;
    TRY(pool_open(&a->pool, (int)a->threads, err));
    TRY(encode_batch_open(&a->batch, a->tok, a->pool, err));
    if (!a->is_text)
        TRY(begin_stream(a, err));
    records_init(&records, &a->split, a->paths, a->n_paths);
    records.skips_bad = a->skips_bad;
    const int rc = encode_all(a, &records, err);
    cli_progress_end(&a->progress, false);
    if (rc == 0)
        tell_oddities(a, &records);
    records_free(&records);
    if (rc != 0)
        return rc;
    return a->is_text ? 0 : stream_end(&a->writer, err);
}

/* --- ids to text --- */

static int decode_block(struct app *a, const struct stream_header *h, const int32_t *ids, size_t n,
                        struct err *err)
{
    const uint8_t *sep = a->has_split ? a->split.sep : h->sep_bytes;
    const size_t n_sep = a->has_split ? a->split.n_sep : (size_t)h->sep_len;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *piece = tok_piece(a->tok, ids[i], &len);
        if (ids[i] == h->eos)
            TRY(out_write(&a->to, sep, n_sep, err));
        else
            TRY(out_write(&a->to, piece, len, err));
    }
    return 0;
}

static int decode_stream(struct app *a, struct stream_reader *r, struct err *err)
{
    const int32_t *ids;
    size_t n;
    int more;
    if (r->h.tok_hash != tok_hash(a->tok) || r->h.vocab != tok_vocab(a->tok))
        return err_set(err, r->in->path, "name that one with -m",
                       "was made with another tokenizer than %s", a->model);
    if (a->is_text) {
        bool is_open = false;
        while ((more = stream_next(r, &ids, &n, err)) == 1 && !cli_signal())
            TRY(put_text(a, &(struct ids){(int32_t *)ids, n, n}, &is_open, err));
        return more == 0 && is_open ? out_write(&a->to, "\n", 1, err) : more;
    }
    while ((more = stream_next(r, &ids, &n, err)) == 1 && !cli_signal())
        TRY(decode_block(a, &r->h, ids, n, err));
    return more;
}

static int decode(struct app *a, struct err *err)
{
    for (int i = 0; i < a->n_paths; i++) {
        struct in in;
        struct stream_reader reader;
        TRY(in_open(&in, a->paths[i], err));
        int rc = stream_open(&reader, &in, err);
        if (rc == 0) {
            rc = decode_stream(a, &reader, err);
            stream_close(&reader);
        }
        in_close(&in);
        if (rc != 0)
            return rc < 0 ? err_file(err, a->paths[i]) : -1;
    }
    return 0;
}

/* --- the tool --- */

static int run(struct app *a, struct err *err)
{
    TRY(cli_default_file(&a->model, "tok.model", "--model", err));
    TRY(tok_open(&a->tok, a->model, err));
    if (!a->is_text && !a->is_decode)
        TRY(cli_check_binary_stdout(a->out, a->is_forced, err));
    TRY(out_open(&a->to, a->out, err));
    if (a->to.temp[0]) /* there is something to clean up */
        cli_catch_signals();
    cli_progress_begin(&a->progress, &a->tool, 0);
    TRY(a->is_decode ? decode(a, err) : encode(a, err));
    return out_commit(&a->to, err);
}

int main(int argc, char **argv)
{
    static const char *const from_stdin[] = {"-"};
    struct app a = {.tool = {.name = "tok-encode",
                             .purpose = "turn text into token ids, and back",
                             .usage = "[file...]",
                             .examples = examples},
                    .out = "-",
                    .split_name = "line",
                    .to = {.fd = -1}};
    int first;
    struct err err = {0};
    parse(&a, argc, argv, &first);
    if (split_parse(&a.split, a.split_name, &err) != 0)
        return cli_usage(&a.tool, "--split: %s: %s", err.what, err.mend);
    a.paths = first < argc ? (const char *const *)argv + first : from_stdin;
    a.n_paths = first < argc ? argc - first : 1;
    const int rc = run(&a, &err);
    stream_writer_free(&a.writer);
    out_abort(&a.to);
    encode_batch_close(&a.batch);
    pool_close(a.pool);
    tok_close(a.tok);
    if (cli_signal())
        cli_raise(cli_signal());
    return cli_finish(&a.tool, rc == 0 ? 0 : cli_error(&a.tool, &err));
}
