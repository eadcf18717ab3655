/* gen_args: see gen_args.h. */
#include "gen_args.h"
#include "prompts.h"

#include <stdlib.h>
#include <string.h>

static const char *const stream_names[] = {"auto", "always", "never", NULL};
static const char *const form_names[] = {"auto", "markers", "plain", NULL};

void gen_args_defaults(struct gen_args *a)
{
    struct gen_opts o;
    gen_defaults(&o);
    *a = (struct gen_args){
        .model = {.device = "auto", .dtype = DTYPE_AUTO},
        .out = "-",
        .batch = 16,
        .has_rates = true,
        .max_tokens = o.max_tokens,
        .top_k = o.sample.top_k,
        .repeat_last = o.sample.repeat_last,
        .seed = (int64_t)o.sample.seed,
        .temperature = 0.8,
        .top_p = 0.95,
        .min_p = (double)o.sample.min_p,
        .typical_p = (double)o.sample.typical_p,
        .repeat_penalty = (double)o.sample.repeat_penalty,
        .freq_penalty = (double)o.sample.freq_penalty,
        .pres_penalty = (double)o.sample.pres_penalty,
    };
}

/* Rows of the table are put one after the other. */
struct table {
    struct cli_opt *row;
    int n;
};

static void put(struct table *t, struct cli_opt row)
{
    t->row[t->n++] = row;
}

static void put_group(struct table *t, const char *name)
{
    put(t, (struct cli_opt){.kind = CLI_GROUP, .name = name});
}

static void put_flag(struct table *t, const char *name, bool *to, const char *help)
{
    put(t, (struct cli_opt){.kind = CLI_FLAG, .name = name, .to = to, .help = help});
}

static void put_text(struct table *t, const char *name, const char **to, const char *arg,
                     const char *help)
{
    put(t, (struct cli_opt){.kind = CLI_TEXT, .name = name, .to = to, .arg = arg, .help = help});
}

/* A setting of sampler.h, whose bounds are those of its JSON name. */
static void put_setting(struct table *t, enum cli_kind kind, const char *name, const char *json,
                        void *to, const char *help)
{
    struct cli_opt row = {
        .kind = kind, .name = name, .to = to, .arg = kind == CLI_INT ? "N" : "X", .help = help};
    sample_bounds(json, &row.min, &row.max);
    put(t, row);
}

static void put_input(struct table *t, struct gen_args *a)
{
    put_group(t, "Prompts");
    put_text(t, "prompt", &a->prompt, "TEXT", "complete TEXT and print the raw completion");
    put_flag(t, "jsonl", &a->is_jsonl, "prompts are JSON objects, one a line: see PROMPTS");
    put(t, (struct cli_opt){CLI_FLAG, '0', "null", &a->is_null, NULL,
                            "prompts and completions end with NUL and are raw", 0, 0, NULL, NULL});
    put_flag(t, "escaped", &a->is_escaped, "prompt lines hold \\n, \\r and \\\\ as escapes");
    put(t, (struct cli_opt){CLI_INT, 0, "batch", &a->batch, "R", "prompts decoded at a time", 1,
                            4096, NULL, &a->is_batch_set});
    put_text(t, "state-load", &a->state_load, "FILE", "go on from a saved state");
    put_text(t, "state-save", &a->state_save, "FILE",
             "save the state after the prompt (chat: at the end)");
}

static void put_output(struct table *t, struct gen_args *a)
{
    put_group(t, "Output");
    put(t, (struct cli_opt){CLI_TEXT, 'o', "output", &a->out, "FILE",
                            "the completions; - is stdout", 0, 0, NULL, NULL});
    put_flag(t, "json", &a->is_json, "completions are JSON objects: see COMPLETIONS");
    put_flag(t, "echo", &a->has_echo, "the prompt in front of its completion");
    put_flag(t, "rates", &a->has_rates, "tokens a second in JSON, which differ from run to run");
    put(t,
        (struct cli_opt){CLI_ENUM, 0, "stream", &a->stream, "WHEN",
                         "print --prompt's completion token by token", 0, 0, stream_names, NULL});
    put_group(t, "Chat");
    put_flag(t, "chat", &a->is_chat, "talk with the model; /help lists the commands");
    put_text(t, "system", &a->system, "TEXT", "text that the conversation begins with");
    put_text(t, "history", &a->history, "FILE", "keep the lines typed in FILE");
    put(t, (struct cli_opt){CLI_ENUM, 0, "chat-format", &a->chat_form, "FORM",
                            "how turns are marked (auto: by control pieces, if there are)", 0, 0,
                            form_names, NULL});
}

static void put_choice(struct table *t, struct gen_args *a)
{
    put_group(t, "Choice of tokens");
    put(t, (struct cli_opt){CLI_INT, 0, "max-tokens", &a->max_tokens, "N",
                            "tokens of a completion (a chat's answer: 512)", 0, 1e9, NULL,
                            &a->is_max_tokens_set});
    put_flag(t, "greedy", &a->is_greedy, "always the likeliest token: --temperature 0");
    put_setting(t, CLI_FLOAT, "temperature", "temperature", &a->temperature,
                "divide the logits by X; 0: greedy");
    put_setting(t, CLI_INT, "top-k", "top_k", &a->top_k, "only the N likeliest; 0: off");
    put_setting(t, CLI_FLOAT, "top-p", "top_p", &a->top_p,
                "only the likeliest that reach probability X together; 1: off");
    put_setting(t, CLI_FLOAT, "min-p", "min_p", &a->min_p,
                "only those of at least X times the likeliest's probability; 0: off");
    put_setting(t, CLI_FLOAT, "typical-p", "typical_p", &a->typical_p,
                "only the most typical that reach probability X together; 1: off");
    put_setting(t, CLI_FLOAT, "repetition-penalty", "repetition_penalty", &a->repeat_penalty,
                "weaken the logits of recent tokens by the factor X; 1: off");
    put_setting(t, CLI_FLOAT, "frequency-penalty", "frequency_penalty", &a->freq_penalty,
                "subtract X for each recent occurrence; 0: off");
    put_setting(t, CLI_FLOAT, "presence-penalty", "presence_penalty", &a->pres_penalty,
                "subtract X once for a recent token; 0: off");
    put_setting(t, CLI_INT, "repeat-last", "repeat_last", &a->repeat_last,
                "tokens that count as recent, the prompt's too");
    put(t, (struct cli_opt){CLI_LIST, 0, "logit-bias", &a->bias, "BIAS",
                            "ID=X: add X to the logit of token ID", 0, 0, NULL, NULL});
    put_setting(t, CLI_INT, "seed", "seed", &a->seed, "of the random choices");
    put(t, (struct cli_opt){CLI_LIST, 0, "stop", &a->stop, "TEXT",
                            "end before TEXT; \\n, \\r and \\\\ are escapes", 0, 0, NULL, NULL});
    put_flag(t, "ignore-eos", &a->ignore_eos, "never end a document");
}

void gen_args_rows(struct gen_args *a, struct cli_opt rows[GEN_ROWS])
{
    struct table t = {rows, 0};
    put_group(&t, "Model");
    put(&t,
        (struct cli_opt){CLI_TEXT, 'm', "model", &a->model.model, "FILE",
                         "checkpoint or run folder (default model.safetensors)", 0, 0, NULL, NULL});
    put(&t, device_opt(&a->model.device));
    put(&t, cli_threads_opt(&a->model.threads));
    put(&t, device_dtype_opt(&a->model.dtype));
    put(&t, (struct cli_opt){CLI_INT, 0, "context", &a->context, "S",
                             "tokens that attention can hold a prompt; 0: twice the model's rows",
                             0, 1 << 28, NULL, NULL});
    put_input(&t, a);
    put_output(&t, a);
    put_choice(&t, a);
    put(&t, (struct cli_opt){0});
}

/* ID=X: whole and a number. */
static int parse_bias(const char *text, long long *id, double *bias, struct err *err)
{
    char *end;
    *id = strtoll(text, &end, 10);
    const char *value = end + 1;
    if (end != text && *end == '=' && *value != '\0') {
        *bias = strtod(value, &end);
        if (*end == '\0')
            return 0;
    }
    return err_set(err, NULL, "write it as 17=-2.5", "--logit-bias: '%s' is no ID=X", text);
}

int gen_args_check(const struct gen_args *a, struct err *err)
{
    long long id;
    double bias;
    for (int i = 0; i < a->bias.n; i++)
        TRY(parse_bias(a->bias.item[i], &id, &bias, err));
    if (a->is_chat && (a->prompt || a->is_jsonl || a->is_json || a->has_echo))
        return err_set(err, NULL, NULL, "--chat goes with no --prompt, --jsonl, --json or --echo");
    if (a->is_chat && (a->is_null || a->is_escaped || strcmp(a->out, "-") != 0))
        return err_set(err, NULL, NULL, "--chat goes with no --null, --escaped or --output");
    if (a->prompt && (a->is_jsonl || a->is_escaped))
        return err_set(err, NULL, NULL, "--prompt goes with no --jsonl or --escaped");
    if (a->is_jsonl && (a->is_escaped || a->is_null))
        return err_set(err, NULL, NULL, "--jsonl goes with no --escaped or --null");
    if (a->is_json && a->is_null)
        return err_set(err, NULL, NULL, "--json goes with no --null");
    if (!a->is_chat && (a->system || a->history))
        return err_set(err, NULL, NULL, "--system and --history go with --chat");
    return 0;
}

static int add_stop(struct gen_opts *o, const char *text, struct err *err)
{
    struct buf stop = {0};
    int status = text_unescape(&stop, text, strlen(text), err);
    if (status == 0)
        status = stops_add(&o->stops, stop.data, stop.size, err);
    buf_free(&stop);
    return status;
}

int gen_args_opts(const struct gen_args *a, int V, struct gen_opts *o, struct err *err)
{
    gen_defaults(o);
    o->max_tokens = a->is_chat && !a->is_max_tokens_set ? 512 : (int)a->max_tokens;
    o->ignore_eos = a->ignore_eos;
    o->sample.seed = (uint64_t)a->seed;
    o->sample.temperature = a->is_greedy ? 0 : (float)a->temperature;
    o->sample.top_k = (int)a->top_k;
    o->sample.top_p = (float)a->top_p;
    o->sample.min_p = (float)a->min_p;
    o->sample.typical_p = (float)a->typical_p;
    o->sample.repeat_penalty = (float)a->repeat_penalty;
    o->sample.freq_penalty = (float)a->freq_penalty;
    o->sample.pres_penalty = (float)a->pres_penalty;
    o->sample.repeat_last = (int)a->repeat_last;
    for (int i = 0; i < a->stop.n; i++)
        TRY(add_stop(o, a->stop.item[i], err));
    for (int i = 0; i < a->bias.n; i++) {
        long long id;
        double bias;
        TRY(parse_bias(a->bias.item[i], &id, &bias, err));
        TRY(sample_add_bias(&o->sample, id, bias, V, err));
    }
    return 0;
}
