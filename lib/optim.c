/* optim: see optim.h. */
#include "optim.h"

#include <stdlib.h>

/* All but the parts of a product that another one starts. */
static bool starts_run(const struct params *p, int i)
{
    return p->list[i].product_rows || !p->list[i].is_matrix;
}

static int count_runs(const struct params *p)
{
    int n = 0;
    for (int i = 0; i < p->n; i++)
        n += starts_run(p, i);
    return n;
}

/* Gives each its place, and returns that of the runs, to fill. */
static struct adamw_run *carve(struct optim *o, const struct params *p, enum dtype moments,
                               struct arena *a)
{
    const int64_t n = (int64_t)p->count;
    o->m = arena_tensor(a, MEM_MOMENTS, moments, 1, n, 0, 0, 0);
    o->v = arena_tensor(a, MEM_MOMENTS, moments, 1, n, 0, 0, 0);
    o->runs.n = count_runs(p);
    struct adamw_run *run = arena_take(a, (size_t)o->runs.n * sizeof *run, MEM_MOMENTS);
    o->runs.run = run;
    return run;
}

void optim_plan(const struct params *p, enum dtype moments, struct arena *plan)
{
    struct optim none;
    struct arena a = {0};
    carve(&none, p, moments, &a);
    plan->used += a.used;
    plan->by_kind[MEM_MOMENTS] += a.used;
}

/* That of parameter i. The padding between parameters is zero and stays zero, so it may belong to
 * any run. */
static struct adamw_run run_of(const struct model *m, int i)
{
    const struct param *p = &m->params.list[i];
    const struct weight *w = &m->weight[i];
    struct adamw_run run = {.begin = (int64_t)p->offset, .has_decay = p->has_decay};
    if (p->product_rows && w->dtype != DT_F32 && w->layout == 0) {
        run.copy = w->data;
        run.copy_dtype = (int32_t)w->dtype;
        run.n_copy = (int64_t)w->rows * w->cols;
    }
    return run;
}

static int upload_runs(struct optim *o, struct adamw_run *to, const struct model *m,
                       struct err *err)
{
    const struct params *p = &m->params;
    const size_t bytes = (size_t)o->runs.n * sizeof *to;
    struct adamw_run *runs = calloc((size_t)o->runs.n, sizeof *runs);
    if (!runs)
        return err_oom(err, bytes);
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (starts_run(p, i)) {
            runs[n] = run_of(m, i);
            o->runs.copy_bytes += (size_t)runs[n++].n_copy * sizeof(uint16_t);
        }
    dev_upload(o->dev, to, runs, bytes);
    free(runs);
    return 0;
}

int optim_open(struct optim *o, const struct model *m, enum dtype moments, struct err *err)
{
    *o = (struct optim){.dev = m->dev};
    struct arena a = {0};
    carve(o, &m->params, moments, &a);
    const size_t bytes = a.used;
    TRY(dev_alloc(o->dev, &o->block, bytes, err));
    a = (struct arena){.base = o->block};
    struct adamw_run *run = carve(o, &m->params, moments, &a);
    dev_zero(o->dev, o->block, bytes);
    if (upload_runs(o, run, m, err) == 0)
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
    ops->adamw(o->dev, m->master, &o->m, &o->v, m->grad, m->params.count, &o->runs, m->ctl);
    model_refresh_norm(m);
}

void optim_step(struct optim *o, struct model *m)
{
    struct work work = {o, m};
    dev_run(o->dev, (uint64_t)(uintptr_t)o->block, run_step, &work);
}
