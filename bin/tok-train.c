/* tok-train: text in, a SentencePiece BPE model out. The words of the text are counted first
 * (lib/words.c), and libsentencepiece trains on the counts (lib/spm.cpp). */
#include "cli.h"
#include "encode.h"
#include "records.h"
#include "words.h"

#include <xxhash.h>

struct app {
    struct cli_tool tool;
    const char *out, *split;
    int64_t vocab, max_chars, max_words, max_bytes;
    double coverage, sample;
    bool has_space_runs, skips_bad, is_forced;
    uint64_t n_docs;
};

static const char examples[] = "  tok-train --vocab=8K corpus.txt\n"
                               "  zcat web.jsonl.gz | tok-train --split=jsonl:text -o web.model";

static void parse(struct app *a, int argc, char **argv, int *first)
{
    const struct cli_opt opts[] = {
        {.kind = CLI_GROUP, .name = "Text"},
        {CLI_TEXT, 0, "split", &a->split, "HOW",
         "documents: line, para, nul, sep:BYTES, whole, jsonl:FIELD, csv:COLUMN", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "skip-bad", &a->skips_bad, NULL,
         "pass over bad JSON lines and CSV records, and count them", 0, 0, NULL, NULL},
        {CLI_FLOAT, 0, "sample", &a->sample, "SHARE",
         "train on this share of the documents, chosen by a hash of their text", 1e-9, 1, NULL,
         NULL},
        {CLI_INT, 0, "max-bytes", &a->max_bytes, "N",
         "stop after so many bytes of documents (default all)", 1, 1e18, NULL, NULL},
        {CLI_INT, 0, "max-words", &a->max_words, "N",
         "different words at most; about 1 KiB of memory each", 1, 1e9, NULL, NULL},
        {.kind = CLI_GROUP, .name = "Vocabulary"},
        {CLI_INT, 0, "vocab", &a->vocab, "N", "pieces, the special and byte pieces included", 268,
         1 << 24, NULL, NULL},
        {CLI_FLOAT, 0, "coverage", &a->coverage, "SHARE",
         "share of all characters that get pieces; the rest go as bytes", 0.98, 1, NULL, NULL},
        {CLI_INT, 0, "max-chars", &a->max_chars, "N", "characters in the longest piece", 1, 63,
         NULL, NULL},
        {CLI_FLAG, 0, "space-runs", &a->has_space_runs, NULL,
         "learn pieces of several spaces: for code and tables", 0, 0, NULL, NULL},
        {.kind = CLI_GROUP, .name = "Output"},
        {CLI_TEXT, 'o', "output", &a->out, "FILE", "the model; - is stdout", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "force", &a->is_forced, NULL, "write the model even to a terminal", 0, 0,
         NULL, NULL},
        {0},
    };
    a->tool.opts = opts;
    cli_parse(&a->tool, argc, argv, first);
    a->tool.opts = NULL;
}

/* Says what a reader passed over or joined. */
static void tell_oddities(const struct app *a, const struct records *r)
{
    if (r->n_bad > 0)
        cli_warn(&a->tool, "%llu bad records passed over; the first: %s: %s",
                 (unsigned long long)r->n_bad, r->first_bad.file, r->first_bad.what);
}

static bool is_sampled(const struct app *a, const struct record *rec)
{
    return a->sample >= 1 || (double)(XXH64(rec->text, rec->n, 0) >> 11) * 0x1p-53 < a->sample;
}

static int count_words(struct app *a, struct records *r, struct words *w, struct err *err)
{
    struct cli_progress progress;
    struct record rec;
    char bytes[32], words[32];
    int more = 1;
    cli_progress_begin(&progress, &a->tool, 0);
    while ((a->max_bytes == 0 || w->n_bytes < (uint64_t)a->max_bytes) &&
           (more = records_next(r, &rec, err)) == 1) {
        if (!is_sampled(a, &rec))
            continue;
        size_t n = rec.n;
        if (a->max_bytes > 0 && n > (uint64_t)a->max_bytes - w->n_bytes)
            n = (size_t)((uint64_t)a->max_bytes - w->n_bytes);
        more = words_add(w, rec.text, n, err);
        if (more != 0)
            break;
        if (++a->n_docs % 1024 == 0 && cli_progress_due(&progress))
            cli_progress_line(&progress, "counting: %s, %s different words",
                              cli_bytes(bytes, sizeof bytes, (double)w->n_bytes),
                              cli_count(words, sizeof words, (double)w->n));
    }
    cli_progress_end(&progress, false);
    return more < 0 ? -1 : 0;
}

/* Trains, and checks that all the pieces asked for are there. */
static int train(struct app *a, const struct words *w, struct buf *model, struct err *err)
{
    const struct spm_spec spec = {(int)a->vocab, a->coverage, (int)a->max_chars, a->has_space_runs};
    struct tok *tok;
    TRY(spm_train(&spec, w->list, w->n, model, err));
    TRY(tok_open_bytes(&tok, model->data, model->size, err));
    const int vocab = tok_vocab(tok);
    tok_close(tok);
    char mend[100];
    snprintf(mend, sizeof mend, "ask for --vocab=%d or less, or give it more text", vocab);
    return vocab == a->vocab ? 0
                             : err_set(err, NULL, mend,
                                       "the text gives a vocabulary of at most %d pieces, not %d",
                                       vocab, (int)a->vocab);
}

static int write_model(const struct app *a, const struct buf *model, struct err *err)
{
    struct out out;
    TRY(out_open(&out, a->out, err));
    if (out_write(&out, model->data, model->size, err) == 0)
        return out_commit(&out, err);
    out_abort(&out);
    return -1;
}

/* Training takes minutes: see first whether its result can be written. */
static int try_output(const struct app *a, struct err *err)
{
    struct out out;
    TRY(cli_check_binary_stdout(a->out, a->is_forced, err));
    TRY(out_open(&out, a->out, err));
    out_abort(&out);
    return 0;
}

static int run(struct app *a, struct records *r, struct words *w, struct buf *model,
               struct err *err)
{
    char bytes[32];
    const double start_s = cli_now();
    TRY(try_output(a, err));
    TRY(words_init(w, (size_t)a->max_words, a->has_space_runs, err));
    TRY(count_words(a, r, w, err));
    tell_oddities(a, r);
    if (w->n > 0)
        cli_note(&a->tool, "%llu documents, %s, %zu different words; training",
                 (unsigned long long)a->n_docs, cli_bytes(bytes, sizeof bytes, (double)w->n_bytes),
                 w->n);
    TRY(train(a, w, model, err));
    TRY(write_model(a, model, err));
    cli_note(&a->tool, "%s: %d pieces in %s", a->out, (int)a->vocab,
             cli_time(bytes, sizeof bytes, cli_now() - start_s));
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const from_stdin[] = {"-"};
    struct app a = {.tool = {.name = "tok-train",
                             .purpose = "train a tokenizer",
                             .usage = "[file...]",
                             .examples = examples},
                    .out = "tok.model",
                    .split = "line",
                    .vocab = 32000,
                    .max_chars = 16,
                    .max_words = 4000000,
                    .coverage = 0.9995,
                    .sample = 1};
    int first;
    struct err err = {0};
    struct split split;
    struct records records;
    struct words words = {0};
    struct buf model = {0};
    parse(&a, argc, argv, &first);
    if (split_parse(&split, a.split, &err) != 0)
        return cli_usage(&a.tool, "--split: %s: %s", err.what, err.mend);
    const bool has_files = first < argc;
    records_init(&records, &split, has_files ? (const char *const *)argv + first : from_stdin,
                 has_files ? argc - first : 1);
    records.skips_bad = a.skips_bad;
    int status = 0;
    if (run(&a, &records, &words, &model, &err) != 0)
        status = cli_error(&a.tool, &err);
    buf_free(&model);
    words_free(&words);
    records_free(&records);
    return cli_finish(&a.tool, status);
}
