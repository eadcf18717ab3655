/* hm-eval: how well a model predicts text, and how it answers tasks. The figures go to stdout as
 * CSV or, on a terminal, as tables; the protocol goes with them. */
#include "eval_data.h"
#include "eval_print.h"
#include "loaded.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FORMAT_AUTO, FORMAT_TABLE, FORMAT_CSV };
static const char *const format_names[] = {"auto", "table", "csv", NULL};

enum { ROW_TOKENS = 2048, EVAL_CONTEXT = 16384 };

struct eval_args {
    struct loaded_args model;
    const char *tokenizer, *split_name, *out;
    struct split split;
    bool is_text, is_tasks, is_rows, has_hash, has_split;
    int64_t context, window, stride, limit;
    int format;
};

struct session {
    const struct cli_tool *tool;
    const struct eval_args *a;
    struct loaded l;
    struct eval eval;
    struct eval_feed feed;
    struct out out;
    struct eval_print print;
    struct cli_progress progress;
};

/* --- one result --- */

/* "a.zst and 3 more" for a set of files. */
static void name_files(char *to, size_t n, char **path, int n_paths)
{
    if (n_paths == 1)
        snprintf(to, n, "%s", path[0]);
    else
        snprintf(to, n, "%s and %d more", path[0], n_paths - 1);
}

static int score_files(struct session *s, enum eval_kind kind, char **path, int n, struct err *err)
{
    struct scorer scorer = {0};
    char name[512];
    const char *const *paths = (const char *const *)path;
    name_files(name, sizeof name, path, n);
    cli_progress_begin(&s->progress, s->tool, 0);
    int rc = kind == EVAL_SHARDS ? eval_feed_shards(&s->feed, paths, n, &scorer, err)
             : kind == EVAL_TEXT ? eval_feed_text(&s->feed, paths, n, &scorer, err)
                                 : eval_feed_stream(&s->feed, path[0], &scorer, err);
    cli_progress_end(&s->progress, false);
    if (rc == 0 && scorer.score.n_tokens == 0)
        rc = err_set(err, path[0], NULL, "there is no text to score");
    if (rc == 0)
        rc = eval_print_score(&s->print, name, &scorer, err);
    score_free(&scorer);
    return rc;
}

static int answer_tasks(struct session *s, const char *path, struct err *err)
{
    struct tasks tasks;
    TRY(tasks_open(&tasks, &s->eval, err));
    cli_progress_begin(&s->progress, s->tool, 0);
    int rc = eval_feed_tasks(&s->feed, path, &tasks, err);
    cli_progress_end(&s->progress, false);
    if (rc == 0 && tasks.n_scores == 0)
        rc = err_set(err, path, "write one a line below the header",
                     "there is no question to answer");
    if (rc == 0)
        rc = eval_print_tasks(&s->print, path, &tasks, err);
    tasks_close(&tasks);
    return rc;
}

static int kind_of(const struct session *s, const char *path, enum eval_kind *kind, struct err *err)
{
    if (s->a->is_text || s->a->is_tasks) {
        *kind = s->a->is_text ? EVAL_TEXT : EVAL_TASKS;
        return 0;
    }
    return eval_kind_of(path, kind, err);
}

/* Whether all inputs are there and something that can be scored, before the model is read. */
static int check_files(const struct session *s, char **path, int n, struct err *err)
{
    enum eval_kind kind;
    for (int i = 0; i < n; i++)
        TRY(kind_of(s, path[i], &kind, err));
    return 0;
}

/* Neighbouring shards are one corpus, and so are all files of text; the rest stands alone. */
static int score_all(struct session *s, char **path, int n, struct err *err)
{
    for (int i = 0; i < n;) {
        enum eval_kind kind, other;
        int n_same = 1;
        TRY(kind_of(s, path[i], &kind, err));
        while (i + n_same < n && (kind == EVAL_SHARDS || kind == EVAL_TEXT)) {
            TRY(kind_of(s, path[i + n_same], &other, err));
            if (other != kind)
                break;
            n_same++;
        }
        TRY(kind == EVAL_TASKS ? answer_tasks(s, path[i], err)
                               : score_files(s, kind, path + i, n_same, err));
        i += n_same;
    }
    return 0;
}

/* --- the run --- */

static int print_run(struct session *s, struct err *err)
{
    char text[64];
    uint64_t hash;
    TRY(model_hash(&s->l.model, &hash, err));
    TRY(eval_print_begin(&s->print, err));
    TRY(eval_print_run(&s->print, "version", cli_version(), err));
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    TRY(eval_print_run(&s->print, "model_hash", text, err));
    TRY(eval_print_run(&s->print, "device", s->l.dev.name, err));
    TRY(eval_print_run(&s->print, "dtype", device_dtypes[s->l.model.opts.product], err));
    if (!s->a->has_hash)
        return 0;
    TRY(eval_logits_hash(&s->eval, &hash, err));
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    return eval_print_run(&s->print, "logits_hash", text, err);
}

static int open_model(struct session *s, struct err *err)
{
    const struct eval_args *a = s->a;
    TRY(loaded_read(&s->l, s->tool, &a->model, err));
    if (a->tokenizer) {
        tok_close(s->l.tok);
        s->l.tok = NULL;
        TRY(tok_open(&s->l.tok, a->tokenizer, err));
        if (tok_vocab(s->l.tok) > s->l.ckpt.c.V)
            return err_set(err, a->tokenizer, "name the model's own", "has %d ids, the model %d",
                           tok_vocab(s->l.tok), s->l.ckpt.c.V);
    }
    const int T = a->window ? (int)a->window : s->l.ckpt.c.max_positions;
    struct model_opts opts = {.B = T < ROW_TOKENS ? ROW_TOKENS / T : 1, .T = T, .step_R = 1};
    TRY(loaded_open(&s->l, &a->model, &opts, err));
    const int S = a->context > T ? (int)a->context : T;
    return eval_open(&s->eval, &s->l.model, s->l.tok, S, err);
}

static int prepare(struct session *s, struct err *err)
{
    const struct eval_args *a = s->a;
    s->feed = (struct eval_feed){
        .eval = &s->eval,
        .opts = {.protocol = a->window    ? EVAL_WINDOW
                             : a->is_rows ? EVAL_ROWS
                                          : EVAL_DOCUMENTS,
                 .window = (int)a->window,
                 .stride = (int)(a->stride ? a->stride : (a->window + 1) / 2)},
        .split = a->split,
        .limit = a->limit,
        .progress = &s->progress,
    };
    TRY(open_model(s, err));
    TRY(out_open(&s->out, a->out, err));
    s->print = (struct eval_print){.out = &s->out,
                                   .is_table = a->format == FORMAT_TABLE ||
                                               (a->format == FORMAT_AUTO && isatty(s->out.fd))};
    return 0;
}

static int run(const struct cli_tool *tool, const struct eval_args *a, char **path, int n,
               struct err *err)
{
    struct session s = {.tool = tool, .a = a};
    int rc = check_files(&s, path, n, err);
    if (rc == 0)
        rc = prepare(&s, err);
    if (rc == 0)
        rc = print_run(&s, err);
    if (rc == 0)
        rc = score_all(&s, path, n, err);
    if (rc == 0)
        rc = out_commit(&s.out, err);
    out_abort(&s.out);
    eval_print_free(&s.print);
    eval_close(&s.eval);
    loaded_close(&s.l);
    return rc;
}

static int check_args(const struct cli_tool *tool, struct eval_args *a, char **path, int n)
{
    struct err err;
    if (split_parse(&a->split, a->split_name, &err) != 0)
        return cli_usage(tool, "--split: %s: %s", err.what, err.mend);
    if (a->is_text && a->is_tasks)
        return cli_usage(tool, "--text and --tasks do not go together");
    if (a->has_split && !a->is_text)
        return cli_usage(tool, "--split goes with --text");
    if (a->stride && (!a->window || a->stride > a->window))
        return cli_usage(tool, "--stride goes with --window, and is at most as long");
    if (a->window && a->is_rows)
        return cli_usage(tool, "--window and --rows do not go together");
    int n_stdin = a->model.model && strcmp(a->model.model, "-") == 0;
    if (n == 0 && n_stdin && !a->has_hash)
        return cli_usage(tool, "with -m - the data must be files");
    for (int i = 0; i < n; i++)
        n_stdin += strcmp(path[i], "-") == 0;
    return n_stdin > 1 ? cli_usage(tool, "stdin can be read once") : 0;
}

static void parse(struct cli_tool *tool, struct eval_args *a, int argc, char **argv, int *first)
{
    const struct cli_opt rows[] = {
        {.kind = CLI_GROUP, .name = "Model"},
        {CLI_TEXT, 'm', "model", &a->model.model, "FILE",
         "checkpoint or run folder (default model.safetensors)", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "tokenizer", &a->tokenizer, "FILE", "instead of the checkpoint's own", 0, 0,
         NULL, NULL},
        device_opt(&a->model.device),
        cli_threads_opt(&a->model.threads),
        device_dtype_opt(&a->model.dtype),
        {.kind = CLI_GROUP, .name = "Data"},
        {CLI_FLAG, 0, "text", &a->is_text, NULL, "the files are raw text", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "split", &a->split_name, "HOW",
         "documents of text, as tok-encode's: line, para, nul, sep:BYTES, whole, ...", 0, 0, NULL,
         &a->has_split},
        {CLI_FLAG, 0, "tasks", &a->is_tasks, NULL, "the files are task tables (as *.csv is)", 0, 0,
         NULL, NULL},
        {CLI_INT, 0, "limit", &a->limit, "N", "only the first N documents or questions; 0: all", 0,
         1e15, NULL, NULL},
        {.kind = CLI_GROUP, .name = "Protocol of text"},
        {CLI_INT, 0, "context", &a->context, "S",
         "tokens that attention can look back in a long document", 1, 1 << 28, NULL, NULL},
        {CLI_INT, 0, "window", &a->window, "N",
         "long documents by windows of N tokens; 0: by a carried state", 0, 1 << 20, NULL, NULL},
        {CLI_INT, 0, "stride", &a->stride, "M", "tokens scored a window; 0: half of it", 0, 1 << 20,
         NULL, NULL},
        {CLI_FLAG, 0, "rows", &a->is_rows, NULL, "rows cut anywhere, as in training", 0, 0, NULL,
         NULL},
        {.kind = CLI_GROUP, .name = "Output"},
        {CLI_TEXT, 'o', "output", &a->out, "FILE", "the figures; - is stdout", 0, 0, NULL, NULL},
        {CLI_ENUM, 0, "format", &a->format, "FORM", "of the figures (auto: tables on a terminal)",
         0, 0, format_names, NULL},
        {CLI_FLAG, 0, "logits-hash", &a->has_hash, NULL,
         "a hash of logits of fixed ids: the same numbers?", 0, 0, NULL, NULL},
        {0},
    };
    tool->opts = rows;
    cli_parse(tool, argc, argv, first);
    tool->opts = NULL;
}

int main(int argc, char **argv)
{
    struct eval_args a = {.model = {.device = "auto", .dtype = DTYPE_AUTO},
                          .context = EVAL_CONTEXT,
                          .split_name = "line",
                          .out = "-"};
    struct cli_tool tool = {
        .name = "hm-eval",
        .purpose = "score text and tasks with a trained model",
        .usage = "[shard|stream|table.csv]...",
        .examples = "  hm-eval valid-*.tok.zst\n"
                    "  hm-eval -m run --text < book.txt --split=whole\n"
                    "  hm-eval blimp.csv --format=table",
    };
    static char dash[] = "-";
    char *only_stdin[] = {dash, NULL};
    struct err err;
    int first;
    parse(&tool, &a, argc, argv, &first);
    int n = argc - first;
    const int wrong = check_args(&tool, &a, argv + first, n);
    if (wrong)
        return wrong;
    char **path = n > 0 ? argv + first : only_stdin;
    n = n == 0 && !a.has_hash ? 1 : n;
    cli_catch_signals();
    const int status = run(&tool, &a, path, n, &err);
    if (cli_signal())
        cli_raise(cli_signal());
    return cli_finish(&tool, status == 0 ? 0 : cli_error(&tool, &err));
}
