/* Training on one backend and another: the CUDA backend (under emulation, or on the GPU of
 * --device=cuda) takes the memory that was planned, follows the CPU's losses for 20 steps, and goes
 * on from its own checkpoint bit for bit and from the other's by norm, either way; recorded steps
 * are plain ones.
 *
 * In f32 losses and weights are held to 1e-4; narrow types may err three times as much as the CPU
 * does with bf16 products. */
#include "cuda_lib.h"
#include "train_test.h"

enum { STEPS = 20, CUT = 17 /* where the checkpoint is made that others go on from */ };

/* What a run leaves. */
struct outcome {
    double loss[STEPS];
    struct buf cut, ckpt; /* the files after step CUT and after the last */
    float *weights;
    size_t n_weights;
};

/* What is allowed against the CPU in f32. */
struct tolerance {
    double loss, weights;
};

static void free_outcome(struct outcome *o)
{
    buf_free(&o->cut);
    buf_free(&o->ckpt);
    free(o->weights);
}

static void write_file(const char *path, const struct buf *bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes->data, 1, bytes->size, f) != bytes->size || fclose(f) != 0)
        abort();
}

/* A new run, or one that goes on from the checkpoint, with products as the device has them. */
static void begin(struct train_test *t, struct train *r, const struct buf *ckpt)
{
    const char *shards[] = {t->shard}, *path = scratch_path(&t->scratch, "from");
    const struct train_data d = {shards, shards, 1, 1};
    struct train_head h = t->head;
    if (ckpt) {
        write_file(path, ckpt);
        must(train_ckpt_head(&h, path, &t->err), &t->err);
        h.opts.dtype = t->head.opts.dtype;
    }
    must(train_open(r, &h, &d, &t->tok, 77, &t->dev, &t->err), &t->err);
    must(ckpt ? train_restore(r, path, &t->err) : train_init(r, &t->err), &t->err);
}

static struct buf save(struct train_test *t, struct train *r)
{
    const char *path = scratch_path(&t->scratch, "saved");
    must(train_save(r, path, &t->err), &t->err);
    return file_bytes(path);
}

static void take_step(struct train_test *t, struct train *r)
{
    must(train_step(r, &t->err) == 1 ? 0 : -1, &t->err);
}

/* The steps from where the checkpoint (NULL: the beginning) was made to the last. */
static struct outcome run(struct train_test *t, const struct buf *ckpt)
{
    struct outcome o = {0};
    struct train r;
    begin(t, &r, ckpt);
    while (r.head.state.step < STEPS) {
        const int64_t step = r.head.state.step;
        take_step(t, &r);
        must(train_measure(&r, &t->err), &t->err);
        o.loss[step] = train_loss(&r);
        if (step + 1 == CUT)
            o.cut = save(t, &r);
    }
    o.ckpt = save(t, &r);
    o.n_weights = r.model.params.count;
    o.weights = malloc(o.n_weights * sizeof *o.weights);
    memcpy(o.weights, r.io.weights, o.n_weights * sizeof *o.weights);
    train_close(&r);
    return o;
}

/* --- errors --- */

static double loss_error(const struct outcome *a, const struct outcome *b, int from)
{
    double worst = 0;
    for (int i = from; i < STEPS; i++) {
        const double rel = fabs(a->loss[i] / b->loss[i] - 1);
        worst = rel <= worst ? worst : rel;
    }
    return worst;
}

static double weights_error(const struct outcome *a, const struct outcome *b)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < a->n_weights; i++) {
        const double d = (double)a->weights[i] - (double)b->weights[i];
        diff += d * d;
        norm += (double)b->weights[i] * (double)b->weights[i];
    }
    return sqrt(diff / norm);
}

static bool is_same(const struct outcome *a, const struct outcome *b)
{
    return a->ckpt.size == b->ckpt.size && memcmp(a->ckpt.data, b->ckpt.data, a->ckpt.size) == 0;
}

/* --- the CPU --- */

struct reference {
    struct outcome whole; /* in f32 */
    struct tolerance narrow;
};

static void set_types(struct train_test *t, enum dtype product, enum dtype moments)
{
    t->head.opts.dtype = (int)product;
    t->head.opts.moments = (int)moments;
}

static struct reference run_cpu(struct train_test *t)
{
    struct reference ref;
    set_types(t, DT_BF16, DT_BF16);
    struct outcome narrow = run(t, NULL);
    set_types(t, DT_F32, DT_F32);
    ref.whole = run(t, NULL);
    ref.narrow.loss = 3 * loss_error(&narrow, &ref.whole, 0);
    ref.narrow.weights = 3 * weights_error(&narrow, &ref.whole);
    free_outcome(&narrow);
    return ref;
}

/* --- the checks --- */

static void check_memory(struct train_test *t, void (*count)(struct hm_emu_counts *))
{
    struct hm_emu_counts before = {0}, after = {0};
    struct arena plan = {0};
    struct train r;
    must(train_plan(&t->head.c, &t->head.opts, &t->dev, &plan, &t->err), &t->err);
    count(&before);
    begin(t, &r, NULL);
    count(&after);
    ok(after.now_bytes - before.now_bytes == plan.used, "%s: %zu bytes planned, %zu taken",
       t->dev.name, plan.used, (size_t)(after.now_bytes - before.now_bytes));
    take_step(t, &r);
    take_step(t, &r);
    must(train_measure(&r, &t->err), &t->err);
    count(&before);
    ok(before.n_allocs == after.n_allocs, "%s: steps take none", t->dev.name);
    train_close(&r);
}

static void check_curve(const struct train_test *t, const struct outcome *o,
                        const struct outcome *want, int from, const struct tolerance *tol,
                        const char *what)
{
    ok_within(loss_error(o, want, from), tol->loss, "%s: %s: losses to step %d", t->dev.name, what,
              (int)STEPS);
    ok_within(weights_error(o, want), tol->weights, "%s: %s: weights", t->dev.name, what);
}

/* Without recordings, from the same checkpoint. */
static struct outcome run_plainly(struct train_test *t, const struct buf *ckpt)
{
    const struct ops *kept = t->dev.ops;
    struct ops plain = *kept;
    plain.run = NULL;
    t->dev.ops = &plain;
    const struct outcome o = run(t, ckpt);
    t->dev.ops = kept;
    return o;
}

/* t's device is the CUDA backend, cpu's is the CPU. */
static void check_device(struct train_test *t, struct train_test *cpu, const struct reference *ref)
{
    const bool is_f32 = t->dev.act_dtype == DT_F32;
    const struct tolerance f32 = {1e-4, 1e-4}, *tol = is_f32 ? &f32 : &ref->narrow;
    struct outcome whole = run(t, NULL);
    check_curve(t, &whole, &ref->whole, 0, tol, "a whole run");
    struct outcome resumed = run(t, &whole.cut), plain = run_plainly(t, &whole.cut);
    ok(is_same(&resumed, &whole), "%s: resumed, it ends with the same bytes", t->dev.name);
    ok(is_same(&plain, &whole), "%s: so it does without recordings", t->dev.name);
    free_outcome(&resumed);
    resumed = run(t, &ref->whole.cut);
    check_curve(t, &resumed, &ref->whole, CUT, tol, "from the CPU's checkpoint");
    free_outcome(&resumed);
    resumed = run(cpu, &whole.cut);
    check_curve(t, &resumed, &ref->whole, CUT, tol, "on the CPU, from this one's");
    free_outcome(&resumed);
    free_outcome(&whole);
    free_outcome(&plain);
}

/* --- devices --- */

static void each_gpu(struct train_test *t, const struct reference *ref, bool is_emulated)
{
    const struct cuda_lib lib = load_cuda_lib(is_emulated ? "libhm-emu.so" : "libhm-cuda.so");
    struct train_test cpu = *t;
    for (size_t i = 0; i < MODEL_GPUS; i++) {
        if (is_emulated)
            open_emulated(&t->dev, &lib, &gpus[i], false);
        else
            open_cuda(&t->dev, &lib, gpus[i].act, "");
        set_types(t, gpus[i].act, gpus[i].act == DT_F32 ? DT_F32 : DT_BF16);
        if (is_emulated)
            check_memory(t, lib.count);
        check_device(t, &cpu, ref);
        if (is_emulated)
            close_emulated(&t->dev, &lib, &gpus[i]);
        else
            dev_close(&t->dev);
    }
    *t = cpu;
}

int main(void)
{
    struct train_test t = train_test_open();
    t.head.opts.max_steps = STEPS;
    t.head.opts.dropout = 0.1;
    t.head.opts.batch = 2;
    t.head.opts.lr = 5e-3;
    struct reference ref = run_cpu(&t);
    ok(ref.whole.loss[STEPS - 1] < ref.whole.loss[0] - 0.1, "losses fall: %.3f to %.3f",
       ref.whole.loss[0], ref.whole.loss[STEPS - 1]);
    if (is_wanted("emu"))
        each_gpu(&t, &ref, true);
    if (is_wanted("cuda"))
        each_gpu(&t, &ref, false);
    free_outcome(&ref.whole);
    train_test_close(&t);
    return tap_done();
}
