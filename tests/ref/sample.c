/* Sampling, by sorting. Each filter leaves a distribution over fewer tokens. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

struct token {
    int id;
    double rank; /* the greater the better */
};

static int by_rank(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? 1 : -1;
    return x->id - y->id;
}

/* l of those left out is -infinity. */
static void softmax(double *p, const double *l, int V)
{
    double top = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++)
        top = fmax(top, l[v]);
    for (int v = 0; v < V; v++)
        sum += p[v] = exp(l[v] - top);
    for (int v = 0; v < V; v++)
        p[v] /= sum;
}

/* Leaves out all but the best tokens whose weights reach the mass. */
static void keep_best(double *l, const double *rank, const double *weight, double mass, int V)
{
    struct token *order = malloc((size_t)V * sizeof *order);
    int n = 0;
    for (int v = 0; v < V; v++)
        if (l[v] > -INFINITY)
            order[n++] = (struct token){v, rank[v]};
    qsort(order, (size_t)n, sizeof *order, by_rank);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && sum >= mass)
            l[order[i].id] = -INFINITY;
        sum += weight ? weight[order[i].id] : 1;
    }
    free(order);
}

static void penalise(double *l, int V, const struct sample_row *row, const int32_t *recent)
{
    for (int v = 0; v < V; v++) {
        int count = 0;
        for (int i = 0; i < row->n_recent; i++)
            count += recent[i] == v;
        if (count == 0)
            continue;
        l[v] = l[v] > 0 ? l[v] / (double)row->repeat_penalty : l[v] * (double)row->repeat_penalty;
        l[v] -= count * (double)row->freq_penalty + (double)row->pres_penalty;
    }
}

static void keep_typical(double *l, double *p, double mass, int V)
{
    double *rank = malloc((size_t)V * sizeof *rank), entropy = 0;
    softmax(p, l, V);
    for (int v = 0; v < V; v++)
        entropy -= p[v] > 0 ? p[v] * log(p[v]) : 0;
    for (int v = 0; v < V; v++)
        rank[v] = -fabs(-log(p[v]) - entropy);
    keep_best(l, rank, p, mass, V);
    free(rank);
}

int ref_sample(double *p, double u, const double *logits, int V, const struct sample_row *row,
               const int32_t *recent, const int32_t *bias_id, const float *bias)
{
    double *l = malloc((size_t)V * sizeof *l);
    int best = 0;
    for (int v = 0; v < V; v++)
        l[v] = logits[v];
    penalise(l, V, row, recent);
    for (int i = 0; i < row->n_bias; i++)
        l[bias_id[i]] += (double)bias[i];
    for (int v = 0; v < V; v++)
        if (l[v] > l[best])
            best = v;
    for (int v = 0; row->temperature == 0 && v < V; v++)
        l[v] = v == best ? 0 : -INFINITY;
    for (int v = 0; row->temperature > 0 && v < V; v++)
        l[v] /= (double)row->temperature;
    if (row->temperature > 0 && row->top_k > 0)
        keep_best(l, l, NULL, row->top_k, V);
    if (row->temperature > 0 && row->typical_p < 1)
        keep_typical(l, p, (double)row->typical_p, V);
    softmax(p, l, V);
    if (row->temperature > 0 && row->top_p < 1)
        keep_best(l, p, p, (double)row->top_p, V);
    softmax(p, l, V);
    double top = 0, sum = 0;
    for (int v = 0; v < V; v++)
        top = fmax(top, p[v]);
    for (int v = 0; v < V; v++)
        if (row->temperature > 0 && p[v] < (double)row->min_p * top)
            l[v] = -INFINITY;
    softmax(p, l, V);
    free(l);
    for (int v = 0; v < V; v++) {
        sum += p[v];
        if (sum > u)
            return v;
    }
    return best;
}
