/* One backend and another: what whole models give on the CUDA backend (under emulation, or on the
 * GPU of --device=cuda) against the CPU's and against the golden files; and what must be equal to
 * the bit there: two runs, orders of threads, recompute modes, recorded steps and plain ones. The
 * device's memory is what the plan says.
 *
 * f32 is held to 1e-5 (logits, losses) and 1e-4 (gradients). Narrow types may err three times as
 * much as the CPU does with bf16 products, since what lies between ops is narrow, too; f16, with
 * three bits more, an eighth of that. */
#include "cuda_lib.h"
#include "golden.h"

enum { B = 2, T = 37, R = 2, DECODED = 24 /* tokens of each row */ };

static const int cuts[] = {1, 17, 20, 33}; /* documents of 1, 16, 3, 13 and 4 tokens */

/* What a model gives: losses (B,T), the gradient, and logits (DECODED,R,V) token by token. */
struct results {
    float *loss, *grad, *logits;
    double mean_loss;
};

/* What is allowed against the reference in f32. */
struct tolerance {
    double loss, grad, logits;
};

/* The case that all devices compute. */
struct text {
    const char *name;
    struct config c;
    struct params params;
    float *weights;
    struct batch_rows rows;
    struct results want;    /* in f32 */
    struct results plain16; /* the CPU's with bf16 products */
};

static struct model_opts opts_for(const struct rows *rows)
{
    return (struct model_opts){
        .is_training = true, .B = rows->B, .T = rows->T, .step_R = R, .S = rows->T};
}

/* --- a model's results --- */

static void free_results(struct results *r)
{
    free(r->loss);
    free(r->grad);
    free(r->logits);
}

/* The beginnings of both rows as one text each, token by token. */
static float *decode(struct model *m, const struct rows *rows)
{
    struct state s;
    struct err err;
    const size_t V = (size_t)m->c.V;
    float *logits = malloc(DECODED * R * V * sizeof *logits);
    must(state_open(&s, &m->c, m->dev, R, rows->T, &err), &err);
    for (int t = 0; t < DECODED; t++) {
        struct tensor out;
        const int32_t slot[R] = {1, 0}, ids[R] = {rows->ids[t], rows->ids[rows->T + t]};
        must(model_step(m, &s, slot, ids, R, &out, &err), &err);
        dev_download(m->dev, logits + (size_t)t * R * V, out.data, R * V * sizeof *logits);
    }
    state_free(&s);
    return logits;
}

static struct results run_model(struct model *m, const struct rows *rows)
{
    struct results r = {.loss = malloc((size_t)rows->B * (size_t)rows->T * sizeof(float))};
    r.grad = gradient(m, rows, r.loss);
    const struct step_ctl ctl = read_ctl(m);
    r.mean_loss = ctl.loss_sum / ctl.n_targets;
    r.logits = decode(m, rows);
    return r;
}

static struct results run_on_cpu(const struct text *t, enum dtype product)
{
    struct dev dev;
    struct model m;
    struct model_opts opts = opts_for(&t->rows.rows);
    opts.product = product;
    open_dev(&dev, 2);
    open_model(&m, &t->c, &opts, &dev, t->weights);
    const struct results r = run_model(&m, &t->rows.rows);
    model_close(&m);
    dev_close(&dev);
    return r;
}

/* --- errors --- */

static size_t n_losses(const struct text *t)
{
    return (size_t)t->rows.rows.B * (size_t)t->rows.rows.T;
}

static size_t n_logits(const struct text *t)
{
    return DECODED * R * (size_t)t->c.V;
}

/* The greatest error of a tensor's gradient; where is its name. */
static double worst_gradient(const struct text *t, const float *got, const float *want,
                             const char **where)
{
    double worst = 0;
    for (int i = 0; i < t->params.n; i++) {
        const struct param *p = &t->params.list[i];
        const double rel = float_error(got + p->offset, want + p->offset, p->count);
        if (!(rel <= worst)) {
            worst = rel;
            *where = p->name;
        }
    }
    return worst;
}

static struct tolerance tolerance_for(const struct text *t, enum dtype act)
{
    const char *where;
    struct tolerance tol = {1e-5, 1e-4, 1e-5};
    if (act == DT_F32)
        return tol;
    const double part = act == DT_F16 ? 1.0 / 8 : 1;
    tol.loss += 3 * part * float_error(t->plain16.loss, t->want.loss, n_losses(t));
    tol.logits += 3 * part * float_error(t->plain16.logits, t->want.logits, n_logits(t));
    tol.grad += 3 * part * worst_gradient(t, t->plain16.grad, t->want.grad, &where);
    return tol;
}

static void check_results(const struct text *t, const struct results *r, const struct dev *dev)
{
    const char *where = "";
    const struct tolerance tol = tolerance_for(t, dev->act_dtype);
    ok_within(fabs(r->mean_loss / t->want.mean_loss - 1), tol.loss, "%s: %s: loss", dev->name,
              t->name);
    ok_within(float_error(r->loss, t->want.loss, n_losses(t)), tol.loss, "%s: %s: losses",
              dev->name, t->name);
    const double grad = worst_gradient(t, r->grad, t->want.grad, &where);
    ok_within(grad, tol.grad, "%s: %s: gradients (worst: %s)", dev->name, t->name, where);
    ok_within(float_error(r->logits, t->want.logits, n_logits(t)), tol.logits,
              "%s: %s: logits, token by token", dev->name, t->name);
}

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

/* --- what must be equal to the bit --- */

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
    for (int mode = RECOMPUTE_BLOCK; mode <= RECOMPUTE_FULL; mode++) {
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

/* --- memory --- */

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

/* --- reading --- */

/* Losses of the first row as one text: in one pass, and read in pieces of 13, 8 and so on. */
static void check_read(const struct text *t, struct dev *dev)
{
    struct err err;
    struct model m;
    struct state s;
    const int n = t->rows.rows.T, V = t->c.V;
    const double tol = tolerance_for(t, dev->act_dtype).loss;
    struct batch_rows one = random_rows(1, n, V, NULL, 0);
    float *whole = malloc((size_t)n * sizeof *whole), *pieces = malloc((size_t)n * sizeof *pieces);
    float *logits = malloc((size_t)V * sizeof *logits), *want = malloc((size_t)V * sizeof *want);
    const struct model_opts opts = {.B = 1, .T = n, .read_T = 13, .step_R = 1, .S = n};
    open_model(&m, &t->c, &opts, dev, t->weights);
    must(state_open(&s, &t->c, dev, 1, n, &err), &err);
    begin_step(&m, n, 1);
    must(model_loss(&m, &one.rows, false, 0, whole, &err), &err);
    must(model_read(&m, &s, 0, one.rows.ids, (size_t)n - 8, one.rows.target, pieces, NULL, &err),
         &err);
    must(model_read(&m, &s, 0, one.rows.ids + n - 8, 8, one.rows.target + n - 8, pieces + n - 8,
                    logits, &err),
         &err);
    ok_within(float_error(pieces, whole, (size_t)n), tol, "%s: read in pieces", dev->name);
    state_reset(&s, 0);
    for (int i = 0; i < n; i++) {
        struct tensor out;
        const int32_t slot = 0;
        must(model_step(&m, &s, &slot, one.rows.ids + i, 1, &out, &err), &err);
        if (i == n - 1)
            dev_download(dev, want, out.data, (size_t)V * sizeof *want);
    }
    ok_within(float_error(want, logits, (size_t)V), tolerance_for(t, dev->act_dtype).logits,
              "%s: the last logits, read and token by token", dev->name);
    state_free(&s);
    model_close(&m);
    free(one.block);
    free(whole);
    free(pieces);
    free(logits);
    free(want);
}

/* --- the texts --- */

static void measure_cpu(struct text *t)
{
    t->want = run_on_cpu(t, DT_F32);
    t->plain16 = run_on_cpu(t, DT_BF16);
}

static void close_text(struct text *t)
{
    free_results(&t->want);
    free_results(&t->plain16);
    params_free(&t->params);
    free(t->rows.block);
    free(t->weights);
}

/* Mamba and attention, grouped queries, RoPE, multipliers, documents; ragged sizes. */
static struct text hybrid(void)
{
    struct err err;
    struct text t = {.name = "hybrid",
                     .c = {.V = 83,
                           .D = 64,
                           .F = 72,
                           .mamba_heads = 4,
                           .mamba_head_dim = 32,
                           .mamba_groups = 2,
                           .N = 16,
                           .K = 4,
                           .Q = 16,
                           .attn_heads = 4,
                           .kv_heads = 2,
                           .max_positions = T,
                           .use_rope = true,
                           .is_tied = true,
                           .init_range = 0.1f,
                           .embedding_multiplier = 1.7f,
                           .attention_multiplier = 0.3f,
                           .residual_multiplier = 0.6f,
                           .logits_scaling = 1.5f,
                           .pattern = "mtm"}};
    config_derive(&t.c);
    must(params_open(&t.params, &t.c, &err), &err);
    t.weights = random_weights(&t.c, 1);
    t.rows = random_rows(B, T, t.c.V, cuts, 4);
    measure_cpu(&t);
    return t;
}

/* A golden file, whose own figures replace the CPU's. */
static struct text golden(const char *name)
{
    char path[128];
    struct golden g = {0};
    struct err err;
    struct text t = {.name = name};
    snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
    golden_open(&g, path);
    t.c = g.k.c;
    must(params_open(&t.params, &t.c, &err), &err);
    t.weights = malloc(t.params.count * sizeof *t.weights);
    memcpy(t.weights, g.k.weights, t.params.count * sizeof *t.weights);
    t.rows = golden_rows(&g);
    measure_cpu(&t);
    t.want.mean_loss = (double)*(float *)golden_data(&g, "golden.loss");
    for (int i = 0; i < t.params.n; i++) {
        char tensor[128];
        const struct param *p = &t.params.list[i];
        snprintf(tensor, sizeof tensor, "golden.grad.%s", p->name);
        memcpy(t.want.grad + p->offset, golden_data(&g, tensor), p->count * sizeof(float));
    }
    const float *logits = golden_data(&g, "golden.logits"); /* (R,T,V) */
    for (int b = 0; b < R; b++)
        for (int i = 0; i < DECODED; i++)
            memcpy(t.want.logits + (i * R + b) * t.c.V, logits + (b * t.rows.rows.T + i) * t.c.V,
                   (size_t)t.c.V * sizeof *logits);
    golden_close(&g);
    return t;
}

/* --- devices --- */

static struct results run_on(const struct text *t, struct dev *dev)
{
    struct model m;
    const struct model_opts opts = opts_for(&t->rows.rows);
    open_model(&m, &t->c, &opts, dev, t->weights);
    const struct results r = run_model(&m, &t->rows.rows);
    model_close(&m);
    return r;
}

/* All checks of an open device; the hybrid's results. */
static struct results check_device(const struct text *t, struct dev *dev,
                                   void (*count)(struct hm_emu_counts *))
{
    check_memory(t, dev, count);
    const struct results r = run_on(t, dev);
    check_results(t, &r, dev);
    check_graphs(t, dev, &r);
    check_recompute(t, dev, &r);
    check_read(t, dev);
    return r;
}

/* The golden files: all in f32, the first alone in narrow types. */
static void check_golden(const struct text *gold, int n, struct dev *dev)
{
    for (int i = 0; i < (dev->act_dtype == DT_F32 ? n : 1); i++) {
        struct results r = run_on(&gold[i], dev);
        check_results(&gold[i], &r, dev);
        free_results(&r);
    }
}

static const struct gpu gpus[] = {{89, DT_F32}, {90, DT_BF16}, {75, DT_F16}};

static void each_emulated(const struct text *t, const struct text *gold, int n_gold)
{
    const struct cuda_lib lib = load_cuda_lib("libhm-emu.so");
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        struct dev dev;
        open_emulated(&dev, &lib, &gpus[i], false);
        struct results first = check_device(t, &dev, lib.count);
        check_golden(gold, n_gold, &dev);
        close_emulated(&dev, &lib, &gpus[i]);
        open_emulated(&dev, &lib, &gpus[i], true);
        struct results again = run_on(t, &dev);
        ok(is_same(t, &first, &again), "%s: the same bits whatever the order of threads", dev.name);
        close_emulated(&dev, &lib, &gpus[i]);
        free_results(&first);
        free_results(&again);
    }
}

static void each_real(const struct text *t, const struct text *gold, int n_gold)
{
    const struct cuda_lib lib = load_cuda_lib("libhm-cuda.so");
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        struct dev dev;
        open_cuda(&dev, &lib, gpus[i].act, "");
        struct results first = check_device(t, &dev, NULL), again = run_on(t, &dev);
        ok(is_same(t, &first, &again), "%s: the same bits twice", dev.name);
        check_golden(gold, n_gold, &dev);
        dev_close(&dev);
        free_results(&first);
        free_results(&again);
    }
}

int main(void)
{
    struct text t = hybrid();
    struct text gold[] = {golden("hf-rope-untied"), golden("hf-nope-tied")};
    if (is_wanted("emu"))
        each_emulated(&t, gold, 2);
    if (is_wanted("cuda"))
        each_real(&t, gold, 2);
    close_text(&t);
    close_text(&gold[0]);
    close_text(&gold[1]);
    return tap_done();
}
