/* train_talk: see train_talk.h. */
#include "train_talk.h"

#include <math.h>

static const double LINE_S = 10; /* between two lines where stderr is no terminal */

static void show_progress(struct train_talk *t, const struct train_event *e)
{
    char total[32] = "?", speed[32] = "?", left[32] = "?", memory[32], valid[64] = "";
    if (!cli_progress_due(&t->progress))
        return;
    if (e->total)
        snprintf(total, sizeof total, "%lld", (long long)e->total);
    if (!isnan(e->tok_s))
        cli_count(speed, sizeof speed, e->tok_s);
    if (!isnan(e->left_s))
        cli_time(left, sizeof left, e->left_s);
    if (!isnan(t->valid_loss))
        snprintf(valid, sizeof valid, "  valid %.4f", t->valid_loss);
    cli_progress_line(&t->progress, "step %lld/%s  loss %.4f%s  lr %.2e  %s tok/s  left %s  %s %s",
                      (long long)e->step, total, e->loss, valid, e->rate, speed, left,
                      t->train->dev->is_host ? "peak" : "host",
                      cli_bytes(memory, sizeof memory, cli_peak_rss()));
}

static void warn(struct train_talk *t, const struct err *err)
{
    cli_progress_end(&t->progress, true);
    cli_warn(t->tool, "%s%s%s; the run goes on", err->file, err->file[0] ? ": " : "", err->what);
}

static void show_step(struct train_talk *t, const struct train_event *e)
{
    if (e->is_skipped) {
        cli_progress_end(&t->progress, true);
        cli_warn(t->tool, "step %lld skipped: loss %.4g, gradient norm %.4g (%lld so far)",
                 (long long)e->step, fabs(e->loss), fabs(e->gnorm), (long long)e->skipped);
    }
    const float scale = t->train->ctl.fp16_scale;
    if (t->tool->verbose && scale != t->fp16_scale) {
        cli_progress_end(&t->progress, false);
        cli_note(t->tool, "step %lld: loss scale %g", (long long)e->step, (double)scale);
    }
    t->fp16_scale = scale;
    t->last = *e;
    show_progress(t, e);
}

static void tell(void *arg, const struct train_event *e)
{
    struct train_talk *t = arg;
    switch (e->kind) {
    case TRAIN_STEPPED:
        show_step(t, e);
        break;
    case TRAIN_VALIDATED:
        t->valid_loss = e->loss;
        t->valid_bits = e->bits_per_byte;
        break;
    case TRAIN_FIXED:
        cli_progress_end(&t->progress, false);
        cli_note(t->tool, "measured: the run will have %lld steps", (long long)e->total);
        break;
    case TRAIN_SAVED:
        if (t->tool->verbose) {
            cli_progress_end(&t->progress, false);
            cli_note(t->tool, "%s: saved", e->path);
        }
        break;
    case TRAIN_NOT_SAVED:
        warn(t, e->err);
        break;
    }
}

static bool is_stopped(void *arg)
{
    return cli_signal() != 0;
}

/* What the run's plan takes of the device. */
static double device_bytes(const struct train *r)
{
    return (double)(r->model.plan.used + 2 * r->model.params.count * dtype_size(r->optim.m.dtype));
}

static void say_start(const struct train_talk *t)
{
    const struct train *r = t->train;
    const struct train_state *s = &r->head.state;
    char size[32], tokens[32], memory[32], total[64] = "";
    if (s->total)
        snprintf(total, sizeof total, ", %lld steps", (long long)s->total);
    cli_note(t->tool, "%s parameters (%s), %s tokens a step%s; %s; %s",
             cli_count(size, sizeof size, (double)r->model.params.n_values), r->head.c.pattern,
             cli_count(tokens, sizeof tokens, (double)train_step_tokens(&r->head.opts, &r->head.c)),
             total, r->dev->name, cli_bytes(memory, sizeof memory, device_bytes(r)));
    if (s->step)
        cli_note(t->tool, "resumed after step %lld", (long long)s->step);
    if (r->info.n_rows < 0 && s->total == 0 && r->head.opts.max_time <= 0)
        cli_warn(t->tool, "the stream's length is not known, so the learning rate will not decay; "
                          "--max-tokens says it");
}

void train_talk_begin(struct train_talk *t, const struct cli_tool *tool, const struct train *train,
                      struct train_hook *hook)
{
    *t = (struct train_talk){.tool = tool,
                             .train = train,
                             .valid_loss = NAN,
                             .valid_bits = NAN,
                             .fp16_scale = train->ctl.fp16_scale};
    *hook = (struct train_hook){tell, is_stopped, t};
    say_start(t);
    cli_progress_begin(&t->progress, tool, LINE_S);
}

void train_talk_end(struct train_talk *t, bool is_good, bool is_stopped_run, bool is_kept)
{
    const struct train_state *s = &t->train->head.state;
    char host[32], gpu[32], memory[64], valid[96] = "", bits[48] = "";
    cli_progress_end(&t->progress, is_good);
    if (!is_good)
        return;
    if (is_stopped_run) {
        cli_note(t->tool, "stopped after step %lld: %s", (long long)s->step,
                 is_kept ? "saved, --resume goes on" : "nothing was kept");
        return;
    }
    if (!isnan(t->valid_bits))
        snprintf(bits, sizeof bits, " (%.4f bits per byte)", t->valid_bits);
    if (!isnan(t->valid_loss))
        snprintf(valid, sizeof valid, ", validation loss %.4f%s", t->valid_loss, bits);
    cli_bytes(host, sizeof host, cli_peak_rss());
    if (t->train->dev->is_host)
        snprintf(memory, sizeof memory, "%s", host);
    else
        snprintf(memory, sizeof memory, "%s and %s of the host",
                 cli_bytes(gpu, sizeof gpu, device_bytes(t->train)), host);
    cli_note(t->tool, "done: %lld steps (%lld skipped)%s, peak memory %s", (long long)s->step,
             (long long)s->skipped, valid, memory);
}
