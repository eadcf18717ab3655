/* train_plan: see train_plan.h. */
#include "train_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The number after `key` in a file of lines, or the first number where key is "". NAN: none. */
static double number_in(const char *path, const char *key)
{
    char line[256];
    double value = NAN;
    FILE *f = fopen(path, "re");
    while (f && isnan(value) && fgets(line, sizeof line, f)) {
        char *end;
        const char *at = line + strlen(key);
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        const double v = strtod(at, &end);
        if (end != at)
            value = v;
    }
    if (f)
        fclose(f);
    return value;
}

double train_memory_free(void)
{
    const double machine = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    /* cached files of the group can be dropped, so only anonymous memory counts against it */
    const double group = number_in("/sys/fs/cgroup/memory.max", "") -
                         number_in("/sys/fs/cgroup/memory.stat", "anon ");
    const double least = fmin(machine, group); /* fmin takes the one that is a number */
    return least > 0 ? least : 0;
}

/* What a driver keeps of a GPU for one process, its code and tables. Where there is no GPU to ask,
 * about what CUDA 12 takes. */
static double context_bytes(const struct dev *dev)
{
    static const double usual = 400.0 * (1 << 20);
    if (dev->is_host)
        return 0;
    const double taken = (double)dev->total_bytes - (double)dev->free_bytes;
    return taken > 0 && taken < usual ? taken : usual;
}

double train_plan_budget(const struct dev *dev, double memory)
{
    const double free_bytes = dev->is_host ? train_memory_free() : (double)dev->free_bytes;
    if (memory <= 0)
        return free_bytes;
    const double most = fmax(memory - context_bytes(dev), 1);
    return free_bytes > 0 ? fmin(most, free_bytes) : most;
}

static int plan_bytes(const struct train_head *h, const struct dev *dev, struct arena *plan,
                      struct err *err)
{
    *plan = (struct arena){0};
    return train_plan(&h->c, &h->opts, dev, plan, err);
}

/* --- what would fit --- */

/* About how long a token takes: what is computed again, and what a micro-batch takes however short
 * it is, in tokens: a GPU starts some hundred kernels for it. */
static double token_cost(const struct train_head *h, const struct dev *dev)
{
    static const double work[] = {1, 1.06, 1.33, 1.6}; /* by enum recompute */
    const double overhead = dev->is_host ? 16 : 1024;
    const double tokens = (double)h->opts.batch * h->c.max_positions;
    return work[h->opts.recompute] * (1 + overhead / tokens);
}

/* Sets batch, accum and recompute to the fastest that fits, from those of h on: less kept and more
 * computed again, or smaller micro-batches that make up the same step. Where none fits, to the
 * smallest, *is_found false. plan: of what was set. */
static int find_fit(struct train_head *h, const struct dev *dev, double free_bytes, bool *is_found,
                    struct arena *plan, struct err *err)
{
    const int64_t rows = h->opts.batch * h->opts.accum, largest = h->opts.batch;
    struct train_head best = *h;
    double best_cost = INFINITY;
    for (int r = best.opts.recompute; r <= RECOMPUTE_FULL; r++)
        for (int64_t b = largest; b >= 1; b--) {
            if (rows % b != 0)
                continue;
            h->opts.recompute = r;
            h->opts.batch = b;
            h->opts.accum = rows / b;
            if (token_cost(h, dev) >= best_cost)
                continue;
            TRY(plan_bytes(h, dev, plan, err));
            if ((double)plan->used > free_bytes)
                continue;
            best = *h;
            best_cost = token_cost(h, dev);
        }
    *is_found = isfinite(best_cost);
    if (*is_found)
        *h = best;
    return plan_bytes(h, dev, plan, err);
}

int train_plan_choose(struct train_head *h, const struct dev *dev, double budget, bool may_split,
                      struct err *err)
{
    struct arena plan;
    bool is_found;
    h->opts.recompute = RECOMPUTE_NONE;
    if (may_split) {
        h->opts.batch *= h->opts.accum;
        h->opts.accum = 1;
        if (h->opts.batch > 65536)
            return err_set(err, NULL, "lower --batch-tokens", "a step of %lld rows is too large",
                           (long long)h->opts.batch);
        return find_fit(h, dev, budget, &is_found, &plan, err);
    }
    for (; h->opts.recompute < RECOMPUTE_FULL; h->opts.recompute++) {
        TRY(plan_bytes(h, dev, &plan, err));
        if ((double)plan.used <= budget)
            break;
    }
    return 0;
}

int train_plan_check(const struct train_head *h, const struct dev *dev, double free_bytes,
                     struct err *err)
{
    struct arena plan, less = {0};
    struct train_head other = *h;
    bool is_found;
    char needs[32], has[32], mend[256], then[32];
    TRY(plan_bytes(h, dev, &plan, err));
    if (free_bytes <= 0 || (double)plan.used <= free_bytes)
        return 0;
    TRY(find_fit(&other, dev, free_bytes, &is_found, &less, err));
    if (is_found)
        snprintf(mend, sizeof mend, "with --recompute=%s --batch=%lld --accum=%lld it needs %s",
                 recompute_names[other.opts.recompute], (long long)other.opts.batch,
                 (long long)other.opts.accum, cli_bytes(then, sizeof then, (double)less.used));
    else
        snprintf(mend, sizeof mend,
                 "choose a smaller model or --context; even --recompute=full --batch=1 needs %s",
                 cli_bytes(then, sizeof then, (double)less.used));
    return err_set(err, NULL, mend, "the run needs %s of memory, but %s are free",
                   cli_bytes(needs, sizeof needs, (double)plan.used),
                   cli_bytes(has, sizeof has, free_bytes));
}

/* --- --plan --- */

static void print_count(const char *item, double value, const char *unit)
{
    char text[32];
    printf("%s,%.0f,%s,%s\n", item, value, unit, cli_count(text, sizeof text, value));
}

static void print_bytes(const char *item, double value)
{
    char text[32];
    printf("%s,%.0f,bytes,%s\n", item, value, cli_bytes(text, sizeof text, value));
}

static void print_memory(const struct arena *plan)
{
    char item[64];
    for (int kind = 0; kind < MEM_KINDS; kind++) {
        if (plan->by_kind[kind] == 0)
            continue;
        snprintf(item, sizeof item, "memory %s", mem_kind_name((enum mem_kind)kind));
        print_bytes(item, (double)plan->by_kind[kind]);
    }
    print_bytes("memory total", (double)plan->used);
}

static void print_split(const struct train_opts *o)
{
    print_count("micro-batch", (double)o->batch, "rows");
    print_count("micro-batches", (double)o->accum, "a step");
    printf("recompute,%d,,%s\n", o->recompute, recompute_names[o->recompute]);
}

int train_plan_print(const struct train_head *h, const struct dev *dev, double memory,
                     struct err *err)
{
    struct arena plan;
    struct params p;
    struct err advice = {0};
    const double free_bytes = train_plan_budget(dev, memory);
    const int T = h->c.max_positions;
    TRY(plan_bytes(h, dev, &plan, err));
    TRY(params_open(&p, &h->c, err));
    printf("item,value,unit,readable\n");
    print_count("parameters", (double)p.n_values, "parameters");
    params_free(&p);
    print_count("tokens a step", (double)train_step_tokens(&h->opts, &h->c), "tokens");
    print_count("forward", model_flops_fwd(&h->c, T), "flop/token");
    print_count("training", model_flops_train(&h->c, T, (enum recompute)h->opts.recompute),
                "flop/token");
    print_split(&h->opts);
    print_memory(&plan);
    if (!dev->is_host)
        print_bytes("memory context", context_bytes(dev));
    if (free_bytes > 0)
        print_bytes("memory free", free_bytes);
    const bool fits = train_plan_check(h, dev, free_bytes, &advice) == 0;
    printf("fits,%d,,%s\n", fits, fits ? "yes" : advice.mend);
    return 0;
}
