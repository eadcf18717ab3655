/* Any bytes as a shard, and then with the hashes of its front, frames and seek table made right, so
 * that the fuzzer gets past them. */
#include "shard.h"
#include "twice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check(void *arg, const int32_t *ids, size_t n, struct err *err)
{
    const struct shard *s = arg;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= s->s.h.vocab)
            abort();
    return 0;
}

static void read_all(const uint8_t *data, size_t size)
{
    struct shard s;
    struct shard_scratch x;
    struct err err;
    if (shard_open_bytes(&s, data, size, &err) != 0)
        return;
    if (shard_scratch_init(&x, &err) == 0 && shard_scan(&s, &x, check, &s, &err) != 0 &&
        !err.what[0])
        abort();
    shard_scratch_free(&x);
    shard_close(&s);
}

static void mend(uint8_t *data, size_t size)
{
    if (size < 96)
        return;
    const size_t front = (size_t)get_u32(data + 4) + 8, n_frames = get_u32(data + 52);
    const size_t header = get_u32(data + 64);
    if (front < 96 || front > size || header < 8 || header > front || n_frames > front)
        return;
    const size_t index = 72 + header;
    if (index + n_frames * 12 + 8 != front)
        return;
    set_u64(data + index - 8, XXH64(data + 72, header - 8, 0));
    size_t at = front;
    for (size_t i = 0; i < n_frames; i++) {
        const size_t n = get_u32(data + index + 12 * i + 8);
        if (n > size - at)
            return;
        set_u64(data + index + 12 * i, XXH64(data + at, n, 0));
        at += n;
    }
    set_u64(data + 56, XXH64(data + at, size - at, 0));
    set_u64(data + front - 8, XXH64(data, front - 8, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_twice(data, size, read_all, mend);
}
