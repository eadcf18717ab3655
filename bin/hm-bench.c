/* hm-bench: how fast the machine trains, reads, decodes, encodes and loads, and how far from what
 * it could at most. Measures the roofline first, then each phase of --what. */
#include "bench_args.h"
#include "bench_data.h"
#include "bench_print.h"
#include "ckpt.h"
#include "cpu.h"
#include "device.h"
#include "encode_batch.h"
#include "train_plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MADE_TEXT = 1 << 20, MADE_IDS = 2048 };

struct session {
    const struct cli_tool *tool;
    struct bench_args *a;
    char **shard;
    int n_shards;
    struct config c;
    struct ckpt ckpt; /* empty without -m */
    struct trace *trace;
    struct roofline roof;
    struct bench bench;
    struct pool *pool;
    struct out out;
    struct bench_print print;
    struct cli_progress progress;
    size_t train_bytes; /* a training step's memory; 0: none is wanted */
};

static int print_phase(struct session *s, const char *name, const char *shape,
                       const struct bench_phase *phase, struct err *err)
{
    if (s->trace->is_full)
        cli_warn(s->tool, "%s %s: more different calls of ops than fit, some are left out", name,
                 shape);
    return bench_print_phase(&s->print, name, shape, phase, s->trace, err);
}

static void tell(struct session *s, const char *what)
{
    if (s->progress.is_tty)
        cli_progress_line(&s->progress, "measuring %s", what);
}

/* --- the model's phases --- */

static int open_rows(struct session *s, struct batch **data, struct err *err)
{
    const int T = s->c.max_positions, B = (int)s->a->batch;
    const struct batch_opts opts = {
        .B = B, .T = T, .accum = 1, .world = 1, .seed = 1, .is_shuffled = true};
    char folder[256] = "", path[256] = "";
    const char *const made[] = {path};
    const char *const *paths = (const char *const *)s->shard;
    struct corpus_info info;
    int rc = 0;
    if (s->n_shards == 0) {
        const int64_t step = (int64_t)B * T;
        rc = bench_data_shard(folder, path, s->c.V, step * 16 > 1 << 20 ? step * 16 : 1 << 20, err);
        paths = made;
    }
    if (rc == 0)
        rc = batch_open(data, paths, s->n_shards ? s->n_shards : 1, &opts, &info, err);
    bench_data_remove(folder, path);
    if (rc == 0 && info.vocab > s->c.V) {
        batch_close(*data);
        return err_set(err, paths[0], "raise --vocab", "has %d ids, the model %d", info.vocab,
                       s->c.V);
    }
    return rc;
}

/* A GPU's products are in the type of its activations. */
static enum dtype product_of(const struct session *s)
{
    return device_product(&s->trace->dev, s->a->dtype);
}

static struct model_opts train_opts_of(const struct session *s)
{
    return (struct model_opts){.product = product_of(s),
                               .is_training = true,
                               .B = (int)s->a->batch,
                               .T = s->c.max_positions,
                               .recompute = (enum recompute)s->a->recompute};
}

/* Finds what a training step takes. One that does not fit would bring the machine to its knees. */
static int check_memory(struct session *s, struct err *err)
{
    struct arena plan = {0};
    struct params params;
    const struct model_opts opts = train_opts_of(s);
    char needs[32], has[32];
    const double free_bytes = train_plan_budget(&s->trace->dev, 0);
    TRY(model_plan(&s->c, &opts, &s->trace->dev, &plan, err));
    TRY(params_open(&params, &s->c, err));
    optim_plan(&params, DT_F32, &plan);
    params_free(&params);
    s->train_bytes = plan.used;
    if (free_bytes <= 0 || (double)plan.used <= free_bytes)
        return 0;
    return err_set(err, NULL,
                   "choose a smaller --batch or --context, --recompute=full, or leave train out of "
                   "--what",
                   "a training step needs %s of memory, but %s are free",
                   cli_bytes(needs, sizeof needs, (double)plan.used),
                   cli_bytes(has, sizeof has, free_bytes));
}

static int run_train(struct session *s, struct err *err)
{
    const struct model_opts opts = train_opts_of(s);
    char shape[64];
    struct bench_phase phase;
    struct bench_train train;
    struct batch *data;
    tell(s, "a training step");
    TRY(open_rows(s, &data, err));
    int rc = bench_train_open(&train, &s->bench, &s->c, &opts, s->ckpt.weights, data, err);
    if (rc == 0)
        rc = bench_train_run(&train, &phase, err);
    if (rc == 0) {
        snprintf(shape, sizeof shape, "B=%d T=%d", opts.B, opts.T);
        rc = print_phase(s, "train", shape, &phase, err);
    }
    bench_train_close(&train);
    batch_close(data);
    return rc;
}

static int run_prefill(struct session *s, struct bench_read *b, struct err *err)
{
    const struct bench_args_list *rows = &s->a->rows, *prompt = &s->a->prompt;
    struct bench_phase phase;
    char shape[64];
    for (int i = 0; i < rows->n; i++)
        for (int j = 0; j < prompt->n; j++) {
            snprintf(shape, sizeof shape, "R=%d T=%d", rows->value[i], prompt->value[j]);
            tell(s, "the reading of prompts");
            TRY(bench_prefill(b, rows->value[i], prompt->value[j], &phase, err));
            TRY(print_phase(s, "prefill", shape, &phase, err));
        }
    return 0;
}

static int run_decode(struct session *s, struct bench_read *b, struct err *err)
{
    const struct bench_args_list *rows = &s->a->rows, *depth = &s->a->depth;
    struct bench_phase phase;
    char shape[64];
    for (int i = 0; i < rows->n; i++)
        for (int j = 0; j < depth->n; j++) {
            snprintf(shape, sizeof shape, "R=%d depth=%d", rows->value[i], depth->value[j]);
            tell(s, "decoding");
            TRY(bench_decode(b, rows->value[i], depth->value[j], &phase, err));
            TRY(print_phase(s, "decode", shape, &phase, err));
        }
    return 0;
}

static int largest(const struct bench_args_list *list)
{
    int most = 1;
    for (int i = 0; i < list->n; i++)
        most = list->value[i] > most ? list->value[i] : most;
    return most;
}

/* As hm-gen reads, and no more memory than the prompts want. */
static int read_tokens(const struct session *s, int rows, int prompt)
{
    const int64_t most = s->trace->dev.read_T, all = (int64_t)rows * prompt;
    return (int)(all < most ? all : most);
}

static int run_reading(struct session *s, struct err *err)
{
    const bool has_prefill = bench_args_wants(s->a, BENCH_PREFILL);
    const bool has_decode = bench_args_wants(s->a, BENCH_DECODE);
    const int prompt = has_prefill ? largest(&s->a->prompt) : 1, rows = largest(&s->a->rows);
    const int depth = has_decode ? largest(&s->a->depth) + 1 : 1;
    const struct model_opts opts = {.product = product_of(s),
                                    .read_T = has_prefill ? read_tokens(s, rows, prompt) : 0,
                                    .read_R = rows,
                                    .step_R = has_decode ? rows : 1,
                                    .S = prompt > depth ? prompt : depth};
    struct bench_read read;
    int rc = bench_read_open(&read, &s->bench, &s->c, &opts, s->ckpt.weights, err);
    if (rc == 0 && has_prefill)
        rc = run_prefill(s, &read, err);
    if (rc == 0 && has_decode)
        rc = run_decode(s, &read, err);
    bench_read_close(&read);
    return rc;
}

/* --- the host's phases --- */

static int load_pass(void *arg, struct err *err)
{
    struct rows rows;
    const int got = batch_next(arg, &rows, err);
    return got > 0 ? 0 : got < 0 ? -1 : err_set(err, NULL, "give shards", "the rows are over");
}

static int run_load(struct session *s, struct err *err)
{
    char shape[64];
    struct bench_time time;
    struct batch *data;
    tell(s, "the loader");
    TRY(open_rows(s, &data, err));
    int rc = batch_seek(data, 0, 0, err);
    if (rc == 0)
        rc = bench_repeat(&time, &s->bench.opts, NULL, load_pass, data, err);
    if (rc == 0) {
        const double tokens = (double)s->a->batch * s->c.max_positions;
        snprintf(shape, sizeof shape, "B=%d T=%d", (int)s->a->batch, s->c.max_positions);
        rc = bench_print_host(&s->print, "load", shape, &time, tokens,
                              tokens * (s->c.V <= 65536 ? 2 : 4), err);
    }
    batch_close(data);
    return rc;
}

/* Text, and its ids once it was encoded. */
struct encoding {
    struct encode_batch batch;
    struct tok *tok;

    struct buf text, bytes;
    struct ids ids;
};

static int encode_pass(void *arg, struct err *err)
{
    struct encoding *e = arg;
    encode_batch_clear(&e->batch);
    for (size_t begin = 0, end; begin < e->text.size; begin = end) {
        const uint8_t *at = memchr(e->text.data + begin, '\n', e->text.size - begin);
        end = at ? (size_t)(at - e->text.data) + 1 : e->text.size;
        TRY(encode_batch_add(&e->batch, e->text.data + begin, end - begin - (at != NULL),
                             at != NULL, err));
    }
    return encode_batch_run(&e->batch, err);
}

static int decode_text_pass(void *arg, struct err *err)
{
    struct encoding *e = arg;
    e->bytes.size = 0;
    return tok_decode(e->tok, e->ids.data, e->ids.n, &e->bytes, err);
}

static int open_encoding(struct session *s, struct encoding *e, struct err *err)
{
    const struct bench_args *a = s->a;
    TRY(a->text ? io_read_file(a->text, &e->text, BATCH_BYTES, err)
                : bench_data_text(&e->text, MADE_TEXT, err));
    if (e->text.size == 0)
        return err_set(err, a->text, "name a file with text", "is empty");
    if (a->tokenizer)
        TRY(tok_open(&e->tok, a->tokenizer, err));
    else if (s->ckpt.tok.size > 0)
        TRY(tok_open_bytes(&e->tok, s->ckpt.tok.data, s->ckpt.tok.size, err));
    else
        TRY(bench_data_tok(&e->tok, &e->text, MADE_IDS, err));
    return encode_batch_open(&e->batch, e->tok, s->pool, err);
}

static int measure_encoding(struct session *s, struct encoding *e, struct err *err)
{
    char shape[64];
    struct bench_time time;
    const double size = (double)e->text.size;
    snprintf(shape, sizeof shape, "bytes=%zu V=%d", e->text.size, tok_vocab(e->tok));
    TRY(bench_repeat(&time, &s->bench.opts, NULL, encode_pass, e, err));
    for (int i = 0; i < e->batch.n_hands; i++) {
        const struct ids *part = encode_batch_ids(&e->batch, i);
        TRY(ids_append(&e->ids, part->data, part->n, err));
    }
    TRY(bench_print_host(&s->print, "encode", shape, &time, (double)e->ids.n, size, err));
    tell(s, "the decoding of ids to text");
    TRY(bench_repeat(&time, &s->bench.opts, NULL, decode_text_pass, e, err));
    return bench_print_host(&s->print, "decode_text", shape, &time, (double)e->ids.n,
                            (double)e->bytes.size, err);
}

static int run_encode(struct session *s, struct err *err)
{
    struct encoding e = {0};
    tell(s, "the encoding of text");
    int rc = open_encoding(s, &e, err);
    if (rc == 0)
        rc = measure_encoding(s, &e, err);
    encode_batch_close(&e.batch);
    tok_close(e.tok);
    buf_free(&e.text);
    buf_free(&e.bytes);
    ids_free(&e.ids);
    return rc;
}

/* --- the run --- */

static int print_run(struct session *s, struct err *err)
{
    struct params params;
    char text[512];
    const struct config *c = &s->c;
    TRY(bench_print_begin(&s->print, err));
    TRY(bench_print_run(&s->print, "version", cli_version(), err));
    TRY(params_open(&params, c, err));
    snprintf(text, sizeof text, "%s D=%d F=%d V=%d N=%d heads=%d/%d T=%d: %lld parameters",
             c->pattern, c->D, c->F, c->V, c->N, c->attn_heads, c->kv_heads, c->max_positions,
             (long long)params.n_values);
    params_free(&params);
    TRY(bench_print_run(&s->print, "config", text, err));
    TRY(bench_print_run(&s->print, "device", s->trace->dev.name, err));
    TRY(bench_print_run(&s->print, "dtype", device_dtypes[product_of(s)], err));
    TRY(bench_print_run(&s->print, "recompute", recompute_names[s->a->recompute], err));
    if (s->train_bytes) {
        snprintf(text, sizeof text, "%zu bytes", s->train_bytes);
        TRY(bench_print_run(&s->print, "memory", text, err));
    }
    return bench_print_run(&s->print, "seed", "1", err);
}

static int measure_roof(struct session *s, struct err *err)
{
    const double time_s = s->a->time_s;
    struct dev *dev = &s->trace->dev;
    if (s->a->gpu)
        return bench_print_roof(&s->print, err);
    tell(s, "the roofline");
    TRY(roofline_memory(&s->roof, dev, dev->is_host ? s->pool : NULL, (size_t)s->a->stream, time_s,
                        err));
    if (dev->is_host || product_of(s) == DT_F32)
        TRY(roofline_products(&s->roof, dev, DT_F32, time_s, err));
    if (product_of(s) != DT_F32)
        TRY(roofline_products(&s->roof, dev, product_of(s), time_s, err));
    return bench_print_roof(&s->print, err);
}

static int run_all(struct session *s, struct err *err)
{
    const struct bench_args *a = s->a;
    const bool has_train = bench_args_wants(a, BENCH_TRAIN);
    const bool has_reading =
        bench_args_wants(a, BENCH_PREFILL) || bench_args_wants(a, BENCH_DECODE);
    TRY(print_run(s, err));
    if (has_train || has_reading)
        TRY(measure_roof(s, err));
    if (has_train)
        TRY(run_train(s, err));
    if (has_reading)
        TRY(run_reading(s, err));
    if (bench_args_wants(a, BENCH_ENCODE))
        TRY(run_encode(s, err));
    if (bench_args_wants(a, BENCH_LOAD))
        TRY(run_load(s, err));
    return 0;
}

static int open_all(struct session *s, struct err *err)
{
    struct bench_args *a = s->a;
    if (a->model)
        TRY(ckpt_load(&s->ckpt, a->model, err));
    TRY(bench_args_config(a, a->model ? &s->ckpt.c : NULL, &s->c, err));
    if (!(s->trace = calloc(1, sizeof *s->trace)))
        return err_oom(err, sizeof *s->trace);
    if (a->gpu) {
        s->roof = gpu_roofline(a->gpu);
        s->trace->predict = &s->roof;
        TRY(dry_open(&s->trace->dev, a->gpu, DT_BF16, err));
    } else {
        TRY(device_open(&s->trace->dev, s->tool, a->device, (int)a->threads, a->dtype, false, err));
    }
    s->pool = cpu_pool(&s->trace->dev);
    s->bench = (struct bench){s->trace, &s->roof, {a->time_s, (int)a->repeat}};
    TRY(out_open(&s->out, "-", err));
    s->print = (struct bench_print){.out = &s->out,
                                    .is_table = bench_args_table_wanted(a, isatty(s->out.fd)),
                                    .has_ops = bench_args_wants(a, BENCH_OPS),
                                    .roof = &s->roof};
    cli_progress_begin(&s->progress, s->tool, 0);
    return 0;
}

/* What would end the run later ends it before anything is printed. */
static int check_all(struct session *s, struct err *err)
{
    struct batch *data;
    if (s->n_shards > 0) {
        TRY(open_rows(s, &data, err));
        batch_close(data);
    }
    return bench_args_wants(s->a, BENCH_TRAIN) ? check_memory(s, err) : 0;
}

static int run(struct session *s, struct err *err)
{
    int rc = open_all(s, err);
    if (rc == 0)
        rc = check_all(s, err);
    if (rc == 0)
        rc = run_all(s, err);
    cli_progress_end(&s->progress, false);
    if (rc == 0)
        rc = out_commit(&s->out, err);
    out_abort(&s->out);
    bench_print_free(&s->print);
    if (s->trace)
        dev_close(&s->trace->dev);
    free(s->trace);
    ckpt_free(&s->ckpt);
    return rc;
}

int main(int argc, char **argv)
{
    struct bench_args a;
    struct cli_tool tool;
    struct err err;
    int first;
    bench_args_table(&a, &tool);
    cli_parse(&tool, argc, argv, &first);
    const int wrong = bench_args_check(&a, &tool, argv + first, argc - first);
    if (wrong)
        return wrong;
    struct session s = {.tool = &tool, .a = &a, .shard = argv + first, .n_shards = argc - first};
    const int status = run(&s, &err);
    return cli_finish(&tool, status == 0 ? 0 : cli_error(&tool, &err));
}
