/* sample: the next token of each row. The filters (top-k, typical, top-p, min-p) narrow a list of
 * candidates that stays in id order, each looking at the softmax of what the one before left; then
 * one number picks from the cumulative distribution over ids. Three of the filters are one thing:
 * the smallest set of best tokens that holds a given mass, found by quickselect, not by sorting.
 *
 * Definitions: repetition penalty as in CTRL (Keskar et al. 2019) and transformers; typical:
 * Meister et al. 2023, "Locally typical sampling"; top-p: Holtzman et al. 2020. */
#include "cpu_ops.h"
#include "local.h"
#include "rng.h"
#include "softmax.h"

#include <float.h>

struct pair {
    float key, weight;
};

/* A row at work: the candidates, in id order, and what a filter judges them by. Arrays are (V). */
struct list {
    int n;
    int32_t *id;
    float *x; /* logit over temperature */
    float *key, *weight;
    struct pair *pair; /* scratch of keep_best */
};
enum { LIST_BYTES = 4 * 4 + sizeof(struct pair) }; /* a token */

struct sample_job {
    int32_t *id;
    float *logp;
    const struct tensor *logits;
    const struct sample_row *rows;
    const struct sample_tables *tables;
    char *work;
};

static bool is_id(int32_t id, int V)
{
    return id >= 0 && id < V;
}

/* Repetition, frequency and presence penalties, once a distinct recent id. count (V) is scratch. */
static void penalise(float *x, int32_t *count, int V, const struct sample_row *row,
                     const int32_t *recent)
{
    for (int i = 0; i < row->n_recent; i++)
        if (is_id(recent[i], V))
            count[recent[i]] = 0;
    for (int i = 0; i < row->n_recent; i++)
        if (is_id(recent[i], V))
            count[recent[i]]++;
    for (int i = 0; i < row->n_recent; i++) {
        if (!is_id(recent[i], V) || count[recent[i]] == 0)
            continue;
        float *l = &x[recent[i]];
        *l = *l > 0 ? *l / row->repeat_penalty : *l * row->repeat_penalty;
        *l -= (float)count[recent[i]] * row->freq_penalty + row->pres_penalty;
        count[recent[i]] = 0;
    }
}

/* Lowest id of the greatest value; 0 where there is none. */
static int32_t arg_max(const float *x, int V)
{
    const float top = softmax_top(x, V);
    for (int v = 0; v < V; v++)
        if (x[v] == top)
            return v;
    return 0;
}

static void swap(struct pair *a, struct pair *b)
{
    const struct pair t = *a;
    *a = *b;
    *b = t;
}

/* The key down to which the best of n pairs hold *mass; *mass becomes what those of that very key
 * have to add. -infinity where all pairs together hold less. Reorders the pairs. */
static float threshold(struct pair *pair, int n, double *mass)
{
    while (n > 0) {
        const float pivot = pair[n / 2].key;
        double above = 0, equal = 0;
        int n_above = 0, end = 0; /* [0,n_above) greater, [n_above,end) equal, then less */
        for (int i = 0; i < n; i++) {
            if (pair[i].key < pivot)
                continue;
            swap(&pair[end], &pair[i]);
            if (pair[end].key > pivot) {
                above += (double)pair[end].weight;
                swap(&pair[n_above++], &pair[end]);
            } else {
                equal += (double)pair[end].weight;
            }
            end++;
        }
        if (above >= *mass) {
            n = n_above;
            continue;
        }
        *mass -= above;
        if (equal >= *mass)
            return pivot;
        *mass -= equal;
        pair += end;
        n -= end;
    }
    *mass = DBL_MAX;
    return -INFINITY;
}

/* Keeps the candidates of greatest key whose weights reach `mass`, the lower id first among equals;
 * at least one. */
static void keep_best(struct list *c, double mass)
{
    for (int i = 0; i < c->n; i++)
        c->pair[i] = (struct pair){c->key[i], c->weight[i]};
    double need = mass > 0 ? mass : DBL_MIN;
    const float edge = threshold(c->pair, c->n, &need);
    const int n = c->n;
    c->n = 0;
    for (int i = 0; i < n; i++) {
        if (c->key[i] < edge || (c->key[i] == edge && need <= 0))
            continue;
        if (c->key[i] == edge)
            need -= (double)c->weight[i];
        c->id[c->n] = c->id[i];
        c->x[c->n++] = c->x[i];
    }
}

/* weight = softmax of the candidates; returns the log of the sum, so that log p = x - it. */
static float weigh(struct list *c)
{
    const float top = softmax_top(c->x, c->n);
    const double sum = softmax_terms(c->weight, c->x, c->n, top, 1);
    const float factor = (float)(1 / sum);
    for (int i = 0; i < c->n; i++)
        c->weight[i] *= factor;
    return (float)((double)top + log(sum));
}

static void keep_top_k(struct list *c, int top_k)
{
    for (int i = 0; i < c->n; i++) {
        c->key[i] = c->x[i];
        c->weight[i] = 1;
    }
    keep_best(c, top_k);
}

/* Those whose surprise is nearest to the expected one, the entropy. */
static void keep_typical(struct list *c, double mass)
{
    const float lse = weigh(c);
    double entropy = 0;
    for (int i = 0; i < c->n; i++)
        if (c->weight[i] > 0)
            entropy += (double)(c->weight[i] * (lse - c->x[i]));
    for (int i = 0; i < c->n; i++)
        c->key[i] = -fabsf(lse - c->x[i] - (float)entropy);
    keep_best(c, mass);
}

static void keep_top_p(struct list *c, double mass)
{
    weigh(c);
    for (int i = 0; i < c->n; i++)
        c->key[i] = c->x[i];
    keep_best(c, mass);
}

/* Those at least min_p as likely as the likeliest. */
static void keep_min_p(struct list *c, float min_p)
{
    const float edge = softmax_top(c->x, c->n) + logf(fminf(min_p, 1));
    const int n = c->n;
    c->n = 0;
    for (int i = 0; i < n; i++) {
        if (c->x[i] < edge)
            continue;
        c->id[c->n] = c->id[i];
        c->x[c->n++] = c->x[i];
    }
}

/* The candidate in whose part of the cumulative distribution u of [0,1) falls. */
static int32_t pick(struct list *c, double u)
{
    const float top = softmax_top(c->x, c->n);
    const double aim = u * softmax_terms(c->weight, c->x, c->n, top, 1);
    double sum = 0;
    int last = 0;
    for (int i = 0; i < c->n; i++) {
        if (c->weight[i] == 0)
            continue;
        sum += (double)c->weight[i];
        last = i;
        if (sum > aim)
            break;
    }
    return c->id[last];
}

static int32_t draw(struct list *c, const struct sample_row *row)
{
    for (int i = 0; i < c->n; i++) {
        c->id[i] = i;
        c->x[i] /= row->temperature;
    }
    if (row->top_k > 0 && row->top_k < c->n)
        keep_top_k(c, row->top_k);
    if (row->typical_p < 1)
        keep_typical(c, (double)row->typical_p);
    if (row->top_p < 1)
        keep_top_p(c, (double)row->top_p);
    if (row->min_p > 0)
        keep_min_p(c, row->min_p);
    const uint64_t stream = rng_stream(RNG_SAMPLE, row->prompt, row->position);
    return pick(c, (double)rng_uniform(row->seed, stream, 0));
}

static void sample_one(const struct sample_job *job, int64_t r, struct list *c)
{
    const struct sample_row *o = &job->rows[r];
    const struct sample_tables *t = job->tables;
    const int V = (int)tensor_cols(job->logits);
    const float *logits = row(job->logits, r);
    const float top = softmax_top(logits, V);
    const double lse = (double)top + log(softmax_sum(logits, V, top, 1));
    if (!isfinite(lse)) {
        job->id[r] = 0;
        job->logp[r] = NAN;
        return;
    }
    c->n = V;
    memcpy(c->x, logits, (size_t)V * sizeof *c->x);
    if (o->n_recent > 0)
        penalise(c->x, c->id, V, o, t->recent + r * t->recent_cap);
    for (int64_t i = r * t->bias_cap; i < r * t->bias_cap + o->n_bias; i++)
        if (is_id(t->bias_id[i], V))
            c->x[t->bias_id[i]] += t->bias[i];
    const float temperature = o->temperature;
    const float best = softmax_top(c->x, V);
    job->id[r] = temperature > 0 && isfinite(best / temperature) ? draw(c, o) : arg_max(c->x, V);
    job->logp[r] = (float)((double)logits[job->id[r]] - lse);
}

static void sample_worker(void *arg, int worker, int n_workers)
{
    const struct sample_job *job = arg;
    const size_t V = (size_t)tensor_cols(job->logits);
    char *work = job->work + (size_t)worker * V * LIST_BYTES;
    struct list c = {.pair = (struct pair *)work};
    void *floats = work + V * sizeof(struct pair), *ints = work + V * (LIST_BYTES - sizeof *c.id);
    c.x = floats;
    c.key = c.x + V;
    c.weight = c.key + V;
    c.id = ints;
    size_t begin, end;
    pool_share((size_t)tensor_rows(job->logits), 1, worker, n_workers, &begin, &end);
    for (size_t r = begin; r < end; r++)
        sample_one(job, (int64_t)r, &c);
}

void cpu_sample(struct dev *dev, int32_t *id, float *logp, const struct tensor *logits,
                const struct sample_row *rows, const struct sample_tables *tables)
{
    struct sample_job job = {id, logp, logits, rows, tables, dev->work};
    run_sized(dev, (int64_t)tensor_count(logits), sample_worker, &job);
}

size_t cpu_sample_plan(const struct dev *dev, const struct sizes *s)
{
    return (size_t)pool_size(pool_of(dev)) * (size_t)s->V * LIST_BYTES;
}
