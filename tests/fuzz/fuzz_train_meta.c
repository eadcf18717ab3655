/* Any bytes as the metadata of a resumable checkpoint: what is accepted must print and parse to the
 * same again. */
#include "train_ckpt.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct train_head h = {0}, again = {0};
    struct buf text = {0}, twice = {0};
    struct err err;
    if (train_meta_parse(&h, (const char *)data, size, &err) != 0)
        return 0;
    if (train_meta_print(&h, &text, &err) != 0 ||
        train_meta_parse(&again, (const char *)text.data, text.size, &err) != 0 ||
        train_meta_print(&again, &twice, &err) != 0 || text.size != twice.size ||
        memcmp(text.data, twice.data, text.size) != 0)
        abort();
    buf_free(&text);
    buf_free(&twice);
    return 0;
}
