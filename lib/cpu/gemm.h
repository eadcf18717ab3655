/* gemm: dense products, the one seam to oneDNN. */
#ifndef HM_GEMM_H
#define HM_GEMM_H

#include "local.h"

/* Rows of a product with is_by_rows come in multiples of this. */
enum { GEMM_UNIT = 24 };

/* C(m,n) = op(A)(m,k) op(B)(k,n), or C += where `add`; all row-major. A transposed operand is
 * stored the other way round: A as (k,m), B as (n,k). With product BF16 both operands are rounded
 * to bf16 (nearest even) and products are summed in f32; B may be stored as bf16 then. */
struct gemm {
    int64_t m, n, k;
    bool trans_a, trans_b, add;
    bool is_by_rows; /* a row's bits depend on no other row, nor on m, a multiple of GEMM_UNIT */
    enum dtype product, b_dtype;
    const float *a;
    const void *b;
    float *c;
    int64_t lda, ldb, ldc;
};

/* Uses cpu_gemm_plan bytes of dev->work. */
void cpu_gemm(struct dev *dev, const struct gemm *g);
size_t cpu_gemm_plan(const struct dev *dev, enum dtype product);
void cpu_gemm_close(struct gemm_cache *cache); /* accepts NULL */

#endif
