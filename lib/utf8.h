/* utf8: what a character is. Strict: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef HM_UTF8_H
#define HM_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length in bytes (1..4) of the character at p, n bytes being there; 0 where none begins. */
static inline size_t utf8_char(const uint8_t *p, size_t n, uint32_t *code)
{
    if (n == 0)
        return 0;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    const size_t len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (n < len)
        return 0;
    uint32_t c = p[0] & (0xFFu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3F);
    }
    const uint32_t least = len == 2 ? 0x80 : len == 3 ? 0x800 : 0x10000;
    if (c < least || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return 0;
    *code = c;
    return len;
}

#endif
