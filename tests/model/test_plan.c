/* The memory plan equals what is allocated, passes allocate nothing, weights of a model for
 * inference are kept once; bf16 products stay near f32's; options that must be refused. */
#include "model_test.h"
#include "optim.h"

enum { B = 2, T = 24 };

/* A device that counts: its table is the real one's with another alloc and free. Tests are the only
 * ones that may keep this in a file's own variables, since the table's functions take no context.
 */
static struct ops counting;
static const struct ops *real;
static size_t n_bytes, n_allocs;

static int count_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    n_bytes += bytes;
    n_allocs++;
    return real->alloc(dev, p, bytes, err);
}

static void open_counting(struct dev *dev)
{
    open_dev(dev, 1);
    real = dev->ops;
    counting = *real;
    counting.alloc = count_alloc;
    dev->ops = &counting;
}

static size_t sum_of_kinds(const struct arena *a)
{
    size_t sum = 0;
    for (int i = 0; i < MEM_KINDS; i++)
        sum += a->by_kind[i];
    return sum;
}

/* A fresh device each time, so that the workspace is taken anew. */
static void check_plan(const struct config *c, const struct model_opts *opts, const char *name)
{
    struct dev dev;
    struct model m;
    struct arena plan = {0};
    struct err err;
    float *w = random_weights(c, 1);
    const int cuts[] = {5};
    struct batch_rows b = random_rows(B, T, c->V, cuts, 1);
    open_counting(&dev);
    n_bytes = n_allocs = 0;
    must(model_plan(c, opts, &dev, &plan, &err), &err);
    ok(n_allocs == 0, "%s: a plan allocates nothing", name);
    must(model_open(&m, c, opts, &dev, &err), &err);
    ok(n_bytes == plan.used && sum_of_kinds(&plan) == plan.used && m.plan.used == plan.used &&
           memcmp(plan.by_kind, m.plan.by_kind, sizeof plan.by_kind) == 0,
       "%s: %zu bytes planned, %zu taken", name, plan.used, n_bytes);
    must(model_set_weights(&m, w, &err), &err);

    struct state s;
    struct tensor out;
    const int32_t slot[2] = {0, 1};
    const struct read texts[2] = {{.slot = 1, .ids = b.rows.ids, .n = T},
                                  {.slot = 0, .ids = b.rows.ids, .n = 3}};
    must(state_open(&s, &m.c, &dev, 2, 40, &err), &err);
    n_bytes = n_allocs = 0;
    if (opts->B > 0) {
        begin_step(&m, 10, 1);
        must(model_loss(&m, &b.rows, opts->is_training, 0, NULL, &err), &err);
        model_refresh(&m);
    }
    if (opts->read_T > 0)
        must(model_read_all(&m, &s, texts, 2, &err), &err);
    if (opts->step_R > 0)
        must(model_step(&m, &s, slot, b.rows.ids, 2, &out, &err), &err);
    ok(n_allocs == 0, "%s: passes allocate nothing", name);
    state_free(&s);
    model_close(&m);
    dev_close(&dev);
    free(b.block);
    free(w);
}

static void check_state_plan(const struct config *c)
{
    struct dev dev;
    struct state s;
    struct err err;
    open_counting(&dev);
    n_bytes = n_allocs = 0;
    const size_t planned = state_plan(c, &dev, 3, 50);
    must(state_open(&s, c, &dev, 3, 50, &err), &err);
    ok(n_bytes == planned && s.bytes == planned, "a state takes the %zu bytes planned", planned);
    state_free(&s);
    dev_close(&dev);
}

/* Recomputing takes less, the more the deeper; inference holds each weight once. */
static void check_sizes(void)
{
    struct config c;
    struct err err;
    struct dev dev;
    struct arena none, block, full, f32, bf16;
    struct model_opts opts = {.is_training = true, .B = 4, .T = 256};
    must(config_preset(&c, "base", &err), &err);
    open_dev(&dev, 1);
    must(model_plan(&c, &opts, &dev, &none, &err), &err);
    opts.recompute = RECOMPUTE_BLOCK;
    must(model_plan(&c, &opts, &dev, &block, &err), &err);
    opts.recompute = RECOMPUTE_FULL;
    must(model_plan(&c, &opts, &dev, &full, &err), &err);
    ok(none.by_kind[MEM_ACTS] > 3 * block.by_kind[MEM_ACTS] &&
           block.by_kind[MEM_ACTS] > full.by_kind[MEM_ACTS],
       "activations: %zu MiB, recomputed %zu, fully %zu", none.by_kind[MEM_ACTS] >> 20,
       block.by_kind[MEM_ACTS] >> 20, full.by_kind[MEM_ACTS] >> 20);
    opts = (struct model_opts){.step_R = 1};
    must(model_plan(&c, &opts, &dev, &f32, &err), &err);
    opts.product = DT_BF16;
    must(model_plan(&c, &opts, &dev, &bf16, &err), &err);
    struct params p;
    must(params_open(&p, &c, &err), &err);
    const double bytes = 4.0 * (double)p.n_values;
    ok((double)f32.by_kind[MEM_WEIGHTS] < 1.001 * bytes, "f32 weights are kept once");
    ok((double)bf16.by_kind[MEM_WEIGHTS] < 0.51 * bytes, "bf16 weights take half");
    const double per_weight = model_flops_fwd(&c, 1024) / (double)p.n_values;
    ok(per_weight > 2 && per_weight < 2.5, "a token costs %.2f operations a weight", per_weight);
    params_free(&p);
    ok(model_flops_train(&c, 1024, RECOMPUTE_NONE) == 3 * model_flops_fwd(&c, 1024) &&
           model_flops_train(&c, 1024, RECOMPUTE_FULL) >
               model_flops_train(&c, 1024, RECOMPUTE_BLOCK) &&
           model_flops_train(&c, 1024, RECOMPUTE_FULL) < 5 * model_flops_fwd(&c, 1024),
       "and training three times that, and what is recomputed");
    dev_close(&dev);
}

/* The same weights with bf16 products: near f32, not equal, in all three passes. */
static void check_bf16(const struct config *c)
{
    struct dev dev;
    struct err err;
    struct batch_rows b = random_rows(B, T, c->V, NULL, 0);
    float *w = random_weights(c, 1), *grad[2], logits[2][2][64] = {0}, loss[2][B * T];
    size_t n = 0;
    open_dev(&dev, 1);
    for (int i = 0; i < 2; i++) {
        struct model m;
        struct state s;
        struct tensor out;
        const int32_t slot = 0;
        const enum dtype product = i ? DT_BF16 : DT_F32;
        const struct model_opts train = {.product = product, .is_training = true, .B = B, .T = T};
        open_model(&m, c, &train, &dev, w);
        n = m.params.count;
        grad[i] = gradient(&m, &b.rows, NULL);
        model_close(&m);
        const struct model_opts use = {
            .product = product, .B = B, .T = T, .read_T = T, .step_R = 1};
        open_model(&m, c, &use, &dev, w);
        must(state_open(&s, &m.c, &dev, 1, 40, &err), &err);
        begin_step(&m, B * T, 1);
        must(model_loss(&m, &b.rows, false, 0, loss[i], &err), &err);
        must(model_read(&m, &s, 0, b.rows.ids, T, NULL, NULL, logits[i][0], &err), &err);
        must(model_step(&m, &s, &slot, b.rows.ids, 1, &out, &err), &err);
        dev_download(&dev, logits[i][1], out.data, (size_t)c->V * sizeof(float));
        state_free(&s);
        model_close(&m);
    }
    /* 2^-9 a product, a few dozen of them in a row */
    ok_within(float_error(grad[1], grad[0], n), 0.05, "bf16 gradient");
    ok_within(float_error(loss[1], loss[0], B * T), 0.02, "bf16 losses");
    ok_within(float_error(logits[1][0], logits[0][0], (size_t)c->V), 0.05, "bf16 read");
    ok_within(float_error(logits[1][1], logits[0][1], (size_t)c->V), 0.05, "bf16 step");
    ok(memcmp(grad[0], grad[1], n * sizeof(float)) != 0, "bf16 is not f32");
    free(grad[0]);
    free(grad[1]);
    free(w);
    free(b.block);
    dev_close(&dev);
}

/* What cards of 4 to 8 GB have to hold at T = 1024 with activations in bf16: the arithmetic of a
 * GPU, on a device that only lends its table. */
static void check_cards(void)
{
    static const struct {
        const char *preset;
        int B;
        enum recompute recompute;
        enum dtype moments;
        double most; /* bytes */
    } rows[] = {
        {"base", 8, RECOMPUTE_CHEAP, DT_F32, 2.3 * 0x1p30},
        {"100m", 16, RECOMPUTE_CHEAP, DT_F32, 6e9},
        {"200m", 8, RECOMPUTE_CHEAP, DT_F32, 7.3e9},
        {"350m", 8, RECOMPUTE_BLOCK, DT_BF16, 7.3e9},
    };
    struct dev dev;
    struct err err;
    open_dev(&dev, 1);
    dev.act_dtype = DT_BF16;
    dev.reads_states = dev.is_host = false;
    dev.head_rows = 2048;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c;
        struct params p;
        struct arena plan = {0};
        const struct model_opts opts = {
            .is_training = true, .B = rows[i].B, .T = 1024, .recompute = rows[i].recompute};
        must(config_preset(&c, rows[i].preset, &err), &err);
        must(model_plan(&c, &opts, &dev, &plan, &err), &err);
        must(params_open(&p, &c, &err), &err);
        optim_plan(&p, rows[i].moments, &plan);
        params_free(&p);
        const double taken = (double)(plan.used - plan.by_kind[MEM_WORK]);
        ok(taken < rows[i].most, "%s, %d rows: %.2f GiB", rows[i].preset, rows[i].B,
           taken / 0x1p30);
    }
    struct config c;
    struct arena plan = {0};
    const struct model_opts use = {.read_T = 512, .step_R = 1, .S = 8192};
    must(config_preset(&c, "100m", &err), &err);
    must(model_plan(&c, &use, &dev, &plan, &err), &err);
    const size_t taken = plan.used - plan.by_kind[MEM_WORK] + state_plan(&c, &dev, 1, 8192);
    ok(taken < 300000000, "100m with 8K tokens of context: %zu MB", taken / 1000000);
    dev_close(&dev);
}

static void check_refused(void)
{
    static const struct model_opts bad[] = {
        {.is_training = true},
        {.B = 1},
        {.B = -1, .T = 4},
        {.B = 1 << 20, .T = 1 << 20},
        {.B = 1, .T = 4, .dropout = 1.0f},
        {.B = 1, .T = 4, .dropout = NAN},
        {.product = DT_U8},
        {.read_T = -1},
        {.read_T = 8, .read_R = -1},
    };
    struct dev dev;
    struct model m;
    struct err err;
    const struct config c = small_config(&variants[2]);
    open_dev(&dev, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ok(model_open(&m, &c, &bad[i], &dev, &err) != 0 && err.mend[0], "refused: %s", err.what);
    const struct model_opts opts = {.B = 1, .T = 8};
    float *w = random_weights(&c, 1);
    struct batch_rows b = random_rows(1, 8, c.V, NULL, 0);
    open_model(&m, &c, &opts, &dev, w);
    ok(model_loss(&m, &b.rows, true, 0, NULL, &err) != 0, "no gradients without training");
    b.rows.B = 2;
    ok(model_loss(&m, &b.rows, false, 0, NULL, &err) != 0, "no more rows than planned");
    b.rows.B = 1;
    b.block[3] = c.V;
    ok(model_loss(&m, &b.rows, false, 0, NULL, &err) != 0, "%s", err.what);
    model_close(&m);
    free(b.block);
    free(w);
    dev_close(&dev);
}

int main(void)
{
    for (int i = 0; i < N_VARIANTS; i++) {
        const struct config c = small_config(&variants[i]);
        for (int mode = RECOMPUTE_NONE; mode <= RECOMPUTE_FULL; mode++) {
            const struct model_opts opts = {.is_training = true,
                                            .B = B,
                                            .T = T,
                                            .recompute = (enum recompute)mode,
                                            .product = mode == RECOMPUTE_BLOCK ? DT_BF16 : DT_F32,
                                            .read_T = 7,
                                            .step_R = 2};
            check_plan(&c, &opts, variants[i].name);
        }
        const struct model_opts use = {
            .product = DT_BF16, .read_T = 64, .read_R = 2, .step_R = 3, .S = 50};
        check_plan(&c, &use, variants[i].name);
    }
    const struct config c = small_config(&variants[3]);
    check_state_plan(&c);
    check_bf16(&c);
    check_sizes();
    check_cards();
    check_refused();
    return tap_done();
}
