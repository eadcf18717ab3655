/* Reading of several texts at once, on every device: each slot gets the bits that it gets when its
 * text is read alone, whatever is read beside it, whatever it held before, whether a text is one
 * piece or several; the logits are those of steps, by norm. */
#include "model_test.h"
#include "ops/each_device.h"

enum { N = 6, S = 200, LONGEST = 75, SLOTS = 8, V_MOST = 64 };

static const struct model_opts read_opts = {.read_T = 60, .read_R = 4, .step_R = 2, .S = S};
/* Texts of a few tokens, of a piece, of several; the slots, and what these hold before. */
static const int lens[N] = {3, 60, 1, LONGEST, 25, 0}, slots[N] = {5, 2, 0, 7, 3, 1};
static const int held[N] = {0, 4, 61, 7, 0, 2};

static int32_t ids[N][LONGEST], before[N][LONGEST], target[N][LONGEST];
static float loss[N][LONGEST], loss_alone[N][LONGEST];
static float logits[N][V_MOST], alone[N][V_MOST], next[N][V_MOST], next_alone[N][V_MOST];

static void clean(void)
{
}

static void fill(int V)
{
    for (int i = 0; i < N; i++)
        for (int t = 0; t < LONGEST; t++) {
            ids[i][t] = random_id((uint32_t)(20 + i), (size_t)t, V);
            before[i][t] = random_id((uint32_t)(40 + i), (size_t)t, V);
            target[i][t] = t % 5 == 3 ? -1 : random_id((uint32_t)(60 + i), (size_t)t, V);
        }
}

static void hold(struct model *m, struct state *s, int i)
{
    struct err err;
    state_reset(s, slots[i]);
    must(model_read(m, s, slots[i], before[i], (size_t)held[i], NULL, NULL, NULL, &err), &err);
}

/* Text i; every other one has targets. */
static struct read text_of(int i, float *l, float *to)
{
    const bool has_target = i % 2 == 1;
    return (struct read){slots[i], ids[i], (size_t)lens[i], has_target ? target[i] : NULL, l, to};
}

/* Logits of one step more. */
static void step_on(struct model *m, struct state *s, int i, float *to)
{
    struct tensor out;
    struct err err;
    const int32_t slot = slots[i], id = 7;
    must(model_step(m, s, &slot, &id, 1, &out, &err), &err);
    dev_download(m->dev, to, out.data, (size_t)m->c.V * sizeof *to);
}

static void read_alone(struct model *m, struct state *s)
{
    struct err err;
    for (int i = 0; i < N; i++) {
        const struct read text = text_of(i, loss_alone[i], alone[i]);
        hold(m, s, i);
        must(model_read_all(m, s, &text, 1, &err), &err);
        step_on(m, s, i, next_alone[i]);
    }
}

static void read_together(struct model *m, struct state *s)
{
    struct err err;
    struct read texts[N];
    for (int i = 0; i < N; i++) {
        texts[i] = text_of(i, loss[i], logits[i]);
        hold(m, s, i);
    }
    must(model_read_all(m, s, texts, N, &err), &err);
    for (int i = 0; i < N; i++)
        step_on(m, s, i, next[i]);
}

static double bound(const struct dev *dev)
{
    return dev->act_dtype == DT_F32 ? 1e-5 : dev->act_dtype == DT_BF16 ? 0.05 : 0.01;
}

static void check_together(struct model *m, struct state *s, const char *name)
{
    const char *dev = m->dev->name;
    const size_t V = (size_t)m->c.V * sizeof(float);
    bool is_same = true, is_on = true, has_losses = true, has_pos = true;
    read_alone(m, s);
    const int times = is_cuda(m->dev) ? 2 : 1; /* the second one is recorded */
    for (int again = 0; again < times; again++) {
        read_together(m, s);
        for (int i = 0; i < N; i++) {
            is_same = is_same && (lens[i] == 0 || memcmp(logits[i], alone[i], V) == 0);
            is_on = is_on && memcmp(next[i], next_alone[i], V) == 0;
            has_pos = has_pos && s->pos[slots[i]] == held[i] + lens[i] + 1;
            if (i % 2 == 1 && lens[i] > 0)
                has_losses = has_losses &&
                             float_error(loss[i], loss_alone[i], (size_t)lens[i]) < bound(m->dev);
        }
    }
    ok(is_same, "%s, %s: logits of a text alone and among others: the same bits", dev, name);
    ok(is_on, "%s, %s: the slots go on with the same bits", dev, name);
    ok(has_losses, "%s, %s: losses", dev, name);
    ok(has_pos, "%s, %s: positions", dev, name);
}

/* The same by steps. */
static void check_steps(struct model *m, struct state *s, const char *name)
{
    double most = 0;
    float stepped[V_MOST];
    for (int i = 0; i < N; i++) {
        if (lens[i] == 0 || lens[i] > 30)
            continue;
        hold(m, s, i);
        for (int t = 0; t < lens[i]; t++) {
            struct tensor out;
            struct err err;
            const int32_t slot = slots[i];
            must(model_step(m, s, &slot, &ids[i][t], 1, &out, &err), &err);
            dev_download(m->dev, stepped, out.data, (size_t)m->c.V * sizeof *stepped);
        }
        most = fmax(most, float_error(logits[i], stepped, (size_t)m->c.V));
    }
    ok_within(most, bound(m->dev), "%s, %s: token by token", m->dev->name, name);
}

static void check_refusals(struct model *m, struct state *s)
{
    struct err err = {.what = ""};
    struct read texts[2] = {text_of(0, loss[0], NULL), text_of(0, loss[0], NULL)};
    state_reset(s, slots[0]);
    ok(model_read_all(m, s, texts, 2, &err) != 0, "%s", err.what);
    texts[1] = text_of(1, loss[1], NULL);
    texts[1].slot = SLOTS;
    ok(model_read_all(m, s, texts, 2, &err) != 0 && s->pos[slots[0]] == 0, "%s", err.what);
    texts[1] = text_of(1, loss[1], NULL);
    ids[1][5] = m->c.V;
    ok(model_read_all(m, s, texts, 2, &err) != 0 && s->pos[slots[0]] == 0, "%s", err.what);
}

static void check(struct dev *dev)
{
    /* the emulation is slow: what has both mixers, and what has everything */
    for (int i = is_cuda(dev) ? 2 : 0; i < N_VARIANTS; i++) {
        struct model m;
        struct state s;
        struct err err;
        const struct config c = small_config(&variants[i]);
        float *w = random_weights(&c, 3);
        open_model(&m, &c, &read_opts, dev, w);
        must(state_open(&s, &m.c, dev, SLOTS, S, &err), &err);
        fill(c.V);
        check_together(&m, &s, variants[i].name);
        check_steps(&m, &s, variants[i].name);
        if (i == N_VARIANTS - 1)
            check_refusals(&m, &s);
        state_free(&s);
        model_close(&m);
        free(w);
    }
}

int main(void)
{
    each_device_of(check, clean);
    return tap_done();
}
