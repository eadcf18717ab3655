/* stops: stop strings that span tokens, held-back text, whole characters. */
#include "stops.h"
#include "tap.h"

#include <string.h>

static struct err err;

static void add(struct stops *s, const char *text)
{
    if (stops_add(s, text, strlen(text), &err) != 0)
        ok(false, "%s", err.what);
}

static void put(struct flow *f, const struct stops *s, const char *bytes, size_t n)
{
    if (flow_put(f, s, bytes, n, &err) != 0)
        ok(false, "%s", err.what);
}

/* What flow_take hands out next equals want. */
static bool takes(struct flow *f, const struct stops *s, bool is_last, const char *want)
{
    size_t n;
    const uint8_t *at = flow_take(f, s, is_last, &n);
    return n == strlen(want) && (n == 0 || memcmp(at, want, n) == 0);
}

static bool text_is(const struct flow *f, const char *want)
{
    return f->text.size == strlen(want) && memcmp(f->text.data, want, f->text.size) == 0;
}

static void test_span(void)
{
    struct stops s = {0};
    struct flow f = FLOW_EMPTY;
    add(&s, "STOP");
    add(&s, "\nUser:");
    put(&f, &s, "abS", 3);
    ok(takes(&f, &s, false, "ab"), "the beginning of a stop string is held back");
    put(&f, &s, "x", 1);
    ok(takes(&f, &s, false, "Sx"), "and given out once it is none");
    put(&f, &s, "y\nUs", 4);
    ok(takes(&f, &s, false, "y"), "text before a half stop string is given out");
    put(&f, &s, "er", 2);
    ok(takes(&f, &s, false, ""), "the half stays back over several tokens");
    put(&f, &s, ": more", 6);
    ok(f.stop == 1, "a stop string across three tokens is found");
    ok(text_is(&f, "abSxy"), "the text ends before it");
    put(&f, &s, "later", 5);
    ok(text_is(&f, "abSxy"), "bytes after the end are ignored");
    ok(takes(&f, &s, true, ""), "nothing is left to show");
    flow_free(&f);
    stops_free(&s);
}

static void test_earliest(void)
{
    struct stops s = {0};
    struct flow f = FLOW_EMPTY;
    add(&s, "cd");
    add(&s, "bc");
    add(&s, "bcd");
    put(&f, &s, "abcdef", 6);
    ok(f.stop == 1 && text_is(&f, "a"), "the earliest place wins, then the first of the list");
    flow_free(&f);
    put(&f, &s, "ab", 2);
    ok(takes(&f, &s, true, "ab"), "at the end a half stop string is plain text");
    flow_free(&f);
    stops_free(&s);
    add(&s, "aab");
    put(&f, &s, "aa", 2);
    put(&f, &s, "ab", 2);
    ok(f.stop == 0 && text_is(&f, "a"), "a match that begins within the held bytes");
    flow_free(&f);
    stops_free(&s);
}

static void test_limits(void)
{
    struct stops s = {0}, copy = {0};
    static const char big[STOP_MAX_BYTES + 1];
    ok(stops_add(&s, "", 0, &err) == -1, "an empty stop string is refused");
    ok(stops_add(&s, big, sizeof big, &err) == -1, "a huge stop string is refused");
    int n = 0;
    while (stops_add(&s, "x", 1, &err) == 0 && n < 1000)
        n++;
    ok(n == STOPS_MAX, "so are more than %d", STOPS_MAX);
    ok(stops_copy(&copy, &s, &err) == 0 && copy.n == s.n && copy.item[3].data != s.item[3].data,
       "a copy is its own");
    stops_free(&copy);
    stops_free(&s);
}

static void test_characters(void)
{
    const struct stops none = {0};
    struct flow f = FLOW_EMPTY;
    put(&f, &none, "a\xE2\x82", 3);
    ok(takes(&f, &none, false, "a"), "two bytes of three are held back");
    put(&f, &none, "\xAC", 1);
    ok(takes(&f, &none, false, "\xE2\x82\xAC"), "the whole character comes at once");
    put(&f, &none, "\xF0\x9F\x98", 3);
    ok(takes(&f, &none, false, ""), "three bytes of four are held back");
    put(&f, &none, "z", 1);
    ok(takes(&f, &none, false, "\xF0\x9F\x98z"), "ill-formed bytes are not held for ever");
    put(&f, &none, "\xC3", 1);
    ok(takes(&f, &none, true, ""), "half a character at the very end stays back");
    ok(f.text.size == 9, "but it is in the text");
    flow_free(&f);
}

static void test_utf8(void)
{
    static const struct {
        const char *bytes;
        int want;
    } cases[] = {
        {"a", 1},         {"\xC3\xA9", 2},         {"\xE2\x82\xAC", 3},
        {"\xC3", -1},     {"\xF0\x9F\x98\x80", 4}, {"\xE2\x82", -1},
        {"\x80", 0},      {"\xF4\x90\x80\x80", 0}, {"\xC0\xAF", 0},
        {"\xE0\x80", 0},  {"\xED\xA0\x80", 0},     {"\xF0\x80", 0},
        {"\xF5", 0},      {"\xE2\x28\xA1", 0},     {"\xF0\x9F\x98", -1},
        {"\xF0\x9F(", 0}, {"\xED\x9F\xBF", 3},     {"\xF4\x8F\xBF\xBF", 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int got = utf8_prefix((const uint8_t *)cases[i].bytes, strlen(cases[i].bytes));
        ok(got == cases[i].want, "utf8 case %zu: %d, want %d", i, got, cases[i].want);
    }
}

int main(void)
{
    test_span();
    test_earliest();
    test_limits();
    test_characters();
    test_utf8();
    return tap_done();
}
