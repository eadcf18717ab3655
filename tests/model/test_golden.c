/* A golden file's logits, loss, gradients and greedy continuation must all come out here. The files
 * of tests/golden, or the one that the environment names in GOLDEN. */
#include "golden.h"

static void check_gradients(const struct golden *g, struct model *m, const struct rows *rows)
{
    float *grad = gradient(m, rows, NULL);
    const struct step_ctl ctl = read_ctl(m);
    const float want = *(float *)golden_data(g, "golden.loss");
    ok_within(fabs(ctl.loss_sum / ctl.n_targets / (double)want - 1), 1e-5, "loss %.6f",
              ctl.loss_sum / ctl.n_targets);
    for (int i = 0; i < m->params.n; i++) {
        char name[128];
        const struct param *p = &m->params.list[i];
        snprintf(name, sizeof name, "golden.grad.%s", p->name);
        if (!ok(golden_entry(g, name)->bytes == p->count * sizeof(float), "%s is there", name))
            continue;
        ok_within(float_error(grad + p->offset, golden_data(g, name), p->count), 1e-4, "%s", name);
    }
    free(grad);
}

/* Logits of every position: each prefix read alone. */
static void check_read(const struct golden *g, struct model *m, struct state *s,
                       const struct rows *rows)
{
    struct err err;
    const size_t V = (size_t)m->c.V, T = (size_t)rows->T;
    float *logits = malloc((size_t)rows->B * T * V * sizeof *logits);
    for (size_t b = 0; b < (size_t)rows->B; b++)
        for (size_t t = 0; t < T; t++) {
            state_reset(s, 0);
            must(model_read(m, s, 0, rows->ids + b * T, t + 1, NULL, NULL, logits + (b * T + t) * V,
                            &err),
                 &err);
        }
    ok_within(float_error(logits, golden_data(g, "golden.logits"), (size_t)rows->B * T * V), 1e-5,
              "logits, read in one piece");
    free(logits);
}

static void check_step(const struct golden *g, struct model *m, struct state *s,
                       const struct rows *rows)
{
    struct err err;
    const size_t V = (size_t)m->c.V, T = (size_t)rows->T;
    float *logits = malloc((size_t)rows->B * T * V * sizeof *logits);
    for (int b = 0; b < rows->B; b++) {
        state_reset(s, 0);
        for (size_t t = 0; t < T; t++) {
            struct tensor out;
            const int32_t slot = 0;
            must(model_step(m, s, &slot, rows->ids + (size_t)b * T + t, 1, &out, &err), &err);
            dev_download(m->dev, logits + ((size_t)b * T + t) * V, out.data, V * sizeof *logits);
        }
    }
    ok_within(float_error(logits, golden_data(g, "golden.logits"), (size_t)rows->B * T * V), 1e-5,
              "logits, token by token");
    free(logits);
}

static int32_t arg_max(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* The continuation begins with the prompt, the start of the first row. */
static void check_greedy(const struct golden *g, struct model *m, struct state *s)
{
    struct err err;
    const int32_t *want = golden_data(g, "golden.greedy"), *ids = golden_data(g, "golden.ids");
    const size_t n = (size_t)golden_entry(g, "golden.greedy")->dim[1];
    size_t at = 0, n_right = 0;
    while (at < n && at < (size_t)golden_entry(g, "golden.ids")->dim[1] && want[at] == ids[at])
        at++;
    float *logits = malloc((size_t)m->c.V * sizeof *logits);
    const size_t n_prompt = at;
    state_reset(s, 0);
    must(model_read(m, s, 0, ids, n_prompt, NULL, NULL, logits, &err), &err);
    for (; at < n; at++) {
        struct tensor out;
        const int32_t slot = 0, id = arg_max(logits, m->c.V);
        n_right += id == want[at];
        must(model_step(m, s, &slot, &id, 1, &out, &err), &err);
        dev_download(m->dev, logits, out.data, (size_t)m->c.V * sizeof *logits);
    }
    ok(n_prompt > 0 && n > n_prompt && n_right == n - n_prompt,
       "greedy continuation of %zu tokens: %zu of %zu right", n_prompt, n_right, n - n_prompt);
    free(logits);
}

static void check_file(const char *path)
{
    struct golden g = {0};
    struct dev dev;
    struct model m;
    struct state s;
    struct err err;
    golden_open(&g, path);
    struct batch_rows b = golden_rows(&g);
    const int T = b.rows.T, n_greedy = (int)golden_entry(&g, "golden.greedy")->dim[1];
    const int S = T > n_greedy ? T : n_greedy;
    const struct model_opts opts = {
        .is_training = true, .B = b.rows.B, .T = T, .read_T = T, .step_R = 1, .S = S};
    open_dev(&dev, 2);
    open_model(&m, &g.k.c, &opts, &dev, g.k.weights);
    must(state_open(&s, &m.c, &dev, 1, S, &err), &err);
    check_gradients(&g, &m, &b.rows);
    check_read(&g, &m, &s, &b.rows);
    check_step(&g, &m, &s, &b.rows);
    check_greedy(&g, &m, &s);
    state_free(&s);
    model_close(&m);
    dev_close(&dev);
    free(b.block);
    golden_close(&g);
}

int main(void)
{
    const char *path = getenv("GOLDEN");
    if (path && *path) {
        check_file(path);
    } else {
        check_file("tests/golden/hf-nope-tied.safetensors");
        check_file("tests/golden/hf-rope-untied.safetensors");
    }
    return tap_done();
}
