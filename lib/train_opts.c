/* train_opts: see train_opts.h. */
#include "train_opts.h"
#include "acts.h"
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARMUP_STEPS = 100 };

static const char *const dtype_names[] = {"f32", "bf16", "f16", "auto", NULL};
static const char *const moment_names[] = {"f32", "bf16", NULL};
static const char *const schedule_names[] = {"wsd", "cosine", "constant", NULL};

/* 2^31: steps are numbered with 32 bits in the random streams. 2^53: JSON's exact integers. */
#define STEPS_MAX     2147483648.0
#define INT_MAX_EXACT 9007199254740992.0
#define AT(member)    offsetof(struct train_opts, member)

static const struct train_field fields[] = {
    {"seed", TRAIN_INT, AT(seed), true, false, 0, INT_MAX_EXACT, NULL},
    {"batch", TRAIN_INT, AT(batch), true, false, 1, 65536, NULL},
    {"accum", TRAIN_INT, AT(accum), true, false, 1, 65536, NULL},
    {"dtype", TRAIN_ENUM, AT(dtype), true, false, 0, 0, dtype_names},
    {"recompute", TRAIN_ENUM, AT(recompute), false, false, 0, 0, recompute_names},
    {"dropout", TRAIN_REAL, AT(dropout), true, false, 0, 0.9, NULL},
    {"z-loss", TRAIN_REAL, AT(z_loss), true, false, 0, 1, NULL},
    {"beta1", TRAIN_REAL, AT(beta1), true, false, 0, 0.99999, NULL},
    {"beta2", TRAIN_REAL, AT(beta2), true, false, 0, 0.999999, NULL},
    {"eps", TRAIN_REAL, AT(eps), true, false, 1e-20, 1, NULL},
    {"weight-decay", TRAIN_REAL, AT(weight_decay), true, false, 0, 10, NULL},
    {"clip", TRAIN_REAL, AT(clip), true, false, 0, 1e9, NULL},
    {"outlier", TRAIN_REAL, AT(outlier), true, false, 0, 1e9, NULL},
    {"moments", TRAIN_ENUM, AT(moments), true, false, 0, 0, moment_names},
    {"max-skips", TRAIN_INT, AT(max_skips), false, false, 1, 1e9, NULL},
    {"schedule", TRAIN_ENUM, AT(schedule), true, false, 0, 0, schedule_names},
    {"lr", TRAIN_REAL, AT(lr), true, false, 0, 1e6, NULL},
    {"min-lr", TRAIN_REAL, AT(min_lr), true, false, 0, 1e6, NULL},
    {"decay", TRAIN_REAL, AT(decay), true, false, 0, 1, NULL},
    {"warmup", TRAIN_INT, AT(warmup), true, false, -1, STEPS_MAX, NULL},
    {"max-steps", TRAIN_INT, AT(max_steps), false, true, 0, STEPS_MAX, NULL},
    {"max-tokens", TRAIN_INT, AT(max_tokens), false, true, 0, INT_MAX_EXACT, NULL},
    {"max-time", TRAIN_REAL, AT(max_time), false, true, 0, 1e9, NULL},
    {"epochs", TRAIN_REAL, AT(epochs), false, true, 0, 1e6, NULL},
    {"valid-every", TRAIN_INT, AT(valid_every), false, false, 0, STEPS_MAX, NULL},
    {"valid-tokens", TRAIN_INT, AT(valid_tokens), false, false, 1, INT_MAX_EXACT, NULL},
    {"save-every", TRAIN_INT, AT(save_every), false, false, 0, STEPS_MAX, NULL},
    {"save-time", TRAIN_REAL, AT(save_time), false, false, 0, 1e9, NULL},
    {"keep", TRAIN_INT, AT(keep), false, false, 1, 1e6, NULL},
    {"log-every", TRAIN_INT, AT(log_every), false, false, 1, STEPS_MAX, NULL},
    {0},
};

const struct train_field *train_fields(void)
{
    return fields;
}

void train_opts_default(struct train_opts *o)
{
    *o = (struct train_opts){
        .seed = 1,
        .batch = 8,
        .accum = 1,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .weight_decay = 0.1,
        .clip = 1,
        .outlier = 6,
        .max_skips = 20,
        .schedule = SCHEDULE_WSD,
        .lr = 1e-3,
        .decay = 0.2,
        .warmup = -1,
        .valid_every = 250,
        .valid_tokens = 100000,
        .save_time = 600,
        .keep = 2,
        .log_every = 1,
    };
}

static const void *field_const(const struct train_field *f, const struct train_opts *o)
{
    return (const char *)o + f->at;
}

static void *field_of(const struct train_field *f, struct train_opts *o)
{
    return (char *)o + f->at;
}

static size_t field_size(const struct train_field *f)
{
    return f->kind == TRAIN_ENUM ? sizeof(int) : sizeof(int64_t);
}

/* The value as a number: exact, as integers are bounded by 2^53. */
static double field_number(const struct train_field *f, const struct train_opts *o)
{
    const void *p = field_const(f, o);
    if (f->kind == TRAIN_REAL)
        return *(const double *)p;
    return f->kind == TRAIN_INT ? (double)*(const int64_t *)p : *(const int *)p;
}

bool train_field_equal(const struct train_field *f, const struct train_opts *a,
                       const struct train_opts *b)
{
    return memcmp(field_const(f, a), field_const(f, b), field_size(f)) == 0;
}

void train_field_copy(const struct train_field *f, struct train_opts *to,
                      const struct train_opts *from)
{
    memcpy(field_of(f, to), field_const(f, from), field_size(f));
}

const char *train_field_text(const struct train_field *f, const struct train_opts *o, char *to,
                             size_t n)
{
    if (f->kind == TRAIN_ENUM)
        snprintf(to, n, "%s", f->names[(int)field_number(f, o)]);
    else
        snprintf(to, n, "%.10g", field_number(f, o));
    return to;
}

static int n_names(const char *const *names)
{
    int n = 0;
    while (names[n])
        n++;
    return n;
}

int train_opts_check(const struct train_opts *o, struct err *err)
{
    for (const struct train_field *f = fields; f->name; f++) {
        const double v = field_number(f, o);
        const double max = f->kind == TRAIN_ENUM ? n_names(f->names) - 1 : f->max;
        if (!(v >= f->min && v <= max))
            return err_set(err, NULL, NULL, "--%s is %g, but must lie in %g to %g", f->name, v,
                           f->min, max);
    }
    if (o->min_lr > o->lr)
        return err_set(err, NULL, "give --min-lr at most --lr", "--min-lr %g is above --lr %g",
                       o->min_lr, o->lr);
    return 0;
}

/* --- JSON --- */

static json_t *field_json(const struct train_field *f, const struct train_opts *o)
{
    const void *p = field_const(f, o);
    if (f->kind == TRAIN_ENUM)
        return json_string(f->names[*(const int *)p]);
    return f->kind == TRAIN_INT ? json_integer(*(const int64_t *)p) : json_real(*(const double *)p);
}

int train_opts_print(const struct train_opts *o, struct buf *to, struct err *err)
{
    json_t *object = json_object();
    int rc = 0;
    for (const struct train_field *f = fields; f->name && rc == 0; f++)
        rc = json_object_set_new(object, f->name, field_json(f, o));
    rc = js_print(rc == 0 ? object : NULL, JSON_COMPACT, to, err);
    json_decref(object);
    return rc;
}

static int parse_field(const struct train_field *f, struct train_opts *o, const json_t *value,
                       struct err *err)
{
    void *p = field_of(f, o);
    if (f->kind == TRAIN_ENUM && json_is_string(value)) {
        for (int i = 0; f->names[i]; i++)
            if (strcmp(f->names[i], json_string_value(value)) == 0) {
                *(int *)p = i;
                return 0;
            }
    } else if (f->kind == TRAIN_INT && json_is_integer(value)) {
        *(int64_t *)p = json_integer_value(value);
        return 0;
    } else if (f->kind == TRAIN_REAL && json_is_number(value)) {
        *(double *)p = json_number_value(value);
        return 0;
    }
    return err_set(err, NULL, NULL, "the run's option \"%s\" is missing or wrong", f->name);
}

int train_opts_parse(struct train_opts *o, const char *json, size_t n, struct err *err)
{
    json_t *object;
    train_opts_default(o);
    TRY(js_parse(&object, json, n, 0, err));
    int rc = 0;
    size_t n_fields = 0;
    if (!json_is_object(object))
        rc = err_set(err, NULL, NULL, "the run's options are no JSON object");
    for (const struct train_field *f = fields; f->name && rc == 0; f++) {
        const json_t *value = json_object_get(object, f->name);
        if (!value && f->at == AT(moments)) /* runs were begun before there was a choice */
            continue;
        rc = parse_field(f, o, value, err);
        n_fields++;
    }
    if (rc == 0 && json_object_size(object) != n_fields)
        rc = err_set(err, NULL, "use the version of hm that wrote it",
                     "the run's options have unknown fields");
    json_decref(object);
    return rc == 0 ? train_opts_check(o, err) : -1;
}

/* --- how long --- */

int64_t train_step_tokens(const struct train_opts *o, const struct config *c)
{
    return o->batch * o->accum * c->max_positions;
}

static void lower(double *least, double steps)
{
    if (steps > 0 && (*least == 0 || steps < *least))
        *least = steps;
}

int64_t train_total(const struct train_opts *o, const struct config *c, int64_t n_rows)
{
    double least = (double)o->max_steps;
    lower(&least, ceil((double)o->max_tokens / (double)train_step_tokens(o, c)));
    if (n_rows > 0)
        lower(&least, ceil(o->epochs * (double)n_rows / (double)(o->batch * o->accum)));
    return least < STEPS_MAX ? (int64_t)least : (int64_t)STEPS_MAX;
}

int64_t train_warmup(const struct train_opts *o, int64_t total)
{
    if (o->warmup >= 0)
        return o->warmup;
    return total > 0 && total / 10 < WARMUP_STEPS ? total / 10 : WARMUP_STEPS;
}
