/* train_args: see train_args.h. */
#include "train_args.h"

#include <math.h>
#include <string.h>

static const char examples[] =
    "hm-train --preset=tiny --max-time=5m -o run --valid=v.tok.zst train-*.tok.zst\n"
    "tok-encode corpus.txt | hm-train --preset=tiny -o - - > model.safetensors";

/* The training fields' place, help and default text; names, kinds and bounds come from
 * train_fields. */
static const struct {
    const char *group, *name, *arg, *help;
} texts[] = {
    {"Step", "batch", "B", "rows of a micro-batch"},
    {NULL, "accum", "N", "micro-batches of a step"},
    {NULL, "recompute", NULL, "what the backward pass computes again, to save memory"},
    {NULL, "dtype", NULL, "what products read"},
    {NULL, "dropout", "P", "share of each branch's outputs that is dropped"},
    {NULL, "z-loss", "X", "weight of the squared log of the softmax's sum"},
    {NULL, "seed", "N", "key of the initial weights, the order of rows and dropout"},
    {"Optimizer", "lr", "X", "greatest learning rate"},
    {NULL, "min-lr", "X", "learning rate at the end"},
    {NULL, "schedule", NULL, "curve of the learning rate"},
    {NULL, "warmup", "STEPS", "linear rise (default 100 steps, at most a tenth of the run)"},
    {NULL, "decay", "SHARE", "wsd: share of the run, at its end, that decays"},
    {NULL, "beta1", "X", "AdamW: decay of the first moment"},
    {NULL, "beta2", "X", "AdamW: decay of the second moment"},
    {NULL, "eps", "X", "AdamW: epsilon"},
    {NULL, "moments", NULL, "AdamW: what moments are stored in; bf16 is rounded stochastically"},
    {NULL, "weight-decay", "X", "AdamW: of matrices, not of embeddings, norms and vectors"},
    {NULL, "clip", "X", "greatest norm of the gradient, 0 for none"},
    {NULL, "outlier", "X",
     "skip a step whose loss or gradient norm is so many deviations above its mean, 0 for never"},
    {NULL, "max-skips", "N", "skipped steps in a row that stop the run"},
    {"Length (the least counts)", "max-steps", "N", "steps (default: no limit)"},
    {NULL, "max-tokens", "N", "tokens (default: no limit)"},
    {NULL, "max-time", "TIME",
     "time: the speed is measured once and fixes the steps (default: no limit)"},
    {NULL, "epochs", "X", "passes over the shards (default: 1 without another limit)"},
    {"Output", "valid-every", "STEPS", "validate so often and at the end, 0 for the end only"},
    {NULL, "valid-tokens", "N", "tokens of a validation"},
    {NULL, "save-every", "STEPS", "write a checkpoint so often, 0 for never"},
    {NULL, "save-time", "TIME", "write a checkpoint after so much time, 0 for never"},
    {NULL, "keep", "N", "newest checkpoints to keep, beside the best"},
    {NULL, "log-every", "STEPS", "steps from one row of the log to the next"},
    {0},
};

static const struct train_field *field_of(const char *name)
{
    const struct train_field *f = train_fields();
    while (f->name && strcmp(f->name, name) != 0)
        f++;
    return f;
}

/* A row for a field; limits are 0 until given, and times are read as such. */
static struct cli_opt field_row(struct train_args *a, const char *name, const char *arg,
                                const char *help)
{
    const struct train_field *f = field_of(name);
    const bool is_time = strcmp(arg ? arg : "", "TIME") == 0;
    const enum cli_kind kind = f->kind == TRAIN_ENUM  ? CLI_ENUM
                               : is_time              ? CLI_TIME
                               : f->kind == TRAIN_INT ? CLI_INT
                                                      : CLI_FLOAT;
    return (struct cli_opt){kind,   0,        f->name, (char *)&a->opts + f->at, arg, help, f->min,
                            f->max, f->names, NULL};
}

static int file_rows(struct train_args *a, struct cli_opt *rows)
{
    const struct cli_opt files[] = {
        {.kind = CLI_GROUP, .name = "Files"},
        {CLI_TEXT, 0, "tokenizer", &a->tok, "FILE",
         "tokenizer of the shards (default tok.model in the working directory)", 0, 0, NULL, NULL},
        {CLI_TEXT, 'o', "output", &a->out, "DIR",
         "run folder; - writes the final model to stdout and keeps nothing else", 0, 0, NULL, NULL},
        {CLI_LIST, 0, "valid", &a->valid, "SHARD", "validation shard", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "log", &a->log, "FILE", "CSV of the run (default train.csv in DIR)", 0, 0,
         NULL, NULL},
        {CLI_FLAG, 0, "resume", &a->is_resume, NULL,
         "go on from the newest checkpoint in DIR, where there is one", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "init-from", &a->init_from, "FILE",
         "begin a new run with this checkpoint's weights, config and tokenizer", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "plan", &a->is_plan, NULL,
         "print parameters, memory and work a token as CSV, and do nothing", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "force", &a->is_forced, NULL, "write the model even to a terminal", 0, 0,
         NULL, NULL},
    };
    memcpy(rows, files, sizeof files);
    return (int)(sizeof files / sizeof *files);
}

static int machine_rows(struct train_args *a, struct cli_opt *rows)
{
    const struct cli_opt machine[] = {
        {.kind = CLI_GROUP, .name = "Machine"},
        {CLI_INT, 0, "memory", &a->memory, "BYTES",
         "fit the run into so much (8G): picks --batch, --accum and --recompute", 1, 1e15, NULL,
         NULL},
        device_opt(&a->device),
        cli_threads_opt(&a->threads),
    };
    memcpy(rows, machine, sizeof machine);
    return (int)(sizeof machine / sizeof *machine);
}

void train_args_table(struct train_args *a, struct cli_tool *t)
{
    *a = (struct train_args){.out = ".", .device = "auto"};
    train_opts_default(&a->opts);
    a->opts.dtype = TRAIN_AUTO;
    int n = file_rows(a, a->table);
    n += model_args_options(&a->model, 1, a->table + n);
    for (int i = 0; texts[i].name; i++) {
        if (texts[i].group)
            a->table[n++] = (struct cli_opt){.kind = CLI_GROUP, .name = texts[i].group};
        a->table[n++] = field_row(a, texts[i].name, texts[i].arg, texts[i].help);
        if (strcmp(texts[i].name, "accum") == 0)
            a->table[n++] = (struct cli_opt){
                CLI_INT,
                0,
                "batch-tokens",
                &a->batch_tokens,
                "N",
                "tokens of a step, rounded up to micro-batches (default: what --accum makes)",
                1,
                1e12,
                NULL,
                NULL};
    }
    n += machine_rows(a, a->table + n);
    for (int i = 0; i < n; i++)
        if (!a->table[i].is_set)
            a->table[i].is_set = &a->is_set[i];
    *t = (struct cli_tool){.name = "hm-train",
                           .purpose = "train a hybrid Mamba-2/attention language model",
                           .usage = "[shard... | -]",
                           .examples = examples,
                           .opts = a->table};
}

static bool is_given(const struct train_args *a, const char *name)
{
    for (int i = 0; i < TRAIN_ARGS_OPTS && a->table[i].name; i++)
        if (strcmp(a->table[i].name, name) == 0 && a->table[i].kind != CLI_GROUP)
            return *a->table[i].is_set;
    return false;
}

bool train_args_has_recompute(const struct train_args *a)
{
    return is_given(a, "recompute");
}

bool train_args_to_stdout(const struct train_args *a)
{
    return strcmp(a->out, "-") == 0;
}

int train_args_check(struct train_args *a, const struct cli_tool *t, int n_operands)
{
    if (a->batch_tokens && is_given(a, "accum"))
        return cli_usage(t, "--batch-tokens and --accum both say how large a step is");
    if (a->memory && (is_given(a, "batch") || is_given(a, "recompute")))
        return cli_usage(t, "--memory picks --batch and --recompute: give it or them");
    if (a->is_resume && train_args_to_stdout(a))
        return cli_usage(t, "--resume needs a run folder: give one with -o");
    if (a->log && strcmp(a->log, "-") == 0)
        return cli_usage(t, "--log needs a file: stdout carries only the model");
    if (n_operands == 0 && !a->is_plan)
        return cli_usage(t, "give shards, or - for a token stream on stdin");
    return 0;
}

/* What several options settle together. */
static void settle(struct train_args *a, const struct config *c)
{
    struct train_opts *o = &a->opts;
    if (a->batch_tokens && a->memory)
        o->batch = 1; /* and --accum the rows, until it is known how many go at once */
    if (a->batch_tokens) {
        const int64_t a_micro = o->batch * c->max_positions;
        o->accum = (a->batch_tokens + a_micro - 1) / a_micro;
    }
    if (o->max_steps == 0 && o->max_tokens == 0 && o->max_time == 0 && o->epochs == 0)
        o->epochs = 1;
}

int train_args_new(struct train_args *a, int vocab, struct train_head *h, struct err *err)
{
    *h = (struct train_head){0};
    TRY(model_args_config(&a->model, vocab, &h->c, err));
    settle(a, &h->c);
    h->opts = a->opts;
    return train_opts_check(&h->opts, err);
}

int train_args_init_from(struct train_args *a, const struct config *c, struct train_head *h,
                         struct err *err)
{
    *h = (struct train_head){.c = *c};
    if (model_args_context(&a->model))
        h->c.max_positions = (int)model_args_context(&a->model);
    TRY(model_args_agree(&a->model, &h->c, err));
    settle(a, &h->c);
    h->opts = a->opts;
    return train_opts_check(&h->opts, err);
}

/* One given option against the run's. */
static int resume_field(const struct train_args *a, const struct train_field *f,
                        struct train_head *h, bool *is_length_new, struct err *err)
{
    char now[64], before[64];
    if (!is_given(a, f->name) || train_field_equal(f, &a->opts, &h->opts))
        return 0;
    if (f->is_kept)
        return err_set(err, NULL, "leave the option out, or begin a new run with --init-from",
                       "--%s is %s, but the run's is %s", f->name,
                       train_field_text(f, &a->opts, now, sizeof now),
                       train_field_text(f, &h->opts, before, sizeof before));
    if (f->is_limit)
        *is_length_new = true;
    else
        train_field_copy(f, &h->opts, &a->opts);
    return 0;
}

int train_args_resume(struct train_args *a, struct train_head *h, struct err *err)
{
    bool is_length_new = false;
    TRY(model_args_agree(&a->model, &h->c, err));
    if (a->opts.dtype == TRAIN_AUTO)
        a->opts.dtype = h->opts.dtype;
    if (a->batch_tokens) {
        const int64_t a_micro = h->opts.batch * h->c.max_positions;
        a->opts.accum = (a->batch_tokens + a_micro - 1) / a_micro;
        if (a->opts.accum != h->opts.accum)
            return err_set(err, NULL, "leave the option out, or begin a new run with --init-from",
                           "--batch-tokens makes --accum %lld, but the run's is %lld",
                           (long long)a->opts.accum, (long long)h->opts.accum);
    }
    for (const struct train_field *f = train_fields(); f->name; f++)
        TRY(resume_field(a, f, h, &is_length_new, err));
    for (const struct train_field *f = train_fields(); f->name && is_length_new; f++)
        if (f->is_limit)
            train_field_copy(f, &h->opts, &a->opts);
    if (is_length_new)
        h->state.total = 0;
    return 0;
}
