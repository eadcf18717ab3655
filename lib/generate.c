/* generate: the ragged batch; see generate.h. */
#include "generate.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Results wait for older prompts: at most so many prompts a slot are taken in ahead of the oldest
 * one that is not done, so memory stays bounded. */
enum { GEN_AHEAD = 32 };
/* Slots wait for others until one in so many is free. */
enum { REFILL = 8 };

struct gen_slot {
    bool is_taken;
    int64_t number;
};

/* A prompt that was taken in and not handed back yet. */
struct job {
    bool is_done;
    int slot;
    struct gen_prompt prompt;
    struct ids ids; /* prefix and prompt */
    struct completion out;
    double start_s, read_s, end_s;
};

/* One gen_run: jobs of numbers first .. first + n - 1, in a ring of cap. */
struct run {
    struct gen *g;
    const struct gen_calls *calls;
    struct job *job;
    int64_t first, n, cap;
    bool is_input_over;
    int n_rows, n_open; /* rows of a step; steps begun and not ended, of the same rows */
    struct gen_totals totals;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t gen_room(const struct state *s)
{
    return strchr(s->c->pattern, 't') ? s->S : INT32_MAX;
}

void gen_prompt_free(struct gen_prompt *p)
{
    buf_free(&p->text);
    buf_free(&p->label);
    gen_opts_free(&p->opts);
    *p = (struct gen_prompt){0};
}

int gen_open(struct gen *g, struct model *m, const struct tok *tok, int n_slots, int S,
             struct err *err)
{
    *g = (struct gen){.model = m, .tok = tok, .n_slots = n_slots};
    const size_t n = (size_t)n_slots;
    g->slot = calloc(n, sizeof *g->slot);
    g->text = calloc(n, sizeof *g->text);
    g->row_slot = calloc(n, sizeof *g->row_slot);
    g->row_id = calloc(n, sizeof *g->row_id);
    g->row_choice = calloc(n, sizeof *g->row_choice);
    g->row_number = calloc(n, sizeof *g->row_number);
    g->row_logp = calloc(n, sizeof *g->row_logp);
    if (!g->slot || !g->text || !g->row_slot || !g->row_id || !g->row_choice || !g->row_number ||
        !g->row_logp) {
        gen_close(g);
        return err_oom(err, n * sizeof *g->slot);
    }
    if (state_open(&g->state, &m->c, m->dev, n_slots + 1, S, err) != 0 ||
        sampler_open(&g->sampler, m->dev, n_slots, m->c.V, err) != 0 ||
        ids_put(&g->prefix, ID_BOS, err) != 0) {
        gen_close(g);
        return -1;
    }
    return 0;
}

int gen_load_prefix(struct gen *g, struct in *in, struct err *err)
{
    uint64_t hash;
    TRY(model_hash(g->model, &hash, err));
    g->prefix.n = 0;
    TRY(state_load(&g->state, g->n_slots, &g->prefix, hash, in, err));
    return gen_check_ids(&g->prefix, g->state.pos[g->n_slots], g->model->c.V, in->path, err);
}

int gen_check_ids(const struct ids *ids, int32_t n_read, int V, const char *path, struct err *err)
{
    if (ids->n < (size_t)n_read)
        return err_set(err, path, "save it again", "the state has read %d tokens but names %zu",
                       (int)n_read, ids->n);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->data[i] < 0 || ids->data[i] >= V)
            return err_set(err, path, "save it again", "names id %d, the model has %d",
                           (int)ids->data[i], V);
    return 0;
}

void gen_close(struct gen *g)
{
    free(g->slot);
    free(g->text);
    free(g->row_slot);
    free(g->row_id);
    free(g->row_choice);
    free(g->row_number);
    free(g->row_logp);
    ids_free(&g->prefix);
    sampler_close(&g->sampler);
    state_free(&g->state);
    *g = (struct gen){0};
}

static void job_free(struct job *j)
{
    gen_prompt_free(&j->prompt);
    ids_free(&j->ids);
    completion_free(&j->out);
    *j = (struct job){0};
}

static struct job *job_at(struct run *r, int64_t number)
{
    return &r->job[number % r->cap];
}

/* Encodes the prompt, and makes *text what is to be read into the slot: what the prefix's state
 * does not hold, and not the last id, which is the input of the first step. */
static int start_prompt(struct run *r, struct job *j, int slot, int64_t number, struct read *text,
                        struct err *err)
{
    struct gen *g = r->g;
    struct state *s = &g->state;
    *text = (struct read){.slot = slot};
    TRY(ids_append(&j->ids, g->prefix.data, g->prefix.n, err));
    TRY(tok_encode(g->tok, j->prompt.text.data, j->prompt.text.size, &j->ids, err));
    if (j->ids.n == (size_t)s->pos[g->n_slots])
        return err_set(err, NULL, "give it some text",
                       "prompt %lld is empty, and the loaded state has no token to go on from",
                       (long long)number);
    if ((int64_t)j->ids.n > gen_room(s)) {
        j->out.stop = GEN_CONTEXT;
        return 0;
    }
    const size_t begin = (size_t)s->pos[g->n_slots];
    text->ids = j->ids.data + begin;
    text->n = j->ids.n - 1 - begin;
    r->totals.n_read += (int64_t)(j->ids.n - begin);
    struct sample_opts o;
    TRY(gen_choice(&j->prompt.opts, g->model->c.V, &o, err));
    sampler_start(&g->sampler, slot, &o, j->prompt.opts.has_seed ? 0 : (uint32_t)number,
                  j->ids.data, j->ids.n);
    return 0;
}

/* Takes in the next prompt for the free slot. 1; 0: there is none now. */
static int take_prompt(struct run *r, int slot, struct read *text, struct err *err)
{
    if (r->is_input_over || r->n == r->cap)
        return 0;
    const int64_t number = r->first + r->n;
    struct job *j = job_at(r, number);
    *j = (struct job){.slot = slot, .start_s = now_s()};
    completion_init(&j->out);
    const int got = r->calls->next(r->calls->arg, &j->prompt, err);
    if (got <= 0) {
        job_free(j);
        r->is_input_over = true;
        return got;
    }
    r->n++;
    r->totals.n_prompts++;
    r->g->slot[slot] = (struct gen_slot){true, number};
    TRY(start_prompt(r, j, slot, number, text, err));
    return 1;
}

/* Tells the caller that the prompt was read. */
static int tell_read(struct run *r, const struct job *j, struct err *err)
{
    uint64_t hash;
    if (!r->calls->read || j->out.stop == GEN_CONTEXT)
        return 0;
    TRY(model_hash(r->g->model, &hash, err));
    return r->calls->read(r->calls->arg, &r->g->state, j->slot, &j->ids, hash, err);
}

/* The slots of g->text, which rise, get the state of the prefix. */
static int fill_prefix(struct gen *g, int n, struct err *err)
{
    struct state *s = &g->state;
    if (s->pos[g->n_slots] > 0) {
        for (int i = 0; i < n; i++)
            TRY(state_copy(s, g->text[i].slot, s, g->n_slots, err));
        return 0;
    }
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && g->text[end].slot == g->text[end - 1].slot + 1;)
            end++;
        state_reset_run(s, g->text[i].slot, end - i);
    }
    return 0;
}

/* Reads the n prompts of numbers first and following. */
static int read_prompts(struct run *r, int64_t first, int n, struct err *err)
{
    struct gen *g = r->g;
    TRY(fill_prefix(g, n, err));
    TRY(model_read_all(g->model, &g->state, g->text, n, err));
    for (int64_t number = first; number < first + n; number++) {
        struct job *j = job_at(r, number);
        TRY(tell_read(r, j, err));
        j->read_s = j->end_s = now_s();
        if (j->prompt.opts.max_tokens == 0)
            j->out.stop = GEN_LENGTH;
        j->is_done = j->out.stop != GEN_GOES_ON;
        g->slot[j->slot].is_taken = !j->is_done;
    }
    return 0;
}

/* A pass that reads a few tokens takes about as long as a step, however few they are, so prompts
 * wait for some neighbours: an eighth of the slots, which costs least where completions have about
 * a hundred tokens. */
static bool is_refill_due(const struct gen *g)
{
    int n_free = 0;
    for (int i = 0; i < g->n_slots; i++)
        n_free += !g->slot[i].is_taken;
    return n_free > 0 && n_free >= g->n_slots / REFILL;
}

/* Prompts for all free slots; again where some of them leave theirs at once. */
static int fill_slots(struct run *r, struct err *err)
{
    struct gen *g = r->g;
    if (!is_refill_due(g))
        return 0;
    for (int n = 1; n > 0;) {
        const int64_t first = r->first + r->n;
        int got = 1;
        n = 0;
        for (int i = 0; i < g->n_slots && got > 0; i++)
            if (!g->slot[i].is_taken && (got = take_prompt(r, i, &g->text[n], err)) > 0)
                n++;
        if (got < 0)
            return -1;
        TRY(read_prompts(r, first, n, err));
    }
    return 0;
}

static int show_text(struct run *r, struct err *err)
{
    if (!r->calls->show || r->n == 0)
        return 0;
    struct job *j = job_at(r, r->first);
    size_t n;
    const uint8_t *at = flow_take(&j->out.flow, &j->prompt.opts.stops, j->is_done, &n);
    return n > 0 ? r->calls->show(r->calls->arg, at, n, err) : 0;
}

/* Hands back, in order, what is done. */
static int hand_back(struct run *r, struct err *err)
{
    for (;;) {
        TRY(show_text(r, err));
        if (r->n == 0 || !job_at(r, r->first)->is_done)
            return 0;
        struct job *j = job_at(r, r->first);
        const struct gen_result result = {
            &j->prompt, r->first, j->ids.n, &j->out, j->read_s - j->start_s, j->end_s - j->read_s};
        TRY(r->calls->done(r->calls->arg, &result, err));
        job_free(j);
        r->first++;
        r->n--;
        r->totals.n_done++;
    }
}

/* Begins a step of all taken slots from ids that the host has. */
static int begin_step(struct run *r, struct err *err)
{
    struct gen *g = r->g;
    int R = 0;
    for (int i = 0; i < g->n_slots; i++) {
        if (!g->slot[i].is_taken)
            continue;
        const struct job *j = job_at(r, g->slot[i].number);
        g->row_slot[R] = i;
        g->row_number[R] = g->slot[i].number;
        g->row_id[R++] =
            j->out.ids.n ? j->out.ids.data[j->out.ids.n - 1] : j->ids.data[j->ids.n - 1];
    }
    if (R > 0)
        TRY(sampler_begin(&g->sampler, g->model, &g->state, g->row_slot, g->row_id, R, err));
    r->n_rows = R;
    r->n_open = R > 0;
    return 0;
}

/* Whether row k's prompt still has the slot. */
static bool is_alive(const struct gen *g, int k)
{
    const struct gen_slot *slot = &g->slot[g->row_slot[k]];
    return slot->is_taken && slot->number == g->row_number[k];
}

/* Whether the step after the open one can be of the same rows, as far as is known: none of them is
 * sure to be done, and no prompt waits for a slot. */
static bool goes_on(struct run *r)
{
    const struct gen *g = r->g;
    if (!dev_is_async(g->model->dev) || (is_refill_due(g) && !r->is_input_over))
        return false;
    for (int k = 0; k < r->n_rows; k++) {
        const int slot = g->row_slot[k];
        const struct job *j = job_at(r, g->row_number[k]);
        if (!is_alive(g, k) || !sampler_goes_on(&g->sampler, slot) ||
            (int64_t)j->out.ids.n + 1 >= j->prompt.opts.max_tokens ||
            g->state.pos[slot] >= gen_room(&g->state))
            return false;
    }
    return true;
}

/* Row k's prompt gets its token. */
static int take_token(struct run *r, int k, struct err *err)
{
    struct gen *g = r->g;
    const int slot = g->row_slot[k];
    struct job *j = job_at(r, g->row_number[k]);
    const int64_t n_read = (int64_t)j->ids.n + (int64_t)j->out.ids.n;
    TRY(completion_put(&j->out, &j->prompt.opts, g->tok, g->row_choice[k], g->row_logp[k],
                       gen_room(&g->state) - n_read, err));
    r->totals.n_decoded++;
    if (j->out.stop != GEN_GOES_ON) {
        j->is_done = true;
        j->end_s = now_s();
        g->slot[slot].is_taken = false;
    }
    return 0;
}

static int end_step(struct run *r, struct err *err)
{
    struct gen *g = r->g;
    r->n_open--;
    return sampler_end(&g->sampler, g->model, g->row_slot, r->n_rows, g->row_choice, g->row_logp,
                       err);
}

/* One token for every taken slot. */
static int step(struct run *r, struct err *err)
{
    struct gen *g = r->g;
    if (r->n_open == 0)
        TRY(begin_step(r, err));
    if (r->n_open == 0)
        return 0;
    if (goes_on(r)) {
        TRY(sampler_begin(&g->sampler, g->model, &g->state, g->row_slot, NULL, r->n_rows, err));
        r->n_open++;
    }
    TRY(end_step(r, err));
    for (int k = 0; k < r->n_rows; k++)
        if (is_alive(g, k))
            TRY(take_token(r, k, err));
    return 0;
}

static int run_loop(struct run *r, struct err *err)
{
    for (;;) {
        if (r->n_open == 0)
            TRY(fill_slots(r, err));
        TRY(hand_back(r, err));
        if (r->n == 0 && r->is_input_over)
            return 0;
        TRY(step(r, err));
        TRY(hand_back(r, err));
        if (r->calls->tick && r->calls->tick(r->calls->arg, &r->totals))
            return 1;
    }
}

int gen_run(struct gen *g, const struct gen_calls *calls, struct err *err)
{
    struct run r = {.g = g, .calls = calls, .cap = (int64_t)g->n_slots * GEN_AHEAD};
    r.job = calloc((size_t)r.cap, sizeof *r.job);
    if (!r.job)
        return err_oom(err, (size_t)r.cap * sizeof *r.job);
    const int status = run_loop(&r, err);
    struct err late = {0};
    while (r.n_open > 0 && end_step(&r, &late) == 0) /* what nobody waits for any more */
        ;
    for (int64_t i = 0; i < r.n; i++)
        job_free(job_at(&r, r.first + i));
    free(r.job);
    for (int i = 0; i < g->n_slots; i++)
        g->slot[i].is_taken = false;
    return status;
}
