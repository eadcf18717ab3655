/* shard: a token stream into zstd shards that can be read anywhere; and shards listed, verified or
 * turned back into a stream. */
#include "cli.h"
#include "shard_print.h"
#include "shard_set.h"

#include <stdlib.h>
#include <string.h>

enum format { FORMAT_STREAM, FORMAT_LLMC };

struct args {
    struct cli_tool tool;
    bool is_list, is_verify, is_cat, is_forced;
    const char *output, *name;
    char *split;
    int64_t size, level;
    int format;
};

/* What each set came to, a line each. */
static void summarize(const struct args *a, const struct shard_set *s)
{
    char tokens[32], docs[32], text[32], size[32];
    for (int i = 0; i < s->opts.n; i++) {
        const struct shard_part *p = &s->part[i];
        if (p->n_files == 0) {
            cli_warn(&a->tool, "no document fell to %s: no shard of that name was written",
                     s->opts.name[i]);
            continue;
        }
        cli_count(tokens, sizeof tokens, (double)p->counts.n_tokens);
        cli_count(docs, sizeof docs, (double)stream_docs(&p->counts));
        cli_bytes(size, sizeof size, (double)p->size_bytes);
        if (p->counts.n_bytes)
            cli_bytes(text, sizeof text, (double)p->counts.n_bytes);
        else
            snprintf(text, sizeof text, "unknown bytes");
        cli_note(&a->tool, "%s: %d shard%s, %s tokens in %s documents, %s of text, %s on disk",
                 s->opts.name[i], p->n_files, p->n_files == 1 ? "" : "s", tokens, docs, text, size);
    }
}

/* Reads the stream to its end record; only then may anything appear. */
static int write_set(const struct args *a, struct stream_reader *r, struct shard_set *s,
                     struct err *err)
{
    struct cli_progress p;
    const int32_t *ids;
    size_t n;
    int more;
    cli_progress_begin(&p, &a->tool, 10);
    while ((more = stream_next(r, &ids, &n, err)) == 1) {
        if (cli_signal())
            return err_set(err, NULL, NULL, "stopped by a signal, nothing was written");
        if (shard_set_put(s, ids, n, err) != 0)
            return -1;
        if (cli_progress_due(&p)) {
            char count[32], rate[32];
            const double n_tokens = (double)r->counts.n_tokens;
            cli_progress_line(&p, "%s tokens, %s tokens/s",
                              cli_count(count, sizeof count, n_tokens),
                              cli_count(rate, sizeof rate, n_tokens / (cli_now() - p.start_s)));
        }
    }
    cli_progress_end(&p, false);
    if (more < 0)
        return -1;
    return shard_set_commit(s, err);
}

static int write_opened(const struct args *a, const struct shard_set_opts *o, struct in *in,
                        struct err *err)
{
    struct stream_reader r = {0};
    struct shard_set s = {0};
    int rc = stream_open(&r, in, err);
    rc = rc ? rc : io_make_folder(o->folder, err);
    rc = rc ? rc : shard_set_open(&s, &r.h, o, err);
    rc = rc ? rc : write_set(a, &r, &s, err);
    if (rc == 0)
        summarize(a, &s);
    shard_set_close(&s);
    stream_close(&r);
    return rc == 0 ? 0 : err_file(err, in->path);
}

static int run_write(const struct args *a, const char *path)
{
    struct shard_set_opts o = {.folder = a->output ? a->output : ".",
                               .name = {a->name},
                               .size_tokens = (uint64_t)a->size,
                               .level = (int)a->level};
    struct err err;
    struct in in;
    if (shard_set_splits(&o, a->split, &err) != 0)
        return cli_usage(&a->tool, "--split: %s: %s", err.what, err.mend);
    cli_catch_signals();
    int rc = in_open(&in, path, &err);
    if (rc == 0) {
        rc = write_opened(a, &o, &in, &err);
        in_close(&in);
    }
    if (rc != 0 && cli_signal())
        cli_raise(cli_signal());
    return rc == 0 ? 0 : cli_error(&a->tool, &err);
}

static int run_cat(const struct args *a, const char *const *paths, int n, struct err *err)
{
    struct out out;
    TRY(cli_check_binary_stdout(a->output, a->is_forced, err));
    TRY(out_open(&out, a->output ? a->output : "-", err));
    const int rc = a->format == FORMAT_LLMC ? shard_cat_llmc(paths, n, &out, err)
                                            : shard_cat_stream(paths, n, &out, err);
    if (rc == 0)
        return out_commit(&out, err);
    out_abort(&out);
    return rc;
}

/* List and verify go on after a bad file, and fail in the end. */
static int run_each(const struct args *a, const char *const *paths, int n)
{
    int status = 0;
    struct err err;
    if (a->is_list)
        shard_list_head(stdout);
    for (int i = 0; i < n; i++) {
        const int rc =
            a->is_list ? shard_list(paths[i], stdout, &err) : shard_verify(paths[i], &err);
        if (rc != 0)
            status = cli_error(&a->tool, &err);
        else if (a->is_verify)
            cli_note(&a->tool, "%s: whole", paths[i]);
    }
    return status;
}

static int run(const struct args *a, const char *const *paths, int n)
{
    static const char *const dash[1] = {"-"};
    struct err err;
    if (n == 0)
        paths = dash;
    if (a->is_list + a->is_verify + a->is_cat > 1)
        return cli_usage(&a->tool, "give one of --list, --verify and --cat");
    if (a->is_list || a->is_verify)
        return run_each(a, paths, n ? n : 1);
    if (a->is_cat)
        return run_cat(a, paths, n ? n : 1, &err) == 0 ? 0 : cli_error(&a->tool, &err);
    if (n > 1)
        return cli_usage(&a->tool, "one token stream at a time, not %d", n);
    return run_write(a, paths[0]);
}

int main(int argc, char **argv)
{
    static const char *const formats[] = {"stream", "llmc", NULL};
    struct args a = {.name = "train", .size = 32000000, .level = 6};
    const char *split = NULL;
    const struct cli_opt opts[] = {
        {.kind = CLI_GROUP, .name = "Shards from a token stream"},
        {CLI_TEXT, 'o', "output", &a.output, "PATH",
         "folder for the shards (default .); with --cat: the file (default -)", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "name", &a.name, "NAME", "files are named NAME-00000.tok.zst and so on", 0, 0,
         NULL, NULL},
        {CLI_INT, 0, "size", &a.size, "TOKENS", "end a shard at the first document end past this",
         1, 1e12, NULL, NULL},
        {CLI_TEXT, 0, "split", &split, "SPLITS",
         "sets for a part of the documents, chosen by their hash: valid=2%", 0, 0, NULL, NULL},
        {CLI_INT, 0, "level", &a.level, "N", "of zstd, 1 to 19", 1, 19, NULL, NULL},
        {.kind = CLI_GROUP, .name = "Instead"},
        {CLI_FLAG, 0, "list", &a.is_list, NULL, "print what each shard holds, as CSV", 0, 0, NULL,
         NULL},
        {CLI_FLAG, 0, "verify", &a.is_verify, NULL, "read each shard whole and check everything", 0,
         0, NULL, NULL},
        {CLI_FLAG, 0, "cat", &a.is_cat, NULL, "write the shards as one token stream", 0, 0, NULL,
         NULL},
        {CLI_ENUM, 0, "format", &a.format, NULL, "of --cat: a token stream, or llm.c's data file",
         0, 0, formats, NULL},
        {CLI_FLAG, 0, "force", &a.is_forced, NULL, "let --cat write to a terminal", 0, 0, NULL,
         NULL},
        {0},
    };
    a.tool = (struct cli_tool){
        .name = "shard",
        .purpose = "store a token stream in seekable zstd files",
        .usage = "[stream | shard...]",
        .examples = "  cat corpus.txt | tok-encode | shard --split valid=2%\n"
                    "  shard --list train-*.tok.zst\n",
        .opts = opts,
    };
    int first;
    cli_parse(&a.tool, argc, argv, &first);
    a.split = split ? strdup(split) : NULL;
    const int status = run(&a, (const char *const *)argv + first, argc - first);
    free(a.split);
    return cli_finish(&a.tool, status);
}
