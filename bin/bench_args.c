/* bench_args: see bench_args.h. */
#include "bench_args.h"
#include "acts.h"
#include "device.h"
#include "parse.h"

#include <string.h>

static const char *const what_names[] = {"train", "prefill", "decode", "encode",
                                         "load",  "ops",     NULL};

enum { FORMAT_AUTO, FORMAT_TABLE, FORMAT_CSV };
static const char *const format_names[] = {"auto", "table", "csv", NULL};

static const char examples[] =
    "hm-bench\n"
    "hm-bench --preset=base --what=decode,ops --depth=0,4096 > bench.csv\n"
    "hm-bench -m run --what=train --batch=8 --recompute=block train-*.tok.zst";

static int add_rows(struct cli_opt *to, const struct cli_opt *rows, size_t n)
{
    memcpy(to, rows, n * sizeof *rows);
    return (int)n;
}

static int measure_rows(struct bench_args *a, struct cli_opt *to)
{
    const struct cli_opt rows[] = {
        {.kind = CLI_GROUP, .name = "What is measured"},
        {CLI_TEXT, 0, "what", &a->what, "LIST", "phases: train, prefill, decode, encode, load; ops",
         0, 0, NULL, NULL},
        {CLI_INT, 0, "batch", &a->batch, "B", "rows of a training step and of the loader", 1, 65536,
         NULL, NULL},
        {CLI_ENUM, 0, "recompute", &a->recompute, NULL,
         "what the backward pass computes again, to save memory", 0, 0, recompute_names, NULL},
        {CLI_TEXT, 0, "prompt", &a->prompt.text, "LIST",
         "prefill: tokens of a prompt (default: --context)", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "depth", &a->depth.text, "LIST",
         "decode: tokens read before the one that is timed", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "rows", &a->rows.text, "LIST", "prefill, decode: sequences at once", 0, 0,
         NULL, NULL},
        {CLI_TEXT, 0, "text", &a->text, "FILE", "encode: at most 4 MiB of lines (default: made up)",
         0, 0, NULL, NULL},
        {CLI_TEXT, 0, "tokenizer", &a->tokenizer, "FILE",
         "encode: default the checkpoint's own, or one made from the text", 0, 0, NULL, NULL},
        {CLI_TIME, 0, "time", &a->time_s, "TIME", "of a measurement, in seconds", 0.001, 3600, NULL,
         NULL},
        {CLI_INT, 0, "repeat", &a->repeat, "N", "parts of a measurement; the median counts", 1, 64,
         NULL, NULL},
        {CLI_INT, 0, "stream", &a->stream, "BYTES",
         "memory whose reading is the roofline; more than the caches", 65536, 1e12, NULL, NULL},
        {CLI_ENUM, 0, "format", &a->format, "FORM", "of the figures (auto: tables on a terminal)",
         0, 0, format_names, NULL},
        {.kind = CLI_GROUP, .name = "Machine"},
        {CLI_TEXT, 0, "predict", &a->predict, "GPU",
         "measure nothing: what rtx4060, rtx4090, rtx3090, a100, h100 or h200 needs at least", 0, 0,
         NULL, NULL},
        device_opt(&a->device),
        cli_threads_opt(&a->threads),
        device_dtype_opt(&a->dtype),
    };
    return add_rows(to, rows, sizeof rows / sizeof *rows);
}

void bench_args_table(struct bench_args *a, struct cli_tool *t)
{
    *a = (struct bench_args){.device = "auto",
                             .dtype = DTYPE_AUTO,
                             .what = "train,prefill,decode,encode,load,ops",
                             .batch = 4,
                             .repeat = 5,
                             .time_s = 0.5,
                             .stream = 256 << 20,
                             .depth.text = "0,1024",
                             .rows.text = "1,8"};
    int n = measure_rows(a, a->table);
    n += model_args_options(&a->size, 0, a->table + n);
    a->table[n++] =
        (struct cli_opt){CLI_TEXT,  'm',    "model",
                         &a->model, "FILE", "checkpoint or run folder (default: random weights)",
                         0,         0,      NULL,
                         NULL};
    *t = (struct cli_tool){.name = "hm-bench",
                           .purpose = "time training and generation against the machine's roofline",
                           .usage = "[shard...]",
                           .examples = examples,
                           .opts = a->table};
}

/* --- lists --- */

/* The next item of a list into to[n]; false after the last. */
static bool next_item(const char **at, char *to, size_t n)
{
    if (!*at)
        return false;
    const size_t len = strcspn(*at, ",");
    snprintf(to, n, "%.*s", (int)len, *at);
    *at = (*at)[len] ? *at + len + 1 : NULL;
    return true;
}

static int read_list(struct bench_args_list *list, const char *option, double least,
                     const struct cli_tool *t)
{
    enum { MOST = 1 << 24 };
    char item[64];
    struct err err;
    list->n = 0;
    for (const char *at = list->text; next_item(&at, item, sizeof item);) {
        int64_t value;
        if (list->n == BENCH_LIST_MAX)
            return cli_usage(t, "--%s: at most %d of them", option, BENCH_LIST_MAX);
        if (parse_int(&value, item, least, MOST, &err) != 0)
            return cli_usage(t, "--%s: %s: %s", option, err.what, err.mend);
        list->value[list->n++] = (int)value;
    }
    return 0;
}

static int read_whats(struct bench_args *a, const struct cli_tool *t)
{
    char item[64];
    a->whats = 0;
    for (const char *at = a->what; next_item(&at, item, sizeof item);) {
        int i = 0;
        while (what_names[i] && strcmp(item, what_names[i]) != 0)
            i++;
        if (!what_names[i])
            return cli_usage(t,
                             "--what: '%s' is no choice: use some of train, prefill, decode, "
                             "encode, load, ops, with commas between",
                             item);
        a->whats |= 1u << i;
    }
    if (a->whats == 1u << BENCH_OPS)
        return cli_usage(t, "--what=ops wants a phase beside it: train, prefill or decode");
    return 0;
}

/* What a GPU that is not there takes for the phases that it would run. */
static int read_predict(struct bench_args *a, const struct cli_tool *t)
{
    const unsigned host = 1u << BENCH_ENCODE | 1u << BENCH_LOAD;
    a->gpu = gpu_find(a->predict);
    a->whats &= ~host;
    a->repeat = 1;
    a->time_s = 1e-3;
    if (!a->gpu)
        return cli_usage(t,
                         "--predict: '%s' is not known: use rtx4060, rtx4090, rtx3090, a100, "
                         "h100 or h200",
                         a->predict);
    return a->whats & ~(1u << BENCH_OPS)
               ? 0
               : cli_usage(t, "--predict wants one of train, prefill, decode in --what");
}

int bench_args_check(struct bench_args *a, const struct cli_tool *t, char **shard, int n_shards)
{
    int wrong = read_whats(a, t);
    if (!wrong && a->predict)
        wrong = read_predict(a, t);
    if (!wrong && a->prompt.text)
        wrong = read_list(&a->prompt, "prompt", 1, t);
    if (!wrong)
        wrong = read_list(&a->depth, "depth", 0, t);
    if (!wrong)
        wrong = read_list(&a->rows, "rows", 1, t);
    for (int i = 0; !wrong && i < n_shards; i++)
        if (strcmp(shard[i], "-") == 0)
            wrong = cli_usage(t, "shards are read many times: give files, not stdin");
    return wrong;
}

int bench_args_config(struct bench_args *a, const struct config *has, struct config *c,
                      struct err *err)
{
    if (has) {
        *c = *has;
        if (model_args_context(&a->size))
            c->max_positions = (int)model_args_context(&a->size);
        TRY(model_args_agree(&a->size, c, err));
    } else {
        TRY(model_args_config(&a->size, 0, c, err));
    }
    if (!a->prompt.text) {
        a->prompt.value[0] = c->max_positions;
        a->prompt.n = 1;
    }
    return 0;
}

bool bench_args_table_wanted(const struct bench_args *a, bool is_tty)
{
    return a->format == FORMAT_TABLE || (a->format == FORMAT_AUTO && is_tty);
}
