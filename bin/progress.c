/* progress: the progress line, sizes and times for people, clock and memory; see cli.h. */
#include "cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const double RATE_S = 0.2;  /* between two lines on a terminal */
static const double DELAY_S = 1.0; /* work shorter than this shows none */

double cli_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* VmHWM rather than getrusage, whose maximum also counts the process that ours was forked from. */
double cli_peak_rss(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtod(line + 6, NULL);
    if (f)
        fclose(f);
    struct rusage use;
    if (kib == 0 && getrusage(RUSAGE_SELF, &use) == 0)
        kib = (double)use.ru_maxrss;
    return kib * 1024;
}

/* Three digits and a unit: 999, 1.23K, 45.6M. A value that would round up to the next unit moves
 * there first. */
static const char *scaled(char *to, size_t n, double v, double base, const char *const *units)
{
    int i = 0;
    while (fabs(v) >= (base == 1000 ? 999.5 : 1023.5) && units[i + 1]) {
        v /= base;
        i++;
    }
    const double size = fabs(v);
    const int digits = i == 0 && v == floor(v) ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
    snprintf(to, n, "%.*f%s", digits, v, units[i]);
    return to;
}

const char *cli_count(char *to, size_t n, double v)
{
    static const char *const units[] = {"", "K", "M", "G", "T", "P", NULL};
    return scaled(to, n, v, 1000, units);
}

const char *cli_bytes(char *to, size_t n, double bytes)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", NULL};
    return scaled(to, n, bytes, 1024, units);
}

const char *cli_time(char *to, size_t n, double seconds)
{
    if (!isfinite(seconds) || fabs(seconds) > 1e9)
        snprintf(to, n, "?");
    else if (seconds < 9.95 && seconds != floor(seconds))
        snprintf(to, n, "%.1fs", seconds);
    else {
        const long s = lround(seconds);
        if (s < 60)
            snprintf(to, n, "%lds", s);
        else if (s < 3600)
            snprintf(to, n, s % 60 ? "%ldm%02lds" : "%ldm", s / 60, s % 60);
        else if (s < 86400)
            snprintf(to, n, s / 60 % 60 ? "%ldh%02ldm" : "%ldh", s / 3600, s / 60 % 60);
        else
            snprintf(to, n, "%ldd%02ldh", s / 86400, s / 3600 % 24);
    }
    return to;
}

void cli_progress_begin(struct cli_progress *p, const struct cli_tool *t, double interval_s)
{
    const bool is_forced = t->progress == 1;
    *p = (struct cli_progress){.tool = t, .start_s = cli_now(), .interval_s = interval_s};
    p->is_tty = is_forced || isatty(STDERR_FILENO);
    p->is_off = t->progress == 2 || (t->is_quiet && !is_forced);
    if (!p->is_tty)
        p->last_s = p->start_s;
    else if (!is_forced)
        p->last_s = p->start_s + DELAY_S - RATE_S;
}

bool cli_progress_due(struct cli_progress *p)
{
    if (p->is_off || (!p->is_tty && p->interval_s <= 0))
        return false;
    return cli_now() - p->last_s >= (p->is_tty ? RATE_S : p->interval_s);
}

/* A line wider than the terminal would wrap, and could not be rewritten. */
static int columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        return size.ws_col - 1;
    return 255;
}

void cli_progress_line(struct cli_progress *p, const char *fmt, ...)
{
    char line[256];
    va_list ap;
    if (p->is_off)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (p->is_tty)
        fprintf(stderr, "\r%.*s\033[K", columns(), line);
    else
        fprintf(stderr, "%s: %s\n", p->tool->name, line);
    fflush(stderr);
    p->is_shown = p->is_tty;
    p->last_s = cli_now();
}

void cli_progress_end(struct cli_progress *p, bool is_kept)
{
    if (p->is_shown)
        fputs(is_kept ? "\n" : "\r\033[K", stderr);
    p->is_shown = false;
}
