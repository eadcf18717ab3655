/* Any bytes as a safetensors file: read in full, every tensor skipped. */
#include "safetensors.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st st;
    struct in in;
    struct err err;
    /* The header alone, as the data part may be missing from a fuzzer's file. */
    if (st_parse(&st, (const char *)data, size, UINT64_MAX, &err) == 0)
        st_free(&st);
    if (in_memory(&in, "fuzz", data, size, &err) != 0)
        return 0;
    if (st_read_header(&st, &in, &err) == 0) {
        for (int i = 0; i < st.n_tensors; i++)
            if (st_skip_tensor(&st, i, &in, &err) != 0)
                break;
        st_free(&st);
    }
    in_close(&in);
    return 0;
}
