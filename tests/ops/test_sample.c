/* Sampling: every filter alone and all together against the sorted reference, the draw's stream,
 * rows independent of each other, and logits that are not numbers. */
#include "ops_test.h"

enum { RECENT_CAP = 9, BIAS_CAP = 3 };

static const struct sample_row plain = {
    .seed = 11, .temperature = 1, .top_p = 1, .typical_p = 1, .repeat_penalty = 1};

/* Rows that switch one thing on each, and rows with everything. */
static struct sample_row settings(int r)
{
    struct sample_row o = plain;
    o.prompt = (uint32_t)r;
    o.position = (uint32_t)(1000 + 7 * r);
    const int kind = r % 12;
    if (kind == 1)
        o.temperature = 0;
    if (kind == 2 || kind >= 10)
        o.temperature = 0.7F;
    if (kind == 3)
        o.temperature = 1.9F;
    if (kind == 4 || kind >= 10)
        o.top_k = 5 + r % 40;
    if (kind == 5 || kind >= 10)
        o.top_p = 0.8F;
    if (kind == 6 || kind >= 10)
        o.min_p = 0.05F;
    if (kind == 7 || kind >= 10)
        o.typical_p = 0.6F;
    if (kind == 8 || kind >= 10) {
        o.repeat_penalty = 1.3F;
        o.freq_penalty = 0.4F;
        o.pres_penalty = 0.3F;
        o.n_recent = RECENT_CAP - r % 3;
    }
    if (kind == 9 || kind == 11)
        o.n_bias = BIAS_CAP;
    return o;
}

struct setup {
    int R, V;
    double *logits;
    struct sample_row *rows;
    int32_t *recent, *bias_id, *id;
    float *bias, *logp;
};

static struct setup make_setup(int R, int V)
{
    struct setup s = {.R = R, .V = V, .logits = t_random((size_t)(R * V), 2, (uint32_t)V)};
    s.rows = (struct sample_row *)t_zeros((size_t)R * sizeof *s.rows / sizeof(double) + 1);
    s.recent = (int32_t *)t_zeros((size_t)(R * RECENT_CAP));
    s.bias_id = (int32_t *)t_zeros((size_t)(R * BIAS_CAP));
    s.bias = (float *)t_zeros((size_t)(R * BIAS_CAP));
    s.id = (int32_t *)t_zeros((size_t)R);
    s.logp = (float *)t_zeros((size_t)R);
    for (int r = 0; r < R; r++)
        s.rows[r] = settings(r);
    /* ids often come back */
    for (int i = 0; i < R * RECENT_CAP; i++)
        s.recent[i] = (int32_t)(philox(3, 1, (uint64_t)i).v[0] % (uint32_t)(V > 6 ? 6 : V));
    for (int i = 0; i < R * BIAS_CAP; i++) {
        s.bias_id[i] = (int32_t)(philox(3, 2, (uint64_t)i).v[0] % (uint32_t)V);
        s.bias[i] = i % 3 == 0 ? -INFINITY : 3;
    }
    return s;
}

/* Samples rows first..first+n of the set-up, with 3 columns between the rows. */
static void run(struct dev *dev, struct setup *s, int first, int n)
{
    const struct sizes sizes = {.R = n, .V = s->V};
    reserve(dev, OP_SAMPLE, &sizes);
    const struct tensor logits = t_f32(dev, s->logits + first * s->V, n, s->V, s->V + 3);
    const size_t rows = (size_t)n, at = (size_t)first;
    const struct sample_tables tables = {
        t_upload(dev, s->recent + at * RECENT_CAP, rows * RECENT_CAP * sizeof(int32_t)),
        t_upload(dev, s->bias_id + at * BIAS_CAP, rows * BIAS_CAP * sizeof(int32_t)),
        t_upload(dev, s->bias + at * BIAS_CAP, rows * BIAS_CAP * sizeof(float)), RECENT_CAP,
        BIAS_CAP};
    int32_t *id = t_upload(dev, s->id, rows * sizeof *id);
    float *logp = t_upload(dev, s->logp, rows * sizeof *logp);
    dev->ops->sample(dev, id, logp, &logits, t_upload(dev, s->rows + at, rows * sizeof *s->rows),
                     &tables);
    dev_download(dev, s->id + at, id, rows * sizeof *id);
    dev_download(dev, s->logp + at, logp, rows * sizeof *logp);
}

/* Whether the row's id is what the reference draws; where the number falls within rounding of a
 * border between two tokens, either will do. */
static bool is_right(const struct setup *s, int r, double *p)
{
    const double *l = s->logits + r * s->V;
    const struct sample_row *o = &s->rows[r];
    const double u =
        (double)rng_uniform(o->seed, rng_stream(RNG_SAMPLE, o->prompt, o->position), 0);
    const int want = ref_sample(p, u, l, s->V, o, s->recent + r * RECENT_CAP,
                                s->bias_id + r * BIAS_CAP, s->bias + r * BIAS_CAP);
    const int got = s->id[r];
    double below = 0, top = l[0], sum = 0;
    for (int v = 0; v < got; v++)
        below += p[v];
    for (int v = 0; v < s->V; v++)
        top = fmax(top, l[v]);
    for (int v = 0; v < s->V; v++)
        sum += exp(l[v] - top);
    const bool is_near = p[got] > 0 && u > below - 1e-5 && u < below + p[got] + 1e-5;
    const double logp = l[got] - top - log(sum);
    return (got == want || is_near) && fabs(s->logp[r] - logp) <= 1e-5 * (1 + fabs(logp));
}

static void check_filters(struct dev *dev, int R, int V)
{
    struct setup s = make_setup(R, V);
    double *p = t_zeros((size_t)V);
    run(dev, &s, 0, R);
    int wrong = 0;
    for (int r = 0; r < R; r++) {
        const bool is_ok = is_right(&s, r, p);
        if (!is_ok)
            printf("# row %d (kind %d): id %d, logp %g\n", r, r % 12, s.id[r], (double)s.logp[r]);
        wrong += !is_ok;
    }
    ok(wrong == 0 && guard_ok(dev), "%s R %d V %d: every row as the reference has it", dev->name, R,
       V);
    struct setup alone = make_setup(R, V);
    for (int r = 0; r < R && r < 24; r++)
        run(dev, &alone, r, 1);
    const size_t n = R < 24 ? (size_t)R : 24;
    ok(memcmp(alone.id, s.id, n * sizeof *s.id) == 0 &&
           memcmp(alone.logp, s.logp, n * sizeof *s.logp) == 0,
       "%s R %d V %d: a row alone is the same row", dev->name, R, V);
}

/* Frequencies of 1000 draws against the filtered distribution, by chi-square. */
static void check_frequencies(struct dev *dev)
{
    enum { R = 1000, V = 9 };
    struct setup s = make_setup(R, V);
    double p[V], count[V] = {0}, chi = 0;
    int degrees = -1;
    for (int r = 0; r < R; r++) {
        memcpy(s.logits + r * V, s.logits, V * sizeof *s.logits);
        s.rows[r] = plain;
        s.rows[r].top_k = 6;
        s.rows[r].prompt = 5;
        s.rows[r].position = (uint32_t)r;
    }
    run(dev, &s, 0, R);
    ref_sample(p, 0, s.logits, V, s.rows, s.recent, s.bias_id, s.bias);
    for (int r = 0; r < R; r++)
        count[s.id[r]]++;
    for (int v = 0; v < V; v++) {
        degrees += p[v] > 0;
        chi +=
            p[v] > 0 ? (count[v] - R * p[v]) * (count[v] - R * p[v]) / (R * p[v]) : 1e9 * count[v];
    }
    /* mean + 4 deviations of chi-square */
    ok_within(chi, degrees + 4 * sqrt(2.0 * degrees), "%s: chi-square of the draws", dev->name);
}

static void check_odd_logits(struct dev *dev)
{
    enum { R = 24, V = 33 };
    for (int what = 0; what < 3; what++) {
        struct setup s = make_setup(R, V);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++)
                if (what == 2 || v == 5)
                    s.logits[r * V + v] = what == 0 ? NAN : what == 1 ? INFINITY : -INFINITY;
        run(dev, &s, 0, R);
        bool is_ok = true;
        for (int r = 0; r < R; r++)
            is_ok = is_ok && s.id[r] == 0 && isnan(s.logp[r]);
        ok(is_ok, "%s: %s gives id 0 and no probability", dev->name,
           what == 0   ? "a NaN"
           : what == 1 ? "+infinity"
                       : "a row of -infinity");
    }
    struct setup s = make_setup(R, V);
    double *p = t_zeros(V);
    bool is_ok = true;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            if (v % 3 != 1)
                s.logits[r * V + v] = -INFINITY;
    run(dev, &s, 0, R);
    for (int r = 0; r < R; r++)
        is_ok = is_ok && is_right(&s, r, p) && s.id[r] % 3 == 1;
    ok(is_ok, "%s: masked tokens are never drawn", dev->name);
}

static void check_ties(struct dev *dev)
{
    enum { R = 12, V = 50 };
    struct setup s = make_setup(R, V);
    for (int i = 0; i < R * V; i++)
        s.logits[i] = 1;
    run(dev, &s, 0, R);
    double *p = t_zeros(V);
    bool is_ok = s.id[1] == 0; /* greedy */
    for (int r = 0; r < R; r++)
        is_ok = is_ok && is_right(&s, r, p);
    ok(is_ok, "%s: among equals the lower id comes first", dev->name);
    /* filters at their tightest leave one token */
    for (int r = 0; r < R; r++) {
        s.rows[r] = plain;
        s.rows[r].top_k = r % 4 == 0;
        s.rows[r].top_p = r % 4 == 1 ? 0 : 1;
        s.rows[r].min_p = r % 4 == 2;
        s.rows[r].typical_p = r % 4 == 3 ? 0 : 1;
        s.logits[r * V + 7] = r % 4 == 3 ? 1 : 2;
    }
    run(dev, &s, 0, R);
    for (int r = 0; r < R; r++)
        is_ok = is_ok && s.id[r] == (r % 4 == 3 ? 0 : 7);
    ok(is_ok, "%s: the tightest filters leave the best token", dev->name);
}

static void check(struct dev *dev)
{
    check_filters(dev, 12, 1);
    check_filters(dev, 240, 61);
    check_filters(dev, 36, 5003);
    free_all();
    check_frequencies(dev);
    check_odd_logits(dev);
    check_ties(dev);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
