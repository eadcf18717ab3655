/* tap: the Test Anything Protocol for C tests. A test program calls ok() and the like, and returns
 * tap_done(), which prints the plan and gives the number of failures as exit status. */
#ifndef HM_TAP_H
#define HM_TAP_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failed;

__attribute__((format(printf, 2, 3), unused)) static bool ok(bool is_ok, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("%s %d - ", is_ok ? "ok" : "not ok", ++tap_count);
    vprintf(fmt, ap);
    printf("\n");
    fflush(stdout);
    va_end(ap);
    tap_failed += !is_ok;
    return is_ok;
}

/* ||a-b|| / ||b|| in double; infinite where either has a NaN. */
__attribute__((unused)) static double rel_error(const float *a, const double *b, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    if (!(diff >= 0) || !(norm >= 0))
        return INFINITY;
    return sqrt(diff) / (sqrt(norm) + 1e-30);
}

/* Passes when rel <= tol; a NaN fails. */
__attribute__((format(printf, 3, 4), unused)) static bool ok_within(double rel, double tol,
                                                                    const char *fmt, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return ok(rel <= tol, "%s: error %.3g, allowed %.3g", name, rel, tol);
}

__attribute__((unused)) static int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed > 255 ? 255 : tap_failed;
}

#endif
