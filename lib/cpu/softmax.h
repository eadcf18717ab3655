/* softmax: what cross-entropy and sampling share: passes over a long row of logits. The sums go
 * from f32 to double every STRIDE columns, so that a large vocabulary costs no precision. */
#ifndef HM_SOFTMAX_H
#define HM_SOFTMAX_H

#include "vmath.h"

#include <stdint.h>

enum { SOFTMAX_STRIDE = 1024 };

/* The greatest of n >= 1 values; NaNs are passed over where another follows. */
static inline float softmax_top(const float *x, int64_t n)
{
    float top = x[0];
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

/* Sum of e^((x - top) * scale). */
static inline double softmax_sum(const float *x, int64_t n, float top, float scale)
{
    double total = 0;
    for (int64_t i0 = 0; i0 < n; i0 += SOFTMAX_STRIDE) {
        const int64_t end = i0 + SOFTMAX_STRIDE < n ? i0 + SOFTMAX_STRIDE : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = i0; i < end; i++)
            sum += vexp((x[i] - top) * scale);
        total += (double)sum;
    }
    return total;
}

/* The same sum, bit for bit; e (n) keeps the terms and may be x. */
static inline double softmax_terms(float *e, const float *x, int64_t n, float top, float scale)
{
    double total = 0;
    for (int64_t i0 = 0; i0 < n; i0 += SOFTMAX_STRIDE) {
        const int64_t end = i0 + SOFTMAX_STRIDE < n ? i0 + SOFTMAX_STRIDE : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = i0; i < end; i++) {
            const float term = vexp((x[i] - top) * scale);
            e[i] = term;
            sum += term;
        }
        total += (double)sum;
    }
    return total;
}

#endif
