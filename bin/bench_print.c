/* bench_print: see bench_print.h. */
#include "bench_print.h"

#include "cli.h"

#include <string.h>

/* Ops with a smaller share of the time are left out of tables. */
#define LEAST_SHARE 0.002

/* One record; what is 0 or NULL is left empty. */
struct record {
    const char *kind, *phase, *part, *name, *shape, *value;
    double calls, tokens, time_s; /* of one pass or one call */
    double flop, byte;            /* of the same */
    double gflop_s, gb_s;
    double roofline, share; /* of 1 */
};

void bench_print_free(struct bench_print *p)
{
    buf_free(&p->text);
}

static int flush(struct bench_print *p, struct err *err)
{
    TRY(out_write(p->out, p->text.data, p->text.size, err));
    p->text.size = 0;
    return out_flush(p->out, err);
}

/* Seconds of n calls that took time_s when each was waited for. */
static double without_waits(const struct bench_print *p, double time_s, double n_calls)
{
    const double rest = time_s - n_calls * p->roof->wait_s;
    return rest > 0 ? rest : 0;
}

static double rate(double n, double time_s)
{
    return time_s > 0 ? n / time_s : 0;
}

/* --- CSV --- */

int bench_print_begin(struct bench_print *p, struct err *err)
{
    if (p->is_table)
        return 0;
    TRY(buf_printf(&p->text, err,
                   "kind,phase,part,name,shape,value,calls,tokens,time_us,rate_tok_s,flop,byte,"
                   "flop_a_token,byte_a_token,gflop_s,gb_s,roofline_pct,share_pct\n"));
    return flush(p, err);
}

/* A field, quoted where it must be, with the comma before it. */
static int put_text(struct buf *to, const char *text, bool is_first, struct err *err)
{
    if (!is_first)
        TRY(buf_put(to, ",", 1, err));
    if (!text || !*text)
        return 0;
    if (!strpbrk(text, ",\"\r\n"))
        return buf_put(to, text, strlen(text), err);
    TRY(buf_put(to, "\"", 1, err));
    for (const char *c = text; *c; c++)
        TRY(buf_put(to, *c == '"' ? "\"\"" : c, *c == '"' ? 2 : 1, err));
    return buf_put(to, "\"", 1, err);
}

static int put_number(struct buf *to, double value, struct err *err)
{
    return value > 0 ? buf_printf(to, err, ",%.6g", value) : buf_put(to, ",", 1, err);
}

static int put_csv(struct buf *to, const struct record *r, struct err *err)
{
    const char *const text[] = {r->kind, r->phase, r->part, r->name, r->shape, r->value};
    const double number[] = {r->calls,
                             r->tokens,
                             r->time_s * 1e6,
                             rate(r->tokens, r->time_s),
                             r->flop,
                             r->byte,
                             rate(r->flop, r->tokens),
                             rate(r->byte, r->tokens),
                             r->gflop_s > 0 ? r->gflop_s : rate(r->flop, r->time_s) / 1e9,
                             r->gb_s > 0 ? r->gb_s : rate(r->byte, r->time_s) / 1e9,
                             r->roofline * 100,
                             r->share * 100};
    for (int i = 0; i < 6; i++)
        TRY(put_text(to, text[i], i == 0, err));
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        TRY(put_number(to, number[i], err));
    return buf_put(to, "\n", 1, err);
}

/* --- tables --- */

/* Three digits that count, "-" for nothing. */
static const char *digits(char *to, size_t n, double value)
{
    if (value > 0)
        snprintf(to, n, value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f", value);
    else
        snprintf(to, n, "-");
    return to;
}

static const char *duration(char *to, size_t n, double time_s)
{
    char number[32];
    const bool is_us = time_s < 1e-3, is_ms = time_s < 1;
    digits(number, sizeof number, time_s * (is_us ? 1e6 : is_ms ? 1e3 : 1));
    snprintf(to, n, "%s %s", number, is_us ? "us" : is_ms ? "ms" : "s");
    return to;
}

static int put_heading(struct buf *to, const struct record *r, struct err *err)
{
    char time[40], tok[32];
    TRY(buf_printf(to, err, "\n%s %s: %s", r->phase, r->shape,
                   duration(time, sizeof time, r->time_s)));
    if (r->tokens > 0)
        TRY(buf_printf(to, err, ", %s tok/s",
                       cli_count(tok, sizeof tok, rate(r->tokens, r->time_s))));
    if (r->flop > 0 && r->tokens > 0)
        TRY(buf_printf(to, err, ", %s FLOP a token",
                       cli_count(tok, sizeof tok, r->flop / r->tokens)));
    return buf_printf(to, err, "\n  %-16s %-24s %5s %9s %9s %7s %6s %6s\n", "", "", "calls", "time",
                      "GFLOP/s", "GB/s", "% roof", "% time");
}

static int put_line(struct buf *to, const struct record *r, struct err *err)
{
    char time[40], gflop_s[32], gb_s[32], roofline[32], share[32], name[32];
    if (strcmp(r->kind, "run") == 0)
        return buf_printf(to, err, "%-12s %s\n", r->name, r->value);
    if (strcmp(r->kind, "phase") == 0)
        TRY(put_heading(to, r, err));
    const bool is_op = strcmp(r->kind, "op") == 0;
    if (is_op && r->share < LEAST_SHARE)
        return 0;
    snprintf(name, sizeof name, "%s%s", is_op ? "  " : "",
             is_op     ? r->name
             : r->part ? r->part
                       : "all");
    return buf_printf(to, err, "  %-16s %-24s %5.0f %9s %9s %7s %6s %6s\n", name,
                      is_op ? r->shape : "", r->calls > 0 ? r->calls : 1,
                      duration(time, sizeof time, r->time_s),
                      digits(gflop_s, sizeof gflop_s, rate(r->flop, r->time_s) / 1e9),
                      digits(gb_s, sizeof gb_s, rate(r->byte, r->time_s) / 1e9),
                      digits(roofline, sizeof roofline, r->roofline * 100),
                      digits(share, sizeof share, r->share * 100));
}

static int put(struct bench_print *p, const struct record *r, struct err *err)
{
    return p->is_table ? put_line(&p->text, r, err) : put_csv(&p->text, r, err);
}

/* --- what callers have --- */

int bench_print_run(struct bench_print *p, const char *name, const char *value, struct err *err)
{
    const struct record r = {.kind = "run", .name = name, .value = value};
    TRY(put(p, &r, err));
    return flush(p, err);
}

int bench_print_roof(struct bench_print *p, struct err *err)
{
    const struct roofline *roof = p->roof;
    if (p->is_table) {
        TRY(buf_printf(&p->text, err, "%-12s %.1f GB/s read from memory, %.1f GFLOP/s in f32",
                       "roofline", roof->byte_s / 1e9, roof->f32_flop_s / 1e9));
        if (roof->bf16_flop_s > 0)
            TRY(buf_printf(&p->text, err, ", %.1f in bf16", roof->bf16_flop_s / 1e9));
        TRY(buf_put(&p->text, "\n", 1, err));
        return flush(p, err);
    }
    const struct record memory = {
        .kind = "roof", .name = "memory_read", .gb_s = roof->byte_s / 1e9};
    const struct record f32 = {
        .kind = "roof", .name = "product_f32", .gflop_s = roof->f32_flop_s / 1e9};
    const struct record bf16 = {
        .kind = "roof", .name = "product_bf16", .gflop_s = roof->bf16_flop_s / 1e9};
    const struct record wait = {.kind = "roof", .name = "wait", .time_s = roof->wait_s};
    TRY(put(p, &memory, err));
    TRY(put(p, &f32, err));
    if (roof->bf16_flop_s > 0)
        TRY(put(p, &bf16, err));
    if (roof->wait_s > 0)
        TRY(put(p, &wait, err));
    return flush(p, err);
}

static int put_op(struct bench_print *p, const char *phase, const struct trace *trace,
                  const struct trace_entry *e, double traced_s, struct err *err)
{
    char shape[96];
    const double pass_s = without_waits(p, trace_entry_time(trace, e), e->n_calls);
    const double time_s = rate(pass_s, e->n_calls);
    const struct record r = {.kind = "op",
                             .phase = phase,
                             .part = trace_section_name(e->section),
                             .name = e->call.op,
                             .shape = trace_shape(&e->call, shape, sizeof shape),
                             .calls = e->n_calls,
                             .time_s = time_s,
                             .flop = e->call.flops,
                             .byte = e->call.bytes,
                             .roofline = rate(trace_floor(p->roof, &e->call), time_s),
                             .share = rate(pass_s, traced_s)};
    return put(p, &r, err);
}

static int put_part(struct bench_print *p, const char *phase, const char *shape,
                    const struct trace *trace, enum trace_section section, double traced_s,
                    struct err *err)
{
    struct record r = {
        .kind = "part", .phase = phase, .part = trace_section_name(section), .shape = shape};
    double floor_s = 0, n_calls = 0;
    for (int i = 0; i < trace->n_entries; i++) {
        const struct trace_entry *e = &trace->entry[i];
        if (e->section != section)
            continue;
        r.flop += e->n_calls * e->call.flops;
        r.byte += e->n_calls * e->call.bytes;
        floor_s += e->n_calls * trace_floor(p->roof, &e->call);
        n_calls += e->n_calls;
    }
    r.time_s = without_waits(p, trace_section_time(trace, section), n_calls);
    r.share = rate(r.time_s, traced_s);
    r.roofline = rate(floor_s, r.time_s);
    return put(p, &r, err);
}

/* A part of the pass with its ops; TRACE_ALL, a pass without parts, is no record of its own. */
static int put_section(struct bench_print *p, const char *phase, const char *shape,
                       const struct trace *trace, enum trace_section section, double traced_s,
                       struct err *err)
{
    if (section != TRACE_ALL && trace_section_time(trace, section) > 0)
        TRY(put_part(p, phase, shape, trace, section, traced_s, err));
    for (int i = 0; p->has_ops && i < trace->n_entries; i++)
        if (trace->entry[i].section == section)
            TRY(put_op(p, phase, trace, &trace->entry[i], traced_s, err));
    return 0;
}

int bench_print_phase(struct bench_print *p, const char *name, const char *shape,
                      const struct bench_phase *phase, const struct trace *trace, struct err *err)
{
    double traced_s = 0, n_calls = 0;
    for (int i = 0; i < TRACE_SECTIONS; i++)
        traced_s += trace_section_time(trace, (enum trace_section)i);
    for (int i = 0; i < trace->n_entries; i++)
        n_calls += trace->entry[i].n_calls;
    traced_s = without_waits(p, traced_s, n_calls);
    const struct record r = {.kind = "phase",
                             .phase = name,
                             .shape = shape,
                             .calls = 1,
                             .tokens = phase->tokens,
                             .time_s = phase->time.pass_s,
                             .flop = phase->flops,
                             .byte = phase->bytes,
                             .roofline = rate(phase->floor_s, phase->time.pass_s),
                             .share = 1};
    TRY(put(p, &r, err));
    for (int i = 0; i < TRACE_SECTIONS; i++)
        TRY(put_section(p, name, shape, trace, (enum trace_section)i, traced_s, err));
    return flush(p, err);
}

int bench_print_host(struct bench_print *p, const char *name, const char *shape,
                     const struct bench_time *time, double tokens, double bytes, struct err *err)
{
    const struct record r = {.kind = "phase",
                             .phase = name,
                             .shape = shape,
                             .calls = 1,
                             .tokens = tokens,
                             .time_s = time->pass_s,
                             .byte = bytes,
                             .share = 1};
    TRY(put(p, &r, err));
    return flush(p, err);
}
