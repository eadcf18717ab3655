/* bench_print: hm-bench's figures, as CSV or as tables for people. */
#ifndef HM_BENCH_PRINT_H
#define HM_BENCH_PRINT_H

#include "bench.h"
#include "io.h"

struct bench_print {
    struct out *out; /* borrowed */
    struct buf text; /* owned */
    bool is_table;
    bool has_ops;
    const struct roofline *roof; /* borrowed; zeros: not measured */
};

void bench_print_free(struct bench_print *p);
/* The header line of CSV. */
MUST_USE int bench_print_begin(struct bench_print *p, struct err *err);
/* Version, sizes, device: whatever the run is. */
MUST_USE int bench_print_run(struct bench_print *p, const char *name, const char *value,
                             struct err *err);
/* The roofline; bf16 products where they were measured. */
MUST_USE int bench_print_roof(struct bench_print *p, struct err *err);
/* A phase of the model with its parts and, where they are wanted, ops, which the trace holds. */
MUST_USE int bench_print_phase(struct bench_print *p, const char *name, const char *shape,
                               const struct bench_phase *phase, const struct trace *trace,
                               struct err *err);
/* A phase without ops: tokens and bytes that a pass handled. */
MUST_USE int bench_print_host(struct bench_print *p, const char *name, const char *shape,
                              const struct bench_time *time, double tokens, double bytes,
                              struct err *err);

#endif
