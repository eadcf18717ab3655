/* test_parse: numbers of the command line and the way they are shown: bin/parse.h, bin/cli.h. */
#include "tap.h"

#include "cli.h"
#include "parse.h"

#include <string.h>

static struct err err;

static bool is_int(const char *text, int64_t want)
{
    int64_t v = -77;
    return parse_int(&v, text, 0, 0, &err) == 0 && v == want;
}

static bool no_int(const char *text)
{
    int64_t v = -77;
    return parse_int(&v, text, 0, 0, &err) == -1 && v == -77 && err.what[0] && err.mend[0];
}

static bool is_float(const char *text, double want)
{
    double v = -77;
    return parse_float(&v, text, 0, 0, &err) == 0 && fabs(v - want) <= 1e-12 * fabs(want);
}

static bool no_float(const char *text)
{
    double v = -77;
    return parse_float(&v, text, 0, 0, &err) == -1 && v == -77 && err.what[0] && err.mend[0];
}

static bool is_time(const char *text, double want)
{
    double v = -77;
    return parse_time(&v, text, 0, 0, &err) == 0 && fabs(v - want) <= 1e-12 * fabs(want);
}

static bool no_time(const char *text)
{
    double v = -77;
    return parse_time(&v, text, 0, 0, &err) == -1 && v == -77 && err.what[0];
}

static void test_ints(void)
{
    ok(is_int("0", 0) && is_int("42", 42) && is_int("-7", -7) && is_int("+7", 7), "plain numbers");
    ok(is_int("10K", 10000) && is_int("3M", 3000000) && is_int("2G", 2000000000) &&
           is_int("1T", 1000000000000),
       "K M G T are powers of 1000");
    ok(is_int("1Ki", 1024) && is_int("64Mi", 67108864) && is_int("1Gi", 1073741824),
       "Ki Mi Gi are powers of 1024");
    ok(is_int("1.5K", 1500) && is_int("0.5Mi", 524288) && is_int("1e6", 1000000) &&
           is_int("5k", 5000),
       "fractions and exponents where the value is whole");
    ok(is_int("9223372036854775807", INT64_MAX) && is_int("9007199254740993", 9007199254740993),
       "all 63 bits of plain digits");
    ok(no_int("9223372036854775808") && no_int("99999999999G") && no_int("1e300"),
       "what does not fit is refused");
    ok(no_int("") && no_int("12x") && no_int("K") && no_int("1KK") && no_int("1Kib") &&
           no_int("1B") && no_int(" 1") && no_int("1 ") && no_int("0x10") && no_int("1.5") &&
           no_int("nan") && no_int("inf") && no_int("--1") && no_int("1.5.5"),
       "trailing text, blanks, other notations and broken values are refused");
    int64_t v;
    ok(parse_int(&v, "5", 1, 4, &err) == -1 && strstr(err.what, "too large") &&
           strstr(err.mend, "at most 4"),
       "the upper bound is named");
    ok(parse_int(&v, "0", 1, 4, &err) == -1 && strstr(err.what, "too small") &&
           parse_int(&v, "1", 1, 4, &err) == 0 && parse_int(&v, "4", 1, 4, &err) == 0,
       "the lower one too, and both are allowed");
}

static void test_floats(void)
{
    ok(is_float("0.1", 0.1) && is_float("3e-4", 3e-4) && is_float(".5", 0.5) && is_float("1.", 1) &&
           is_float("-2", -2) && is_float("1.5K", 1500),
       "floats");
    ok(no_float("") && no_float("nan") && no_float("inf") && no_float("-infinity") &&
           no_float("1e999") && no_float("1e308G") && no_float("0x1p3") && no_float("1,5") &&
           no_float("e5") && no_float("."),
       "only finite decimal numbers");
    double v;
    ok(parse_float(&v, "1.5", 0, 1, &err) == -1 && parse_float(&v, "-0.1", 0, 1, &err) == -1 &&
           parse_float(&v, "1", 0, 1, &err) == 0,
       "bounds");
}

static void test_times(void)
{
    ok(is_time("90", 90) && is_time("90s", 90) && is_time("5m", 300) && is_time("1.5h", 5400) &&
           is_time("1h30m", 5400) && is_time("2d", 172800),
       "times");
    ok(no_time("") && no_time("5x") && no_time("m") && no_time("1h30") && no_time("5 m"),
       "what is no time");
}

static bool shows_count(double v, const char *want)
{
    char text[32];
    return strcmp(cli_count(text, sizeof text, v), want) == 0;
}

static bool shows_bytes(double v, const char *want)
{
    char text[32];
    return strcmp(cli_bytes(text, sizeof text, v), want) == 0;
}

static bool shows_time(double v, const char *want)
{
    char text[32];
    return strcmp(cli_time(text, sizeof text, v), want) == 0;
}

static void test_shown(void)
{
    ok(shows_count(0, "0") && shows_count(999, "999") && shows_count(1234, "1.23K") &&
           shows_count(45600, "45.6K") && shows_count(999600, "1.00M") &&
           shows_count(52.1e6, "52.1M") && shows_count(-1500, "-1.50K"),
       "counts in three digits");
    ok(shows_bytes(512, "512 B") && shows_bytes(1048576, "1.00 MiB") &&
           shows_bytes(12.5 * 1073741824, "12.5 GiB"),
       "bytes");
    ok(shows_time(0.25, "0.2s") && shows_time(59.6, "1m") && shows_time(200, "3m20s") &&
           shows_time(3661, "1h01m") && shows_time(90000, "1d01h") && shows_time(NAN, "?"),
       "times");
    ok(cli_peak_rss() > 500e3 && cli_peak_rss() < 1e12, "peak memory is plausible");
    const double before = cli_now();
    ok(cli_now() >= before, "the clock does not go back");
}

int main(void)
{
    test_ints();
    test_floats();
    test_times();
    test_shown();
    return tap_done();
}
