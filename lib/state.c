/* state: memory, reset and copies of what a model remembers; see state.h. Files: state_file.c. */
#include "state.h"

#include <stdlib.h>
#include <string.h>

static size_t n_taps(const struct config *c)
{
    const size_t E = (size_t)c->mamba_heads * (size_t)c->mamba_head_dim;
    return (size_t)(c->K - 1) * (E + 2 * (size_t)c->mamba_groups * (size_t)c->N);
}

static size_t n_ssm(const struct config *c)
{
    return (size_t)c->mamba_heads * (size_t)c->mamba_head_dim * (size_t)c->N;
}

/* Lays out one layer; the same code plans and allocates. */
static void carve(struct arena *a, struct state_layer *l, const struct config *c, char letter,
                  enum dtype act, int n_slots, int S)
{
    *l = (struct state_layer){0};
    if (letter == 'm') {
        l->taps = arena_take(a, (size_t)n_slots * n_taps(c) * sizeof(float), MEM_STATE);
        l->ssm = arena_take(a, (size_t)n_slots * n_ssm(c) * sizeof(float), MEM_STATE);
    } else {
        const int64_t kv = (int64_t)c->kv_heads * c->head_dim;
        l->k = arena_tensor(a, MEM_STATE, act, 3, n_slots, S, kv, 0);
        l->v = arena_tensor(a, MEM_STATE, act, 3, n_slots, S, kv, 0);
    }
}

size_t state_plan(const struct config *c, const struct dev *dev, int n_slots, int S)
{
    struct arena a = {0};
    struct state_layer l;
    for (int i = 0; i < c->L; i++)
        carve(&a, &l, c, c->pattern[i], dev->act_dtype, n_slots, S);
    return a.used;
}

int state_open(struct state *s, const struct config *c, struct dev *dev, int n_slots, int S,
               struct err *err)
{
    *s = (struct state){.dev = dev, .c = c, .n_slots = n_slots, .S = S};
    if (n_slots < 1 || S < 1)
        return err_set(err, NULL, "ask for at least one", "a state of %d slots of %d positions",
                       n_slots, S);
    s->bytes = state_plan(c, dev, n_slots, S);
    s->pos = calloc((size_t)n_slots, sizeof *s->pos);
    if (!s->pos)
        return err_oom(err, (size_t)n_slots * sizeof *s->pos);
    if (dev_alloc(dev, &s->block, s->bytes, err) != 0) {
        state_free(s);
        return -1;
    }
    struct arena a = {.base = s->block};
    for (int i = 0; i < c->L; i++)
        carve(&a, &s->layer[i], c, c->pattern[i], dev->act_dtype, n_slots, S);
    dev_zero(dev, s->block, s->bytes);
    return 0;
}

void state_free(struct state *s)
{
    if (s->block) {
        dev_forget(s->dev);
        dev_free(s->dev, s->block);
    }
    free(s->pos);
    *s = (struct state){0};
}

float *state_taps(const struct state *s, int layer, int slot)
{
    return s->layer[layer].taps + (size_t)slot * n_taps(s->c);
}

float *state_ssm(const struct state *s, int layer, int slot)
{
    return s->layer[layer].ssm + (size_t)slot * n_ssm(s->c);
}

struct tensor state_keys(const struct state *s, int layer, int slot)
{
    return tensor_row_range(&s->layer[layer].k, (int64_t)slot * s->S, s->S);
}

struct tensor state_values(const struct state *s, int layer, int slot)
{
    return tensor_row_range(&s->layer[layer].v, (int64_t)slot * s->S, s->S);
}

/* Keys and values need no clearing: positions from pos on are never read. */
void state_reset_run(struct state *s, int first, int n)
{
    for (int i = 0; i < n; i++)
        s->pos[first + i] = 0;
    for (int i = 0; i < s->c->L; i++) {
        if (s->c->pattern[i] != 'm')
            continue;
        dev_zero(s->dev, state_taps(s, i, first), (size_t)n * n_taps(s->c) * sizeof(float));
        dev_zero(s->dev, state_ssm(s, i, first), (size_t)n * n_ssm(s->c) * sizeof(float));
    }
}

void state_reset(struct state *s, int slot)
{
    state_reset_run(s, slot, 1);
}

static void copy_rows(struct dev *dev, const struct tensor *to, const struct tensor *from,
                      int64_t n)
{
    const struct tensor part = tensor_row_range(from, 0, n);
    dev_copy(dev, to->data, from->data, tensor_bytes(&part));
}

int state_copy(struct state *dst, int to, const struct state *src, int from, struct err *err)
{
    const int n = src->pos[from];
    if (dst->dev != src->dev || strcmp(dst->c->pattern, src->c->pattern) != 0)
        return err_set(err, NULL, NULL, "the two states are of different models or devices");
    if (n > dst->S && strchr(dst->c->pattern, 't'))
        return err_set(err, NULL, "make the context longer",
                       "a state of %d tokens does not fit into %d positions", n, dst->S);
    if (dst == src && to == from)
        return 0;
    for (int i = 0; i < dst->c->L; i++) {
        if (dst->c->pattern[i] == 'm') {
            dev_copy(dst->dev, state_taps(dst, i, to), state_taps(src, i, from),
                     n_taps(dst->c) * sizeof(float));
            dev_copy(dst->dev, state_ssm(dst, i, to), state_ssm(src, i, from),
                     n_ssm(dst->c) * sizeof(float));
            continue;
        }
        const struct tensor k = state_keys(dst, i, to), v = state_values(dst, i, to);
        const struct tensor old_k = state_keys(src, i, from), old_v = state_values(src, i, from);
        copy_rows(dst->dev, &k, &old_k, n);
        copy_rows(dst->dev, &v, &old_v, n);
    }
    dst->pos[to] = n;
    return 0;
}
