/* What must be equal to the bit on the CUDA backend, under emulation or on the GPU of
 * --device=cuda: two runs of a whole model, orders of threads, recompute modes, recorded steps and
 * plain ones. The device's memory is what the plan says. */
#include "backends.h"

/* --- the spy: a device's table with other entries for memory and recorded work. Tests are the only
 * ones that may keep this in a file's own variables, since the table's functions take no context
 * --- */
static struct {
    const struct ops *real;
    struct ops table;
    size_t bytes;
    int n_allocs, n_works; /* n_works: how often run called what it was given */
    void (*work)(void *);
} spy;

static int spy_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    spy.bytes += bytes;
    spy.n_allocs++;
    return spy.real->alloc(dev, p, bytes, err);
}

static void spy_work(void *arg)
{
    spy.n_works++;
    spy.work(arg);
}

static void spy_run(struct dev *dev, uint64_t key, void (*work)(void *), void *arg)
{
    spy.work = work;
    spy.real->run(dev, key, spy_work, arg);
}

static void begin_spying(struct dev *dev)
{
    spy.real = dev->ops;
    spy.table = *spy.real;
    spy.table.alloc = spy_alloc;
    spy.table.run = spy_run;
    spy.bytes = 0;
    spy.n_allocs = spy.n_works = 0;
    dev->ops = &spy.table;
}

static void end_spying(struct dev *dev)
{
    dev->ops = spy.real;
}

/* --- the checks --- */

static bool is_same(const struct text *t, const struct results *a, const struct results *b)
{
    return memcmp(a->loss, b->loss, n_losses(t) * sizeof(float)) == 0 &&
           memcmp(a->grad, b->grad, t->params.count * sizeof(float)) == 0 &&
           memcmp(a->logits, b->logits, n_logits(t) * sizeof(float)) == 0;
}

static bool is_same_gradient(const struct text *t, const float *a, const float *b)
{
    return memcmp(a, b, t->params.count * sizeof(float)) == 0;
}

/* Other ids and targets of the same documents. */
static struct batch_rows other_rows(const struct text *t)
{
    struct batch_rows b = random_rows(t->rows.rows.B, t->rows.rows.T, t->c.V, cuts, 4);
    const size_t M = n_losses(t);
    for (size_t i = 0; i < M; i++) {
        b.block[i] = random_id(3, i, t->c.V);
        b.block[M + i] = random_id(4, i, t->c.V);
    }
    return b;
}

/* What is done once is done plainly, the second time recorded, and replayed from then on, also for
 * other ids. */
static void check_graphs(const struct text *t, struct dev *dev, const struct results *want)
{
    struct model m;
    struct batch_rows other = other_rows(t);
    const struct model_opts opts = opts_for(&t->rows.rows);
    begin_spying(dev);
    open_model(&m, &t->c, &opts, dev, t->weights);
    spy.table.run = NULL;
    float *plain = gradient(&m, &other.rows, NULL);
    spy.table.run = spy_run;
    bool same = true;
    for (int i = 0; i < 4; i++) {
        const bool is_other = i % 2;
        float *g = gradient(&m, is_other ? &other.rows : &t->rows.rows, NULL);
        same = same && is_same_gradient(t, g, is_other ? plain : want->grad);
        free(g);
    }
    ok(same, "%s: gradients of recorded work are those of plain calls", dev->name);
    ok(spy.n_works == 2, "%s: of four passes two were called: %d", dev->name, spy.n_works);
    spy.n_works = 0;
    spy.table.run = NULL;
    float *logits = decode(&m, &t->rows.rows);
    ok(memcmp(logits, want->logits, n_logits(t) * sizeof *logits) == 0,
       "%s: logits of recorded steps are those of plain calls", dev->name);
    free(logits);
    model_close(&m);
    end_spying(dev);
    free(plain);
    free(other.block);
}

static void check_recompute(const struct text *t, struct dev *dev, const struct results *want)
{
    for (int mode = RECOMPUTE_CHEAP; mode <= RECOMPUTE_FULL; mode++) {
        struct model m;
        struct model_opts opts = opts_for(&t->rows.rows);
        opts.recompute = (enum recompute)mode;
        open_model(&m, &t->c, &opts, dev, t->weights);
        float *g = gradient(&m, &t->rows.rows, NULL);
        ok(is_same_gradient(t, g, want->grad), "%s: recompute mode %d: the same bits", dev->name,
           mode);
        free(g);
        model_close(&m);
    }
}

/* dev has no workspace yet. count: of an emulated GPU, else NULL. */
static void check_memory(const struct text *t, struct dev *dev,
                         void (*count)(struct hm_emu_counts *))
{
    struct err err;
    struct model m;
    struct arena plan;
    struct hm_emu_counts before = {0}, after = {0};
    struct model_opts opts = opts_for(&t->rows.rows);
    opts.read_T = 8;
    begin_spying(dev);
    must(model_plan(&t->c, &opts, dev, &plan, &err), &err);
    if (count)
        count(&before);
    open_model(&m, &t->c, &opts, dev, t->weights);
    if (count)
        count(&after);
    ok(spy.bytes == plan.used, "%s: %zu bytes planned, %zu taken", dev->name, plan.used, spy.bytes);
    ok(!count || after.now_bytes - before.now_bytes == plan.used, "%s: and on the GPU itself",
       dev->name);
    spy.n_allocs = 0;
    free(gradient(&m, &t->rows.rows, NULL));
    free(gradient(&m, &t->rows.rows, NULL));
    ok(spy.n_allocs == 0, "%s: passes take none", dev->name);
    spy.bytes = 0;
    struct state s;
    const size_t state_bytes = state_plan(&t->c, dev, R, 30);
    must(state_open(&s, &t->c, dev, R, 30, &err), &err);
    ok(spy.bytes == state_bytes, "%s: a state takes the %zu bytes planned", dev->name, state_bytes);
    state_free(&s);
    model_close(&m);
    end_spying(dev);
}

/* All checks of an open device; what a run gives. */
static struct results check_device(const struct text *t, struct dev *dev,
                                   void (*count)(struct hm_emu_counts *))
{
    check_memory(t, dev, count);
    const struct results r = run_on(t, dev);
    check_graphs(t, dev, &r);
    check_recompute(t, dev, &r);
    return r;
}

static void each_emulated(const struct text *t)
{
    const struct cuda_lib lib = load_cuda_lib("libhm-emu.so");
    for (size_t i = 0; i < MODEL_GPUS; i++) {
        struct dev dev;
        open_emulated(&dev, &lib, &gpus[i], false);
        struct results first = check_device(t, &dev, lib.count);
        close_emulated(&dev, &lib, &gpus[i]);
        open_emulated(&dev, &lib, &gpus[i], true);
        struct results again = run_on(t, &dev);
        ok(is_same(t, &first, &again), "%s: the same bits whatever the order of threads", dev.name);
        close_emulated(&dev, &lib, &gpus[i]);
        free_results(&first);
        free_results(&again);
    }
}

static void each_real(const struct text *t)
{
    const struct cuda_lib lib = load_cuda_lib("libhm-cuda.so");
    for (size_t i = 0; i < MODEL_GPUS; i++) {
        struct dev dev;
        open_cuda(&dev, &lib, gpus[i].act, "");
        struct results first = check_device(t, &dev, NULL), again = run_on(t, &dev);
        ok(is_same(t, &first, &again), "%s: the same bits twice", dev.name);
        dev_close(&dev);
        free_results(&first);
        free_results(&again);
    }
}

int main(void)
{
    struct text t = hybrid();
    if (is_wanted("emu"))
        each_emulated(&t);
    if (is_wanted("cuda"))
        each_real(&t);
    close_text(&t);
    return tap_done();
}
