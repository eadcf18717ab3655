/* Reading and decoding: token by token, in pieces and in one pass by norm; a prompt alone or in a
 * batch, a state copied, saved and loaded, bit for bit; what must be refused. */
#include "model_test.h"
#include "sampler.h"

#include <unistd.h>

enum { N_IDS = 30, S = 40, R = 3 };

static const struct model_opts decode_opts = {
    .B = 1, .T = N_IDS, .read_T = 12, .step_R = R, .S = S};

static void fill_ids(int32_t *ids, int n, uint32_t stream, int V)
{
    for (int i = 0; i < n; i++)
        ids[i] = random_id(stream, (size_t)i, V);
}

static void step(struct model *m, struct state *s, int slot, int32_t id, float *logits)
{
    struct tensor out;
    struct err err;
    must(model_step(m, s, &slot, &id, 1, &out, &err), &err);
    dev_download(m->dev, logits, out.data, (size_t)m->c.V * sizeof *logits);
}

/* -log p of each next id, by stepping. */
static void losses_by_steps(struct model *m, struct state *s, int slot, const int32_t *ids,
                            const int32_t *target, int n, float *loss)
{
    float *logits = malloc((size_t)m->c.V * sizeof *logits);
    for (int i = 0; i < n; i++) {
        double sum = 0;
        step(m, s, slot, ids[i], logits);
        for (int v = 0; v < m->c.V; v++)
            sum += exp((double)logits[v]);
        loss[i] = (float)(log(sum) - (double)logits[target[i]]);
    }
    free(logits);
}

static void check_equal(struct model *m, struct state *s, const char *name)
{
    struct err err;
    const int V = m->c.V;
    int32_t ids[N_IDS], target[N_IDS], seg[N_IDS] = {0}, pos[N_IDS];
    float whole[N_IDS], read[N_IDS], stepped[N_IDS], logits[64], again[64];
    fill_ids(ids, N_IDS, 1, V);
    fill_ids(target, N_IDS, 2, V);
    for (int i = 0; i < N_IDS; i++)
        pos[i] = i;
    const struct rows rows = {ids, target, seg, pos, 1, N_IDS};
    begin_step(m, N_IDS, 1);
    must(model_loss(m, &rows, false, 0, whole, &err), &err);
    state_reset(s, 0);
    must(model_read(m, s, 0, ids, N_IDS, target, read, logits, &err), &err);
    ok_within(float_error(read, whole, N_IDS), 1e-5, "%s: read in pieces", name);
    ok(s->pos[0] == N_IDS, "%s: the state's position", name);
    state_reset(s, 0);
    losses_by_steps(m, s, 0, ids, target, N_IDS, stepped);
    ok_within(float_error(stepped, whole, N_IDS), 1e-5, "%s: token by token", name);

    state_reset(s, 0); /* a piece, a few steps, a piece */
    must(model_read(m, s, 0, ids, 5, target, read, NULL, &err), &err);
    losses_by_steps(m, s, 0, ids + 5, target + 5, 3, read + 5);
    must(model_read(m, s, 0, ids + 8, N_IDS - 8, target + 8, read + 8, again, &err), &err);
    ok_within(float_error(read, whole, N_IDS), 1e-5, "%s: by turns", name);
    ok_within(float_error(again, logits, (size_t)V), 1e-5, "%s: the last logits", name);
}

/* Three prompts of different length, stepped on together and each alone. */
static void check_batch(struct model *m, struct state *s, const char *name)
{
    struct err err;
    const size_t V = (size_t)m->c.V;
    int32_t ids[R][N_IDS];
    float alone[R][64], together[R * 64];
    for (int r = 0; r < R; r++)
        fill_ids(ids[r], N_IDS, (uint32_t)(20 + r), m->c.V);
    for (int r = 0; r < R; r++) {
        state_reset(s, 0);
        must(model_read(m, s, 0, ids[r], (size_t)(4 + 9 * r), NULL, NULL, NULL, &err), &err);
        for (int i = 0; i < 4; i++)
            step(m, s, 0, ids[r][i], alone[r]);
    }
    int32_t slot[R] = {2, 0, 1}, id[R];
    struct tensor out;
    for (int r = 0; r < R; r++) {
        state_reset(s, slot[r]);
        must(model_read(m, s, slot[r], ids[r], (size_t)(4 + 9 * r), NULL, NULL, NULL, &err), &err);
    }
    for (int i = 0; i < 4; i++) {
        for (int r = 0; r < R; r++)
            id[r] = ids[r][i];
        must(model_step(m, s, slot, id, R, &out, &err), &err);
    }
    dev_download(m->dev, together, out.data, R * V * sizeof(float));
    bool is_same = true;
    for (int r = 0; r < R; r++)
        is_same &= memcmp(alone[r], together + (size_t)r * V, V * sizeof(float)) == 0;
    ok(is_same, "%s: a prompt alone or in a batch has the same bits", name);
}

/* What the slot says next, for some steps. */
static void continuation(struct model *m, struct state *s, int slot, float *logits)
{
    for (int i = 0; i < 5; i++)
        step(m, s, slot, (7 * i + 3) % m->c.V, logits + 64 * i);
}

static struct buf save(struct model *m, const struct state *s, int slot, const int32_t *ids,
                       size_t n)
{
    struct buf file = {0};
    struct out out;
    struct err err;
    uint64_t hash;
    char path[] = "/tmp/hm-state-XXXXXX";
    const int fd = mkstemp(path);
    must(fd < 0 ? err_errno(&err, path, NULL, "cannot create") : 0, &err);
    close(fd);
    must(model_hash(m, &hash, &err), &err);
    must(out_open(&out, path, &err), &err);
    must(state_save(s, slot, ids, n, hash, &out, &err), &err);
    must(out_commit(&out, &err), &err);
    must(io_read_file(path, &file, 1 << 24, &err), &err);
    unlink(path);
    return file;
}

static int load(struct model *m, struct state *s, int slot, struct ids *ids, const void *bytes,
                size_t n, struct err *err)
{
    struct in in;
    uint64_t hash;
    must(model_hash(m, &hash, err), err);
    must(in_memory(&in, "state", bytes, n, err), err);
    const int rc = state_load(s, slot, ids, hash, &in, err);
    in_close(&in);
    return rc;
}

static void check_states(struct model *m, struct state *s, const char *name)
{
    struct err err;
    int32_t ids[N_IDS];
    float want[5 * 64] = {0}, got[5 * 64] = {0};
    struct ids back = {0};
    fill_ids(ids, N_IDS, 5, m->c.V);
    state_reset(s, 0);
    must(model_read(m, s, 0, ids, 17, NULL, NULL, NULL, &err), &err);
    struct buf file = save(m, s, 0, ids, 17);
    must(state_copy(s, 1, s, 0, &err), &err);
    continuation(m, s, 0, want);
    continuation(m, s, 1, got);
    ok(memcmp(want, got, sizeof want) == 0, "%s: a copied state goes on with the same bits", name);
    memset(got, 0, sizeof got);
    ok(load(m, s, 2, &back, file.data, file.size, &err) == 0 && s->pos[2] == 17 && back.n == 17 &&
           memcmp(back.data, ids, sizeof(int32_t) * 17) == 0,
       "%s: a saved state loads, with its ids", name);
    continuation(m, s, 2, got);
    ok(memcmp(want, got, sizeof want) == 0, "%s: and goes on with the same bits", name);
    state_reset(s, 2);
    continuation(m, s, 2, got);
    ok(memcmp(want, got, sizeof want) != 0, "%s: an empty one does not", name);
    ids_free(&back);
    buf_free(&file);
}

static void check_refusals(struct model *m, struct state *s)
{
    struct err err = {.what = ""};
    int32_t ids[S + 1] = {0};
    struct tensor out;
    int32_t slot = 0;
    state_reset(s, 0);
    ok(model_read(m, s, 0, ids, S + 1, NULL, NULL, NULL, &err) != 0 && err.mend[0], "%s", err.what);
    must(model_read(m, s, 0, ids, S, NULL, NULL, NULL, &err), &err);
    ok(model_step(m, s, &slot, ids, 1, &out, &err) != 0 && err.mend[0], "%s", err.what);
    state_reset(s, 0);
    ids[3] = m->c.V;
    ok(model_read(m, s, 0, ids, 4, NULL, NULL, NULL, &err) != 0, "%s", err.what);
    ids[3] = -1;
    ok(model_read(m, s, 0, ids, 4, NULL, NULL, NULL, &err) != 0 && s->pos[0] == 0, "%s", err.what);
    ok(model_step(m, s, &slot, ids + 3, 1, &out, &err) != 0, "%s", err.what);
    slot = s->n_slots;
    ok(model_step(m, s, &slot, ids, 1, &out, &err) != 0, "%s", err.what);
}

/* Truncations and flipped bits of a state's file; the slot stays what it was. */
static void check_damage(struct model *m, struct state *s)
{
    struct err err;
    int32_t ids[4] = {1, 2, 3, 4};
    struct ids back = {0};
    state_reset(s, 0);
    must(model_read(m, s, 0, ids, 2, NULL, NULL, NULL, &err), &err);
    struct buf file = save(m, s, 0, ids, 2);
    int accepted = 0;
    for (size_t n = 0; n < file.size; n += n < 2048 ? 7 : 501)
        accepted += load(m, s, 1, &back, file.data, n, &err) == 0;
    ok(accepted == 0, "no truncation of a state is accepted");
    for (size_t at = 0; at < file.size; at += at < 2048 ? 1 : 97) {
        file.data[at] ^= (uint8_t)(1 << at % 8);
        accepted += load(m, s, 1, &back, file.data, file.size, &err) == 0;
        file.data[at] ^= (uint8_t)(1 << at % 8);
    }
    ok(accepted == 0 && back.n == 0, "no flipped bit of a state is accepted");
    ok(load(m, s, 1, &back, file.data, file.size, &err) == 0, "the file itself is");
    for (size_t at = 0; at + 7 < file.size; at++) /* no key that hm would take for a checksum */
        if (memcmp(file.data + at, "hm.xxh3", 7) == 0)
            file.data[at + 6] = '4';
    ok(load(m, s, 1, &back, file.data, file.size, &err) != 0, "without checksums: %s", err.what);
    buf_free(&file);
    file = save(m, s, 0, ids, 2);
    float *w = random_weights(&m->c, 9);
    must(model_set_weights(m, w, &err), &err);
    ok(load(m, s, 1, &back, file.data, file.size, &err) != 0 && strstr(err.what, "another model"),
       "other weights: %s", err.what);
    free(w);
    ids_free(&back);
    buf_free(&file);
}

/* A state that a device with narrow activations saved, and the other way round. */
static void check_types(struct model *m, struct state *s, struct dev *dev)
{
    struct err err;
    struct state narrow, back;
    struct ids none = {0};
    int32_t ids[6] = {1, 2, 3, 4, 5, 6};
    bool is_same = true;
    state_reset(s, 0);
    must(model_read(m, s, 0, ids, 6, NULL, NULL, NULL, &err), &err);
    struct buf file = save(m, s, 0, ids, 6);
    dev->act_dtype = DT_BF16;
    must(state_open(&narrow, &m->c, dev, 1, S, &err), &err);
    dev->act_dtype = DT_F32;
    must(state_open(&back, &m->c, dev, 1, S, &err), &err);
    must(load(m, &narrow, 0, &none, file.data, file.size, &err), &err);
    buf_free(&file);
    file = save(m, &narrow, 0, ids, 6);
    must(load(m, &back, 0, &none, file.data, file.size, &err), &err);
    for (int i = 0; i < m->c.L; i++) {
        if (m->c.pattern[i] != 't')
            continue;
        const struct tensor k = state_keys(s, i, 0), k2 = state_keys(&back, i, 0);
        const float *a = k.data, *b = k2.data;
        for (int64_t j = 0; j < 6 * k.ld; j++)
            is_same = is_same && b[j] == bf16_to_f32(bf16_from_f32(a[j]));
    }
    ok(is_same && back.pos[0] == 6, "a state goes from f32 to bf16 and back");
    state_free(&narrow);
    state_free(&back);
    buf_free(&file);
    ids_free(&none);
}

/* The id that a new completion in the slot, whose bias leaves no choice, begins with. */
static int32_t forced(struct sampler *sampler, struct model *m, struct state *s, int slot, int want)
{
    struct err err;
    struct sample_opts o;
    const int32_t at = slot, id = 1;
    int32_t chosen;
    float logp;
    sample_defaults(&o);
    if (want >= 0)
        must(sample_add_bias(&o, want, 1e9, m->c.V, &err), &err);
    o.temperature = 0;
    sampler_start(sampler, slot, &o, 0, &id, 1);
    state_reset(s, slot);
    must(sampler_step(sampler, m, s, &at, &id, 1, &chosen, &logp, &err), &err);
    return chosen;
}

/* Biases go to the device when they change, and then always. */
static void check_biases(struct model *m, struct state *s)
{
    struct err err;
    struct sampler sampler;
    must(sampler_open(&sampler, m->dev, R, m->c.V, &err), &err);
    ok(forced(&sampler, m, s, 0, 7) == 7 && forced(&sampler, m, s, 0, 9) == 9 &&
           forced(&sampler, m, s, 1, 11) == 11 && forced(&sampler, m, s, 0, 9) == 9,
       "each completion has its own biases");
    const int32_t free_choice = forced(&sampler, m, s, 0, -1);
    ok(free_choice != 9 && forced(&sampler, m, s, 0, 9) == 9 &&
           forced(&sampler, m, s, 0, -1) == free_choice,
       "and one without has none");
    sampler_close(&sampler);
}

/* Steps begun before the last one's tokens were seen choose what steps one by one choose. */
static void check_going_on(struct model *m, struct state *s)
{
    enum { STEPS = 6 };
    static const int32_t slot[R] = {0, 1, 2};
    struct err err;
    struct sampler sampler;
    struct sample_opts o;
    int32_t id[2][STEPS + 1][R] = {0};
    float logp[2][STEPS + 1][R] = {0};
    sample_defaults(&o);
    must(sampler_open(&sampler, m->dev, R, m->c.V, &err), &err);
    for (int k = 0; k < 2; k++) {
        for (int r = 0; r < R; r++) {
            id[k][0][r] = 5 + r;
            sampler_start(&sampler, r, &o, (uint32_t)r, id[k][0], 1);
            state_reset(s, r);
        }
        for (int i = 0; k == 0 && i < STEPS; i++)
            must(
                sampler_step(&sampler, m, s, slot, id[k][i], R, id[k][i + 1], logp[k][i + 1], &err),
                &err);
        if (k == 1)
            must(sampler_begin(&sampler, m, s, slot, id[k][0], R, &err), &err);
        for (int i = 0; k == 1 && i < STEPS; i++) {
            if (i + 1 < STEPS)
                must(sampler_begin(&sampler, m, s, slot, NULL, R, &err), &err);
            must(sampler_end(&sampler, m, slot, R, id[k][i + 1], logp[k][i + 1], &err), &err);
        }
    }
    ok(memcmp(id[0], id[1], sizeof id[0]) == 0 && memcmp(logp[0], logp[1], sizeof logp[0]) == 0,
       "steps that go on from tokens the host has not seen");
    ok(sampler_end(&sampler, m, slot, R, id[0][0], logp[0][0], &err) != 0,
       "what was not begun has no end");
    sampler_close(&sampler);
}

int main(void)
{
    struct dev dev;
    struct err err;
    open_dev(&dev, 2);
    for (int i = 0; i < N_VARIANTS; i++) {
        struct model m;
        struct state s;
        const struct config c = small_config(&variants[i]);
        float *w = random_weights(&c, 3);
        open_model(&m, &c, &decode_opts, &dev, w);
        must(state_open(&s, &m.c, &dev, R, S, &err), &err);
        check_equal(&m, &s, variants[i].name);
        check_batch(&m, &s, variants[i].name);
        check_states(&m, &s, variants[i].name);
        if (strcmp(variants[i].pattern, "mmtm") == 0) {
            check_types(&m, &s, &dev);
            check_biases(&m, &s);
            check_going_on(&m, &s);
            check_refusals(&m, &s);
            check_damage(&m, &s);
        }
        state_free(&s);
        model_close(&m);
        free(w);
    }
    dev_close(&dev);
    return tap_done();
}
