/* A golden file: weights, config, and the ids, logits, loss, gradients and greedy continuation that
 * another implementation (Hugging Face transformers) gives for them in f32. All must come out here.
 * The files of tests/golden, or the one that the environment names in GOLDEN. */
#include "ckpt.h"
#include "model_test.h"
#include "safetensors.h"

struct golden {
    struct ckpt k;
    struct st st;
    void **data; /* of each tensor */
};

static void load(struct golden *g, const char *path)
{
    struct in in;
    struct err err;
    must(ckpt_load(&g->k, path, &err), &err);
    must(in_open(&in, path, &err), &err);
    must(st_read_header(&g->st, &in, &err), &err);
    g->data = calloc((size_t)g->st.n_tensors, sizeof *g->data);
    for (int i = 0; i < g->st.n_tensors; i++) {
        g->data[i] = malloc(g->st.tensor[i].bytes + 1);
        must(st_read_tensor(&g->st, i, &in, g->data[i], &err), &err);
    }
    must(st_read_end(&g->st, &in, &err), &err);
    in_close(&in);
}

static void unload(struct golden *g)
{
    for (int i = 0; i < g->st.n_tensors; i++)
        free(g->data[i]);
    free(g->data);
    st_free(&g->st);
    ckpt_free(&g->k);
}

static const struct st_tensor *entry(const struct golden *g, const char *name)
{
    const int i = st_find(&g->st, name);
    if (i < 0) {
        printf("Bail out! the file has no %s\n", name);
        exit(1);
    }
    return &g->st.tensor[i];
}

static void *data_of(const struct golden *g, const char *name)
{
    return g->data[entry(g, name) - g->st.tensor];
}

/* Every id but a row's first is a target. */
static struct batch_rows golden_rows(const struct golden *g)
{
    const struct st_tensor *t = entry(g, "golden.ids");
    const int B = (int)t->dim[0], T = (int)t->dim[1];
    const int32_t *ids = data_of(g, "golden.ids");
    struct batch_rows b = make_rows(B, T);
    const size_t M = (size_t)B * (size_t)T;
    for (size_t i = 0; i < M; i++) {
        const int pos = (int)(i % (size_t)T);
        b.block[i] = ids[i];
        b.block[M + i] = pos + 1 < T ? ids[i + 1] : -1;
        b.block[3 * M + i] = pos;
    }
    return b;
}

static void check_gradients(const struct golden *g, struct model *m, const struct rows *rows)
{
    float *grad = gradient(m, rows, NULL);
    const struct step_ctl ctl = read_ctl(m);
    const float want = *(float *)data_of(g, "golden.loss");
    ok_within(fabs(ctl.loss_sum / ctl.n_targets / (double)want - 1), 1e-5, "loss %.6f",
              ctl.loss_sum / ctl.n_targets);
    for (int i = 0; i < m->params.n; i++) {
        char name[128];
        const struct param *p = &m->params.list[i];
        snprintf(name, sizeof name, "golden.grad.%s", p->name);
        if (!ok(entry(g, name)->bytes == p->count * sizeof(float), "%s is there", name))
            continue;
        ok_within(float_error(grad + p->offset, data_of(g, name), p->count), 1e-4, "%s", name);
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
    ok_within(float_error(logits, data_of(g, "golden.logits"), (size_t)rows->B * T * V), 1e-5,
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
    ok_within(float_error(logits, data_of(g, "golden.logits"), (size_t)rows->B * T * V), 1e-5,
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
    const int32_t *want = data_of(g, "golden.greedy"), *ids = data_of(g, "golden.ids");
    const size_t n = (size_t)entry(g, "golden.greedy")->dim[1];
    size_t at = 0, n_right = 0;
    while (at < n && at < (size_t)entry(g, "golden.ids")->dim[1] && want[at] == ids[at])
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
    load(&g, path);
    struct batch_rows b = golden_rows(&g);
    const int T = b.rows.T, n_greedy = (int)entry(&g, "golden.greedy")->dim[1];
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
    unload(&g);
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
