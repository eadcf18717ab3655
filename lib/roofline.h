/* roofline: what the machine can do at most, measured on the device that is benched: how fast it
 * reads memory and how fast it multiplies matrices. No op can be faster than its bytes over the one
 * and its products over the other (Williams et al. 2009), as long as its operands lie in memory and
 * not in a cache. */
#ifndef HM_ROOFLINE_H
#define HM_ROOFLINE_H

#include "ops.h"
#include "threads.h"

struct roofline {
    double byte_s;      /* memory read, bytes a second */
    double f32_flop_s;  /* products in f32; 0: not known, they count nothing */
    double bf16_flop_s; /* in bf16, or f16 */
    double least_s;     /* of any call, however little it does; 0 where that is not known */
    double wait_s;      /* what it adds to a call that it is begun alone and waited for */
};

/* Moves stream_bytes (far more than the caches hold): reads them in even shares by the threads of
 * the pool and, as a matrix of R = 1 steps, by linear_step, or, where the memory is not the host's
 * and pool is NULL, copies half of them to the other half; the best of them counts. Takes about
 * time_s, at least three passes. Also measures wait_s, which is 0 on the host. */
MUST_USE int roofline_memory(struct roofline *r, struct dev *dev, struct pool *pool,
                             size_t stream_bytes, double time_s, struct err *err);
/* Square products by linear_fwd, from 256 up to 8192 as long as one takes less than a quarter of
 * time_s; the best rate of any call. Takes half of time_s a size. */
MUST_USE int roofline_products(struct roofline *r, struct dev *dev, enum dtype dtype, double time_s,
                               struct err *err);

#endif
