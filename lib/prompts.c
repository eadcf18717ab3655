/* prompts: JSON prompts, escaped lines, JSON completions; see prompts.h. */
#include "prompts.h"
#include "json.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int wrong_type(const char *key, const char *wanted, struct err *err)
{
    return err_set(err, NULL, NULL, "\"%s\" is not %s", key, wanted);
}

static int put_label(struct gen_prompt *p, const json_t *v, struct err *err)
{
    if (json_is_integer(v))
        return buf_printf(&p->label, err, "%lld", (long long)json_integer_value(v));
    if (!json_is_string(v))
        return wrong_type("id", "a string or a whole number", err);
    bool is_exact;
    return text_json(&p->label, json_string_value(v), json_string_length(v), &is_exact, err);
}

static int put_stops(struct gen_prompt *p, const json_t *v, struct err *err)
{
    stops_free(&p->opts.stops);
    if (json_is_string(v))
        return stops_add(&p->opts.stops, json_string_value(v), json_string_length(v), err);
    if (!json_is_array(v))
        return wrong_type("stop", "a string or a list of strings", err);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);
        if (!json_is_string(item))
            return wrong_type("stop", "a string or a list of strings", err);
        TRY(stops_add(&p->opts.stops, json_string_value(item), json_string_length(item), err));
    }
    return 0;
}

static int put_biases(struct gen_prompt *p, json_t *v, int V, struct err *err)
{
    const char *key;
    json_t *bias;
    if (!json_is_object(v))
        return wrong_type("logit_bias", "an object of id: number", err);
    json_object_foreach(v, key, bias)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);
        if (!json_is_number(bias) || !isdigit((unsigned char)key[0]) || *end)
            return wrong_type("logit_bias", "an object of id: number", err);
        TRY(sample_add_bias(&p->opts.sample, id, json_number_value(bias), V, err));
    }
    return 0;
}

static int put_number(struct gen_prompt *p, const char *key, const json_t *v, struct err *err)
{
    const bool is_number = json_is_number(v) || json_is_boolean(v);
    const double value = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
    const int set = gen_set(&p->opts, key, value, err);
    if (set == 0)
        return err_set(err, NULL, "see PROMPTS in hm-gen(1) for the keys", "unknown key \"%.64s\"",
                       key);
    if (!is_number || json_is_boolean(v) != (strcmp(key, "ignore_eos") == 0))
        return wrong_type(key, json_is_number(v) ? "true or false" : "a number", err);
    return set < 0 ? -1 : 0;
}

static int put_key(struct gen_prompt *p, const char *key, json_t *v, int V, struct err *err)
{
    if (strcmp(key, "prompt") == 0) {
        if (!json_is_string(v))
            return wrong_type(key, "a string", err);
        return buf_put(&p->text, json_string_value(v), json_string_length(v), err);
    }
    if (strcmp(key, "id") == 0)
        return put_label(p, v, err);
    if (strcmp(key, "stop") == 0)
        return put_stops(p, v, err);
    if (strcmp(key, "logit_bias") == 0)
        return put_biases(p, v, V, err);
    return put_number(p, key, v, err);
}

static int put_object(struct gen_prompt *p, json_t *root, int V, struct err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(root))
        return err_set(err, NULL, "give an object with a \"prompt\" a line", "not a JSON object");
    if (!json_object_get(root, "prompt"))
        return err_set(err, NULL, "give each object a \"prompt\"", "no \"prompt\"");
    json_object_foreach(root, key, v) TRY(put_key(p, key, v, V, err));
    return 0;
}

int prompt_parse(struct gen_prompt *p, const char *json, size_t n, const struct gen_opts *defaults,
                 int V, struct err *err)
{
    json_t *root;
    *p = (struct gen_prompt){0};
    TRY(gen_opts_copy(&p->opts, defaults, err));
    TRY(js_parse(&root, json, n, JSON_ALLOW_NUL, err));
    const int status = put_object(p, root, V, err);
    json_decref(root);
    return status;
}

int text_escape(struct buf *to, const void *text, size_t n, struct err *err)
{
    const uint8_t *p = text;
    size_t begin = 0;
    for (size_t i = 0; i < n; i++) {
        const char *escape = p[i] == '\n'   ? "\\n"
                             : p[i] == '\r' ? "\\r"
                             : p[i] == '\\' ? "\\\\"
                                            : NULL;
        if (!escape)
            continue;
        TRY(buf_put(to, p + begin, i - begin, err));
        TRY(buf_put(to, escape, 2, err));
        begin = i + 1;
    }
    return n > begin ? buf_put(to, p + begin, n - begin, err) : 0;
}

int text_unescape(struct buf *to, const void *text, size_t n, struct err *err)
{
    const uint8_t *p = text;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = p[i];
        const uint8_t next = c == '\\' && i + 1 < n ? p[i + 1] : 0;
        if (next == 'n' || next == 'r' || next == '\\') {
            c = next == 'n' ? '\n' : next == 'r' ? '\r' : '\\';
            i++;
        }
        TRY(buf_put(to, &c, 1, err));
    }
    return 0;
}

int text_json(struct buf *to, const void *text, size_t n, bool *is_exact, struct err *err)
{
    const uint8_t *p = text;
    TRY(buf_put(to, "\"", 1, err));
    for (size_t i = 0; i < n;) {
        const int len = utf8_prefix(p + i, n - i);
        if (len <= 0) {
            *is_exact = false;
            TRY(buf_put(to, "\xEF\xBF\xBD", 3, err));
        } else if (p[i] == '"' || p[i] == '\\')
            TRY(buf_printf(to, err, "\\%c", p[i]));
        else if (p[i] == '\n')
            TRY(buf_put(to, "\\n", 2, err));
        else if (p[i] < 0x20 || p[i] == 0x7F)
            TRY(buf_printf(to, err, "\\u%04x", p[i]));
        else
            TRY(buf_put(to, p + i, (size_t)len, err));
        i += len > 0 ? (size_t)len : 1;
    }
    return buf_put(to, "\"", 1, err);
}

int text_printable(struct buf *to, const void *text, size_t n, struct err *err)
{
    const uint8_t *p = text;
    for (size_t i = 0; i < n;) {
        const int len = utf8_prefix(p + i, n - i);
        const bool is_c0 = (p[i] < 0x20 && p[i] != '\n' && p[i] != '\t') || p[i] == 0x7F;
        const bool is_c1 = len == 2 && p[i] == 0xC2 && p[i + 1] < 0xA0;
        if (len <= 0 || is_c0 || is_c1)
            TRY(buf_put(to, "\xEF\xBF\xBD", 3, err));
        else
            TRY(buf_put(to, p + i, (size_t)len, err));
        i += len > 0 ? (size_t)len : 1;
    }
    return 0;
}

static int put_tokens(struct buf *to, const struct completion *c, struct err *err)
{
    TRY(buf_printf(to, err, ", \"ids\": ["));
    for (size_t i = 0; i < c->ids.n; i++)
        TRY(buf_printf(to, err, "%s%d", i ? ", " : "", (int)c->ids.data[i]));
    TRY(buf_printf(to, err, "], \"logprobs\": ["));
    for (size_t i = 0; i < c->ids.n; i++)
        TRY(buf_printf(to, err, isfinite(c->logp[i]) ? "%s%.7g" : "%snull", i ? ", " : "",
                       (double)c->logp[i]));
    return buf_printf(to, err, "], \"stop\": \"%s\"", gen_stop_name(c->stop));
}

static double rate(size_t n, double time_s)
{
    return time_s > 0 ? (double)n / time_s : 0;
}

int result_json(struct buf *to, const struct gen_result *r, const struct result_opts *o,
                struct err *err)
{
    const struct completion *c = r->completion;
    const struct gen_prompt *p = r->prompt;
    bool is_exact = true, is_echo_exact = true;
    TRY(buf_printf(to, err, "{\"number\": %lld, ", (long long)r->number));
    if (p->label.size) {
        TRY(buf_printf(to, err, "\"id\": "));
        TRY(buf_put(to, p->label.data, p->label.size, err));
        TRY(buf_printf(to, err, ", "));
    }
    if (o->has_echo) {
        TRY(buf_printf(to, err, "\"prompt\": "));
        TRY(text_json(to, p->text.data, p->text.size, &is_echo_exact, err));
        TRY(buf_printf(to, err, ", "));
    }
    TRY(buf_printf(to, err, "\"text\": "));
    TRY(text_json(to, c->flow.text.data, c->flow.text.size, &is_exact, err));
    TRY(buf_printf(to, err, ", \"is_utf8\": %s", is_exact ? "true" : "false"));
    TRY(put_tokens(to, c, err));
    if (c->stop == GEN_STRING) {
        const struct buf *stop = &p->opts.stops.item[c->flow.stop];
        TRY(buf_printf(to, err, ", \"stop_string\": "));
        TRY(text_json(to, stop->data, stop->size, &is_exact, err));
    }
    TRY(buf_printf(to, err, ", \"n_prompt\": %zu, \"n_tokens\": %zu", r->n_read, c->ids.n));
    if (o->has_rates)
        TRY(buf_printf(to, err, ", \"read_tok_s\": %.1f, \"decode_tok_s\": %.1f",
                       rate(r->n_read, r->read_s), rate(c->ids.n, r->decode_s)));
    return buf_printf(to, err, "}\n");
}
