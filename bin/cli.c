/* cli: the command line of every tool; see cli.h. The parser and --help read the same rows: the
 * tool's own and those of `common_rows`. */
#include "cli.h"
#include "help.h"
#include "parse.h"
#include "threads.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The objects at file level: what a signal handler can reach, and where it runs. */
static volatile sig_atomic_t caught;
static _Alignas(16) char signal_stack[1 << 16];

static const char *const progress_names[] = {"auto", "always", "never", NULL};

/* What everybody has. getopt's values are 256 + 2 * row, and one more for --no-NAME. */
enum { N_COMMON = 6, FIRST_VALUE = 256 };

struct parser {
    struct cli_tool *tool;
    struct cli_opt *rows; /* owned; ends with a zeroed entry */
    int n;
    struct option *longs; /* owned */
    char letters[64];
    bool is_help, is_version, is_verbose;
};

static void die_of_memory(const struct cli_tool *t)
{
    struct err err;
    err_oom(&err, sizeof(struct cli_opt));
    exit(cli_error(t, &err));
}

static void *zalloc(const struct cli_tool *t, size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p)
        die_of_memory(t);
    return p;
}

/* Joins the tool's rows and everybody's. */
static void collect_rows(struct parser *p)
{
    struct cli_tool *t = p->tool;
    const struct cli_opt common[N_COMMON] = {
        {.kind = CLI_GROUP, .name = "Everywhere"},
        {CLI_ENUM, 0, "progress", &t->progress, "WHEN", "show progress on stderr", 0, 0,
         progress_names, NULL},
        {CLI_FLAG, 'q', "quiet", &t->is_quiet, NULL, "no notes, warnings or progress", 0, 0, NULL,
         NULL},
        {CLI_FLAG, 'v', "verbose", &p->is_verbose, NULL, "explain what is chosen", 0, 0, NULL,
         NULL},
        {CLI_FLAG, 'h', "help", &p->is_help, NULL, "print this and exit", 0, 0, NULL, NULL},
        {CLI_FLAG, 'V', "version", &p->is_version, NULL, "print version and backends and exit", 0,
         0, NULL, NULL},
    };
    int n = 0;
    while (t->opts[n].name)
        n++;
    p->n = n + N_COMMON;
    p->rows = zalloc(t, (size_t)p->n + 1, sizeof *p->rows);
    memcpy(p->rows, t->opts, (size_t)n * sizeof *p->rows);
    memcpy(p->rows + n, common, sizeof common);
}

/* getopt_long's view of the rows. The leading ':' asks it to tell a missing argument apart. */
static void collect_longs(struct parser *p)
{
    size_t n = 0, n_letters = 1;
    p->longs = zalloc(p->tool, (size_t)p->n * 2 + 1, sizeof *p->longs);
    p->letters[0] = ':';
    for (int i = 0; i < p->n; i++) {
        const struct cli_opt *o = &p->rows[i];
        const bool has_arg = o->kind != CLI_FLAG;
        if (o->kind == CLI_GROUP)
            continue;
        p->longs[n++] = (struct option){o->name, has_arg ? required_argument : no_argument, NULL,
                                        FIRST_VALUE + 2 * i};
        if (!has_arg) {
            const size_t size = strlen(o->name) + 4;
            char *name = zalloc(p->tool, size, 1);
            snprintf(name, size, "no-%s", o->name);
            p->longs[n++] = (struct option){name, no_argument, NULL, FIRST_VALUE + 2 * i + 1};
        }
        if (o->letter && n_letters + 3 < sizeof p->letters) {
            p->letters[n_letters++] = o->letter;
            if (has_arg)
                p->letters[n_letters++] = ':';
        }
    }
}

/* Notes the lists' arrays for cli_finish: the table itself may be gone by then. */
static void note_lists(const struct parser *p)
{
    int n = 0;
    for (int i = 0; i < p->n; i++) {
        const struct cli_list *list = p->rows[i].kind == CLI_LIST ? p->rows[i].to : NULL;
        if (!list || !list->item)
            continue;
        if (!p->tool->lists)
            p->tool->lists = zalloc(p->tool, (size_t)p->n + 1, sizeof *p->tool->lists);
        p->tool->lists[n++] = list->item;
    }
}

static void parser_free(struct parser *p)
{
    for (const struct option *o = p->longs; o->name; o++)
        if (o->val % 2)
            free((char *)o->name);
    free(p->longs);
    free(p->rows);
}

/* The row that getopt's value stands for; *is_no for --no-NAME. */
static struct cli_opt *row_of(struct parser *p, int value, bool *is_no)
{
    *is_no = value >= FIRST_VALUE && value % 2;
    if (value >= FIRST_VALUE)
        return &p->rows[(value - FIRST_VALUE) / 2];
    for (int i = 0; i < p->n; i++)
        if (p->rows[i].letter == value)
            return &p->rows[i];
    return NULL;
}

static int set_enum(const struct cli_opt *o, const char *text, struct err *err)
{
    char mend[512] = "use one of";
    for (int i = 0; o->names[i]; i++) {
        if (strcmp(text, o->names[i]) == 0) {
            *(int *)o->to = i;
            return 0;
        }
        const size_t n = strlen(mend);
        snprintf(mend + n, sizeof mend - n, "%s %s", i ? "," : "", o->names[i]);
    }
    return err_set(err, NULL, mend, "'%s' is no choice", text);
}

static int add_item(struct cli_list *list, const char *text, struct err *err)
{
    const char **item = realloc(list->item, ((size_t)list->n + 1) * sizeof *item);
    if (!item)
        return err_oom(err, sizeof *item);
    list->item = item;
    list->item[list->n++] = text;
    return 0;
}

static int set_value(const struct cli_opt *o, const char *text, bool is_no, struct err *err)
{
    switch (o->kind) {
    case CLI_GROUP:
        break;
    case CLI_FLAG:
        *(bool *)o->to = !is_no;
        break;
    case CLI_TEXT:
        *(const char **)o->to = text;
        break;
    case CLI_INT:
        return parse_int(o->to, text, o->min, o->max, err);
    case CLI_FLOAT:
        return parse_float(o->to, text, o->min, o->max, err);
    case CLI_TIME:
        return parse_time(o->to, text, o->min, o->max, err);
    case CLI_ENUM:
        return set_enum(o, text, err);
    case CLI_LIST:
        return add_item(o->to, text, err);
    }
    return 0;
}

/* Letters to change, drop or insert to make a from b: the Levenshtein distance. Names longer than
 * the row are far from everything. */
static int distance(const char *a, const char *b)
{
    int row[64];
    const int n = (int)strlen(b);
    if (n >= 64)
        return 64;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int corner = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int change = corner + (a[i - 1] != b[j - 1]);
            const int shift = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            corner = row[j];
            row[j] = change < shift ? change : shift;
        }
    }
    return row[n];
}

static int unknown_option(const struct parser *p, const char *word)
{
    char name[64];
    const struct option *best = NULL;
    int best_distance = 3;
    if (word[0] != '-' || word[1] != '-')
        return cli_usage(p->tool, "unknown option '%s'", word);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    int n_begin = 0;
    for (const struct option *o = p->longs; o->name; o++) {
        const int d = distance(name, o->name);
        n_begin += strncmp(o->name, name, strlen(name)) == 0;
        if (d < best_distance) {
            best_distance = d;
            best = o;
        }
    }
    if (n_begin > 1)
        return cli_usage(p->tool, "option '--%s' is ambiguous: write it out", name);
    if (best)
        return cli_usage(p->tool, "unknown option '--%s': did you mean '--%s'?", name, best->name);
    return cli_usage(p->tool, "unknown option '--%s'", name);
}

/* Says what getopt could not take: c is '?' or ':'; `word` is where it stood. */
static int refuse(struct parser *p, int c, const char *word)
{
    bool is_no;
    const struct cli_opt *o = optopt ? row_of(p, optopt, &is_no) : NULL;
    char letter[3] = {'-', (char)optopt, '\0'};
    if (o && c == ':')
        return cli_usage(p->tool, "--%s: wants an argument: give %s", o->name,
                         o->arg ? o->arg : "one of its choices");
    if (o && optopt >= FIRST_VALUE)
        return cli_usage(p->tool, "--%s%s: takes no argument", is_no ? "no-" : "", o->name);
    return unknown_option(p, optopt ? letter : word);
}

/* One walk through the options; with is_dry only --help and --version are heard, so that --help
 * shows the defaults and not what stands before it. Returns 0, or the status of a usage error. */
static int walk(struct parser *p, int argc, char **argv, bool is_dry)
{
    struct err err = {0};
    int c;
    optind = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, p->letters, p->longs, NULL)) != -1) {
        if (c == '?' || c == ':') {
            const int status = is_dry ? 0 : refuse(p, c, argv[optind - 1]);
            if (status)
                return status;
            continue;
        }
        bool is_no;
        const struct cli_opt *o = row_of(p, c, &is_no);
        if (is_dry && o->to != &p->is_help && o->to != &p->is_version)
            continue;
        if (set_value(o, optarg, is_no, &err) != 0)
            return cli_usage(p->tool, "--%s: %s%s%s", o->name, err.what, err.mend[0] ? ": " : "",
                             err.mend);
        if (o->is_set)
            *o->is_set = true;
    }
    return 0;
}

/* A closed stdin, stdout or stderr would give its number to the next file that is opened, and talk
 * would land in it. Each is held by a descriptor on which its own use fails. */
static void hold_stdio(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            _exit(1);
}

void cli_parse(struct cli_tool *t, int argc, char **argv, int *first)
{
    struct parser p = {.tool = t};
    hold_stdio();
    signal(SIGPIPE, SIG_DFL);
    collect_rows(&p);
    collect_longs(&p);
    walk(&p, argc, argv, true);
    const bool is_asked = p.is_help || p.is_version;
    if (p.is_help) {
        p.is_help = p.is_version = false; /* as they are by default */
        static char whole[1 << 16];       /* one write, so that cli_finish sees why it failed */
        setvbuf(stdout, whole, _IOFBF, sizeof whole);
        help_print(t, p.rows);
    } else if (p.is_version)
        help_version(t);
    const int status = is_asked ? cli_finish(t, 0) : walk(&p, argc, argv, false);
    t->verbose = p.is_verbose;
    if (!is_asked)
        note_lists(&p);
    parser_free(&p);
    if (is_asked || status)
        exit(status);
    *first = optind;
}

int cli_error(const struct cli_tool *t, const struct err *err)
{
    fprintf(stderr, "%s: %s%s%s%s%s\n", t->name, err->file, err->file[0] ? ": " : "", err->what,
            err->mend[0] ? ": " : "", err->mend);
    return 1;
}

static void say(const struct cli_tool *t, const char *kind, const char *fmt, va_list ap)
{
    fprintf(stderr, "%s: %s", t->name, kind);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

int cli_usage(const struct cli_tool *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(t, "", fmt, ap);
    va_end(ap);
    fprintf(stderr, "try '%s --help'\n", t->name);
    return 2;
}

void cli_warn(const struct cli_tool *t, const char *fmt, ...)
{
    va_list ap;
    if (t->is_quiet)
        return;
    va_start(ap, fmt);
    say(t, "warning: ", fmt, ap);
    va_end(ap);
}

void cli_note(const struct cli_tool *t, const char *fmt, ...)
{
    va_list ap;
    if (t->is_quiet)
        return;
    va_start(ap, fmt);
    say(t, "", fmt, ap);
    va_end(ap);
}

static void catch_signal(int signal_number)
{
    caught = signal_number;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

/* After the first signal a second one, of either kind, ends the process. SA_RESTART keeps libraries
 * that do not expect EINTR working. The handler has a stack of its own: oneDNN's products use the
 * stack pointer as one more pointer into their operands, and a signal's frame would overwrite them.
 */
void cli_catch_signals(void)
{
    const stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction act = {.sa_handler = catch_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, SIGINT); /* one after the other, also when both wait */
    sigaddset(&act.sa_mask, SIGTERM);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

int cli_signal(void)
{
    return caught;
}

void cli_clear_signal(void)
{
    caught = 0;
    cli_catch_signals();
}

void cli_raise(int signal_number)
{
    fflush(stdout);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
    _exit(128 + signal_number); /* only if it was blocked */
}

int cli_check_binary_stdout(const char *path, bool is_forced, struct err *err)
{
    const bool is_stdout = !path || strcmp(path, "-") == 0;
    if (!is_stdout || is_forced || !isatty(STDOUT_FILENO))
        return 0;
    return err_set(err, NULL, "send it to a pipe, name a file with -o, or give --force",
                   "binary output does not go to a terminal");
}

static void free_lists(const char ***lists)
{
    for (int i = 0; lists && lists[i]; i++)
        free(lists[i]);
    free(lists);
}

int cli_finish(const struct cli_tool *t, int status)
{
    struct err err;
    free_lists(t->lists);
    const bool had_error = ferror(stdout);
    errno = 0;
    if (fclose(stdout) == 0 && !had_error)
        return status;
    if (errno)
        err_errno(&err, "stdout", errno == ENOSPC ? "free disk space and run again" : NULL,
                  "cannot write");
    else
        err_set(&err, "stdout", NULL, "cannot write");
    return cli_error(t, &err);
}

struct cli_opt cli_threads_opt(int64_t *to)
{
    return (struct cli_opt){.kind = CLI_INT,
                            .letter = 'j',
                            .name = "threads",
                            .to = to,
                            .arg = "N",
                            .help = "worker threads; 0: one a core",
                            .max = POOL_MAX_WORKERS};
}

int cli_default_file(const char **path, const char *name, const char *option, struct err *err)
{
    char mend[128];
    if (*path)
        return 0;
    if (access(name, F_OK) == 0) {
        *path = name;
        return 0;
    }
    snprintf(mend, sizeof mend, "name it with %s FILE", option);
    return err_set(err, name, mend, "is not in the working directory");
}
