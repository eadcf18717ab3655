/* read: texts into slots of a state; see model_read_all of model.h.
 *
 * Texts are cut into pieces of read_T tokens, counted from each one's own begin, and every pass
 * takes as many of the next pieces as it holds, one after the other in a list of tokens. Ops that
 * look at a token alone run over the list; the others keep to the rows of it. The list is filled up
 * to whole units (dev.h), so that passes have few shapes and products do not depend on how many
 * tokens there are. Behind the last block's mixer nothing is computed that nobody asks for. */
#include "forward.h"

#include <limits.h>
#include <string.h>

/* The next token to be read: number `at` of text i. */
struct cursor {
    int i;
    size_t at;
};

/* What is to be read, and how far it has got. */
struct reading {
    struct model *m;
    struct state *s;
    const struct read *texts;
    int n_texts;
    struct cursor next;
};

/* A piece of a text. */
struct piece {
    const struct read *text;
    size_t at;
    int n;
    bool is_last;
};

/* The piece at *c, which moves on behind it. false: there is none. */
static bool next_piece(struct piece *p, const struct reading *r, struct cursor *c)
{
    const size_t most = (size_t)r->m->opts.read_T;
    while (c->i < r->n_texts && c->at == r->texts[c->i].n)
        *c = (struct cursor){c->i + 1, 0};
    if (c->i == r->n_texts)
        return false;
    const struct read *text = &r->texts[c->i];
    const size_t left = text->n - c->at;
    *p = (struct piece){text, c->at, (int)(left < most ? left : most), left <= most};
    c->at += (size_t)p->n;
    return true;
}

/* A pass: R pieces from `first` on. */
struct read_pass {
    struct cursor first;
    int R, M, T; /* M tokens in all, none of the pieces longer than T */
    bool has_target, has_logits;
};

/* As many pieces as fit. The rest of a text waits for the piece before it. */
static struct read_pass next_pass(struct reading *r)
{
    const struct model_opts *o = &r->m->opts;
    struct read_pass pass = {.first = r->next};
    struct cursor c = r->next;
    struct piece p = {.is_last = true};
    while (pass.R < o->read_R && p.is_last && next_piece(&p, r, &c) && pass.M + p.n <= o->read_T) {
        pass.R++;
        pass.M += p.n;
        pass.T = p.n > pass.T ? p.n : pass.T;
        pass.has_target |= p.text->target != NULL;
        pass.has_logits |= p.is_last && p.text->logits;
        r->next = c;
    }
    return pass;
}

/* Of the same order of magnitude as the longest piece, so that passes have few shapes. */
static int bound_of(const struct read_pass *pass, int M)
{
    int T = 64;
    while (T < pass->T)
        T *= 2;
    return T < M ? T : M;
}

/* List `a` of the inputs, on the host. */
static int32_t *staged(const struct model *m, const int32_t *list)
{
    return (int32_t *)m->stage + (list - (const int32_t *)m->acts->inputs);
}

static void upload_pass(const struct reading *r, const struct read_pass *pass)
{
    struct model *m = r->m;
    const struct acts *a = m->acts;
    int32_t *begin = staged(m, a->begin), *slot = staged(m, a->slot);
    int32_t *row_pos = staged(m, a->row_pos), *ids = staged(m, a->ids), *pos = staged(m, a->pos);
    int32_t *target = staged(m, a->target), *last = staged(m, a->last);
    const size_t tokens = (size_t)a->T * sizeof *ids;
    struct cursor c = pass->first;
    memset(ids, 0, tokens);
    memset(pos, 0, tokens);
    memset(last, 0, (size_t)tensor_rows(&a->tail.x) * sizeof *last);
    if (pass->has_target)
        memset(target, 0xff, tokens); /* -1: none */
    begin[0] = 0;
    for (int k = 0; k < pass->R; k++) {
        struct piece p;
        next_piece(&p, r, &c);
        const size_t bytes = (size_t)p.n * sizeof *ids;
        slot[k] = p.text->slot;
        row_pos[k] = r->s->pos[p.text->slot];
        memcpy(ids + begin[k], p.text->ids + p.at, bytes);
        for (int t = 0; t < p.n; t++)
            pos[begin[k] + t] = row_pos[k] + t;
        if (p.text->target)
            memcpy(target + begin[k], p.text->target + p.at, bytes);
        begin[k + 1] = begin[k] + p.n;
        last[k] = begin[k + 1] - 1;
    }
    const size_t lists = (size_t)((const char *)a->target - (const char *)a->inputs);
    dev_upload(m->dev, a->inputs, m->stage, pass->has_target ? a->inputs_bytes : lists);
}

/* What a pass does on the device once the inputs are there. */
struct read_work {
    struct pass pass;
    struct read_rows rows;
    bool has_target, has_logits;
};

static void run_read(void *arg)
{
    const struct read_work *w = arg;
    const struct pass *p = &w->pass;
    struct model *m = p->m;
    const int last = m->c.L - 1;
    forward_embed(p);
    for (int i = 0; i < last; i++)
        forward_block(p, i, false);
    if (!w->has_target) {
        forward_last_block(p, w->has_logits);
        return;
    }
    forward_block(p, last, false);
    if (w->has_logits)
        forward_pick_last(p);
    const struct tensor norm = model_head_norm(m);
    forward_norm(p, &norm);
    forward_loss(p, 1.0f, NULL);
}

static void keep_losses(const struct reading *r, const struct read_pass *pass)
{
    struct model *m = r->m;
    struct cursor c = pass->first;
    const float *loss = m->stage;
    dev_download(m->dev, m->stage, m->acts->loss, (size_t)pass->M * sizeof *loss);
    for (int k = 0; k < pass->R; k++) {
        struct piece p;
        next_piece(&p, r, &c);
        if (p.text->target)
            memcpy(p.text->loss + p.at, loss, (size_t)p.n * sizeof *loss);
        loss += p.n;
    }
}

/* Logits behind rows [row,row+n), as model_step gives them; to[k] is where row k's go, or NULL. */
static void put_logits(struct model *m, float *const *to, int row, int n)
{
    const struct acts *a = m->acts;
    const struct tensor norm = model_head_norm(m);
    const struct tensor x = tensor_row_range(&a->tail.x, row, n);
    struct tensor h = tensor_row_range(&a->h, 0, n), out = tensor_row_range(&a->logits, 0, n);
    m->dev->ops->rmsnorm_fwd(m->dev, &h, NULL, &x, &norm, m->c.norm_eps);
    m->dev->ops->linear_step(m->dev, &out, &h, &m->weight[m->params.head]);
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && to[i] && to[end] == to[end - 1] + out.ld;)
            end++; /* neighbours come in one piece */
        if (to[i])
            dev_download(m->dev, to[i], (const float *)out.data + (int64_t)i * out.ld,
                         (size_t)(end - i) * (size_t)m->c.V * sizeof(float));
    }
}

static void keep_logits(const struct reading *r, const struct read_pass *pass)
{
    enum { AT_ONCE = 64 };
    struct model *m = r->m;
    const int64_t room = tensor_rows(&m->acts->logits);
    const int most = (int)(room < AT_ONCE ? room : AT_ONCE);
    struct cursor c = pass->first;
    for (int row = 0, n; row < pass->R; row += n) {
        float *to[AT_ONCE];
        bool is_wanted = false;
        n = pass->R - row < most ? pass->R - row : most;
        for (int k = 0; k < n; k++) {
            struct piece p;
            next_piece(&p, r, &c);
            to[k] = p.is_last ? p.text->logits : NULL;
            is_wanted |= to[k] != NULL;
        }
        if (is_wanted)
            put_logits(m, to, row, n);
    }
}

static void run_pass(const struct reading *r, const struct read_pass *pass)
{
    struct model *m = r->m;
    struct acts *a = m->acts;
    const int unit = m->dev->read_unit, M = (pass->M + unit - 1) / unit * unit;
    const int T = bound_of(pass, M);
    const struct acts_shape shape = {m->dev, PASS_READ, m->opts.recompute, pass->R, M};
    acts_carve(a, &m->c, &shape);
    upload_pass(r, pass);
    struct read_work w = {{.m = m, .a = a, .state = r->s},
                          {a->begin, a->slot, a->row_pos, pass->R, T},
                          pass->has_target,
                          pass->has_logits};
    w.pass.rows = &w.rows;
    const int wants = 2 * pass->has_target + pass->has_logits;
    const uint64_t key =
        model_key(m, RUN_READ, pass->R, M, r->s->block) ^ model_key(m, RUN_READ, wants, T, NULL);
    dev_run(m->dev, key, run_read, &w);
    if (pass->has_target)
        keep_losses(r, pass);
    if (pass->has_logits)
        keep_logits(r, pass);
    struct cursor c = pass->first;
    for (int k = 0; k < pass->R; k++) {
        struct piece p;
        next_piece(&p, r, &c);
        r->s->pos[p.text->slot] += p.n;
    }
}

static int check_text(const struct model *m, const struct state *s, const struct read *text,
                      struct err *err)
{
    if (text->slot < 0 || text->slot >= s->n_slots)
        return err_set(err, NULL, NULL, "the state has no slot %d", text->slot);
    const size_t room = strchr(m->c.pattern, 't') ? (size_t)s->S : (size_t)INT32_MAX;
    const int32_t pos = s->pos[text->slot];
    if (text->n > room - (size_t)pos)
        return err_set(err, NULL, "use a longer context, or a shorter text",
                       "%zu more tokens do not fit: %d of %d positions are taken", text->n, pos,
                       s->S);
    TRY(model_check_ids(m, text->ids, text->n, 0, err));
    return text->target ? model_check_ids(m, text->target, text->n, -1, err) : 0;
}

static int check_texts(const struct reading *r, struct err *err)
{
    if (r->m->opts.read_T < 1)
        return err_set(err, NULL, NULL, "the model was not opened for reading");
    for (int i = 0; i < r->n_texts; i++) {
        TRY(check_text(r->m, r->s, &r->texts[i], err));
        for (int k = 0; k < i; k++)
            if (r->texts[k].slot == r->texts[i].slot)
                return err_set(err, NULL, NULL, "two texts for slot %d", r->texts[i].slot);
    }
    return 0;
}

int model_read_all(struct model *m, struct state *s, const struct read *texts, int n_texts,
                   struct err *err)
{
    struct reading r = {m, s, texts, n_texts, {0, 0}};
    bool has_waited = false;
    TRY(check_texts(&r, err));
    TRY(model_reserve(m, s, err));
    for (;;) {
        const struct read_pass pass = next_pass(&r);
        if (pass.R == 0)
            return has_waited ? dev_status(m->dev, err) : 0;
        has_waited |= pass.has_target || pass.has_logits;
        run_pass(&r, &pass);
    }
}

int model_read(struct model *m, struct state *s, int slot, const int32_t *ids, size_t n,
               const int32_t *target, float *loss, float *logits, struct err *err)
{
    const struct read text = {slot, ids, n, target, loss, logits};
    return model_read_all(m, s, &text, 1, err);
}
