/* Any bytes as a token stream, and then with its hashes made right, so that the fuzzer gets past
 * them. */
#include "stream.h"
#include "twice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const uint8_t *data, size_t size)
{
    struct stream_reader r;
    struct in in;
    struct err err;
    const int32_t *ids;
    size_t n;
    if (in_memory(&in, "fuzz", data, size, &err) != 0)
        return;
    if (stream_open(&r, &in, &err) == 0) {
        while (stream_next(&r, &ids, &n, &err) == 1)
            for (size_t i = 0; i < n; i++)
                if (ids[i] < 0 || ids[i] >= r.h.vocab)
                    abort();
        stream_close(&r);
    }
    in_close(&in);
}

/* The hash of the header and of each block, as far as the sizes make sense. */
static void mend(uint8_t *data, size_t size)
{
    struct err err;
    size_t at;
    if (size < STREAM_HEAD_BYTES || stream_header_size(data, &at, &err) != 0 || at > size)
        return;
    set_u64(data + at - 8, XXH64(data, at - 8, 0));
    const size_t width = get_u32(data + 12);
    while (size - at >= 16 && get_u32(data + at) > 0) {
        const size_t body = 8 + get_u32(data + at) * width;
        if (body + 8 > size - at)
            return;
        set_u64(data + at + body, XXH64(data + at, body, 0));
        at += body + 8;
    }
    if (size - at >= 40)
        set_u64(data + at + 32, XXH64(data, at + 32, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_twice(data, size, read_all, mend);
}
