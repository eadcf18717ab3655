/* mm: small matrix products, a few hundred rows and columns at most, on one worker and out of its
 * cache: the inside of SSD chunks and attention tiles. Large products go through gemm.h. */
#ifndef HM_MM_H
#define HM_MM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Row r starts at p + r*ld. */
struct mat {
    float *p;
    int64_t ld;
};

static inline struct mat mat_at(struct mat a, int64_t r, int64_t c)
{
    return (struct mat){a.p + r * a.ld + c, a.ld};
}

/* C (m,n) = A (m,k) B (k,n), or += with add. Each element is summed in the order of k. C overlaps
 * neither A nor B. */
void mm_ab(struct mat c, struct mat a, struct mat b, int m, int n, int k, bool add);
/* The same with A stored as (k,m): C = A^T B. */
void mm_atb(struct mat c, struct mat a, struct mat b, int m, int n, int k, bool add);
/* to (cols,rows) = from (rows,cols) transposed. */
void mm_transpose(struct mat to, struct mat from, int rows, int cols);

/* A row distance for n floats of scratch: whole cache lines, an odd number of them, so that a
 * column of rows does not fall into few cache sets. */
static inline int64_t mm_ld(int n)
{
    const int64_t lines = ((int64_t)n + 15) / 16;
    return (lines | 1) * 16;
}

#endif
