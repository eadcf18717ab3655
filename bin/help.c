/* help: prints --help and --version on stdout; see help.h. */
#include "help.h"
#include "cpu.h"
#include "device.h"
#include "version.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

enum { WIDTH = 80, INDENT = 30, LINE = 1024 };

const char *cli_version(void)
{
    return HM_VERSION " (" HM_COMMIT ")";
}

/* Appends to a line of LINE bytes; what does not fit is left out. */
PRINTF(2, 3) static void add(char *line, const char *fmt, ...)
{
    va_list ap;
    const size_t n = strlen(line);
    va_start(ap, fmt);
    vsnprintf(line + n, LINE - n, fmt, ap);
    va_end(ap);
}

static void add_int(char *line, int64_t v)
{
    if (v >= 10 * 1048576 && v % 1048576 == 0)
        add(line, "%" PRId64 "Mi", v / 1048576);
    else if (v >= 1000000 && v % 100000 == 0)
        add(line, "%gM", (double)v / 1e6);
    else
        add(line, "%" PRId64, v);
}

/* A default outside of the option's own bounds stands for "not given". */
static bool is_unset(const struct cli_opt *o)
{
    const double v = o->kind == CLI_INT                            ? (double)*(int64_t *)o->to
                     : o->kind == CLI_FLOAT || o->kind == CLI_TIME ? *(double *)o->to
                                                                   : o->min;
    return (o->min != 0 || o->max != 0) && !(v >= o->min && v <= o->max);
}

/* Appends the default, unless the help has it in words. */
static void add_default(char *line, const struct cli_opt *o)
{
    char text[32];
    if (is_unset(o))
        return;
    if (strstr(o->help, "default") || (o->kind == CLI_TEXT && !*(const char **)o->to) ||
        (o->kind == CLI_FLAG && !*(bool *)o->to) || o->kind == CLI_LIST)
        return;
    add(line, " (default ");
    if (o->kind == CLI_FLAG)
        add(line, "on");
    else if (o->kind == CLI_INT)
        add_int(line, *(int64_t *)o->to);
    else if (o->kind == CLI_FLOAT)
        add(line, "%.6g", *(double *)o->to);
    else if (o->kind == CLI_TIME)
        add(line, "%s", cli_time(text, sizeof text, *(double *)o->to));
    else if (o->kind == CLI_TEXT)
        add(line, "%s", *(const char **)o->to);
    else
        add(line, "%s", o->names[*(int *)o->to]);
    add(line, ")");
}

static void add_choices(char *line, const struct cli_opt *o)
{
    for (int i = 0; o->names[i]; i++)
        add(line, "%s%s", i ? "|" : "", o->names[i]);
}

/* "  -m, --model=FILE" */
static void print_option(const struct cli_opt *o)
{
    char left[LINE] = "", right[LINE] = "";
    const bool is_on = o->kind == CLI_FLAG && *(bool *)o->to;
    if (o->letter)
        add(left, "  -%c, --%s%s", o->letter, is_on ? "[no-]" : "", o->name);
    else
        add(left, "      --%s%s", is_on ? "[no-]" : "", o->name);
    if (o->arg)
        add(left, "=%s", o->arg);
    else if (o->kind == CLI_ENUM) {
        add(left, "=");
        add_choices(left, o);
    }
    add(right, "%s", o->help);
    if (o->arg && o->kind == CLI_ENUM) {
        add(right, ": ");
        add_choices(right, o);
    }
    if (o->kind == CLI_LIST)
        add(right, " (may be given again)");
    add_default(right, o);

    int column = printf("%s", left);
    if (column >= INDENT - 1) {
        printf("\n");
        column = 0;
    }
    char *rest;
    for (char *word = strtok_r(right, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        if (column >= INDENT && column + 1 + (int)strlen(word) > WIDTH) {
            printf("\n");
            column = 0;
        }
        if (column < INDENT)
            column += printf("%*s%s", INDENT - column, "", word);
        else
            column += printf(" %s", word);
    }
    printf("\n");
}

/* The examples, a line each, two blanks before it whether or not the tool wrote them. */
static void print_examples(const char *text)
{
    printf("\nExamples:\n");
    while (*text) {
        const size_t n = strcspn(text, "\n");
        printf("%s%.*s\n", n && strncmp(text, "  ", 2) != 0 ? "  " : "", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

void help_print(const struct cli_tool *t, const struct cli_opt *rows)
{
    printf("%s - %s\n\nusage: %s [option]...%s%s\n", t->name, t->purpose, t->name,
           t->usage && *t->usage ? " " : "", t->usage ? t->usage : "");
    if (rows->kind != CLI_GROUP)
        printf("\nOptions:\n");
    for (const struct cli_opt *o = rows; o->name; o++) {
        if (o->kind == CLI_GROUP)
            printf("\n%s:\n", o->name);
        else
            print_option(o);
    }
    if (t->examples && *t->examples)
        print_examples(t->examples);
    printf("\nSee %s(1) for the whole description.\n", t->name);
}

void help_version(const struct cli_tool *t)
{
    printf("%s (hm) %s\ncommit %s\nbackends: cpu (", t->name, HM_VERSION, HM_COMMIT);
    for (int i = 0; i < CPU_ISAS; i++)
        if (cpu_isa_usable((enum cpu_isa)i))
            printf("%s, ", cpu_isa_name((enum cpu_isa)i));
    printf("picked here: %s)%s\n", cpu_isa_name(cpu_isa_best()), device_has_cuda() ? ", cuda" : "");
}
