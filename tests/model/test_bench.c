/* The trace changes no bit of a step, wraps every op, splits a step into its parts; what it says
 * ops cost adds up to the model's FLOPs and to its weights; floors and medians. */
#include "bench.h"
#include "model_test.h"

#include <stddef.h>

enum { B = 2, T = 32 };

static struct trace trace;

static void check_table(void)
{
    const size_t first = offsetof(struct ops, weight_fill) / sizeof(void (*)(void));
    const size_t n = sizeof(struct ops) / sizeof(void (*)(void));
    const char *const inner = (const char *)trace.dev.ops;
    int n_same = 0;
    trace_start(&trace);
    for (size_t i = first; i < n; i++) {
        void (*a)(void), (*b)(void);
        memcpy(&a, inner + i * sizeof a, sizeof a);
        memcpy(&b, (const char *)trace.dev.ops + i * sizeof b, sizeof b);
        n_same += a && a == b;
    }
    trace_stop(&trace);
    ok(n_same == 0, "every op is timed, %d are not", n_same);
    ok((const char *)trace.dev.ops == inner, "the plain table is back");
}

/* FLOPs a pass of the ops whose names begin so. */
static double flops_of(const char *prefix)
{
    double sum = 0;
    for (int i = 0; i < trace.n_entries; i++)
        if (strncmp(trace.entry[i].call.op, prefix, strlen(prefix)) == 0)
            sum += trace.entry[i].n_calls * trace.entry[i].call.flops;
    return sum;
}

/* What model_flops_fwd counts for a token and ops count otherwise: the convolution (without SiLU),
 * and attention's T x T. */
static double other_flops(const struct config *c)
{
    const double C = (double)c->mamba_heads * c->mamba_head_dim + 2.0 * c->mamba_groups * c->N;
    double sum = 0;
    for (int i = 0; i < c->L; i++)
        sum += c->pattern[i] == 'm' ? 2 * c->K * C : 2.0 * T * c->D;
    return sum;
}

static void check_step(const struct variant *v, enum recompute recompute)
{
    const struct config c = small_config(v);
    const struct model_opts opts = {.is_training = true, .B = B, .T = T, .recompute = recompute};
    float *w = random_weights(&c, 1), plain_loss[B * T], loss[B * T];
    struct batch_rows b = random_rows(B, T, c.V, NULL, 0);
    struct model m;
    open_model(&m, &c, &opts, &trace.dev, w);
    const size_t bytes = m.params.count * sizeof(float);
    float *plain = gradient(&m, &b.rows, plain_loss);

    trace.head = &m.weight[m.params.head];
    const double begin_s = trace_now();
    trace_start(&trace);
    trace_enter(&trace, TRACE_FORWARD);
    float *g = gradient(&m, &b.rows, loss);
    trace_block(&trace, 1);
    trace_stop(&trace);
    const double whole_s = trace_now() - begin_s;
    ok(memcmp(g, plain, bytes) == 0 && memcmp(loss, plain_loss, sizeof loss) == 0,
       "%s: a traced step has the same bits", v->name);
    if (recompute == RECOMPUTE_NONE) {
        const double want = 3 * B * T * (model_flops_fwd(&c, T) - other_flops(&c));
        ok_within(fabs(flops_of("linear_") + flops_of("ssd_") - want) / want, 1e-12,
                  "%s: products and SSD are the model's FLOPs", v->name);
        const double pairs = B * T * (T + 1) / 2.0, n_t = strchr(c.pattern, 't') ? 1 : 0;
        double layers = 0;
        for (int i = 0; i < c.L; i++)
            layers += c.pattern[i] == 't';
        ok_within(fabs(flops_of("attn_fwd") - layers * 4 * c.D * pairs), n_t * 1e-6,
                  "%s: attention counts its pairs", v->name);
    }
    bool is_apart = true;
    for (int i = 0; i < trace.n_entries; i++) {
        const struct trace_entry *e = &trace.entry[i];
        const bool is_head = e->call.size[1] == c.V && strncmp(e->call.op, "linear", 6) == 0;
        if ((is_head || strcmp(e->call.op, "xent") == 0) && e->section != TRACE_HEAD)
            is_apart = false;
        if (strstr(e->call.op, "_bwd") && e->section == TRACE_FORWARD)
            is_apart = false;
        if (strcmp(e->call.op, "embed_bwd") == 0 && e->section != TRACE_BACKWARD)
            is_apart = false;
    }
    ok(is_apart, "%s: forward, head and backward are told apart", v->name);
    ok(trace_section_time(&trace, TRACE_FORWARD) > 0 &&
           trace_section_time(&trace, TRACE_HEAD) > 0 &&
           trace_section_time(&trace, TRACE_BACKWARD) > 0,
       "%s: each takes time", v->name);
    double parts_s = 0, ops_s = 0;
    for (int i = 0; i < TRACE_SECTIONS; i++)
        parts_s += trace_section_time(&trace, (enum trace_section)i);
    for (int i = 0; i < trace.n_entries; i++)
        ops_s += trace_entry_time(&trace, &trace.entry[i]);
    ok(ops_s <= parts_s && parts_s <= whole_s, "%s: ops lie within parts, parts within the step",
       v->name);
    trace.head = NULL;
    model_close(&m);
    free(plain);
    free(g);
    free(w);
    free(b.block);
}

/* A decode step reads every matrix once, and the state once and writes it. */
static void check_decode(const struct variant *v)
{
    enum { R = 3, DEPTH = 9 };
    const struct config c = small_config(v);
    const struct roofline roof = {.byte_s = 1e9, .f32_flop_s = 1e9, .bf16_flop_s = 2e9};
    const struct bench bench = {&trace, &roof, {.time_s = 0.001, .n_blocks = 1}};
    const struct model_opts opts = {.read_T = 4, .step_R = R, .S = DEPTH + 1};
    float *w = random_weights(&c, 1);
    struct bench_phase phase;
    struct bench_read read;
    struct err err;
    must(bench_read_open(&read, &bench, &c, &opts, w, &err), &err);
    must(bench_decode(&read, R, DEPTH, &phase, &err), &err);
    double matrices = 0, got = 0, floor_s = 0;
    const struct params *p = &read.model.params;
    for (int i = 0; i < p->n; i++)
        if (p->list[i].is_matrix && (i != p->embed || p->embed == p->head))
            matrices += 4.0 * (double)p->list[i].count;
    for (int i = 0; i < trace.n_entries; i++) {
        const struct trace_entry *e = &trace.entry[i];
        const double rows = 4.0 * R * (double)(e->call.size[1] + e->call.size[2]);
        if (strcmp(e->call.op, "linear_step") == 0)
            got += e->n_calls * (e->call.bytes - rows);
        floor_s += e->n_calls * trace_floor(&roof, &e->call);
    }
    ok_within(fabs(got - matrices) / matrices, 1e-12, "%s: a step reads each matrix once", v->name);
    const double cache = 2 * 4.0 * R * (DEPTH + 2) * c.kv_heads * c.head_dim + 8.0 * R * c.D;
    for (int i = 0; i < trace.n_entries; i++)
        if (strcmp(trace.entry[i].call.op, "attn_step") == 0)
            ok_within(fabs(trace.entry[i].call.bytes - cache), 0, "%s: keys and values", v->name);
    ok_within(fabs(floor_s - phase.floor_s) / floor_s, 1e-12, "%s: floors add up", v->name);
    ok(phase.tokens == R && phase.time.pass_s > 0 && phase.flops > 0, "%s: a phase", v->name);
    bench_read_close(&read);
    free(w);
}

static void check_figures(void)
{
    double odd[] = {3, 1, 2}, even[] = {4, 1, 2, 3};
    ok(trace_median(odd, 3) == 2 && trace_median(even, 4) == 2.5 && trace_median(odd, 0) == 0,
       "medians");
    const struct roofline r = {.byte_s = 10, .f32_flop_s = 100, .bf16_flop_s = 200};
    const struct trace_call moves = {.bytes = 20, .flops = 100}, works = {.bytes = 1, .flops = 400};
    const struct trace_call half = {.bytes = 1, .flops = 400, .is_16bit = true};
    ok(trace_floor(&r, &moves) == 2 && trace_floor(&r, &works) == 4 && trace_floor(&r, &half) == 2,
       "the floor is the greater of memory and products");
    char shape[64];
    const struct trace_call call = {.letters = "Mnk", .size = {4, 5, 6}};
    ok(strcmp(trace_shape(&call, shape, sizeof shape), "M=4 n=5 k=6") == 0, "shapes: %s", shape);
    trace_shape(&call, shape, 6);
    ok(strcmp(shape, "M=4 n") == 0, "shapes that do not fit are cut");
}

static void check_full(void)
{
    trace_start(&trace);
    for (int i = 0; i < TRACE_ENTRIES + 1; i++) {
        const struct trace_call call = {.op = "x", .letters = "n", .size = {i}};
        if (i == TRACE_ENTRIES)
            ok(!trace.is_full, "entries up to the last");
        trace_begin(&trace.dev);
        trace_end(&trace, &call);
    }
    trace_stop(&trace);
    ok(trace.is_full && trace.n_entries == TRACE_ENTRIES, "one more is told");
}

static void check_roofline(void)
{
    struct roofline r = {0};
    struct err err;
    must(roofline_memory(&r, &trace.dev, NULL, 1 << 18, 0.001, &err), &err);
    must(roofline_products(&r, &trace.dev, DT_F32, 0.001, &err), &err);
    must(roofline_products(&r, &trace.dev, DT_BF16, 0.001, &err), &err);
    ok(r.byte_s > 1e6 && r.f32_flop_s > 1e6 && r.bf16_flop_s > 1e6 && r.wait_s == 0,
       "a roofline is there");
}

int main(void)
{
    open_dev(&trace.dev, 2);
    check_table();
    check_figures();
    check_full();
    check_roofline();
    for (int i = 0; i < N_VARIANTS; i++) {
        check_step(&variants[i], RECOMPUTE_NONE);
        check_step(&variants[i], RECOMPUTE_FULL);
        check_decode(&variants[i]);
    }
    dev_close(&trace.dev);
    return tap_done();
}
