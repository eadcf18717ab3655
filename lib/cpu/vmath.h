/* vmath: exp and its kin without branches or calls, so that loops over them vectorise. */
#ifndef HM_VMATH_H
#define HM_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x to about 2 ulp in float: x = n ln2 + r, a polynomial in r, n put into the exponent. 0 below
 * -87.7 (half the smallest normal float), saturates at 88.0; NaN stays NaN. |x| is bounded as an
 * integer: compilers turn that into one instruction, but a bound on floats into many. */
static inline float vexp(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: rounds to an integer */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t bound = 0x42B00A3Du; /* 88.02: n stays within -127, whose scale is 0, to 127 */
    const uint32_t size = bits & 0x7FFFFFFFu, least = size < bound ? size : bound;
    bits = (bits & 0x80000000u) | least;
    float bounded;
    memcpy(&bounded, &bits, sizeof bounded);
    const float shifted = bounded * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3F800000u; /* the low bits of `shifted` are n */
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return x == x ? p * scale : x;
}

static inline float vsigmoid(float x)
{
    return 1.0f / (1.0f + vexp(-x));
}

static inline float vsilu(float x)
{
    return x * vsigmoid(x);
}

/* d silu(x) / dx. 1 - s is taken as e^-x s, which does not cancel where s is near 1. */
static inline float vsilu_grad(float x)
{
    const float e = vexp(-x), s = 1.0f / (1.0f + e);
    return s * (1.0f + x * (e * s));
}

/* log(1 + e^x), x itself above 20 as torch and the Mamba kernels have it. */
static inline float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

#endif
