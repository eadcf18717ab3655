/* rng: counter-based random numbers. A number is a pure function of (key, counter), so that dropout
 * masks, initial weights, shuffles and samples agree between recompute, resume, threads, ranks and
 * backends. Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). */
#ifndef HM_RNG_H
#define HM_RNG_H

#include "both.h"

#include <stdint.h>

struct philox {
    uint32_t v[4];
};

/* What a stream of numbers is for: the second half of the counter. One entry a use, never reused.
 */
enum rng_use { RNG_INIT = 1, RNG_DROPOUT = 2, RNG_SAMPLE = 3, RNG_SHUFFLE = 4, RNG_ROUND = 5 };

/* Ten Philox rounds. key: the run's seed. Counter: `index` (element) and `stream`, both 64 bits. */
static inline BOTH struct philox philox(uint64_t key, uint64_t stream, uint64_t index)
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < 10; i++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        const uint32_t h0 = (uint32_t)(p0 >> 32), h1 = (uint32_t)(p1 >> 32);
        c0 = h1 ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = h0 ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct philox){{c0, c1, c2, c3}};
}

/* Names a stream: the use, a 24-bit site (layer and place) and a 32-bit step or position. */
static inline BOTH uint64_t rng_stream(enum rng_use use, uint32_t site, uint32_t step)
{
    return (uint64_t)use << 56 | (uint64_t)(site & 0xFFFFFFu) << 32 | step;
}

/* Uniform in [0,1) with 24 bits: exact in float. */
static inline BOTH float rng_unit(uint32_t bits)
{
    return (float)(bits >> 8) * 0x1p-24f;
}

/* Element `index` of the stream, uniform in [0,1). Four neighbours share one Philox call. */
float rng_uniform(uint64_t key, uint64_t stream, uint64_t index);
/* Standard normal by Box-Muller, the same indexing. */
float rng_normal(uint64_t key, uint64_t stream, uint64_t index);

/* A keyed bijection of 0..n-1 (a four-round Feistel network walked until it lands inside): the
 * shuffle needs no memory and any element can be asked for alone. n >= 1. */
uint64_t rng_permute(uint64_t key, uint64_t stream, uint64_t i, uint64_t n);

#endif
