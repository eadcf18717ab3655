/* dtype: see dtype.h. */
#include "dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t size;
} table[DT_COUNT] = {
    [DT_F32] = {"F32", 4}, [DT_BF16] = {"BF16", 2}, [DT_F16] = {"F16", 2}, [DT_I32] = {"I32", 4},
    [DT_I64] = {"I64", 8}, [DT_U64] = {"U64", 8},   [DT_U8] = {"U8", 1},
};

size_t dtype_size(enum dtype dtype)
{
    return table[dtype].size;
}

const char *dtype_name(enum dtype dtype)
{
    return table[dtype].name;
}

enum dtype dtype_parse(const char *name)
{
    int i = 0;
    while (i < DT_COUNT && strcmp(table[i].name, name) != 0)
        i++;
    return (enum dtype)i;
}

uint16_t f16_from_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7FFFFFFFu;
    if (rest > 0x7F800000u)
        return 0x7E00u;
    if (rest >= 0x477FF000u) /* rounds to more than the largest, 65504 */
        return (uint16_t)(sign | 0x7C00u);
    if (rest < 0x38800000u) /* a multiple of 2^-24 below 2^-14: subnormal, or zero */
        return (uint16_t)(sign | (uint32_t)lrintf(ldexpf(fabsf(f), 24)));
    return (uint16_t)(sign | ((rest + 0xFFFu + (rest >> 13 & 1u) - 0x38000000u) >> 13));
}

float f16_to_f32(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    float f;
    if (exponent == 31)
        f = fraction ? NAN : INFINITY;
    else if (exponent == 0)
        f = ldexpf((float)fraction, -24);
    else
        f = ldexpf((float)(fraction | 1024), exponent - 25);
    return h & 0x8000 ? -f : f;
}

static float get(const void *from, enum dtype dtype, size_t i)
{
    const uint16_t *half = from;
    if (dtype == DT_F32)
        return ((const float *)from)[i];
    return dtype == DT_BF16 ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
}

void dtype_convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, size_t n)
{
    uint16_t *half = to;
    if (to_type == from_type) {
        memcpy(to, from, n * dtype_size(to_type));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const float x = get(from, from_type, i);
        if (to_type == DT_F32)
            ((float *)to)[i] = x;
        else
            half[i] = to_type == DT_BF16 ? bf16_from_f32(x) : f16_from_f32(x);
    }
}
