/* dtype: element types, under the names that safetensors gives them, and bfloat16 conversion. */
#ifndef HM_DTYPE_H
#define HM_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DT_F32, DT_BF16, DT_F16, DT_I32, DT_I64, DT_U64, DT_U8, DT_COUNT };

size_t dtype_size(enum dtype dtype);      /* bytes an element */
const char *dtype_name(enum dtype dtype); /* "F32", "BF16", ... static */
/* The type of that name; DT_COUNT where it is none of ours. */
enum dtype dtype_parse(const char *name);

static inline float bf16_to_f32(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t bf16_from_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* n elements of one float type (F32, BF16, F16) as those of another, to and from being apart. */
void dtype_convert(void *to, enum dtype to_type, const void *from, enum dtype from_type, size_t n);

float f16_to_f32(uint16_t h);
uint16_t f16_from_f32(float f); /* round to nearest even */

#endif
