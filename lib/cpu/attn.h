/* attn: what forward and backward of attention in tiles share. */
#ifndef HM_ATTN_H
#define HM_ATTN_H

#include "scratch.h"

/* A tile of scores: queries (whole register tiles of mm) by keys. */
enum { ATTN_ROWS = 48, ATTN_KEYS = 96 };

/* first[t] = the first position that t's query may look at: the start of its document. */
static inline void attn_first_keys(int *restrict first, const struct attn_in *in, int b)
{
    const int32_t *seg = in->seg ? in->seg + (int64_t)b * in->T : NULL;
    int start = 0;
    for (int t = 0; t < in->T; t++) {
        if (seg && t > 0 && seg[t] != seg[t - 1])
            start = t;
        first[t] = start;
    }
}

static inline struct mat attn_mat(const struct tensor *t, int64_t r, int head, int P)
{
    return (struct mat){row(t, r) + (int64_t)head * P, t->ld};
}

static inline void attn_copy_scaled(struct mat to, struct mat from, float scale, int rows, int cols)
{
    for (int i = 0; i < rows; i++) {
        float *restrict out = to.p + i * to.ld;
        const float *restrict x = from.p + i * from.ld;
        for (int j = 0; j < cols; j++)
            out[j] = scale * x[j];
    }
}

static inline int attn_min(int a, int b)
{
    return a < b ? a : b;
}

static inline int attn_max(int a, int b)
{
    return a > b ? a : b;
}

#endif
