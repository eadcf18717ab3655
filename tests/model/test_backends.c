/* One backend and another: what whole models give on the CUDA backend (under emulation, or on the
 * GPU of --device=cuda) against the CPU's and against the golden files.
 *
 * f32 is held to 1e-5 (logits, losses) and 1e-4 (gradients). Narrow types may err three times as
 * much as the CPU does with bf16 products, since what lies between ops is narrow, too; f16, with
 * three bits more, an eighth of that. */
#include "backends.h"
#include "golden.h"

/* What is allowed against the reference in f32. */
struct tolerance {
    double loss, grad, logits;
};

/* A text and what the CPU gives for it. */
struct known {
    struct text text;
    struct results want;    /* in f32 */
    struct results plain16; /* with bf16 products */
};

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

static struct tolerance tolerance_for(const struct known *k, enum dtype act)
{
    const struct text *t = &k->text;
    const char *where;
    struct tolerance tol = {1e-5, 1e-4, 1e-5};
    if (act == DT_F32)
        return tol;
    const double part = act == DT_F16 ? 1.0 / 8 : 1;
    tol.loss += 3 * part * float_error(k->plain16.loss, k->want.loss, n_losses(t));
    tol.logits += 3 * part * float_error(k->plain16.logits, k->want.logits, n_logits(t));
    tol.grad += 3 * part * worst_gradient(t, k->plain16.grad, k->want.grad, &where);
    return tol;
}

static void check_results(const struct known *k, const struct results *r, const struct dev *dev)
{
    const struct text *t = &k->text;
    const char *where = "";
    const struct tolerance tol = tolerance_for(k, dev->act_dtype);
    ok_within(fabs(r->mean_loss / k->want.mean_loss - 1), tol.loss, "%s: %s: loss", dev->name,
              t->name);
    ok_within(float_error(r->loss, k->want.loss, n_losses(t)), tol.loss, "%s: %s: losses",
              dev->name, t->name);
    const double grad = worst_gradient(t, r->grad, k->want.grad, &where);
    ok_within(grad, tol.grad, "%s: %s: gradients (worst: %s)", dev->name, t->name, where);
    ok_within(float_error(r->logits, k->want.logits, n_logits(t)), tol.logits,
              "%s: %s: logits, token by token", dev->name, t->name);
}

/* --- reading --- */

/* Losses of the first row as one text: in one pass, and read in pieces of 13, 8 and so on. */
static void check_read(const struct known *k, struct dev *dev)
{
    const struct text *t = &k->text;
    struct err err;
    struct model m;
    struct state s;
    const int n = t->rows.rows.T, V = t->c.V;
    const double tol = tolerance_for(k, dev->act_dtype).loss;
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
    ok_within(float_error(want, logits, (size_t)V), tolerance_for(k, dev->act_dtype).logits,
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

static struct known measure_cpu(const struct text *t)
{
    return (struct known){*t, run_on_cpu(t, DT_F32), run_on_cpu(t, DT_BF16)};
}

static void close_known(struct known *k)
{
    free_results(&k->want);
    free_results(&k->plain16);
    close_text(&k->text);
}

/* A golden file, whose own figures replace the CPU's. */
static struct known golden(const char *name)
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
    struct known k = measure_cpu(&t);
    k.want.mean_loss = (double)*(float *)golden_data(&g, "golden.loss");
    for (int i = 0; i < t.params.n; i++) {
        char tensor[128];
        const struct param *p = &t.params.list[i];
        snprintf(tensor, sizeof tensor, "golden.grad.%s", p->name);
        memcpy(k.want.grad + p->offset, golden_data(&g, tensor), p->count * sizeof(float));
    }
    const float *logits = golden_data(&g, "golden.logits"); /* (R,T,V) */
    for (int b = 0; b < R; b++)
        for (int i = 0; i < DECODED; i++)
            memcpy(k.want.logits + (i * R + b) * t.c.V, logits + (b * t.rows.rows.T + i) * t.c.V,
                   (size_t)t.c.V * sizeof *logits);
    golden_close(&g);
    return k;
}

/* --- devices --- */

/* The golden files: all in f32, the first alone in narrow types. */
static void check_device(const struct known *hybrid, const struct known *gold, int n_gold,
                         struct dev *dev)
{
    struct results r = run_on(&hybrid->text, dev);
    check_results(hybrid, &r, dev);
    free_results(&r);
    check_read(hybrid, dev);
    for (int i = 0; i < (dev->act_dtype == DT_F32 ? n_gold : 1); i++) {
        r = run_on(&gold[i].text, dev);
        check_results(&gold[i], &r, dev);
        free_results(&r);
    }
}

static void each_gpu(const struct known *hybrid, const struct known *gold, int n_gold,
                     bool is_emulated)
{
    const struct cuda_lib lib = load_cuda_lib(is_emulated ? "libhm-emu.so" : "libhm-cuda.so");
    for (size_t i = 0; i < MODEL_GPUS; i++) {
        struct dev dev;
        if (is_emulated)
            open_emulated(&dev, &lib, &gpus[i], false);
        else
            open_cuda(&dev, &lib, gpus[i].act, "");
        check_device(hybrid, gold, n_gold, &dev);
        if (is_emulated)
            close_emulated(&dev, &lib, &gpus[i]);
        else
            dev_close(&dev);
    }
}

int main(void)
{
    const struct text t = hybrid();
    struct known ours = measure_cpu(&t);
    struct known gold[] = {golden("hf-rope-untied"), golden("hf-nope-tied")};
    if (is_wanted("emu"))
        each_gpu(&ours, gold, 2, true);
    if (is_wanted("cuda"))
        each_gpu(&ours, gold, 2, false);
    close_known(&ours);
    close_known(&gold[0]);
    close_known(&gold[1]);
    return tap_done();
}
