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

/* The keys of a tile [j0,j0+keys) that one query may see: [lo,hi), and the same range rounded
 * outwards to whole registers, so that loops over scores leave no rest. */
struct attn_span {
    int lo, hi, lo_full, hi_full;
};

static inline struct attn_span attn_span_of(int first, int last, int j0, int keys)
{
    struct attn_span s;
    s.lo = first > j0 ? first - j0 : 0;
    s.hi = last + 1 - j0 < keys ? last + 1 - j0 : keys;
    s.lo_full = s.lo / 16 * 16;
    s.hi_full = (s.hi + 15) / 16 * 16;
    return s;
}

/* Scores of the rounded range that lie outside the range become so low that their exponential is 0.
 */
static inline void attn_mask(float *s, const struct attn_span *span)
{
    for (int j = span->lo_full; j < span->lo; j++)
        s[j] = -3e38f;
    for (int j = span->hi; j < span->hi_full; j++)
        s[j] = -3e38f;
}

/* 0 over the keys outside the rounded range; over all of them where the range is empty. */
static inline void attn_zero_outside(float *s, const struct attn_span *span, int keys)
{
    const bool is_empty = span->lo >= span->hi;
    const int lo = is_empty ? keys : span->lo_full, hi = is_empty ? keys : span->hi_full;
    for (int j = 0; j < lo; j++)
        s[j] = 0;
    for (int j = hi; j < keys; j++)
        s[j] = 0;
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

#endif
