/* Any bytes as a config.json: what is accepted must check, list its tensors and print what reads
 * back the same. */
#include "config.h"
#include "params.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c, back;
    struct params p;
    struct err err;
    struct buf text = {0};
    if (config_parse(&c, (const char *)data, size, &err) != 0)
        return 0;
    if (config_check(&c, &err) != 0 || config_print(&c, &text, &err) != 0 ||
        config_parse(&back, (const char *)text.data, text.size, &err) != 0 ||
        memcmp(&c, &back, sizeof c) != 0)
        abort();
    if (params_open(&p, &c, &err) == 0)
        params_free(&p);
    buf_free(&text);
    return 0;
}
