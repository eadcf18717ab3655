/* trace_cost: what the timing entries of trace_ops.c and trace_step.c share. Internal to the trace.
 *
 * Bytes are the compulsory ones: each operand once, twice where it is added to; weights in the
 * type that products read. FLOPs count a multiply-add as 2 and exp, division and root as 1; those
 * of products, SSD and attention follow model.h. */
#ifndef HM_TRACE_COST_H
#define HM_TRACE_COST_H

#include "trace.h"

#define COST(...) (&(const struct trace_call){__VA_ARGS__})

static inline double size_of(const struct tensor *t)
{
    return (double)tensor_bytes(t);
}

static inline double count_of(const struct tensor *t)
{
    return (double)tensor_count(t);
}

static inline double weight_size(const struct weight *w)
{
    return (double)w->rows * w->cols * (double)dtype_size(w->dtype);
}

static inline double ssd_inputs_size(const struct ssd_in *in)
{
    return size_of(&in->x) + size_of(&in->dt) + size_of(&in->bmat) + size_of(&in->cmat) +
           3 * size_of(&in->skip);
}

static inline void end_product(struct trace *t, const char *op, const struct tensor *of_rows, int n,
                               int k, double bytes, bool is_16bit)
{
    const int64_t M = tensor_rows(of_rows);
    trace_end(t, COST(op, "Mnk", {M, n, k}, .bytes = bytes,
                      .flops = 2.0 * (double)M * (double)n * (double)k, .is_16bit = is_16bit));
}

/* The entries of a decode step, of the optimizer and of sampling, over those that are there. */
void trace_wrap_steps(struct ops *table);

#endif
