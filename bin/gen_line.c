/* gen_line: see gen_line.h. libedit talks on stderr, so that stdout has the answers alone. */
#include "gen_line.h"
#include "cli.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

enum { HISTORY_LINES = 1000 };

struct line_editor {
    bool is_tty;
    struct in in; /* plain reading */
    EditLine *el;
    History *history;
    const char *file, *prompt;
    mbstate_t mbs;
};

int gen_line_next(struct in *in, char end, struct buf *to, struct err *err)
{
    to->size = 0;
    for (;;) {
        char c;
        size_t got;
        TRY(in_read(in, &c, 1, &got, err));
        if (got == 0)
            return to->size > 0;
        if (c == end)
            return 1;
        TRY(buf_put(to, &c, 1, err));
    }
}

static char *get_prompt(EditLine *el)
{
    struct line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    return (char *)e->prompt;
}

/* A character from the terminal; -1 when a signal came. read() alone would go on after it. */
static int get_char(EditLine *el, wchar_t *to)
{
    struct line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    for (;;) {
        struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
        char c;
        if (cli_signal())
            return -1;
        if (poll(&fd, 1, -1) < 0)
            continue;
        const ssize_t n = read(STDIN_FILENO, &c, 1);
        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        const size_t size = mbrtowc(to, &c, 1, &e->mbs);
        if (size == (size_t)-1)
            e->mbs = (mbstate_t){0};
        else if (size != (size_t)-2)
            return 1;
    }
}

static int open_terminal(struct line_editor *e, struct err *err)
{
    HistEvent event;
    setlocale(LC_CTYPE, "");
    e->el = el_init("hm-gen", stdin, stderr, stderr);
    e->history = history_init();
    if (!e->el || !e->history)
        return err_set(err, NULL, "pipe the lines in", "cannot edit lines on this terminal");
    history(e->history, &event, H_SETSIZE, HISTORY_LINES);
    history(e->history, &event, H_SETUNIQUE, 1);
    if (e->file)
        history(e->history, &event, H_LOAD, e->file);
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_PROMPT, get_prompt);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_HIST, history, e->history);
    el_set(e->el, EL_GETCFN, get_char);
    return 0;
}

int line_editor_open(struct line_editor **to, const char *history, struct err *err)
{
    struct line_editor *e = calloc(1, sizeof *e);
    *to = e;
    if (!e)
        return err_oom(err, sizeof *e);
    e->file = history;
    e->is_tty = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    return e->is_tty ? open_terminal(e, err) : in_open(&e->in, "-", err);
}

bool line_editor_is_tty(const struct line_editor *e)
{
    return e->is_tty;
}

static int next_typed(struct line_editor *e, struct buf *to, struct err *err)
{
    HistEvent event;
    int n;
    const char *line = el_gets(e->el, &n);
    if (cli_signal())
        return 2;
    if (!line || n <= 0)
        return 0;
    if (n > 1) {
        history(e->history, &event, H_ENTER, line);
        if (e->file && history(e->history, &event, H_SAVE, e->file) < 0)
            return err_errno(err, e->file, NULL, "cannot save the history");
    }
    if (line[n - 1] == '\n')
        n--;
    return buf_put(to, line, (size_t)n, err) == 0 ? 1 : -1;
}

int line_editor_next(struct line_editor *e, const char *prompt, struct buf *to, struct err *err)
{
    to->size = 0;
    e->prompt = prompt;
    return e->is_tty ? next_typed(e, to, err) : gen_line_next(&e->in, '\n', to, err);
}

void line_editor_close(struct line_editor *e)
{
    if (!e)
        return;
    if (e->history)
        history_end(e->history);
    if (e->el)
        el_end(e->el);
    if (!e->is_tty)
        in_close(&e->in);
    free(e);
}
