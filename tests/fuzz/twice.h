/* twice: a fuzz target of a format under checksums: the bytes as they are, and again with the
 * hashes put right, so that the fuzzer gets past them. */
#ifndef HM_FUZZ_TWICE_H
#define HM_FUZZ_TWICE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The copy is exactly as long as the input, so that a read past its end is seen. Returns 0. */
static inline int fuzz_twice(const uint8_t *data, size_t size,
                             void (*read_all)(const uint8_t *, size_t),
                             void (*mend)(uint8_t *, size_t))
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (!copy)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    read_all(copy, size);
    mend(copy, size);
    read_all(copy, size);
    free(copy);
    return 0;
}

#endif
