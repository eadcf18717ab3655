/* local: what the CPU ops share: the pool behind a device and typed access to tensors. */
#ifndef HM_CPU_LOCAL_H
#define HM_CPU_LOCAL_H

#include "ops.h"
#include "threads.h"

static inline struct pool *pool_of(const struct dev *dev)
{
    return dev->impl;
}

/* Row r of an f32 tensor whose leading dimensions are flattened. */
static inline float *row(const struct tensor *t, int64_t r)
{
    return (float *)t->data + r * t->ld;
}

#endif
