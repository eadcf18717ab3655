/* local: what the CPU ops share: the pool behind a device and typed access to tensors. */
#ifndef HM_CPU_LOCAL_H
#define HM_CPU_LOCAL_H

#include "ops.h"
#include "threads.h"

struct gemm_cache; /* gemm.c's: oneDNN primitives that were built once a shape */

/* What dev->impl points to. */
struct cpu {
    struct pool *pool;
    struct gemm_cache *gemm; /* NULL until the first product that wants one */
};

static inline struct pool *pool_of(const struct dev *dev)
{
    return ((const struct cpu *)dev->impl)->pool;
}

/* Runs fn as pool_run does, but alone as worker 0 of 1 where `elements` (of work, about a
 * nanosecond each) are too few to be worth waking the others. */
static inline void run_sized(struct dev *dev, int64_t elements,
                             void (*fn)(void *arg, int worker, int n_workers), void *arg)
{
    enum { WORTH_A_WAKE = 8192 };
    pool_run(elements < WORTH_A_WAKE ? NULL : pool_of(dev), fn, arg);
}

static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Row r of an f32 tensor whose leading dimensions are flattened. */
static inline float *row(const struct tensor *t, int64_t r)
{
    return (float *)t->data + r * t->ld;
}

/* to (n) += each of the workers' parts (n_parts,n), in worker order: the same bits each time. */
static inline void add_partials(float *to, const float *part, int n_parts, int64_t n)
{
    for (int i = 0; i < n_parts; i++)
        for (int64_t j = 0; j < n; j++)
            to[j] += part[i * n + j];
}

#endif
