/* hm-gen: completions of prompts from a checkpoint: a prompt a line on stdin or from files, or
 * JSON objects, or one prompt as an option, or a chat. lib/generate.h does the work. */
#include "gen_args.h"
#include "gen_chat.h"
#include "gen_line.h"
#include "prompts.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_READ = 64 }; /* prompts of a pass that reads */

/* What the callbacks of gen_run share. */
struct session {
    const struct cli_tool *tool;
    const struct gen_args *a;
    struct gen_opts opts; /* of every prompt that says nothing else */
    int V;
    char **file; /* operands left, NULL after the last */
    bool has_in; /* in is open */
    struct in in;
    long line; /* of in */
    struct buf record, text;
    struct out out;
    bool is_streamed, is_prompt_taken, is_state_saved;
    int64_t n_refused;
    struct cli_progress progress;
};

/* A prompt from its record. */
static int parse_record(struct session *s, struct gen_prompt *p, struct err *err)
{
    if (s->a->is_jsonl)
        return prompt_parse(p, (const char *)s->record.data, s->record.size, &s->opts, s->V, err);
    TRY(gen_opts_copy(&p->opts, &s->opts, err));
    if (s->a->is_escaped)
        return text_unescape(&p->text, s->record.data, s->record.size, err);
    return s->record.size ? buf_put(&p->text, s->record.data, s->record.size, err) : 0;
}

/* The next record of the files, as gen_line_next. */
static int next_record(struct session *s, struct err *err)
{
    for (;;) {
        if (!s->has_in) {
            if (!*s->file)
                return 0;
            TRY(in_open(&s->in, *s->file++, err));
            s->has_in = true;
            s->line = 0;
        }
        const int got = gen_line_next(&s->in, s->a->is_null ? '\0' : '\n', &s->record, err);
        s->line++;
        if (got != 0)
            return got;
        in_close(&s->in);
        s->has_in = false;
    }
}

static int next_prompt(void *arg, struct gen_prompt *p, struct err *err)
{
    struct session *s = arg;
    if (s->a->prompt) {
        if (s->is_prompt_taken)
            return 0;
        s->is_prompt_taken = true;
        TRY(gen_opts_copy(&p->opts, &s->opts, err));
        const size_t n = strlen(s->a->prompt);
        if (n > 0)
            TRY(buf_put(&p->text, s->a->prompt, n, err));
        if (s->is_streamed && s->a->has_echo)
            TRY(out_write(&s->out, s->a->prompt, n, err));
        return 1;
    }
    const int got = next_record(s, err);
    if (got != 1)
        return got;
    if (parse_record(s, p, err) == 0)
        return 1;
    char place[300];
    snprintf(place, sizeof place, "%s:%ld", s->in.path, s->line);
    return err_file(err, place);
}

static int show_text(void *arg, const void *bytes, size_t n, struct err *err)
{
    struct session *s = arg;
    if (isatty(s->out.fd)) {
        s->text.size = 0;
        TRY(text_printable(&s->text, bytes, n, err));
        bytes = s->text.data;
        n = s->text.size;
    }
    TRY(out_write(&s->out, bytes, n, err));
    return out_flush(&s->out, err);
}

/* The record of a result into s->text. */
static int print_result(struct session *s, const struct gen_result *r, struct err *err)
{
    const struct gen_args *a = s->a;
    const struct buf *prompt = &r->prompt->text, *text = &r->completion->flow.text;
    const bool is_raw = a->is_null || a->prompt;
    if (a->is_json) {
        const struct result_opts o = {a->has_echo, a->has_rates};
        return result_json(&s->text, r, &o, err);
    }
    const struct buf *part[2] = {a->has_echo ? prompt : NULL, text};
    for (int i = 0; i < 2; i++) {
        if (!part[i] || part[i]->size == 0)
            continue;
        if (is_raw)
            TRY(buf_put(&s->text, part[i]->data, part[i]->size, err));
        else
            TRY(text_escape(&s->text, part[i]->data, part[i]->size, err));
    }
    if (a->prompt && !a->is_null)
        return 0;
    return buf_put(&s->text, a->is_null ? "" : "\n", 1, err);
}

static int done_prompt(void *arg, const struct gen_result *r, struct err *err)
{
    struct session *s = arg;
    if (r->completion->stop == GEN_CONTEXT && r->completion->ids.n == 0) {
        cli_warn(s->tool, "prompt %lld has %zu tokens, more than --context: not completed",
                 (long long)r->number + 1, r->n_read);
        s->n_refused++;
    }
    s->text.size = 0;
    if (!s->is_streamed)
        TRY(print_result(s, r, err));
    const bool is_line = s->a->prompt && !s->a->is_json && isatty(s->out.fd);
    if (is_line)
        TRY(buf_put(&s->text, "\n", 1, err));
    if (s->text.size > 0)
        TRY(out_write(&s->out, s->text.data, s->text.size, err));
    return out_flush(&s->out, err);
}

static int save_state(void *arg, const struct state *state, int slot, const struct ids *ids,
                      uint64_t model_hash, struct err *err)
{
    struct session *s = arg;
    struct out out;
    if (s->is_state_saved)
        return err_set(err, s->a->state_save, "give one prompt",
                       "--state-save has room for one prompt's state, and here is a second");
    s->is_state_saved = true;
    TRY(out_open(&out, s->a->state_save, err));
    if (state_save(state, slot, ids->data, ids->n, model_hash, &out, err) == 0 &&
        out_commit(&out, err) == 0)
        return 0;
    out_abort(&out);
    return -1;
}

static bool tick(void *arg, const struct gen_totals *t)
{
    struct session *s = arg;
    if (!s->is_streamed && cli_progress_due(&s->progress)) {
        char decoded[32];
        const double time_s = cli_now() - s->progress.start_s;
        cli_progress_line(&s->progress, "%lld of %lld prompts taken in, %s tokens, %.0f tokens/s",
                          (long long)t->n_done, (long long)t->n_prompts,
                          cli_count(decoded, sizeof decoded, (double)t->n_decoded),
                          (double)t->n_decoded / time_s);
    }
    return cli_signal() != 0;
}

static int load_prefix(struct gen *g, const char *path, struct err *err)
{
    struct in in;
    TRY(in_open(&in, path, err));
    const int status = gen_load_prefix(g, &in, err);
    in_close(&in);
    return status;
}

static int complete(struct session *s, struct loaded *l, int n_slots, int S, struct err *err)
{
    struct gen g;
    const struct gen_calls calls = {s,
                                    next_prompt,
                                    done_prompt,
                                    s->is_streamed ? show_text : NULL,
                                    s->a->state_save ? save_state : NULL,
                                    tick};
    TRY(gen_open(&g, &l->model, l->tok, n_slots, S, err));
    int status = s->a->state_load ? load_prefix(&g, s->a->state_load, err) : 0;
    cli_progress_begin(&s->progress, s->tool, 0);
    if (status == 0)
        status = gen_run(&g, &calls, err);
    cli_progress_end(&s->progress, false);
    gen_close(&g);
    return status < 0 ? -1 : 0;
}

/* All prompts, with inputs and outputs opened before the work. */
static int run_prompts(struct session *s, struct loaded *l, int n_slots, int S, struct err *err)
{
    const struct gen_args *a = s->a;
    s->V = l->model.c.V;
    TRY(out_open(&s->out, a->out, err));
    s->is_streamed =
        a->prompt && !a->is_json && !a->is_null &&
        (a->stream == STREAM_ALWAYS || (a->stream == STREAM_AUTO && isatty(s->out.fd)));
    int status = complete(s, l, n_slots, S, err);
    if (status == 0 && !cli_signal())
        status = out_commit(&s->out, err);
    out_abort(&s->out);
    if (s->has_in)
        in_close(&s->in);
    buf_free(&s->record);
    buf_free(&s->text);
    return status;
}

/* Prompts typed by a person, and a single one, are decoded alone. */
static int choose_slots(const struct gen_args *a, char **file)
{
    const bool is_typed = strcmp(file[0], "-") == 0 && isatty(STDIN_FILENO);
    const bool is_one = a->prompt || a->is_chat || a->state_save || (is_typed && !a->is_batch_set);
    return is_one ? 1 : (int)a->batch;
}

static int run(const struct cli_tool *tool, const struct gen_args *a, char **file, struct err *err)
{
    struct loaded l = {0};
    struct session s = {.tool = tool, .a = a, .file = file};
    const int n_slots = choose_slots(a, file);
    struct model_opts opts = {.read_R = n_slots < MOST_READ ? n_slots : MOST_READ,
                              .step_R = n_slots};
    int status = loaded_read(&l, tool, &a->model, err);
    if (status == 0 && !l.tok)
        status =
            err_set(err, a->model.model, "name a checkpoint of hm-train", "has no tokenizer in it");
    if (status == 0)
        status = gen_args_opts(a, l.ckpt.c.V, &s.opts, err);
    if (status == 0)
        status = loaded_open(&l, &a->model, &opts, err);
    if (status == 0) {
        const int S = a->context ? (int)a->context : 2 * l.ckpt.c.max_positions;
        if (tool->verbose)
            cli_note(tool, "%s, %d prompts at a time, context %d", l.dev.name, n_slots, S);
        status =
            a->is_chat ? gen_chat(tool, a, &l, &s.opts, S) : run_prompts(&s, &l, n_slots, S, err);
    }
    gen_opts_free(&s.opts);
    loaded_close(&l);
    return status != 0 ? status : s.n_refused > 0;
}

int main(int argc, char **argv)
{
    struct gen_args a;
    struct cli_opt rows[GEN_ROWS];
    struct err err;
    int first;
    static char dash[] = "-";
    char *only_stdin[] = {dash, NULL};
    gen_args_defaults(&a);
    gen_args_rows(&a, rows);
    struct cli_tool tool = {
        .name = "hm-gen",
        .purpose = "complete prompts with a trained model, or chat with it",
        .usage = "[file...]",
        .examples = "  hm-gen < prompts.txt\n"
                    "  hm-gen --prompt 'Once upon a time' --greedy --max-tokens 50\n",
        .opts = rows,
    };
    cli_parse(&tool, argc, argv, &first);
    if (gen_args_check(&a, &err) != 0)
        return cli_finish(&tool,
                          cli_usage(&tool, "%s%s%s", err.what, err.mend[0] ? ": " : "", err.mend));
    if (first < argc && (a.prompt || a.is_chat))
        return cli_finish(&tool, cli_usage(&tool, "--prompt and --chat take no files"));
    cli_catch_signals();
    const int status = run(&tool, &a, first < argc ? argv + first : only_stdin, &err);
    if (cli_signal())
        cli_raise(cli_signal());
    return cli_finish(&tool, status < 0 ? cli_error(&tool, &err) : status);
}
