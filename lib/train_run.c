/* train_run: see train_run.h. */
#include "train_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --max-time is measured over at least MEASURE_STEPS steps after the first, and MEASURE_SHARE of
 * the time; RESERVE_SHARE is left for saving. */
enum { MEASURE_STEPS = 4, MEASURE_STEPS_MAX = 64 };
static const double MEASURE_SHARE = 0.02, RESERVE_SHARE = 0.02;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool is_stopped(struct train_run *r)
{
    return r->hook.is_stopped && r->hook.is_stopped(r->hook.arg);
}

static struct train_event event_of(const struct train_run *r, enum train_event_kind kind)
{
    const struct train_state *s = &r->t->head.state;
    struct train_event e = {.kind = kind,
                            .step = s->step,
                            .total = s->total,
                            .tokens = s->tokens,
                            .loss = NAN,
                            .bits_per_byte = NAN,
                            .rate = NAN,
                            .gnorm = NAN,
                            .tok_s = NAN,
                            .left_s = NAN,
                            .skipped = s->skipped};
    if (r->step_s > 0) {
        e.tok_s = (double)train_step_tokens(&r->t->head.opts, &r->t->head.c) / r->step_s;
        if (s->total)
            e.left_s = (double)(s->total - s->step) * r->step_s;
    }
    return e;
}

static void tell(const struct train_run *r, const struct train_event *e)
{
    if (r->hook.tell)
        r->hook.tell(r->hook.arg, e);
}

/* A failed write on the way: told, and the run goes on. */
static void tell_failure(const struct train_run *r, const struct err *why)
{
    struct train_event e = event_of(r, TRAIN_NOT_SAVED);
    e.err = why;
    tell(r, &e);
}

static void log_event(struct train_run *r, const char *name, const struct train_event *e,
                      const char *note)
{
    struct err why = {0};
    const struct run_row row = {.event = name,
                                .step = e->step,
                                .tokens = e->tokens,
                                .loss = e->loss,
                                .bits_per_byte = e->bits_per_byte,
                                .lr = e->rate,
                                .gnorm = e->gnorm,
                                .tok_s = e->kind == TRAIN_STEPPED ? e->tok_s : (double)NAN,
                                .elapsed_s = r->elapsed_s + now_s() - r->start_s,
                                .is_skipped = e->is_skipped,
                                .is_bad = e->is_skipped,
                                .note = note};
    if (run_log_row(r->log, &row, &why) != 0)
        tell_failure(r, &why);
}

int train_run_describe(struct train_run *r, const char *name, const char *version, struct err *err)
{
    const struct train_head *h = &r->t->head;
    struct buf note = {0};
    r->start_s = now_s();
    int rc = buf_printf(&note, err, "hm-train %s; %s; %lld parameters; options ", version,
                        r->t->dev->name, (long long)r->t->model.params.n_values);
    if (rc == 0)
        rc = train_opts_print(&h->opts, &note, err);
    if (rc == 0)
        rc = buf_printf(&note, err, "; config ");
    if (rc == 0)
        rc = config_print(&h->c, &note, err);
    if (rc == 0)
        rc = buf_put(&note, "", 1, err);
    if (rc == 0) {
        const struct train_event e = event_of(r, TRAIN_FIXED);
        log_event(r, name, &e, (const char *)note.data);
    }
    buf_free(&note);
    return rc;
}

/* From here on steps are timed: the device has nothing left to do. */
static void mark(struct train_run *r)
{
    r->mark_s = now_s();
    r->mark_step = r->t->head.state.step;
}

/* --- checkpoints --- */

static int save(struct train_run *r, struct err *err)
{
    struct train *t = r->t;
    const struct train_state *s = &t->head.state;
    char path[256];
    if (!r->dir || r->saved_step == s->step)
        return 0;
    struct err why = {0};
    r->saved_s = now_s();
    if (run_log_sync(r->log, &why) != 0)
        tell_failure(r, &why);
    TRY(run_dir_ckpt(r->dir, s->step, path, sizeof path, err));
    TRY(train_save(t, path, err));
    r->saved_step = s->step;
    struct train_event e = event_of(r, TRAIN_SAVED);
    e.path = path;
    tell(r, &e);
    if (run_dir_prune(r->dir, t->head.opts.keep, s->best_step, &why) != 0)
        tell_failure(r, &why);
    return 0;
}

static bool is_save_due(const struct train_run *r, bool is_best)
{
    const struct train_opts *o = &r->t->head.opts;
    const int64_t step = r->t->head.state.step;
    return is_best || (o->save_every && step % o->save_every == 0) ||
           (o->save_time > 0 && now_s() - r->saved_s >= o->save_time);
}

static int too_many_skips(struct train_run *r, struct err *err)
{
    char path[256] = "there is none";
    int64_t newest = -1;
    struct err ignored = {0};
    if (r->dir && run_dir_newest(r->dir, &newest, &ignored) == 0 && newest >= 0 &&
        run_dir_ckpt(r->dir, newest, path, sizeof path, err) != 0)
        return -1;
    return err_set(err, NULL,
                   "lower --lr or raise --warmup in a new run, from that checkpoint with "
                   "--init-from or from the start",
                   "%d steps in a row were skipped (loss %.4g, gradient norm %.4g) before step "
                   "%lld; last good checkpoint: %s",
                   r->t->ctl.skipped_in_row, fabs(train_loss(r->t)), fabs(r->t->ctl.gnorm),
                   (long long)r->t->head.state.step, path);
}

/* --- validation --- */

/* *is_best: the loss is the best so far. A validation that is stopped half way is made again by the
 * resumed run. */
static int validate(struct train_run *r, bool *is_best, struct err *err)
{
    struct train *t = r->t;
    const int64_t best_before = t->head.state.best_step;
    double loss;
    const int rc = train_validate(t, r->hook.is_stopped, r->hook.arg, &loss, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    struct train_event e = event_of(r, TRAIN_VALIDATED);
    e.loss = loss;
    e.bits_per_byte = train_bits_per_byte(t, loss);
    log_event(r, "valid", &e, NULL);
    tell(r, &e);
    *is_best = t->head.state.best_step != best_before;
    r->saved_step = -1; /* a checkpoint of this step knows nothing of it yet */
    mark(r);
    return 0;
}

static bool is_over(const struct train *t)
{
    return t->head.state.total > 0 && t->head.state.step >= t->head.state.total;
}

static bool is_valid_due(const struct train *t)
{
    const struct train_state *s = &t->head.state;
    const int64_t every = t->head.opts.valid_every;
    return t->valid && s->step > 0 && s->valid_step != s->step &&
           ((every && s->step % every == 0) || is_over(t));
}

/* --- the length by time --- */

int64_t train_fit_total(int64_t steps, double used_s, double step_s, double max_time)
{
    const double more = (max_time * (1 - RESERVE_SHARE) - used_s) / step_s;
    return more > 0 ? steps + (int64_t)fmin(more, 2e9) : steps;
}

/* Seconds that a step costs with its share of the validations, and that the last one costs. */
static double with_validation(const struct train *t, double step_s, double *last_s)
{
    const struct train_opts *o = &t->head.opts;
    *last_s = 0;
    if (!t->valid)
        return step_s;
    const double n_rows =
        fmin((double)t->valid_info.n_rows * t->head.c.max_positions, (double)o->valid_tokens);
    const double share =
        model_flops_fwd(&t->head.c, t->head.c.max_positions) /
        model_flops_train(&t->head.c, t->head.c.max_positions, (enum recompute)o->recompute);
    *last_s = step_s * share * n_rows / (double)train_step_tokens(o, &t->head.c);
    return o->valid_every ? step_s + *last_s / (double)o->valid_every : step_s;
}

/* Fixes the number of steps once enough of them were timed. It goes into the checkpoint, so that a
 * resumed run is the same run. */
static void fix_total(struct train_run *r)
{
    struct train *t = r->t;
    const struct train_opts *o = &t->head.opts;
    const int64_t n = t->head.state.step - r->first;
    const double used = now_s() - r->start_s;
    const bool is_enough = (n > MEASURE_STEPS && used >= MEASURE_SHARE * o->max_time) ||
                           n > MEASURE_STEPS_MAX || used >= 0.25 * o->max_time;
    if (!is_enough)
        return;
    double last_s;
    const double step_s = n > 1 ? (now_s() - r->first_s) / (double)(n - 1) : used;
    const double each = with_validation(t, step_s, &last_s);
    /* what the other limits say may end the run earlier */
    int64_t total = train_fit_total(t->head.state.step, used + last_s, each, o->max_time);
    const int64_t limit = train_total(o, &t->head.c, t->info.n_rows);
    if (limit && limit < total)
        total = limit > t->head.state.step ? limit : t->head.state.step;
    train_set_total(t, total);
    const struct train_event e = event_of(r, TRAIN_FIXED);
    tell(r, &e);
}

/* --- the loop --- */

static bool is_measuring(const struct train_run *r)
{
    return r->t->head.opts.max_time > 0 && r->t->head.state.total == 0;
}

/* Only every log_every-th step waits for the device, and for all steps since the mark. */
static void time_steps(struct train_run *r)
{
    const double n = (double)(r->t->head.state.step - r->mark_step);
    const double took = (now_s() - r->mark_s) / n, kept = pow(0.9, n);
    r->step_s = r->step_s > 0 ? kept * r->step_s + (1 - kept) * took : took;
    mark(r);
}

/* A step's outcome into the log and to the listener. */
static void after_step(struct train_run *r, double rate)
{
    struct train *t = r->t;
    time_steps(r);
    struct train_event e = event_of(r, TRAIN_STEPPED);
    e.loss = train_loss(t);
    e.gnorm = t->ctl.gnorm;
    e.rate = rate;
    e.is_skipped = t->ctl.skip != 0;
    log_event(r, "train", &e, NULL);
    tell(r, &e);
}

/* 1: done, 0: the stream is over. */
static int step(struct train_run *r, struct err *err)
{
    struct train *t = r->t;
    const double rate = train_rate(t);
    const int rc = train_step(t, err);
    if (rc != 1)
        return rc;
    const int64_t n = t->head.state.step - r->first;
    if (is_measuring(r) || t->head.state.step % t->head.opts.log_every == 0 || is_over(t)) {
        TRY(train_measure(t, err));
        if (n == 1)
            r->first_s = now_s();
        after_step(r, rate);
        if (t->ctl.skipped_in_row >= t->head.opts.max_skips)
            return too_many_skips(r, err);
    }
    if (is_measuring(r))
        fix_total(r);
    return 1;
}

static void save_on_the_way(struct train_run *r, bool is_best)
{
    struct err why = {0};
    if (!is_save_due(r, is_best))
        return;
    if (save(r, &why) != 0)
        tell_failure(r, &why);
    mark(r);
}

/* Steps until the end or a stop. */
static int loop(struct train_run *r, struct err *err)
{
    struct train *t = r->t;
    while (!is_stopped(r)) {
        bool is_best = false;
        if (is_valid_due(t)) {
            TRY(validate(r, &is_best, err));
            if (is_stopped(r))
                return 0;
        }
        if (t->head.state.step > r->first || is_best)
            save_on_the_way(r, is_best);
        if (is_over(t))
            return 0;
        const int rc = step(r, err);
        if (rc < 0)
            return -1;
        if (rc == 0) /* the stream ended: that was the whole run */
            train_set_total(t, t->head.state.step);
    }
    return 0;
}

int train_run(struct train_run *r, enum train_end *end, struct err *err)
{
    struct train *t = r->t;
    r->start_s = r->saved_s = r->first_s = now_s();
    r->first = t->head.state.step;
    mark(r);
    r->saved_step = r->first > 0 ? r->first : -1; /* a restored run's checkpoint is there */
    TRY(loop(r, err));
    const bool is_done = is_over(t) && !is_valid_due(t);
    *end = is_done ? TRAIN_DONE : TRAIN_STOPPED;
    TRY(save(r, err));
    if (is_done) {
        const struct train_event e = event_of(r, TRAIN_FIXED);
        log_event(r, "end", &e, NULL);
    }
    return 0;
}
