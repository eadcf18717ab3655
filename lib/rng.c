/* rng: Philox streams; see rng.h. */
#include "rng.h"

#include <math.h>

float rng_uniform(uint64_t key, uint64_t stream, uint64_t index)
{
    return rng_unit(philox(key, stream, index / 4).v[index % 4]);
}

float rng_normal(uint64_t key, uint64_t stream, uint64_t index)
{
    const struct philox r = philox(key, stream, index / 2);
    /* 1 - u lies in (0,1], so the logarithm is finite. */
    const double radius = sqrt(-2.0 * log(1.0 - (double)rng_unit(r.v[0])));
    const double angle = 6.283185307179586 * (double)rng_unit(r.v[1]);
    return (float)(radius * (index % 2 ? sin(angle) : cos(angle)));
}

uint64_t rng_permute(uint64_t key, uint64_t stream, uint64_t i, uint64_t n)
{
    int half = 1;
    while (half < 32 && (uint64_t)1 << 2 * half < n)
        half++;
    const uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            const struct philox f = philox(key, stream, right << 2 | round);
            const uint64_t next = left ^ (((uint64_t)f.v[1] << 32 | f.v[0]) & mask);
            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}
