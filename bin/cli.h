/* cli: what every tool does alike: one table of options makes the parser and --help; errors;
 * numbers with units; progress; signals; stdout shut and checked.
 *
 * The order of every main: table, cli_parse, check arguments, open inputs, open output, work,
 * cli_finish. */
#ifndef HM_CLI_H
#define HM_CLI_H

#include "dev.h"

#include <stdbool.h>
#include <stdio.h>

enum cli_kind {
    CLI_GROUP, /* no option: a heading in --help */
    CLI_FLAG,  /* bool *; --no-NAME clears it */
    CLI_INT,   /* int64_t *: K M G (1000), Ki Mi Gi (1024) */
    CLI_FLOAT, /* double * */
    CLI_TEXT,  /* const char ** */
    CLI_TIME,  /* double *, seconds: 90, 90s, 5m, 2h */
    CLI_ENUM,  /* int *: index into names */
    CLI_LIST,  /* struct cli_list *: may be given again */
};

struct cli_list {
    const char **item; /* owned; cli_finish frees it */
    int n;
};

struct cli_opt {
    enum cli_kind kind;
    char letter;      /* 0, or one of h V m o q v j and '0', --null's */
    const char *name; /* long name; the heading's text for CLI_GROUP */
    void *to;         /* holds the default before parsing; outside the bounds: none */
    const char *arg;  /* name of the argument in --help, NULL for flags */
    const char *help; /* one line, units and default in words where the value does not show it */
    double min, max;  /* bounds of CLI_INT, CLI_FLOAT, CLI_TIME; both 0: none */
    const char *const *names; /* CLI_ENUM: NULL-terminated */
    bool *is_set;             /* told whether the user gave it; or NULL */
};

struct cli_tool {
    const char *name;           /* "hm-train" */
    const char *purpose;        /* one line */
    const char *usage;          /* arguments after the options: "[file...]" */
    const char *examples;       /* lines shown under --help, two spaces before each */
    const struct cli_opt *opts; /* ends with a zeroed entry (name NULL) */
    bool is_quiet;              /* -q was given */
    int verbose;                /* -v was given */
    int progress;               /* --progress: 0 auto, 1 always, 2 never */
    const char ***lists;        /* cli's own: what cli_finish frees */
};

/* Parses; -h -V -q -v --progress are everybody's. --help and --version print and exit 0; a mistake
 * prints a line and `try 'tool --help'`, and exits 2. Operands are left in argv[*first..argc). */
void cli_parse(struct cli_tool *t, int argc, char **argv, int *first);

/* `tool: file: what: how to mend` on stderr. cli_error returns 1, the status of a tool that could
 * not; cli_usage returns 2. */
int cli_error(const struct cli_tool *t, const struct err *err);
int cli_usage(const struct cli_tool *t, const char *fmt, ...) PRINTF(2, 3);
void cli_warn(const struct cli_tool *t, const char *fmt, ...) PRINTF(2, 3); /* not with -q */
void cli_note(const struct cli_tool *t, const char *fmt, ...) PRINTF(2, 3); /* not with -q */

/* "0.1.0 (2d41604)": version and commit, for the first record of a log. */
const char *cli_version(void);

/* A progress line on stderr, rewritten in place at most 5 times a second on a terminal; where
 * stderr is none, a line every `interval_s` (0: none). cli_progress_end leaves the last one
 * standing (is_kept) or wipes it; call it before a note or an error too, the next line comes back
 * by itself.
 * --progress=always: as on a terminal, from the first moment. */
struct cli_progress {
    const struct cli_tool *tool;
    double start_s, last_s, interval_s;
    bool is_tty, is_off, is_shown;
};
void cli_progress_begin(struct cli_progress *p, const struct cli_tool *t, double interval_s);
/* Whether a line would be printed now: ask before formatting. */
bool cli_progress_due(struct cli_progress *p);
void cli_progress_line(struct cli_progress *p, const char *fmt, ...) PRINTF(2, 3);
void cli_progress_end(struct cli_progress *p, bool is_kept);

/* "1.23M", "512 MiB", "3m20s" into to[n]; returns to. */
const char *cli_count(char *to, size_t n, double v);
const char *cli_bytes(char *to, size_t n, double bytes);
const char *cli_time(char *to, size_t n, double seconds);
double cli_now(void);      /* monotonic seconds */
double cli_peak_rss(void); /* bytes: VmHWM of the process */

/* SIGINT and SIGTERM set a flag that long work polls; a second one ends the process at once.
 * cli_raise ends the process by the signal that came, so that the shell sees 128+n. */
void cli_catch_signals(void);
int cli_signal(void);        /* 0, or the signal that came */
void cli_clear_signal(void); /* after the chat handled a Ctrl-C */
void cli_raise(int signal);

/* Refuses binary on a terminal: -1 with *err when stdout is one. */
MUST_USE int cli_check_binary_stdout(const char *path, bool is_forced, struct err *err);

/* Shuts stdout and turns a failed write into status 1; returns the status main returns. Frees the
 * items of lists. */
int cli_finish(const struct cli_tool *t, int status);

/* The row of --threads, the same in every tool that has it; *to holds the default, 0. */
struct cli_opt cli_threads_opt(int64_t *to);

/* The default model or tokenizer file: path if not NULL; else `name` in the working directory if it
 * is there; else an error that names the option. */
MUST_USE int cli_default_file(const char **path, const char *name, const char *option,
                              struct err *err);

#endif
