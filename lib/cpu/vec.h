/* vec: a register full of floats of the instruction set that the file is compiled for, by the
 * compiler's vector extension: the operators + - * / work on it lane by lane. */
#ifndef HM_VEC_H
#define HM_VEC_H

#include <string.h>

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX2__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif

typedef float vec __attribute__((vector_size(sizeof(float) * VL), may_alias));
typedef float vec_any __attribute__((vector_size(sizeof(float) * VL), aligned(4), may_alias));

static inline vec vec_load(const float *p)
{
    return *(const vec_any *)p;
}

static inline void vec_store(float *p, vec v)
{
    *(vec_any *)p = v;
}

/* The first n < VL lanes; the rest are 0. */
static inline vec vec_load_part(const float *p, int n)
{
    float lanes[VL] = {0};
    for (int i = 0; i < n; i++)
        lanes[i] = p[i];
    return vec_load(lanes);
}

static inline void vec_store_part(float *p, vec v, int n)
{
    float lanes[VL];
    vec_store(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}

static inline vec vec_all(float x)
{
    return x - (vec){0};
}

typedef float quad __attribute__((vector_size(16), may_alias));
typedef float quad_any __attribute__((vector_size(16), aligned(4), may_alias));

static inline quad quad_load(const float *p)
{
    return *(const quad_any *)p;
}

static inline void quad_store(float *p, quad v)
{
    *(quad_any *)p = v;
}

/* Rows a b c d of a 4 x 4 matrix become its columns. */
static inline void quad_transpose(quad *a, quad *b, quad *c, quad *d)
{
    const quad ac_low = __builtin_shufflevector(*a, *c, 0, 4, 1, 5);
    const quad bd_low = __builtin_shufflevector(*b, *d, 0, 4, 1, 5);
    const quad ac_high = __builtin_shufflevector(*a, *c, 2, 6, 3, 7);
    const quad bd_high = __builtin_shufflevector(*b, *d, 2, 6, 3, 7);
    *a = __builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5);
    *b = __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7);
    *c = __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5);
    *d = __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7);
}

/* Lanes whose numbers agree modulo 4, added. */
static inline quad vec_fold(vec v)
{
#if defined(__AVX512F__)
    return (__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7)) +
           (__builtin_shufflevector(v, v, 8, 9, 10, 11) +
            __builtin_shufflevector(v, v, 12, 13, 14, 15));
#elif defined(__AVX2__)
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    return v;
#endif
}

/* The sums of the lanes of four vectors: lanes that agree modulo 4 first, then those sums in pairs.
 */
static inline quad vec_sum4(vec a, vec b, vec c, vec d)
{
    quad q0 = vec_fold(a), q1 = vec_fold(b), q2 = vec_fold(c), q3 = vec_fold(d);
    quad_transpose(&q0, &q1, &q2, &q3);
    return (q0 + q1) + (q2 + q3);
}

#endif
