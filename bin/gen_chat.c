/* gen_chat: see gen_chat.h. Answers go to stdout, everything else to stderr. */
#include "gen_chat.h"
#include "gen_line.h"
#include "prompts.h"

#include <ctype.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct talk {
    const struct cli_tool *tool;
    struct chat chat;
    struct line_editor *lines;
    struct buf text, line, shown;
    bool is_tty;    /* stdout */
    bool has_shown; /* something of the answer that is not white space */
    bool ends_line; /* the answer's last byte was a line break */
    bool is_over;
};

struct command {
    const char *name, *arg, *help;
    int (*run)(struct talk *t, const char *arg, struct err *err);
};

static int run_help(struct talk *t, const char *arg, struct err *err);

/* What a command did; how much is left shows that it is what was meant. */
static void tell(const struct talk *t, const char *what)
{
    cli_note(t->tool, "%s: %zu tokens of conversation", what, t->chat.ids.n);
}

static int run_reset(struct talk *t, const char *arg, struct err *err)
{
    TRY(chat_reset(&t->chat, err));
    tell(t, "started afresh");
    return 0;
}

static int run_undo(struct talk *t, const char *arg, struct err *err)
{
    TRY(chat_undo(&t->chat, err));
    tell(t, "last turn taken back");
    return 0;
}

static int save(struct talk *t, const char *path, struct err *err)
{
    struct out out;
    TRY(out_open(&out, path, err));
    if (chat_save(&t->chat, &out, err) == 0 && out_commit(&out, err) == 0)
        return 0;
    out_abort(&out);
    return -1;
}

static int load(struct talk *t, const char *path, struct err *err)
{
    struct in in;
    TRY(in_open(&in, path, err));
    const int status = chat_load(&t->chat, &in, err);
    in_close(&in);
    return status;
}

static int run_save(struct talk *t, const char *arg, struct err *err)
{
    if (!*arg)
        return err_set(err, NULL, "/save FILE", "no file");
    TRY(save(t, arg, err));
    tell(t, "saved");
    return 0;
}

static int run_load(struct talk *t, const char *arg, struct err *err)
{
    if (!*arg)
        return err_set(err, NULL, "/load FILE", "no file");
    TRY(load(t, arg, err));
    tell(t, "loaded");
    return 0;
}

static int run_system(struct talk *t, const char *arg, struct err *err)
{
    return chat_system(&t->chat, arg, strlen(arg), err);
}

static void show_settings(const struct talk *t)
{
    fprintf(stderr, "max_tokens %d\n", t->chat.opts.max_tokens);
    for (int i = 0; sample_name(i); i++)
        fprintf(stderr, "%s %g\n", sample_name(i),
                sample_get(&t->chat.opts.sample, sample_name(i)));
}

static int run_set(struct talk *t, const char *arg, struct err *err)
{
    char name[64], *end;
    size_t n = 0;
    if (*arg == '\0') {
        show_settings(t);
        return 0;
    }
    for (; *arg && !isspace((unsigned char)*arg) && n + 1 < sizeof name; arg++)
        name[n++] = *arg == '-' ? '_' : *arg;
    name[n] = '\0';
    const double value = strtod(arg, &end);
    if (end == arg || *end)
        return err_set(err, NULL, "/set NAME NUMBER, as /set top_k 40", "no number for %s", name);
    const int set = gen_set(&t->chat.opts, name, value, err);
    if (set == 0)
        return err_set(err, NULL, "/set alone lists the names", "there is no setting %s", name);
    return set < 0 ? -1 : 0;
}

static int run_exit(struct talk *t, const char *arg, struct err *err)
{
    t->is_over = true;
    return 0;
}

static const struct command commands[] = {
    {"help", "", "this list", run_help},
    {"reset", "", "start afresh", run_reset},
    {"undo", "", "take back the last turn", run_undo},
    {"save", "FILE", "save the conversation's state", run_save},
    {"load", "FILE", "go on from a saved one", run_load},
    {"system", "TEXT", "set what the conversation begins with, and start afresh", run_system},
    {"set", "NAME X", "change how tokens are chosen; alone: show it", run_set},
    {"exit", "", "end (as does Ctrl-D)", run_exit},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int run_help(struct talk *t, const char *arg, struct err *err)
{
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "/%-7s %-7s %s\n", commands[i].name, commands[i].arg, commands[i].help);
    fprintf(stderr,
            "A line that ends with a backslash goes on; \"\"\" begins and ends several lines.\n"
            "// begins a text with a slash. Ctrl-C stops the answer.\n");
    return 0;
}

static int run_command(struct talk *t, const char *line, struct err *err)
{
    const size_t n = strcspn(line, " \t");
    for (int i = 0; i < N_COMMANDS; i++)
        if (strlen(commands[i].name) == n && strncmp(commands[i].name, line, n) == 0)
            return commands[i].run(t, line + n + strspn(line + n, " \t"), err);
    return err_set(err, NULL, "/help lists them", "there is no command /%.*s", (int)n, line);
}

/* The answer as it comes, without the white space that it begins with. */
static int show(void *arg, const void *bytes, size_t n, struct err *err)
{
    struct talk *t = arg;
    const char *p = bytes;
    while (!t->has_shown && n > 0 && isspace((unsigned char)*p)) {
        p++;
        n--;
    }
    if (n == 0)
        return 0;
    t->has_shown = true;
    t->ends_line = p[n - 1] == '\n';
    if (t->is_tty) {
        t->shown.size = 0;
        TRY(text_printable(&t->shown, p, n, err));
        p = (const char *)t->shown.data;
        n = t->shown.size;
    }
    if (fwrite(p, 1, n, stdout) < n || fflush(stdout) != 0)
        return err_errno(err, "-", NULL, "cannot write");
    return 0;
}

static bool is_cancelled(void *arg)
{
    return cli_signal() != 0;
}

/* One turn. A Ctrl-C that came meanwhile is dealt with. */
static int say(struct talk *t, struct err *err)
{
    struct completion answer;
    const struct chat_calls calls = {t, show, is_cancelled};
    t->has_shown = t->ends_line = false;
    int status = chat_say(&t->chat, t->text.data, t->text.size, &calls, &answer, err);
    if (status == 0 && !t->ends_line && (fputc('\n', stdout) == EOF || fflush(stdout) != 0))
        status = err_errno(err, "-", NULL, "cannot write");
    if (status == 0 && answer.stop == GEN_CANCELLED)
        cli_note(t->tool, "stopped");
    if (status == 0 && answer.stop == GEN_CONTEXT)
        cli_warn(t->tool, "the conversation is full: /undo or /reset");
    completion_free(&answer);
    return status;
}

static bool ends_with(const struct buf *b, const char *end)
{
    const size_t n = strlen(end);
    return b->size >= n && memcmp(b->data + b->size - n, end, n) == 0;
}

/* A whole text into t->text: a line, lines that end with a backslash, or a block in triple
 * quotes. As line_editor_next. */
static int next_text(struct talk *t, struct err *err)
{
    bool is_block = false;
    t->text.size = 0;
    for (const char *prompt = "> ";; prompt = ". ") {
        const int got = line_editor_next(t->lines, prompt, &t->line, err);
        if (got != 1)
            return got == 0 && t->text.size > 0 ? 1 : got;
        const bool begins = !is_block && t->text.size == 0 && t->line.size >= 3 &&
                            memcmp(t->line.data, "\"\"\"", 3) == 0;
        const size_t skip = begins ? 3 : 0;
        is_block |= begins;
        const bool ends = is_block && t->line.size >= skip + 3 && ends_with(&t->line, "\"\"\"");
        const bool goes_on = !is_block && ends_with(&t->line, "\\");
        t->line.size -= ends ? 3 : goes_on;
        if (t->line.size > skip)
            TRY(buf_put(&t->text, t->line.data + skip, t->line.size - skip, err));
        if (ends || (!is_block && !goes_on))
            return 1;
        if (!begins || t->line.size > skip)
            TRY(buf_put(&t->text, "\n", 1, err));
    }
}

/* A text that was read: a command, or a turn. */
static int answer_text(struct talk *t, struct err *err)
{
    TRY(buf_put(&t->text, "", 1, err));
    t->text.size--;
    const char *text = (const char *)t->text.data;
    if (text[0] == '/' && text[1] != '/')
        return run_command(t, text + 1, err);
    if (text[0] == '/')
        memmove(t->text.data, t->text.data + 1, t->text.size--);
    return t->text.size > 0 ? say(t, err) : 0;
}

/* Errors of a turn or a command are said, and the talk goes on; on a pipe they end it. */
static int loop(struct talk *t, struct err *err)
{
    while (!t->is_over) {
        const int got = next_text(t, err);
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        if (got == 1 && answer_text(t, err) != 0) {
            if (!line_editor_is_tty(t->lines))
                return -1;
            cli_error(t->tool, err);
        }
        if (cli_signal() == SIGINT && line_editor_is_tty(t->lines)) {
            if (got == 2)
                fputs("\n", stderr);
            cli_clear_signal();
        }
        if (cli_signal())
            break;
    }
    if (!t->is_over && line_editor_is_tty(t->lines))
        fputs("\n", stderr);
    return 0;
}

static int talk_all(struct talk *t, const struct gen_args *a, struct loaded *l,
                    const struct gen_opts *opts, int S, struct err *err)
{
    TRY(chat_open(&t->chat, &l->model, l->tok, opts, (enum chat_form)a->chat_form, S, err));
    if (a->system)
        TRY(chat_system(&t->chat, a->system, strlen(a->system), err));
    if (a->state_load)
        TRY(load(t, a->state_load, err));
    TRY(line_editor_open(&t->lines, a->history, err));
    if (line_editor_is_tty(t->lines))
        cli_note(t->tool, "turns are marked %s; /help lists the commands",
                 t->chat.has_markers ? "by control pieces" : "as plain text");
    TRY(loop(t, err));
    if (t->tool->verbose)
        cli_note(t->tool, "%llu tokens read, %zu in the conversation",
                 (unsigned long long)t->chat.n_read, t->chat.ids.n);
    return a->state_save ? save(t, a->state_save, err) : 0;
}

int gen_chat(const struct cli_tool *tool, const struct gen_args *a, struct loaded *l,
             const struct gen_opts *opts, int S)
{
    struct err err;
    struct talk t = {.tool = tool, .is_tty = isatty(STDOUT_FILENO)};
    const int status = talk_all(&t, a, l, opts, S, &err) == 0 ? 0 : cli_error(tool, &err);
    line_editor_close(t.lines);
    chat_close(&t.chat);
    buf_free(&t.text);
    buf_free(&t.line);
    buf_free(&t.shown);
    return status;
}
