/* optim: see optim.h. */
#include "optim.h"

#include <stdlib.h>

static bool starts_run(const struct params *p, int i)
{
    return i == 0 || p->list[i].has_decay != p->list[i - 1].has_decay;
}

static int count_runs(const struct params *p)
{
    int n = 0;
    for (int i = 0; i < p->n; i++)
        n += starts_run(p, i);
    return n;
}

static void carve(struct optim *o, const struct params *p, enum dtype moments, struct arena *a)
{
    const int64_t n = (int64_t)p->count;
    o->m = arena_tensor(a, MEM_MOMENTS, moments, 1, n, 0, 0, 0);
    o->v = arena_tensor(a, MEM_MOMENTS, moments, 1, n, 0, 0, 0);
    o->n_runs = count_runs(p);
    o->runs = arena_take(a, (size_t)o->n_runs * sizeof *o->runs, MEM_MOMENTS);
}

void optim_plan(const struct params *p, enum dtype moments, struct arena *plan)
{
    struct optim none;
    struct arena a = {0};
    carve(&none, p, moments, &a);
    plan->used += a.used;
    plan->by_kind[MEM_MOMENTS] += a.used;
}

/* The padding between parameters is zero and stays zero, so it may belong to any run. */
static int upload_runs(struct optim *o, const struct params *p, struct err *err)
{
    const size_t bytes = (size_t)o->n_runs * sizeof *o->runs;
    struct adamw_run *runs = calloc((size_t)o->n_runs, sizeof *runs);
    if (!runs)
        return err_oom(err, bytes);
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (starts_run(p, i))
            runs[n++] = (struct adamw_run){(int64_t)p->list[i].offset, p->list[i].has_decay, 0};
    dev_upload(o->dev, o->runs, runs, bytes);
    free(runs);
    return 0;
}

int optim_open(struct optim *o, const struct params *p, enum dtype moments, struct dev *dev,
               struct err *err)
{
    *o = (struct optim){.dev = dev};
    struct arena a = {0};
    carve(o, p, moments, &a);
    const size_t bytes = a.used;
    TRY(dev_alloc(dev, &o->block, bytes, err));
    a = (struct arena){.base = o->block};
    carve(o, p, moments, &a);
    dev_zero(dev, o->block, bytes);
    if (upload_runs(o, p, err) == 0)
        return 0;
    optim_close(o);
    return -1;
}

void optim_close(struct optim *o)
{
    if (o->block) {
        dev_forget(o->dev);
        dev_free(o->dev, o->block);
    }
    *o = (struct optim){0};
}

struct work {
    struct optim *o;
    struct model *m;
};

static void run_step(void *arg)
{
    const struct work *w = arg;
    struct optim *o = w->o;
    struct model *m = w->m;
    const struct ops *ops = o->dev->ops;
    ops->gnorm(o->dev, m->ctl, m->grad, m->params.count);
    ops->adamw(o->dev, m->master, &o->m, &o->v, m->grad, m->params.count, o->runs, o->n_runs,
               m->ctl);
    model_refresh(m);
}

void optim_step(struct optim *o, struct model *m)
{
    struct work work = {o, m};
    dev_run(o->dev, (uint64_t)(uintptr_t)o->block, run_step, &work);
}
