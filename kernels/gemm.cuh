/* gemm: the one seam to the library behind products. gemm.cu calls cuBLASLt; the emulation puts
 * loops in its place. */
#ifndef HM_GEMM_CUH
#define HM_GEMM_CUH

#include "cuda.cuh"

/* c (m,n) = alpha op(a) op(b) + beta d, all row-major. Sums are in f32, without TF32. */
struct gemm {
    int64_t m, n, k;
    bool trans_a, trans_b; /* a is (k,m); b is (n,k) */
    enum dtype dtype;      /* of a and b: F32, BF16, F16 */
    enum dtype c_dtype;    /* of c and d: dtype, or F32 */
    const void *a, *b, *d; /* d: not read where beta is 0; may be c */
    void *c;
    int64_t lda, ldb, ldc, ldd;
    float alpha, beta;
    bool is_by_rows; /* a row's bits do not depend on m, a multiple of GEMM_UNIT, or other rows */
};
enum { GEMM_UNIT = 64 };

MUST_USE int gemm_open(struct cuda *c, struct err *err);
void gemm_close(struct cuda *c); /* accepts one that was not opened */
/* Bytes of dev->work that every product may use. */
size_t gemm_plan(const struct dev *dev);
/* at: which op, for the error message. */
void gemm_run(struct dev *dev, const char *at, const struct gemm *g);

#endif
