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

/* Sum of the lanes, by halves: always the same order. */
static inline float vec_sum(vec v)
{
    float lanes[VL];
    vec_store(lanes, v);
    for (int half = VL / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

#endif
