/* emu_half: __half and __nv_bfloat16. Conversions round to nearest even, as the device does;
 * arithmetic is done in float and rounded once. */
#ifndef HM_EMU_HALF_H
#define HM_EMU_HALF_H

#include "emu_types.h"

namespace emu
{
static inline float bf16_value(uint16_t h)
{
    return bits<float>((uint32_t)h << 16);
}
static inline uint16_t bf16_round(float f)
{
    const uint32_t u = bits<uint32_t>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff; /* the device's NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float f16_value(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, rest = h & 1023u;
    if (exponent == 31)
        return bits<float>(rest ? 0x7fffffffu : sign | 0x7f800000u);
    if (exponent != 0)
        return bits<float>(sign | (exponent + 112) << 23 | rest << 13);
    const float v = (float)rest * 0x1p-24f;
    return sign ? -v : v;
}
static inline uint16_t f16_round(float f)
{
    const uint32_t u = bits<uint32_t>(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return 0x7fff;
    if (a >= 0x477ff000u) /* 65520 and above become infinite */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* subnormal: multiples of 2^-24 */
        return (uint16_t)(sign | (uint32_t)rintf(bits<float>(a) * 0x1p24f));
    const uint32_t up = a + 0xfffu + (a >> 13 & 1u);
    return (uint16_t)(sign | (up - 0x38000000u) >> 13);
}

/* An element of 16 bits; Kind has value() and round(). */
template <class Kind> struct half_of {
    uint16_t raw;
    half_of() = default;
    half_of(float f) : raw(Kind::round(f))
    {
    }
    operator float() const
    {
        return Kind::value(raw);
    }
};
template <class Kind> struct __align__(4) pair_of
{
    half_of<Kind> x, y;
};

struct kind_f16 {
    static float value(uint16_t h)
    {
        return f16_value(h);
    }
    static uint16_t round(float f)
    {
        return f16_round(f);
    }
};
struct kind_bf16 {
    static float value(uint16_t h)
    {
        return bf16_value(h);
    }
    static uint16_t round(float f)
    {
        return bf16_round(f);
    }
};
} // namespace emu

typedef emu::half_of<emu::kind_f16> __half;
typedef emu::pair_of<emu::kind_f16> __half2;
typedef emu::half_of<emu::kind_bf16> __nv_bfloat16;
typedef emu::pair_of<emu::kind_bf16> __nv_bfloat162;
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __half2float(__half h)
{
    return h;
}
static inline __half __float2half(float f)
{
    return f;
}
static inline __half __float2half_rn(float f)
{
    return f;
}
static inline float2 __half22float2(__half2 v)
{
    return {v.x, v.y};
}
static inline __half2 __float22half2_rn(float2 v)
{
    return {v.x, v.y};
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return {x, y};
}
static inline __half2 __halves2half2(__half x, __half y)
{
    return {x, y};
}
static inline unsigned short __half_as_ushort(__half h)
{
    return h.raw;
}
static inline __half __ushort_as_half(unsigned short u)
{
    __half h;
    h.raw = u;
    return h;
}

static inline float __bfloat162float(__nv_bfloat16 h)
{
    return h;
}
static inline __nv_bfloat16 __float2bfloat16(float f)
{
    return f;
}
static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return f;
}
static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return {v.x, v.y};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 v)
{
    return {v.x, v.y};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {x, y};
}
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y)
{
    return {x, y};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h)
{
    return h.raw;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u)
{
    __nv_bfloat16 h;
    h.raw = u;
    return h;
}

#endif
