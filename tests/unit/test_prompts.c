/* prompts: JSON prompts with every key and every mistake, escapes, JSON and terminal text. */
#include "prompts.h"
#include "tap.h"

#include <string.h>

static struct err err;

/* Parses over the defaults; the caller frees. */
static int parse(struct gen_prompt *p, const char *json)
{
    struct gen_opts o;
    gen_defaults(&o);
    if (stops_add(&o.stops, "default", 7, &err) != 0)
        return -2;
    const int rc = prompt_parse(p, json, strlen(json), &o, 100, &err);
    gen_opts_free(&o);
    return rc;
}

static bool is_refused(const char *json)
{
    struct gen_prompt p;
    const int rc = parse(&p, json);
    gen_prompt_free(&p);
    return rc == -1;
}

static bool holds(const struct buf *b, const char *want, size_t n)
{
    return b->size == n && (n == 0 || memcmp(b->data, want, n) == 0);
}

static void test_keys(void)
{
    struct gen_prompt p;
    ok(parse(&p, "{\"prompt\": \"a\\nb\\u0000c\"}") == 0 && holds(&p.text, "a\nb\0c", 5),
       "a prompt, NUL and all");
    ok(!p.opts.has_seed && p.opts.max_tokens == 128 && p.opts.stops.n == 1 && p.label.size == 0,
       "the rest are defaults");
    gen_prompt_free(&p);
    ok(parse(&p, "{\"prompt\": \"\", \"id\": \"x\\ny\", \"seed\": 9, \"max_tokens\": 0, "
                 "\"temperature\": 0.5, \"top_k\": 3, \"top_p\": 0.25, \"min_p\": 0.125, "
                 "\"typical_p\": 0.5, \"repetition_penalty\": 2, \"frequency_penalty\": -1, "
                 "\"presence_penalty\": 1, \"repeat_last\": 7, \"ignore_eos\": true, "
                 "\"stop\": [\"a\", \"b\"], \"logit_bias\": {\"5\": 1.5, \"99\": -2}}") == 0,
       "every key: %s", err.what);
    const struct sample_opts *s = &p.opts.sample;
    ok(p.opts.has_seed && s->seed == 9 && p.opts.max_tokens == 0 && p.opts.ignore_eos, "numbers");
    ok(s->temperature == 0.5f && s->top_k == 3 && s->top_p == 0.25f && s->min_p == 0.125f &&
           s->typical_p == 0.5f && s->repeat_penalty == 2 && s->freq_penalty == -1 &&
           s->pres_penalty == 1 && s->repeat_last == 7,
       "settings");
    ok(p.opts.stops.n == 2 && holds(&p.opts.stops.item[1], "b", 1), "stops replace the defaults");
    ok(s->n_bias == 2 && s->bias_id[1] == 99 && s->bias[1] == -2, "biases");
    ok(holds(&p.label, "\"x\\ny\"", 6), "the label is JSON text");
    gen_prompt_free(&p);
    ok(parse(&p, "{\"prompt\": \"\", \"id\": -3, \"stop\": \"z\"}") == 0 &&
           holds(&p.label, "-3", 2) && holds(&p.opts.stops.item[0], "z", 1),
       "a number as label, one stop string");
    gen_prompt_free(&p);
}

static void test_mistakes(void)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "3",
        "{}",
        "{\"prompt\": 1}",
        "{\"prompt\": null}",
        "{\"prompt\": \"a\"} x",
        "{\"prompt\": \"a\", \"prompt\": \"b\"}",
        "{\"prompt\": \"a\", \"Seed\": 1}",
        "{\"prompt\": \"a\", \"seed\": \"1\"}",
        "{\"prompt\": \"a\", \"seed\": -1}",
        "{\"prompt\": \"a\", \"seed\": 1.5}",
        "{\"prompt\": \"a\", \"seed\": true}",
        "{\"prompt\": \"a\", \"max_tokens\": 1e12}",
        "{\"prompt\": \"a\", \"ignore_eos\": 1}",
        "{\"prompt\": \"a\", \"top_p\": 1.01}",
        "{\"prompt\": \"a\", \"stop\": 1}",
        "{\"prompt\": \"a\", \"stop\": [\"a\", 1]}",
        "{\"prompt\": \"a\", \"stop\": [\"\"]}",
        "{\"prompt\": \"a\", \"id\": 1.5}",
        "{\"prompt\": \"a\", \"id\": []}",
        "{\"prompt\": \"a\", \"logit_bias\": []}",
        "{\"prompt\": \"a\", \"logit_bias\": {\"x\": 1}}",
        "{\"prompt\": \"a\", \"logit_bias\": {\"-1\": 1}}",
        "{\"prompt\": \"a\", \"logit_bias\": {\"100\": 1}}",
        "{\"prompt\": \"a\", \"logit_bias\": {\"1\": \"1\"}}",
        "{\"prompt\": \"\xC3\"}",
        "{\"prompt\": \"\\ud800\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ok(is_refused(bad[i]), "refused: case %zu", i);
}

static void test_escapes(void)
{
    static const char text[] = "a\nb\r\\c\\n\0d\\";
    static const size_t n = sizeof text - 1;
    struct buf line = {0}, back = {0};
    ok(text_escape(&line, text, n, &err) == 0 && holds(&line, "a\\nb\\r\\\\c\\\\n\0d\\\\", 16),
       "line breaks and backslashes are escaped");
    ok(!memchr(line.data, '\n', line.size), "it fits a line");
    ok(text_unescape(&back, line.data, line.size, &err) == 0 && holds(&back, text, n),
       "and comes back");
    back.size = 0;
    ok(text_unescape(&back, "\\x\\", 3, &err) == 0 && holds(&back, "\\x\\", 3),
       "another backslash stands for itself");
    buf_free(&line);
    buf_free(&back);
}

static void test_shown(void)
{
    struct buf b = {0};
    bool is_exact = true;
    ok(text_json(&b, "\"\\\n\x01\x7F\xC3\xA9", 7, &is_exact, &err) == 0 && is_exact &&
           holds(&b, "\"\\\"\\\\\\n\\u0001\\u007f\xC3\xA9\"", 22),
       "JSON text");
    b.size = 0;
    ok(text_json(&b, "a\xC3", 2, &is_exact, &err) == 0 && !is_exact &&
           holds(&b, "\"a\xEF\xBF\xBD\"", 6),
       "ill-formed UTF-8 is replaced and told");
    b.size = 0;
    ok(text_printable(&b, "a\n\t\x1B[\xC2\x9B\xC2\xA9\xFF\r", 11, &err) == 0 &&
           holds(&b, "a\n\t\xEF\xBF\xBD[\xEF\xBF\xBD\xC2\xA9\xEF\xBF\xBD\xEF\xBF\xBD", 18),
       "a terminal gets no control characters");
    buf_free(&b);
}

static void test_result(void)
{
    struct gen_prompt p = {0};
    struct completion c;
    completion_init(&c);
    if (buf_put(&p.text, "p", 1, &err) != 0 || ids_put(&c.ids, 5, &err) != 0 ||
        buf_put(&c.flow.text, "t", 1, &err) != 0)
        ok(false, "%s", err.what);
    float logp = -INFINITY;
    c.logp = &logp;
    c.stop = GEN_LENGTH;
    const struct gen_result r = {&p, 3, 2, &c, 0.5, 0.25};
    struct buf b = {0};
    const struct result_opts bare = {0}, all = {true, true};
    static const char want[] = "{\"number\": 3, \"text\": \"t\", \"is_utf8\": true, \"ids\": [5], "
                               "\"logprobs\": [null], \"stop\": \"length\", \"n_prompt\": 2, "
                               "\"n_tokens\": 1}\n";
    ok(result_json(&b, &r, &bare, &err) == 0 && holds(&b, want, strlen(want)),
       "a result, its log-probability no number of JSON");
    b.size = 0;
    ok(result_json(&b, &r, &all, &err) == 0 && memmem(b.data, b.size, "\"prompt\": \"p\"", 13) &&
           memmem(b.data, b.size, "\"read_tok_s\": 4.0, \"decode_tok_s\": 4.0}", 39),
       "with prompt and rates");
    c.logp = NULL;
    completion_free(&c);
    gen_prompt_free(&p);
    buf_free(&b);
}

int main(void)
{
    test_keys();
    test_mistakes();
    test_escapes();
    test_shown();
    test_result();
    return tap_done();
}
