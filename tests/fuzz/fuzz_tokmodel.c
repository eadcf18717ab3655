/* Any bytes as a tokenizer model: what opens must give every byte of a text back. */
#include "encode.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "the  quick\n<s>\xE2\x96\x81\xFF\xC3\xA9 aaaa\xE6\xBC\xA2 1234";
    struct tok *t;
    struct err err;
    if (tok_open_bytes(&t, data, size, &err) != 0)
        return 0;
    struct ids ids = {0};
    struct buf back = {0};
    if (tok_encode(t, text, sizeof text, &ids, &err) != 0 ||
        tok_decode(t, ids.data, ids.n, &back, &err) != 0 || back.size != sizeof text ||
        memcmp(back.data, text, sizeof text) != 0)
        abort();
    /* The model's own bytes are a text that holds all its pieces. */
    ids.n = back.size = 0;
    if (tok_encode(t, data, size, &ids, &err) != 0 ||
        tok_decode(t, ids.data, ids.n, &back, &err) != 0 || back.size != size ||
        memcmp(back.data, data, size) != 0)
        abort();
    ids_free(&ids);
    buf_free(&back);
    tok_close(t);
    return 0;
}
