/* threads: the one pool that owns the cores. Everything parallel in hm runs on it, and libraries
 * such as oneDNN are called single-threaded from its workers: two spinning runtimes on 2 cores
 * halve the speed.
 *
 * The split of work depends only on the number of workers, never on timing, so sums are repeatable.
 */
#ifndef HM_THREADS_H
#define HM_THREADS_H

#include "err.h"

#include <stddef.h>

struct pool;

enum { POOL_MAX_WORKERS = 256 };

/* n_workers < 1 asks for one a usable core (sched_getaffinity, OMP_NUM_THREADS heeded); there are
 * at most POOL_MAX_WORKERS. *pool is owned. */
MUST_USE int pool_open(struct pool **pool, int n_workers, struct err *err);
int pool_size(const struct pool *pool);
/* Runs fn(arg, worker, n_workers) once on each worker, the caller being worker 0; returns when all
 * are done. Not reentrant: fn must not call pool_run. pool may be NULL: fn runs alone as worker 0
 * of 1. */
void pool_run(struct pool *pool, void (*fn)(void *arg, int worker, int n_workers), void *arg);
void pool_close(struct pool *pool);

/* The half-open share [*begin, *end) of n items that falls to this worker: contiguous, sizes differ
 * by at most one grain of `grain` items (grain >= 1 keeps cache lines and vector blocks whole). */
static inline void pool_share(size_t n, size_t grain, int worker, int n_workers, size_t *begin,
                              size_t *end)
{
    const size_t blocks = (n + grain - 1) / grain;
    const size_t lo = blocks * (size_t)worker / (size_t)n_workers * grain;
    const size_t hi = blocks * ((size_t)worker + 1) / (size_t)n_workers * grain;
    *begin = lo < n ? lo : n;
    *end = hi < n ? hi : n;
}

#endif
