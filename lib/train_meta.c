/* train_meta: a run's options and counters as the JSON text in a resumable checkpoint; see
 * train_ckpt.h. */
#include "train_ckpt.h"
#include "json.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { META_VERSION = 1 };

enum item_kind { ITEM_COUNT, ITEM_HASH, ITEM_REAL };

/* The members of struct train_state. */
struct item {
    const char *key;
    enum item_kind kind;
    size_t at;
    double min;   /* the least possible value of a count or a real */
    bool is_late; /* runs that were begun before it was written have none: 0 */
};

#define AT(member) offsetof(struct train_state, member)
static const struct item items[] = {
    {"step", ITEM_COUNT, AT(step), 0, false},
    {"total", ITEM_COUNT, AT(total), 0, false},
    {"warmup_steps", ITEM_COUNT, AT(warmup), 0, false},
    {"tokens", ITEM_COUNT, AT(tokens), 0, false},
    {"cursor", ITEM_HASH, AT(cursor), 0, false},
    {"rank", ITEM_COUNT, AT(rank), 0, false},
    {"world", ITEM_COUNT, AT(world), 1, false},
    {"tok_hash", ITEM_HASH, AT(tok_hash), 0, false},
    {"corpus_tokens", ITEM_HASH, AT(corpus_tokens), 0, false},
    {"corpus_docs", ITEM_HASH, AT(corpus_docs), 0, false},
    {"best_loss", ITEM_REAL, AT(best_loss), 0, false},
    {"best_step", ITEM_COUNT, AT(best_step), -1, false},
    {"valid_step", ITEM_COUNT, AT(valid_step), -1, false},
    {"skipped", ITEM_COUNT, AT(skipped), 0, false},
    {"skipped_in_row", ITEM_COUNT, AT(skipped_in_row), 0, false},
    {"applied", ITEM_COUNT, AT(applied), 0, false},
    {"loss_mean", ITEM_REAL, AT(loss_mean), 0, false},
    {"loss_var", ITEM_REAL, AT(loss_var), 0, false},
    {"gnorm_mean", ITEM_REAL, AT(gnorm_mean), 0, false},
    {"gnorm_var", ITEM_REAL, AT(gnorm_var), 0, false},
    {"fp16_scale", ITEM_REAL, AT(fp16_scale), 0, true},
    {"fp16_good", ITEM_COUNT, AT(fp16_good), 0, true},
    {0},
};

static json_t *item_json(const struct item *it, const struct train_state *s)
{
    const char *p = (const char *)s + it->at;
    char text[32];
    switch (it->kind) {
    case ITEM_COUNT:
        return json_integer(*(const int64_t *)(const void *)p);
    case ITEM_REAL:
        return json_real(*(const double *)(const void *)p);
    case ITEM_HASH: /* JSON's integers are signed */
        break;
    }
    snprintf(text, sizeof text, "%016llx", (unsigned long long)*(const uint64_t *)(const void *)p);
    return json_string(text);
}

int train_meta_print(const struct train_head *h, struct buf *to, struct err *err)
{
    struct buf opts = {0};
    json_t *options;
    int rc = train_opts_print(&h->opts, &opts, err);
    if (rc == 0)
        rc = js_parse(&options, (const char *)opts.data, opts.size, 0, err);
    buf_free(&opts);
    TRY(rc);
    json_t *object = json_object();
    rc = json_object_set_new(object, "version", json_integer(META_VERSION));
    for (const struct item *it = items; it->key && rc == 0; it++)
        rc = json_object_set_new(object, it->key, item_json(it, &h->state));
    if (json_object_set_new(object, "options", options) != 0)
        rc = -1;
    rc = js_print(rc == 0 ? object : NULL, JSON_COMPACT, to, err);
    json_decref(object);
    return rc;
}

static int parse_hash(uint64_t *to, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return -1;
    *to = strtoull(text, NULL, 16);
    return 0;
}

static int parse_item(const struct item *it, struct train_state *s, const json_t *value)
{
    void *p = (char *)s + it->at;
    if (it->kind == ITEM_HASH)
        return parse_hash(p, value);
    if (it->kind == ITEM_COUNT) {
        if (!json_is_integer(value) || (double)json_integer_value(value) < it->min)
            return -1;
        *(int64_t *)p = json_integer_value(value);
        return 0;
    }
    if (!json_is_number(value) || !(json_number_value(value) >= it->min))
        return -1;
    *(double *)p = json_number_value(value);
    return 0;
}

static int parse_options(struct train_opts *o, const json_t *options, struct err *err)
{
    struct buf text = {0};
    if (!json_is_object(options))
        return err_set(err, NULL, NULL, "the run's options are missing");
    TRY(js_print(options, 0, &text, err));
    const int rc = train_opts_parse(o, (const char *)text.data, text.size, err);
    buf_free(&text);
    return rc;
}

static int parse_object(struct train_head *h, const json_t *object, struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, NULL, NULL, "\"hm.train\" in the metadata is no JSON object");
    if (json_integer_value(json_object_get(object, "version")) != META_VERSION)
        return err_set(err, NULL, "use the version of hm that wrote it",
                       "the run was written in another version of the format");
    for (const struct item *it = items; it->key; it++) {
        const json_t *value = json_object_get(object, it->key);
        if (!(it->is_late && !value) && parse_item(it, &h->state, value) != 0)
            return err_set(err, NULL, NULL, "\"%s\" of the run is missing or wrong", it->key);
    }
    const struct train_state *s = &h->state;
    if (s->world != 1 || s->rank != 0)
        return err_set(err, NULL, "train on as many processes as before",
                       "the run is of rank %lld of %lld, and this one is 0 of 1",
                       (long long)s->rank, (long long)s->world);
    if ((s->total > 0 && s->step > s->total) || s->step >= INT64_C(1) << 32 ||
        s->applied + s->skipped != s->step || s->skipped_in_row > s->skipped)
        return err_set(err, NULL, NULL, "the run's counters contradict each other");
    return parse_options(&h->opts, json_object_get(object, "options"), err);
}

int train_meta_parse(struct train_head *h, const char *json, size_t n, struct err *err)
{
    json_t *object;
    TRY(js_parse(&object, json, n, 0, err));
    const int rc = parse_object(h, object, err);
    json_decref(object);
    return rc;
}
