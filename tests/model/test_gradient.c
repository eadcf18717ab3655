/* The gradient of the whole model: elements of every tensor against central differences of the
 * double-precision twin; the same bits for all recompute modes, with dropout too, and for the same
 * seed twice; k micro-batches and one by norm; packed documents and separate ones by norm. */
#include "twin.h"

enum { T = 14, B = 2, N_SAMPLES = 3 };

static const int cuts[] = {1, 9, 10}; /* documents of 1, 8, 1 and 9 tokens */

static struct model_opts train_opts(enum recompute recompute, float dropout)
{
    return (struct model_opts){
        .is_training = true, .B = B, .T = T, .recompute = recompute, .dropout = dropout};
}

/* The greatest error of a tensor's sampled elements against the twin's central differences. */
static double twin_error(struct twin *twin, const struct param *p, int index, double *w,
                         const float *grad)
{
    float got[N_SAMPLES];
    double want[N_SAMPLES];
    for (int s = 0; s < N_SAMPLES; s++) {
        const uint64_t j =
            (uint64_t)(rng_uniform(3, (uint64_t)index, (uint64_t)s) * (float)p->count);
        double *at = w + p->offset + (j < p->count ? j : p->count - 1);
        const double kept = *at, h = 1e-5 * (1 + fabs(kept));
        *at = kept + h;
        const double above = twin_loss(twin, w);
        *at = kept - h;
        want[s] = (above - twin_loss(twin, w)) / (2 * h);
        *at = kept;
        got[s] = grad[at - w];
    }
    return rel_error(got, want, N_SAMPLES);
}

static void check_twin(struct model *m, const struct rows *rows, const float *weights,
                       const char *name)
{
    struct twin twin;
    double *w = malloc(m->params.count * sizeof *w), worst = 0;
    const char *where = "";
    for (size_t i = 0; i < m->params.count; i++)
        w[i] = weights[i];
    float *grad = gradient(m, rows, NULL);
    const struct step_ctl ctl = read_ctl(m);
    twin_open(&twin, &m->c, &m->params, rows);
    twin.dropout = m->opts.dropout;
    twin.ctl = &ctl;
    ok_within(fabs(ctl.loss_sum / ctl.n_targets / twin_loss(&twin, w) - 1), 1e-6, "%s: loss", name);
    for (int i = 0; i < m->params.n; i++) {
        const double rel = twin_error(&twin, &m->params.list[i], i, w, grad);
        if (!(rel <= worst)) {
            worst = rel;
            where = m->params.list[i].name;
        }
    }
    ok_within(worst, 1e-4, "%s: gradients against differences in double (worst: %s)", name, where);
    twin_close(&twin);
    free(grad);
    free(w);
}

/* Packed and separate documents, and k micro-batches: row r of the packed batch as rows of their
 * own, gradients added up. */
static void check_separate(struct model *m, const struct rows *rows, const float *packed,
                           const float *losses, const char *name)
{
    struct err err;
    float *loss = malloc(sizeof(float) * B * T), part[T];
    begin_step(m, count_targets(rows), 5);
    for (int b = 0; b < rows->B; b++)
        for (int t = 0, n; t < rows->T; t += n) {
            const int at = b * rows->T + t;
            const int32_t *seg = rows->seg + at;
            for (n = 1; t + n < rows->T && seg[n] == seg[0]; n++)
                ;
            const struct rows one = {rows->ids + at, rows->target + at, seg, rows->pos + at, 1, n};
            must(model_loss(m, &one, true, 0, part, &err), &err);
            memcpy(loss + at, part, (size_t)n * sizeof *loss);
        }
    float *g = malloc(m->params.count * sizeof *g);
    dev_download(m->dev, g, m->grad, m->params.count * sizeof *g);
    ok_within(float_error(g, packed, m->params.count), 1e-4, "%s: separate documents' gradient",
              name);
    ok_within(float_error(loss, losses, B * T), 1e-5, "%s: and losses", name);
    free(loss);
    free(g);
}

static void check_micro(struct model *m, const struct rows *rows, const float *whole,
                        const char *name)
{
    struct err err;
    begin_step(m, count_targets(rows), 5);
    for (int b = 0; b < rows->B; b++) {
        const int at = b * rows->T;
        const struct rows one = {
            rows->ids + at, rows->target + at, rows->seg + at, rows->pos + at, 1, rows->T};
        must(model_loss(m, &one, true, b, NULL, &err), &err);
    }
    float *g = malloc(m->params.count * sizeof *g);
    dev_download(m->dev, g, m->grad, m->params.count * sizeof *g);
    ok_within(float_error(g, whole, m->params.count), 1e-4, "%s: two micro-batches or one", name);
    free(g);
}

static bool same_floats(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

/* All modes against NONE, which runs twice; evaluation in between must not disturb. */
static void check_recompute(struct dev *dev, const struct config *c, const float *weights,
                            const struct rows *rows, float dropout, const char *name)
{
    struct model m;
    struct err err;
    float first_loss[B * T], loss[B * T];
    struct model_opts opts = train_opts(RECOMPUTE_NONE, dropout);
    open_model(&m, c, &opts, dev, weights);
    float *first = gradient(&m, rows, first_loss);
    must(model_loss(&m, rows, false, 0, NULL, &err), &err);
    float *again = gradient(&m, rows, loss);
    ok(same_floats(first, again, m.params.count) && same_floats(first_loss, loss, B * T),
       "%s, dropout %g: the same seed twice, the same bits", name, (double)dropout);
    free(again);
    const size_t n = m.params.count;
    model_close(&m);
    for (int mode = RECOMPUTE_CHEAP; mode <= RECOMPUTE_FULL; mode++) {
        opts.recompute = (enum recompute)mode;
        open_model(&m, c, &opts, dev, weights);
        again = gradient(&m, rows, loss);
        ok(same_floats(first, again, n) && same_floats(first_loss, loss, B * T),
           "%s, dropout %g: recompute %s gives the same bits", name, (double)dropout,
           recompute_names[mode]);
        free(again);
        model_close(&m);
    }
    free(first);
}

/* Dropout hides elements of the branches, and only when gradients are asked for. */
static void check_dropout(struct dev *dev, const struct config *c, const float *weights,
                          const struct rows *rows)
{
    struct model m;
    struct err err;
    float plain[B * T], dropped[B * T], eval[B * T];
    const struct model_opts opts = train_opts(RECOMPUTE_NONE, 0.3f);
    struct model_opts none = opts;
    none.dropout = 0;
    open_model(&m, c, &none, dev, weights);
    free(gradient(&m, rows, plain));
    model_close(&m);
    open_model(&m, c, &opts, dev, weights);
    float *whole = gradient(&m, rows, dropped);
    must(model_loss(&m, rows, false, 0, eval, &err), &err);
    ok(!same_floats(plain, dropped, B * T), "dropout changes training");
    ok(same_floats(plain, eval, B * T), "and not evaluation");
    check_micro(&m, rows, whole, "dropout's masks");
    check_twin(&m, rows, weights, "with dropout");
    free(whole);
    model_close(&m);
}

static void check_variant(struct dev *dev, const struct variant *v)
{
    struct model m;
    const struct config c = small_config(v);
    float *weights = random_weights(&c, 1), losses[B * T];
    struct batch_rows b = random_rows(B, T, c.V, cuts, 3);
    const struct model_opts opts = train_opts(RECOMPUTE_NONE, 0);
    open_model(&m, &c, &opts, dev, weights);
    check_twin(&m, &b.rows, weights, v->name);
    float *packed = gradient(&m, &b.rows, losses);
    check_separate(&m, &b.rows, packed, losses, v->name);
    check_micro(&m, &b.rows, packed, v->name);
    free(packed);
    model_close(&m);
    check_recompute(dev, &c, weights, &b.rows, 0, v->name);
    check_recompute(dev, &c, weights, &b.rows, 0.3f, v->name);
    free(b.block);
    free(weights);
}

/* A row that is one document of exactly T, and one that begins and ends within others. */
static void check_whole_rows(struct dev *dev)
{
    struct model m;
    const struct config c = small_config(&variants[2]);
    float *weights = random_weights(&c, 2), losses[B * T];
    struct batch_rows b = random_rows(B, T, c.V, NULL, 0);
    const struct model_opts opts = train_opts(RECOMPUTE_FULL, 0);
    open_model(&m, &c, &opts, dev, weights);
    check_twin(&m, &b.rows, weights, "documents of T");
    float *packed = gradient(&m, &b.rows, losses);
    check_separate(&m, &b.rows, packed, losses, "documents of T");
    free(packed);
    model_close(&m);
    check_dropout(dev, &c, weights, &b.rows);
    free(b.block);
    free(weights);
}

int main(void)
{
    struct dev dev;
    open_dev(&dev, 1);
    for (int i = 0; i < N_VARIANTS; i++)
        check_variant(&dev, &variants[i]);
    check_whole_rows(&dev);
    dev_close(&dev);
    return tap_done();
}
