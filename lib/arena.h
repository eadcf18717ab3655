/* arena: one block of memory carved into tensors, planned before it is allocated. The same carving
 * code runs twice: first on an arena without a base, which only adds up bytes by kind (what --plan
 * prints), then on one whose base is a block of exactly that size. So plan and allocation cannot
 * differ. */
#ifndef HM_ARENA_H
#define HM_ARENA_H

#include "tensor.h"

enum mem_kind { MEM_WEIGHTS, MEM_GRADS, MEM_MOMENTS, MEM_ACTS, MEM_STATE, MEM_WORK, MEM_KINDS };

enum { ARENA_ALIGN = 64 };

struct arena {
    uint8_t *base; /* NULL while planning; owned by whoever allocated it */
    size_t used;
    size_t by_kind[MEM_KINDS]; /* bytes taken, alignment included */
};

const char *mem_kind_name(enum mem_kind kind); /* "weights", ... static */

/* Takes bytes, aligned to ARENA_ALIGN; NULL while planning. */
static inline void *arena_take(struct arena *a, size_t bytes, enum mem_kind kind)
{
    const size_t padded = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    void *p = a->base ? a->base + a->used : NULL;
    a->used += padded;
    a->by_kind[kind] += padded;
    return p;
}

/* Takes a dense tensor; dimensions as tensor_of. Its data is NULL while planning. */
static inline struct tensor arena_tensor(struct arena *a, enum mem_kind kind, enum dtype dtype,
                                         int n_dims, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
    struct tensor t = tensor_of(NULL, dtype, n_dims, d0, d1, d2, d3);
    t.data = arena_take(a, tensor_bytes(&t), kind);
    return t;
}

#endif
