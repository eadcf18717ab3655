/* parse: numbers with units, whole and within bounds; see parse.h. */
#include "parse.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The plain decimal number at the start of text: no blanks, hexadecimal, inf or nan. Returns the
 * end of it, or NULL where there is none. */
static const char *read_decimal(double *v, const char *text)
{
    const size_t n = strspn(text, "+-.0123456789eE");
    const size_t sign = *text == '+' || *text == '-';
    char word[64], *end;
    if (n == 0 || n >= sizeof word || !strchr(".0123456789", text[sign]) || !text[sign])
        return NULL;
    memcpy(word, text, n);
    word[n] = '\0';
    errno = 0;
    *v = strtod(word, &end);
    return end == word || !isfinite(*v) ? NULL : text + (end - word);
}

/* What the suffix multiplies by; 0 where it is none. */
static double unit(const char *suffix)
{
    static const char letters[] = "KMGT";
    const char *at = *suffix ? strchr(letters, *suffix) : NULL;
    if (*suffix == '\0')
        return 1;
    if (!at)
        return *suffix == 'k' && suffix[1] == '\0' ? 1e3 : 0;
    const int power = (int)(at - letters) + 1;
    if (suffix[1] == '\0')
        return pow(1000, power);
    return strcmp(suffix + 1, "i") == 0 ? pow(1024, power) : 0;
}

static int check_bounds(double v, const char *text, double lo, double hi, struct err *err)
{
    char mend[64];
    if (lo == 0 && hi == 0)
        return 0;
    if (v < lo) {
        snprintf(mend, sizeof mend, "give at least %.10g", lo);
        return err_set(err, NULL, mend, "'%s' is too small", text);
    }
    if (!(v <= hi)) {
        snprintf(mend, sizeof mend, "give at most %.10g", hi);
        return err_set(err, NULL, mend, "'%s' is too large", text);
    }
    return 0;
}

int parse_float(double *v, const char *text, double lo, double hi, struct err *err)
{
    double number = 0;
    const char *end = read_decimal(&number, text);
    const double by = end ? unit(end) : 0;
    if (by == 0 || !isfinite(number * by))
        return err_set(err, NULL, "give a finite number such as 0.1, 3e-4 or 10K",
                       "'%s' is no number", text);
    TRY(check_bounds(number * by, text, lo, hi, err));
    *v = number * by;
    return 0;
}

/* Plain digits are read as such, since a double holds whole numbers only up to 2^53. */
int parse_int(int64_t *v, const char *text, double lo, double hi, struct err *err)
{
    static const char mend[] = "give a whole number such as 4096, 10K, 1.5M or 64Mi";
    char *end;
    errno = 0;
    int64_t whole = strtoll(text, &end, 10);
    const int is_plain = end != text && *end == '\0' && strchr("+-0123456789", *text);
    if (is_plain && errno == ERANGE)
        return err_set(err, NULL, mend, "'%s' is too large", text);
    if (!is_plain) {
        double number;
        if (parse_float(&number, text, 0, 0, err) != 0 || number != floor(number))
            return err_set(err, NULL, mend, "'%s' is no whole number", text);
        if (!(fabs(number) <= 0x1p53))
            return err_set(err, NULL, mend, "'%s' is too large", text);
        whole = (int64_t)number;
    }
    TRY(check_bounds((double)whole, text, lo, hi, err));
    *v = whole;
    return 0;
}

/* Seconds a letter stands for; 0 where it is none. */
static double time_unit(char letter)
{
    switch (letter) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 3600;
    case 'd':
        return 86400;
    default:
        return 0;
    }
}

int parse_time(double *v, const char *text, double lo, double hi, struct err *err)
{
    double sum = 0, number = 0;
    const char *p = text;
    do {
        const char *end = read_decimal(&number, p);
        /* Only a lone number goes without its letter. */
        const double by = !end ? 0 : *end ? time_unit(*end) : p == text;
        if (by == 0 || !isfinite(sum + number * by))
            return err_set(err, NULL, "give seconds, or 90s, 5m, 2h, 1h30m", "'%s' is no time",
                           text);
        sum += number * by;
        p = *end ? end + 1 : end;
    } while (*p);
    TRY(check_bounds(sum, text, lo, hi, err));
    *v = sum;
    return 0;
}
