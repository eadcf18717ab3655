/* scratch: carving of an op's workspace. The same carving code runs on a scratch without a base,
 * where it only adds up (what plan() answers), and on the real one, so the two cannot differ. */
#ifndef HM_SCRATCH_H
#define HM_SCRATCH_H

#include "local.h"
#include "mm.h"

#include <assert.h>

struct scratch {
    char *base; /* NULL while planning; 64-byte aligned */
    size_t used;
};

static inline size_t scratch_padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static inline void *scratch_take(struct scratch *s, size_t bytes)
{
    void *p = s->base ? s->base + s->used : NULL;
    s->used += scratch_padded(bytes);
    return p;
}

static inline float *scratch_floats(struct scratch *s, size_t n)
{
    return scratch_take(s, n * sizeof(float));
}

static inline struct mat scratch_mat(struct scratch *s, int rows, int cols)
{
    const int64_t ld = mm_ld(cols);
    return (struct mat){scratch_floats(s, (size_t)rows * (size_t)ld), ld};
}

/* Worker number `worker`'s part of the device's workspace, each of `bytes`, behind `shared` bytes
 * that belong to all. */
static inline struct scratch scratch_of(const struct dev *dev, size_t shared, size_t bytes,
                                        int worker)
{
    assert(dev->work);
    return (struct scratch){(char *)dev->work + shared + (size_t)worker * bytes, 0};
}

static inline int n_workers_of(const struct dev *dev)
{
    return pool_size(pool_of(dev));
}

#endif
