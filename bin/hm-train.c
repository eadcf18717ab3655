/* hm-train: shards or a token stream in; a run folder with checkpoints, a log and the final model,
 * or that model on stdout, out. The training itself is lib/train_run.c; options are in
 * train_args.c, what is said on the way in train_talk.c. */
#include "ckpt.h"
#include "train_args.h"
#include "train_plan.h"
#include "train_talk.h"

#include <stdlib.h>
#include <string.h>

/* One run of the tool. */
struct app {
    struct cli_tool tool;
    struct train_args args;
    struct train_data data;
    struct dev dev;
    struct buf tok;
    uint64_t tok_hash;
    struct ckpt init; /* --init-from; weights NULL without */
    struct run_dir dir;
    char resume[256]; /* path of the checkpoint to go on from, "" without */
    struct train_head head;
    struct train train;
    struct run_log log;
};

/* Reads the tokenizer at path: its bytes, fingerprint and vocabulary. */
static int read_tok(struct app *a, const char *path, int *vocab, struct err *err)
{
    struct tok *tok;
    TRY(tok_open(&tok, path, err));
    a->tok_hash = tok_hash(tok);
    *vocab = tok_vocab(tok);
    a->tok.size = 0;
    const int rc = buf_put(&a->tok, tok_bytes(tok)->data, tok_bytes(tok)->size, err);
    tok_close(tok);
    return rc;
}

/* The model of --init-from; its own tokenizer counts, where it has one. */
static int prepare_init(struct app *a, struct err *err)
{
    int vocab;
    struct tok *tok;
    TRY(ckpt_load(&a->init, a->args.init_from, err));
    TRY(train_args_init_from(&a->args, &a->init.c, &a->head, err));
    if (a->args.tok || a->init.tok.size == 0) {
        TRY(cli_default_file(&a->args.tok, "tok.model", "--tokenizer", err));
        return read_tok(a, a->args.tok, &vocab, err);
    }
    TRY(tok_open_bytes(&tok, a->init.tok.data, a->init.tok.size, err));
    a->tok_hash = tok_hash(tok);
    tok_close(tok);
    return buf_put(&a->tok, a->init.tok.data, a->init.tok.size, err);
}

static int prepare_new(struct app *a, struct err *err)
{
    int vocab = 0;
    struct err none = {0};
    /* a plan needs no tokenizer: the preset's vocabulary will do */
    if (cli_default_file(&a->args.tok, "tok.model", "--tokenizer", &none) == 0)
        TRY(read_tok(a, a->args.tok, &vocab, err));
    else if (!a->args.is_plan) {
        *err = none;
        return -1;
    }
    return train_args_new(&a->args, vocab, &a->head, err);
}

static int prepare_resume(struct app *a, struct err *err)
{
    int vocab;
    char path[256];
    TRY(train_ckpt_head(&a->head, a->resume, err));
    TRY(train_args_resume(&a->args, &a->head, err));
    TRY(run_dir_file(&a->dir, "tok.model", path, sizeof path, err));
    return read_tok(a, a->args.tok ? a->args.tok : path, &vocab, err);
}

/* Opens the run folder and finds the checkpoint to go on from. */
static int open_folder(struct app *a, struct err *err)
{
    int64_t newest;
    if (train_args_to_stdout(&a->args))
        return cli_check_binary_stdout("-", a->args.is_forced, err);
    TRY(run_dir_open(&a->dir, a->args.out, err));
    TRY(run_dir_newest(&a->dir, &newest, err));
    if (newest >= 0 && !a->args.is_resume)
        return err_set(err, a->args.out, "go on with --resume, or name another folder with -o",
                       "holds checkpoints of a run");
    if (newest >= 0)
        return run_dir_ckpt(&a->dir, newest, a->resume, sizeof a->resume, err);
    if (a->args.is_resume)
        cli_note(&a->tool, "%s: no checkpoint to resume from: the run begins afresh", a->args.out);
    return 0;
}

/* What the folder holds beside checkpoints and log. */
static int write_sidecars(struct app *a, struct err *err)
{
    struct buf json = {0};
    if (train_args_to_stdout(&a->args))
        return 0;
    int rc = config_print(&a->head.c, &json, err);
    if (rc == 0)
        rc = run_dir_put(&a->dir, "tok.model", &a->tok, false, err);
    if (rc == 0)
        rc = run_dir_put(&a->dir, "config.json", &json, true, err);
    buf_free(&json);
    return rc;
}

/* --memory picks, of a run that is not resumed, the batches too. Without it what is computed again
 * is picked where nothing says it. */
static int choose(struct app *a, struct err *err)
{
    const struct train_opts *o = &a->head.opts;
    const double budget = train_plan_budget(&a->dev, (double)a->args.memory);
    if (!a->args.memory && (train_args_has_recompute(&a->args) || budget <= 0))
        return 0;
    TRY(train_plan_choose(&a->head, &a->dev, budget, a->args.memory && !a->resume[0], err));
    if (a->args.memory)
        cli_note(&a->tool, "--memory chose --batch=%lld --accum=%lld --recompute=%s",
                 (long long)o->batch, (long long)o->accum, recompute_names[o->recompute]);
    else if (o->recompute != RECOMPUTE_NONE)
        cli_note(&a->tool, "--recompute=%s, to fit into memory", recompute_names[o->recompute]);
    return 0;
}

static int prepare(struct app *a, struct err *err)
{
    if (!a->args.is_plan)
        TRY(open_folder(a, err));
    if (a->resume[0])
        TRY(prepare_resume(a, err));
    else
        TRY(a->args.init_from ? prepare_init(a, err) : prepare_new(a, err));
    int *dtype = &a->head.opts.dtype;
    TRY(device_open(&a->dev, &a->tool, a->args.device, (int)a->args.threads, *dtype,
                    a->args.is_plan, err));
    *dtype = device_product(&a->dev, *dtype);
    return choose(a, err);
}

static int begin(struct app *a, struct err *err)
{
    TRY(train_plan_check(&a->head, &a->dev, train_plan_budget(&a->dev, (double)a->args.memory),
                         err));
    TRY(train_open(&a->train, &a->head, &a->data, &a->tok, a->tok_hash, &a->dev, err));
    TRY(write_sidecars(a, err));
    if (a->resume[0])
        return train_restore(&a->train, a->resume, err);
    if (a->init.weights) {
        TRY(train_begin_from(&a->train, a->init.weights, err));
        ckpt_free(&a->init);
        return 0;
    }
    return train_init(&a->train, err);
}

static int open_log(struct app *a, double *elapsed_s, struct err *err)
{
    char path[256];
    a->log.fd = -1;
    if (!a->args.log && train_args_to_stdout(&a->args))
        return 0;
    if (!a->args.log)
        TRY(run_dir_file(&a->dir, "train.csv", path, sizeof path, err));
    return run_log_open(&a->log, a->args.log ? a->args.log : path,
                        a->resume[0] ? a->train.head.state.step : -1, elapsed_s, err);
}

static int write_model(struct app *a, struct err *err)
{
    char path[256] = "-";
    if (!train_args_to_stdout(&a->args))
        TRY(run_dir_file(&a->dir, "model.safetensors", path, sizeof path, err));
    return train_save_model(&a->train, path, err);
}

/* The loop, with a log and a voice. */
static int run_all(struct app *a, struct err *err)
{
    struct train_talk talk;
    struct train_run run = {
        .t = &a->train, .dir = train_args_to_stdout(&a->args) ? NULL : &a->dir, .log = &a->log};
    enum train_end end = TRAIN_DONE;
    TRY(open_log(a, &run.elapsed_s, err));
    train_talk_begin(&talk, &a->tool, &a->train, &run.hook);
    TRY(train_run_describe(&run, a->resume[0] ? "resume" : "run", cli_version(), err));
    int rc = train_run(&run, &end, err);
    if (rc == 0 && end == TRAIN_DONE)
        rc = write_model(a, err);
    if (run_log_close(&a->log, rc == 0 ? err : &(struct err){0}) != 0)
        rc = -1;
    train_talk_end(&talk, rc == 0, end == TRAIN_STOPPED, run.dir != NULL);
    return rc;
}

static int train(struct app *a, struct err *err)
{
    cli_catch_signals();
    TRY(begin(a, err));
    if (!train_is_done(&a->train))
        return run_all(a, err);
    cli_note(&a->tool, "%s: the run is done already, after %lld steps", a->args.out,
             (long long)a->train.head.state.step);
    return write_model(a, err);
}

static void close_all(struct app *a)
{
    train_close(&a->train);
    run_dir_close(&a->dir);
    ckpt_free(&a->init);
    buf_free(&a->tok);
    dev_close(&a->dev);
}

int main(int argc, char **argv)
{
    static struct app a; /* large, and zeroed */
    struct err err = {0};
    int first;
    train_args_table(&a.args, &a.tool);
    cli_parse(&a.tool, argc, argv, &first);
    const int mistake = train_args_check(&a.args, &a.tool, argc - first);
    if (mistake)
        return mistake;
    a.data = (struct train_data){(const char *const *)argv + first, a.args.valid.item, argc - first,
                                 a.args.valid.n};
    int rc = prepare(&a, &err);
    if (rc == 0)
        rc = a.args.is_plan ? train_plan_print(&a.head, &a.dev, (double)a.args.memory, &err)
                            : train(&a, &err);
    int status = rc == 0 ? 0 : cli_error(&a.tool, &err);
    close_all(&a);
    status = cli_finish(&a.tool, status);
    if (cli_signal())
        cli_raise(cli_signal());
    return status;
}
