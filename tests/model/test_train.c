/* train: memory as planned, a small model that learns by heart, the equalities of a step, and steps
 * that are skipped. */
#include "train_test.h"

#include <time.h>

static size_t weight_bytes(const struct train *r)
{
    return r->model.params.count * sizeof(float);
}

static float *copy_of(const float *block, const struct train *r)
{
    float *w = malloc(weight_bytes(r));
    if (!w)
        abort();
    memcpy(w, block, weight_bytes(r));
    return w;
}

/* Steps, and the last one's loss. */
static double steps(struct train_test *t, struct train *r, int n)
{
    for (int i = 0; i < n; i++)
        if (train_step(r, &t->err) != 1)
            abort();
    (void)!train_measure(r, &(struct err){0});
    return train_loss(r);
}

static void test_plan(struct train_test *t)
{
    struct arena plan = {0}, moments = {0};
    struct train r;
    test_begin(t, &r, &t->head, NULL);
    ok(train_plan(&t->head.c, &t->head.opts, &t->dev, &plan, &t->err) == 0, "a plan is made");
    optim_plan(&r.model.params, DT_F32, &moments);
    ok(plan.used == r.model.plan.used + moments.used, "what is taken is what was planned");
    const size_t two = 2 * ((weight_bytes(&r) + 63) / 64 * 64); /* and the table of runs */
    ok(moments.used > two && moments.used < two + 4096 &&
           plan.by_kind[MEM_MOMENTS] == moments.used &&
           plan.by_kind[MEM_WEIGHTS] >= weight_bytes(&r) &&
           plan.by_kind[MEM_GRADS] >= weight_bytes(&r),
       "by kind: weights, gradients and two moments");
    train_close(&r);
}

static void test_overfit(struct train_test *t)
{
    struct train r;
    struct train_head h = t->head;
    h.c.D = 64;
    h.c.F = h.c.attn_heads = h.c.mamba_heads = h.c.mamba_head_dim = h.c.head_dim = 0;
    h.c.attention_multiplier = 0;
    config_derive(&h.c);
    h.opts.batch = TEST_ROWS;
    h.opts.accum = 1;
    h.opts.lr = 6e-3;
    h.opts.weight_decay = 0;
    h.opts.max_steps = 150;
    h.opts.warmup = 10;
    test_begin(t, &r, &h, NULL);
    const double first = steps(t, &r, 1);
    ok_within(fabs(first - log(TEST_V)), 0.5, "the first loss is that of a guess");
    double loss = first;
    int n = 1;
    for (; n < 150 && !(loss < 0.008); n += 10)
        loss = steps(t, &r, 10);
    ok_within(loss, 0.01, "64 sequences are learnt by heart in %d steps", n);
    train_close(&r);
}

static double weights_error(const struct train *a, const struct train *b)
{
    const size_t n = a->model.params.count;
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)a->io.weights[i] - (double)b->io.weights[i];
        diff += d * d;
        norm += (double)b->io.weights[i] * (double)b->io.weights[i];
    }
    return sqrt(diff / norm);
}

static void test_accumulation(struct train_test *t)
{
    struct train a, b;
    struct train_head h = t->head;
    h.opts.batch = 8;
    h.opts.accum = 1;
    test_begin(t, &a, &h, NULL);
    const double loss_a = steps(t, &a, 3);
    h.opts.batch = 2;
    h.opts.accum = 4;
    test_begin(t, &b, &h, NULL);
    const double loss_b = steps(t, &b, 3);
    ok_within(fabs(loss_a - loss_b) / loss_a, 1e-6, "4 micro-batches are one: loss");
    ok_within(weights_error(&a, &b), 1e-4, "4 micro-batches are one: weights");
    ok_within(fabs(a.ctl.gnorm / b.ctl.gnorm - 1), 1e-5, "4 micro-batches are one: gradient norm");
    ok(a.head.state.tokens == 3 * 8 * TEST_T && b.head.state.tokens == a.head.state.tokens,
       "tokens are counted");
    train_close(&a);
    train_close(&b);
}

/* The first step of AdamW from zero moments is known: lr (sign of g + decay p), g as clipped. */
static void test_first_step(struct train_test *t)
{
    struct train r;
    struct train_head h = t->head;
    h.opts.warmup = 0;
    h.opts.lr = 0.01;
    test_begin(t, &r, &h, NULL);
    float *before = copy_of(r.io.weights, &r);
    steps(t, &r, 1);
    double diff = 0, moved = 0;
    for (int i = 0; i < r.model.params.n; i++) {
        const struct param *q = &r.model.params.list[i];
        for (size_t k = q->offset; k < q->offset + q->count; k++) {
            const double g = (double)r.model.grad[k] * (double)r.ctl.grad_scale;
            const double decay = q->has_decay ? 0.1 * (double)before[k] : 0;
            const double move = 0.01 * (g / (fabs(g) + 1e-8) + decay);
            const double error = (double)before[k] - move - (double)r.io.weights[k];
            diff += error * error;
            moved += move * move;
        }
    }
    ok_within(sqrt(diff / moved), 1e-4, "every parameter moves as AdamW says, matrices decay");
    free(before);
    train_close(&r);
}

/* With bf16 the products read copies of the weights, which have to follow. */
static void test_handles(struct train_test *t)
{
    struct train r;
    struct train_head h = t->head;
    double loss, again;
    h.opts.dtype = TRAIN_BF16;
    h.opts.warmup = 0;
    h.opts.lr = 0.01;
    test_begin(t, &r, &h, NULL);
    steps(t, &r, 3);
    int rc = train_validate(&r, NULL, NULL, &loss, &t->err);
    model_refresh(&r.model);
    rc = rc ? rc : train_validate(&r, NULL, NULL, &again, &t->err);
    ok(rc == 0 && loss == again, "bf16 copies are those of the newest weights");
    train_close(&r);
}

/* Dropout, so that what is computed again has to draw the same masks. */
static void test_recompute(struct train_test *t)
{
    struct train r;
    struct train_head h = t->head;
    h.opts.dropout = 0.2;
    float *first = NULL;
    for (int mode = RECOMPUTE_NONE; mode <= RECOMPUTE_FULL; mode++) {
        h.opts.recompute = mode;
        test_begin(t, &r, &h, NULL);
        const double loss = steps(t, &r, 3);
        if (!first)
            first = copy_of(r.io.weights, &r);
        ok(isfinite(loss) && memcmp(first, r.io.weights, weight_bytes(&r)) == 0,
           "recompute mode %d gives the same bits", mode);
        train_close(&r);
    }
    free(first);
}

static void test_validation(struct train_test *t)
{
    struct train a, b;
    struct train_head whole = t->head;
    double loss, again;
    whole.opts.batch = TEST_ROWS / 2;
    test_begin(t, &a, &whole, NULL);
    steps(t, &a, 1);
    const int rc = train_validate(&a, NULL, NULL, &loss, &t->err);
    ok_within(rc == 0 ? fabs(loss / steps(t, &a, 1) - 1) : 1, 1e-6,
              "the loss of a validation is that of the next step over the same rows");
    train_close(&a);
    test_begin(t, &a, &t->head, NULL);
    steps(t, &a, 4);
    test_begin(t, &b, &t->head, NULL);
    steps(t, &b, 2);
    ok(train_validate(&b, NULL, NULL, &loss, &t->err) == 0 && isfinite(loss), "a validation");
    ok(b.head.state.best_step == 2 && b.head.state.best_loss == loss, "is the best so far");
    ok_within(fabs(train_bits_per_byte(&b, loss) / (loss / 3 / M_LN2) - 1), 1e-12,
              "bits per byte of ids of 3 bytes");
    ok(train_validate(&b, NULL, NULL, &again, &t->err) == 0 && again == loss, "it can be repeated");
    steps(t, &b, 2);
    ok(memcmp(a.io.weights, b.io.weights, weight_bytes(&a)) == 0, "it leaves no trace in the run");
    train_close(&a);
    train_close(&b);
}

/* A weight that is no number: the step must be skipped, counted, and change nothing. */
static void test_skip(struct train_test *t)
{
    struct train r;
    test_begin(t, &r, &t->head, NULL);
    steps(t, &r, 2);
    const float good = r.model.master[20];
    r.model.master[20] = NAN;
    model_refresh(&r.model);
    float *before = copy_of(r.io.weights, &r), *m = copy_of(r.io.m, &r);
    const double loss = steps(t, &r, 1);
    ok(!isfinite(loss) && r.ctl.skip == 1 && r.head.state.skipped == 1 &&
           r.head.state.skipped_in_row == 1 && r.head.state.applied == 2,
       "a loss that is no number skips the step");
    ok(memcmp(before, r.io.weights, weight_bytes(&r)) == 0 &&
           memcmp(m, r.io.m, weight_bytes(&r)) == 0,
       "weights and moments stay");
    r.model.master[20] = good;
    model_refresh(&r.model);
    ok(isfinite(steps(t, &r, 1)) && r.head.state.skipped_in_row == 0 && r.head.state.applied == 3,
       "the next good step is made");
    free(before);
    free(m);
    train_close(&r);
}

static void test_divergence(struct train_test *t)
{
    struct train r;
    struct run_dir dir;
    struct run_log log = {.fd = -1};
    enum train_end end;
    struct train_head h = t->head;
    h.opts.lr = 1e6;
    h.opts.clip = 0;
    h.opts.warmup = 0;
    h.opts.max_steps = 300;
    h.opts.max_skips = 3;
    h.opts.save_every = 1;
    test_begin(t, &r, &h, NULL);
    char folder[256];
    snprintf(folder, sizeof folder, "%s", scratch_path(&t->scratch, "diverged"));
    if (run_dir_open(&dir, folder, &t->err) != 0)
        abort();
    struct train_run run = {.t = &r, .dir = &dir, .log = &log};
    ok(train_run(&run, &end, &t->err) == -1 && strstr(t->err.what, "3 steps in a row") &&
           strstr(t->err.what, "diverged/ckpt-"),
       "a run that diverges stops and names the last checkpoint: %s", t->err.what);
    bool is_finite = true;
    for (size_t i = 0; i < r.model.params.count; i++)
        is_finite = is_finite && isfinite(r.io.weights[i]);
    ok(is_finite, "its weights are still numbers");
    if (run_dir_prune(&dir, 0, -1, &t->err) != 0)
        abort();
    run_dir_close(&dir);
    rmdir(folder);
    train_close(&r);
}

/* The rates that a run was told, and a device that is busy for REST_S after each step. */
struct heard {
    double rate;
    int n;
};
#define REST_S 0.1

static bool rest(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){.tv_nsec = (long)(REST_S * 1e9)}, NULL);
    return false;
}

static void hear(void *arg, const struct train_event *e)
{
    struct heard *h = arg;
    if (e->kind == TRAIN_STEPPED) {
        h->rate = e->tok_s;
        h->n++;
    }
}

static void test_rate(struct train_test *t)
{
    struct train r;
    struct run_log log = {.fd = -1};
    struct heard heard = {0};
    enum train_end end;
    struct train_head h = t->head;
    h.opts.max_steps = 8;
    h.opts.log_every = 4;
    test_begin(t, &r, &h, NULL);
    struct train_run run = {
        .t = &r, .log = &log, .hook = {.tell = hear, .is_stopped = rest, .arg = &heard}};
    const int rc = train_run(&run, &end, &t->err);
    const double most = (double)train_step_tokens(&h.opts, &h.c) / REST_S;
    ok(rc == 0 && heard.n == 2 && heard.rate > 0 && heard.rate <= most,
       "the rate counts all that passes between two rows of the log: %.0f tokens/s, at most %.0f",
       heard.rate, most);
    train_close(&r);
}

static void test_refusals(struct train_test *t)
{
    struct train r;
    const char *shards[] = {t->shard};
    const struct train_data d = {shards, shards, 1, 0};
    struct train_head h = t->head;
    ok(train_open(&r, &h, &d, &t->tok, 78, &t->dev, &t->err) == -1 &&
           strstr(t->err.what, "another tokenizer"),
       "shards of another tokenizer are refused");
    h.c.V = TEST_V - 1;
    ok(train_open(&r, &h, &d, &t->tok, 77, &t->dev, &t->err) == -1 && strstr(t->err.what, "ids"),
       "so are ids that the model has not");
}

static void test_fit(void)
{
    ok(train_fit_total(5, 10, 2, 100) == 5 + 44, "steps that fit into the time, less a reserve");
    ok(train_fit_total(5, 100, 2, 100) == 5, "none when it is used up");
}

int main(void)
{
    struct train_test t = train_test_open();
    test_plan(&t);
    test_overfit(&t);
    test_accumulation(&t);
    test_first_step(&t);
    test_handles(&t);
    test_recompute(&t);
    test_validation(&t);
    test_skip(&t);
    test_divergence(&t);
    test_rate(&t);
    test_refusals(&t);
    test_fit();
    train_test_close(&t);
    return tap_done();
}
