/* sampler: settings by name, and the tables of ops->sample; see sampler.h. */
#include "sampler.h"
#include "arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum setting_kind { SET_FLOAT, SET_INT, SET_SEED };

static const struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset;
    double min, max;
} settings[] = {
    {"seed", SET_SEED, offsetof(struct sample_opts, seed), 0, 9007199254740992.0},
    {"temperature", SET_FLOAT, offsetof(struct sample_opts, temperature), 0, 100},
    {"top_k", SET_INT, offsetof(struct sample_opts, top_k), 0, 1 << 24},
    {"top_p", SET_FLOAT, offsetof(struct sample_opts, top_p), 0, 1},
    {"min_p", SET_FLOAT, offsetof(struct sample_opts, min_p), 0, 1},
    {"typical_p", SET_FLOAT, offsetof(struct sample_opts, typical_p), 0, 1},
    {"repetition_penalty", SET_FLOAT, offsetof(struct sample_opts, repeat_penalty), 0.01, 100},
    {"frequency_penalty", SET_FLOAT, offsetof(struct sample_opts, freq_penalty), -100, 100},
    {"presence_penalty", SET_FLOAT, offsetof(struct sample_opts, pres_penalty), -100, 100},
    {"repeat_last", SET_INT, offsetof(struct sample_opts, repeat_last), 0, SAMPLE_RECENT},
};
enum { N_SETTINGS = sizeof settings / sizeof settings[0] };

static const struct setting *find_setting(const char *name)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(settings[i].name, name) == 0)
            return &settings[i];
    return NULL;
}

void sample_defaults(struct sample_opts *o)
{
    *o = (struct sample_opts){.seed = 1,
                              .temperature = 0.8f,
                              .top_p = 0.95f,
                              .typical_p = 1,
                              .repeat_penalty = 1,
                              .repeat_last = 64};
}

int sample_set(struct sample_opts *o, const char *name, double value, struct err *err)
{
    const struct setting *s = find_setting(name);
    if (!s)
        return 0;
    if (!(value >= s->min && value <= s->max))
        return err_set(err, NULL, NULL, "%s is %g, not within %g and %g", name, value, s->min,
                       s->max);
    if (s->kind != SET_FLOAT && value != floor(value))
        return err_set(err, NULL, NULL, "%s is %g, not a whole number", name, value);
    void *to = (char *)o + s->offset;
    if (s->kind == SET_FLOAT)
        *(float *)to = (float)value;
    else if (s->kind == SET_INT)
        *(int *)to = (int)value;
    else
        *(uint64_t *)to = (uint64_t)value;
    return 1;
}

double sample_get(const struct sample_opts *o, const char *name)
{
    const struct setting *s = find_setting(name);
    if (!s)
        return NAN;
    const void *from = (const char *)o + s->offset;
    return s->kind == SET_FLOAT ? (double)*(const float *)from
           : s->kind == SET_INT ? (double)*(const int *)from
                                : (double)*(const uint64_t *)from;
}

const char *sample_name(int i)
{
    return i >= 0 && i < N_SETTINGS ? settings[i].name : NULL;
}

int sample_bounds(const char *name, double *min, double *max)
{
    const struct setting *s = find_setting(name);
    if (s) {
        *min = s->min;
        *max = s->max;
    }
    return s != NULL;
}

int sample_add_bias(struct sample_opts *o, int64_t id, double value, int V, struct err *err)
{
    if (id < 0 || id >= V)
        return err_set(err, NULL, "give an id of the vocabulary", "logit bias for id %lld of %d",
                       (long long)id, V);
    if (!(fabs(value) <= 1e9))
        return err_set(err, NULL, NULL, "logit bias %g is not within -1e9 and 1e9", value);
    int i = 0;
    while (i < o->n_bias && o->bias_id[i] != id)
        i++;
    if (i == SAMPLE_BIAS)
        return err_set(err, NULL, "use fewer", "more than %d logit biases", SAMPLE_BIAS);
    o->bias_id[i] = (int32_t)id;
    o->bias[i] = (float)value;
    if (i == o->n_bias)
        o->n_bias++;
    return 0;
}

static void carve_table(struct sample_table *t, struct arena *a, size_t n)
{
    t->recent = arena_take(a, n * SAMPLE_RECENT * sizeof *t->recent, MEM_WORK);
    t->bias_id = arena_take(a, n * SAMPLE_BIAS * sizeof *t->bias_id, MEM_WORK);
    t->bias = arena_take(a, n * SAMPLE_BIAS * sizeof *t->bias, MEM_WORK);
}

static void carve_host(struct sampler *s, struct arena *a)
{
    const size_t n = (size_t)s->n_slots;
    s->slot_row = arena_take(a, n * sizeof *s->slot_row, MEM_WORK);
    s->row = arena_take(a, n * sizeof *s->row, MEM_WORK);
    carve_table(&s->slot, a, n);
    carve_table(&s->rows, a, n);
    s->window = arena_take(a, n * sizeof *s->window, MEM_WORK);
    s->version = arena_take(a, n * sizeof *s->version, MEM_WORK);
    s->sent = arena_take(a, n * sizeof *s->sent, MEM_WORK);
}

int sampler_open(struct sampler *s, struct dev *dev, int n_slots, int V, struct err *err)
{
    *s = (struct sampler){.dev = dev, .n_slots = n_slots};
    struct arena host = {0}, device = {0};
    carve_host(s, &host);
    carve_table(&s->dev_rows, &device, (size_t)n_slots);
    const size_t host_bytes = host.used;
    s->host = aligned_alloc(ARENA_ALIGN, host_bytes);
    if (!s->host)
        return err_oom(err, host_bytes);
    memset(s->host, 0, host_bytes);
    if (dev_alloc(dev, &s->block, device.used, err) != 0) {
        sampler_close(s);
        return -1;
    }
    host = (struct arena){.base = s->host};
    device = (struct arena){.base = s->block};
    carve_host(s, &host);
    carve_table(&s->dev_rows, &device, (size_t)n_slots);
    const struct sizes sizes = {.V = V, .R = n_slots};
    if (dev_reserve(dev, dev->ops->plan(dev, OP_SAMPLE, &sizes), err) != 0) {
        sampler_close(s);
        return -1;
    }
    return 0;
}

void sampler_close(struct sampler *s)
{
    if (s->block) {
        dev_forget(s->dev);
        dev_free(s->dev, s->block);
    }
    free(s->host);
    *s = (struct sampler){0};
}

/* Keeps the last `window` ids. */
static void push_recent(struct sampler *s, int slot, int32_t id)
{
    struct sample_row *row = &s->slot_row[slot];
    int32_t *recent = s->slot.recent + (size_t)slot * SAMPLE_RECENT;
    if (s->window[slot] == 0)
        return;
    if (row->n_recent == s->window[slot]) {
        memmove(recent, recent + 1, (size_t)(row->n_recent - 1) * sizeof *recent);
        row->n_recent--;
    }
    recent[row->n_recent++] = id;
}

void sampler_start(struct sampler *s, int slot, const struct sample_opts *o, uint32_t key,
                   const int32_t *ids, size_t n)
{
    const bool is_penalised =
        o->repeat_penalty != 1 || o->freq_penalty != 0 || o->pres_penalty != 0;
    s->window[slot] = is_penalised ? o->repeat_last : 0;
    s->slot_row[slot] = (struct sample_row){.seed = o->seed,
                                            .prompt = key,
                                            .temperature = o->temperature,
                                            .top_p = o->top_p,
                                            .min_p = o->min_p,
                                            .typical_p = o->typical_p,
                                            .repeat_penalty = o->repeat_penalty,
                                            .freq_penalty = o->freq_penalty,
                                            .pres_penalty = o->pres_penalty,
                                            .top_k = o->top_k,
                                            .n_bias = o->n_bias};
    s->version[slot] = ++s->n_starts;
    memcpy(s->slot.bias_id + (size_t)slot * SAMPLE_BIAS, o->bias_id, sizeof o->bias_id);
    memcpy(s->slot.bias + (size_t)slot * SAMPLE_BIAS, o->bias, sizeof o->bias);
    for (size_t i = n > SAMPLE_RECENT ? n - SAMPLE_RECENT : 0; i < n; i++)
        push_recent(s, slot, ids[i]);
}

/* Row r of the call from its slot; says which of the device's tables are no longer right. */
static void gather(struct sampler *s, int r, int slot, bool *is_recent_new, bool *is_bias_new)
{
    const struct sample_row *row = &s->slot_row[slot];
    s->row[r] = *row;
    const size_t recent = (size_t)row->n_recent, bias = (size_t)row->n_bias;
    const size_t to_recent = (size_t)r * SAMPLE_RECENT, from_recent = (size_t)slot * SAMPLE_RECENT;
    const size_t to_bias = (size_t)r * SAMPLE_BIAS, from_bias = (size_t)slot * SAMPLE_BIAS;
    memcpy(s->rows.recent + to_recent, s->slot.recent + from_recent, recent * sizeof(int32_t));
    *is_recent_new |= recent > 0;
    if (bias == 0 || s->sent[r] == s->version[slot])
        return;
    memcpy(s->rows.bias_id + to_bias, s->slot.bias_id + from_bias, bias * sizeof(int32_t));
    memcpy(s->rows.bias + to_bias, s->slot.bias + from_bias, bias * sizeof(float));
    s->sent[r] = s->version[slot];
    *is_bias_new = true;
}

static void send_tables(struct sampler *s, const int32_t *slot, size_t R)
{
    bool is_recent_new = false, is_bias_new = false;
    for (size_t r = 0; r < R; r++)
        gather(s, (int)r, slot[r], &is_recent_new, &is_bias_new);
    if (is_recent_new)
        dev_upload(s->dev, s->dev_rows.recent, s->rows.recent, R * SAMPLE_RECENT * sizeof(int32_t));
    if (!is_bias_new)
        return;
    dev_upload(s->dev, s->dev_rows.bias_id, s->rows.bias_id, R * SAMPLE_BIAS * sizeof(int32_t));
    dev_upload(s->dev, s->dev_rows.bias, s->rows.bias, R * SAMPLE_BIAS * sizeof(float));
}

bool sampler_goes_on(const struct sampler *s, int slot)
{
    return s->window[slot] == 0;
}

int sampler_begin(struct sampler *s, struct model *m, struct state *state, const int32_t *slot,
                  const int32_t *ids, int R, struct err *err)
{
    const struct sample_tables tables = {s->dev_rows.recent, s->dev_rows.bias_id, s->dev_rows.bias,
                                         SAMPLE_RECENT, SAMPLE_BIAS};
    if (R > s->n_slots)
        return err_set(err, NULL, NULL, "%d rows, the sampler holds %d", R, s->n_slots);
    send_tables(s, slot, (size_t)R);
    TRY(model_choose_begin(m, state, slot, ids, R, s->row, &tables, err));
    for (int r = 0; r < R; r++)
        s->slot_row[slot[r]].position++;
    return 0;
}

int sampler_end(struct sampler *s, struct model *m, const int32_t *slot, int R, int32_t *id,
                float *logp, struct err *err)
{
    TRY(model_choose_end(m, R, id, logp, err));
    for (int r = 0; r < R; r++)
        push_recent(s, slot[r], id[r]);
    return 0;
}

int sampler_step(struct sampler *s, struct model *m, struct state *state, const int32_t *slot,
                 const int32_t *ids, int R, int32_t *id, float *logp, struct err *err)
{
    TRY(sampler_begin(s, m, state, slot, ids, R, err));
    return sampler_end(s, m, slot, R, id, logp, err);
}
