/* trace: entries and sections; see trace.h. */
#include "trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *trace_section_name(enum trace_section section)
{
    static const char *const names[] = {"", "loader", "forward", "head", "backward", "optimizer"};
    return names[section];
}

double trace_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double trace_median(double *value, int n)
{
    if (n == 0)
        return 0;
    qsort(value, (size_t)n, sizeof *value, compare);
    return n % 2 ? value[n / 2] : (value[n / 2 - 1] + value[n / 2]) / 2;
}

double trace_floor(const struct roofline *r, const struct trace_call *call)
{
    const double flop_s = call->is_16bit ? r->bf16_flop_s : r->f32_flop_s;
    const double move_s = call->bytes / r->byte_s, work_s = flop_s > 0 ? call->flops / flop_s : 0;
    const double floor_s = move_s > work_s ? move_s : work_s;
    return floor_s > r->least_s ? floor_s : r->least_s;
}

/* --- sections and blocks --- */

void trace_start(struct trace *t)
{
    t->inner = t->dev.ops;
    t->table = *t->inner;
    trace_wrap(&t->table);
    t->dev.ops = &t->table;
    t->n_entries = t->next = t->n_blocks = 0;
    t->is_full = false;
    memset(t->section_block_s, 0, sizeof t->section_block_s);
    t->section = TRACE_ALL;
    t->mark_s = trace_now();
}

void trace_stop(struct trace *t)
{
    t->dev.ops = t->inner;
    t->inner = NULL;
}

void trace_enter(struct trace *t, enum trace_section section)
{
    if (!t->inner)
        return;
    t->inner->sync(&t->dev);
    const double now = trace_now();
    if (!t->predict)
        t->section_block_s[t->section] += now - t->mark_s;
    t->mark_s = now;
    t->section = section;
}

void trace_block(struct trace *t, int64_t n_passes)
{
    const int block = t->n_blocks;
    trace_enter(t, TRACE_ALL);
    for (int i = 0; i < t->n_entries; i++) {
        struct trace_entry *e = &t->entry[i];
        if (block < TRACE_BLOCKS)
            e->pass_s[block] = e->block_s / (double)n_passes;
        e->n_calls = e->block_calls / (double)n_passes;
        e->block_s = e->block_calls = 0;
    }
    for (int i = 0; i < TRACE_SECTIONS; i++) {
        if (block < TRACE_BLOCKS)
            t->section_s[i][block] = t->section_block_s[i] / (double)n_passes;
        t->section_block_s[i] = 0;
    }
    t->n_blocks += block < TRACE_BLOCKS;
    t->mark_s = trace_now();
}

static double median_of(const double *value, int n)
{
    double copy[TRACE_BLOCKS];
    memcpy(copy, value, (size_t)n * sizeof *value);
    return trace_median(copy, n);
}

double trace_entry_time(const struct trace *t, const struct trace_entry *e)
{
    return median_of(e->pass_s, t->n_blocks);
}

double trace_section_time(const struct trace *t, enum trace_section section)
{
    return median_of(t->section_s[section], t->n_blocks);
}

const char *trace_shape(const struct trace_call *call, char *to, size_t n)
{
    size_t at = 0;
    to[0] = '\0';
    for (int i = 0; call->letters[i] && at < n; i++)
        at += (size_t)snprintf(to + at, n - at, "%s%c=%lld", i ? " " : "", call->letters[i],
                               (long long)call->size[i]);
    return to;
}

/* --- calls --- */

struct trace *trace_begin(struct dev *dev)
{
    struct trace *t = (struct trace *)(void *)dev;
    t->inner->sync(dev);
    t->begin_s = trace_now();
    return t;
}

static bool is_entry_of(const struct trace *t, const struct trace_entry *e,
                        const struct trace_call *call)
{
    return e->section == t->section && e->call.op == call->op &&
           memcmp(e->call.size, call->size, sizeof call->size) == 0;
}

/* Passes are alike, so the entry is mostly the one after the last call's. NULL: there is no room.
 */
static struct trace_entry *entry_of(struct trace *t, const struct trace_call *call)
{
    for (int i = 0; i < t->n_entries; i++) {
        const int at = (t->next + i) % t->n_entries;
        if (!is_entry_of(t, &t->entry[at], call))
            continue;
        t->next = at + 1;
        return &t->entry[at];
    }
    if (t->n_entries == TRACE_ENTRIES)
        return NULL;
    struct trace_entry *e = &t->entry[t->n_entries++];
    *e = (struct trace_entry){.section = t->section, .call = *call};
    t->next = t->n_entries;
    return e;
}

void trace_end(struct trace *t, const struct trace_call *call)
{
    t->inner->sync(&t->dev);
    const double time_s = t->predict ? trace_floor(t->predict, call) : trace_now() - t->begin_s;
    if (t->predict)
        t->section_block_s[t->section] += time_s;
    struct trace_entry *e = entry_of(t, call);
    if (!e) {
        t->is_full = true;
        return;
    }
    e->block_s += time_s;
    e->block_calls++;
}
