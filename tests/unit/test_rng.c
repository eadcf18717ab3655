/* test_rng: random numbers by counter, the thread pool, number types, arenas: lib/rng.h threads.h
 * dtype.h arena.h. */
#include "tap.h"

#include "arena.h"
#include "rng.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static bool is_philox(uint64_t key, uint64_t stream, uint64_t index, uint32_t a, uint32_t b,
                      uint32_t c, uint32_t d)
{
    const struct philox r = philox(key, stream, index);
    return r.v[0] == a && r.v[1] == b && r.v[2] == c && r.v[3] == d;
}

/* The known answers that come with the paper's own implementation. */
static void test_philox(void)
{
    ok(is_philox(0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8), "Philox of zeros");
    ok(is_philox(~0ull, ~0ull, ~0ull, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd),
       "Philox of ones");
    ok(is_philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, 0xd16cfe09, 0x94fdcceb,
                 0x5001e420, 0x24126ea1),
       "Philox of the digits of pi");
}

static void test_numbers(void)
{
    const uint64_t s = rng_stream(RNG_INIT, 3, 5);
    double sum = 0, squares = 0, uniform = 0, low = 1, high = 0, lag = 0, last = 0;
    const int n = 100000;
    for (int i = 0; i < n; i++) {
        const double x = rng_normal(7, s, (uint64_t)i), u = rng_uniform(7, s, (uint64_t)i);
        sum += x;
        squares += x * x;
        lag += x * last;
        last = x;
        uniform += u;
        low = u < low ? u : low;
        high = u > high ? u : high;
    }
    /* Five standard deviations of each mean. */
    ok_within(fabs(sum / n), 5 / sqrt(n), "mean of the normal");
    ok_within(fabs(squares / n - 1), 5 * sqrt(2.0 / n), "its variance");
    ok_within(fabs(lag / n), 5 / sqrt(n), "neighbours are independent");
    ok_within(fabs(uniform / n - 0.5), 5 * sqrt(1.0 / 12 / n), "mean of the uniform");
    ok(low >= 0 && low < 1e-3 && high < 1 && high > 0.999, "it fills [0,1)");
    ok(rng_uniform(7, s, 9) != rng_uniform(8, s, 9) &&
           rng_uniform(7, s, 9) != rng_uniform(7, rng_stream(RNG_INIT, 3, 6), 9) &&
           rng_uniform(7, s, 9) != rng_uniform(7, rng_stream(RNG_INIT, 4, 5), 9) &&
           rng_uniform(7, s, 9) != rng_uniform(7, rng_stream(RNG_SHUFFLE, 3, 5), 9),
       "key, step, site and use each make another stream");
    ok(rng_unit(0xFFFFFFFFu) < 1 && rng_unit(0) == 0, "rng_unit stays below 1");
}

static void test_permute(void)
{
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097, 30000};
    bool is_bijection = true, is_moved = false;
    uint8_t *seen = malloc(30000);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        memset(seen, 0, 30000);
        for (uint64_t i = 0; i < sizes[k]; i++) {
            const uint64_t j = rng_permute(1, 2, i, sizes[k]);
            is_bijection = is_bijection && j < sizes[k] && !seen[j];
            if (j < sizes[k])
                seen[j] = 1;
            is_moved = is_moved || j != i;
        }
    }
    free(seen);
    ok(is_bijection, "rng_permute is a bijection at all sizes");
    ok(is_moved, "and no identity");
    int n_same = 0;
    double distance = 0, between = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        n_same += rng_permute(1, 2, i, 10000) == rng_permute(1, 3, i, 10000);
        between += fabs((double)rng_permute(1, 2, i, 10000) - (double)rng_permute(1, 3, i, 10000));
        distance += fabs((double)rng_permute(1, 2, i, 10000) - (double)i) / 10000;
    }
    ok(n_same < 20, "another epoch, another order (%d of 10000 alike)", n_same);
    ok_within(fabs(between / 1e8 - 1.0 / 3), 0.02, "two orders are as far apart as chance does");
    ok_within(fabs(distance / 10000 - 1.0 / 3), 0.02, "it moves things as far as chance does");
    const uint64_t huge = (uint64_t)1 << 40;
    ok(rng_permute(1, 2, huge - 1, huge) < huge && rng_permute(1, 2, 5, huge) < huge,
       "sizes beyond 32 bits");
}

struct tally {
    atomic_int n_calls;
    atomic_int by_worker[256];
    int n_workers;
    size_t begin[256], end[256];
};

static void count(void *arg, int worker, int n_workers)
{
    struct tally *t = arg;
    atomic_fetch_add(&t->n_calls, 1);
    atomic_fetch_add(&t->by_worker[worker], 1);
    if (worker == 0)
        t->n_workers = n_workers;
    pool_share(1000, 16, worker, n_workers, &t->begin[worker], &t->end[worker]);
}

static void test_pool(void)
{
    struct err err;
    for (int n = 1; n <= 5; n += 2) {
        struct pool *pool;
        struct tally *t = calloc(1, sizeof *t);
        if (!ok(t && pool_open(&pool, n, &err) == 0 && pool_size(pool) == n, "a pool of %d", n)) {
            free(t);
            continue;
        }
        for (int i = 0; i < 500; i++)
            pool_run(pool, count, t);
        bool is_even = atomic_load(&t->n_calls) == 500 * n && t->n_workers == n;
        for (int w = 0; w < n; w++)
            is_even = is_even && atomic_load(&t->by_worker[w]) == 500;
        ok(is_even, "each of %d workers ran once a run", n);
        bool is_whole = t->begin[0] == 0 && t->end[n - 1] == 1000;
        for (int w = 0; w < n; w++)
            is_whole = is_whole && t->begin[w] % 16 == 0 && (!w || t->begin[w] == t->end[w - 1]);
        ok(is_whole, "shares meet, begin at whole grains and cover all");
        pool_close(pool);
        free(t);
    }
    struct tally *alone = calloc(1, sizeof *alone);
    pool_run(NULL, count, alone);
    ok(atomic_load(&alone->n_calls) == 1 && alone->n_workers == 1, "no pool: the caller alone");
    free(alone);
    size_t begin, end, sum = 0;
    for (int w = 0; w < 7; w++) {
        pool_share(3, 1, w, 7, &begin, &end);
        sum += end - begin;
    }
    ok(sum == 3, "fewer items than workers");
    pool_share(0, 8, 0, 2, &begin, &end);
    ok(begin == 0 && end == 0, "no items at all");
}

static void test_dtypes(void)
{
    bool is_round_trip = true, is_parsed = true;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = bf16_to_f32((uint16_t)h);
        is_round_trip =
            is_round_trip && (f != f ? bf16_to_f32(bf16_from_f32(f)) != f : bf16_from_f32(f) == h);
    }
    ok(is_round_trip, "every bfloat16 survives the way through float; NaN stays NaN");
    /* 1 + 2^-8 lies halfway between two: to even; a bit more goes up. */
    ok(bf16_from_f32(1.00390625f) == 0x3F80 && bf16_from_f32(1.01171875f) == 0x3F82 &&
           bf16_from_f32(1.0039064f) == 0x3F81,
       "bfloat16 rounds to nearest, halves to even");
    ok(bf16_from_f32(3.4e38f) == 0x7F80, "what is too large becomes infinite");
    ok(f16_to_f32(0x3C00) == 1 && f16_to_f32(0xC000) == -2 && f16_to_f32(1) == 0x1p-24f &&
           f16_to_f32(0x7BFF) == 65504 && isinf(f16_to_f32(0x7C00)) && isnan(f16_to_f32(0x7E00)),
       "float16: one, minus two, the least, the greatest, infinity, NaN");
    for (int i = 0; i < DT_COUNT; i++)
        is_parsed = is_parsed && (int)dtype_parse(dtype_name((enum dtype)i)) == i &&
                    dtype_size((enum dtype)i) > 0;
    ok(is_parsed && dtype_parse("F8") == DT_COUNT, "names of types go both ways");
}

/* The same carving on a plan and on a block: what the arena is for. */
static size_t carve(struct arena *a, struct tensor *x, struct tensor *y)
{
    *x = arena_tensor(a, MEM_WEIGHTS, DT_F32, 2, 3, 5, 0, 0);
    *y = arena_tensor(a, MEM_ACTS, DT_BF16, 1, 7, 0, 0, 0);
    return a->used;
}

static void test_arena(void)
{
    struct arena plan = {0};
    struct tensor x, y;
    const size_t bytes = carve(&plan, &x, &y);
    ok(!x.data && !y.data && bytes == 128 && plan.by_kind[MEM_WEIGHTS] == 64 &&
           plan.by_kind[MEM_ACTS] == 64,
       "a plan adds up aligned bytes by kind");
    uint8_t *block = aligned_alloc(ARENA_ALIGN, bytes);
    struct arena real = {.base = block};
    ok(carve(&real, &x, &y) == bytes && (uint8_t *)x.data == block &&
           (uint8_t *)y.data == block + 64,
       "the block is carved as planned");
    free(block);
}

int main(void)
{
    test_philox();
    test_numbers();
    test_permute();
    test_pool();
    test_dtypes();
    test_arena();
    return tap_done();
}
