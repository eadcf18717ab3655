/* Any bytes as JSON lines, as lines, as NUL-separated and as paragraphs: what separates by bytes
 * must give every byte back. */
#include "records.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *spec, const uint8_t *data, size_t size, struct buf *joined)
{
    struct records r;
    struct record rec;
    struct split split;
    struct in in;
    struct err err;
    if (split_parse(&split, spec, &err) != 0 || in_memory(&in, "fuzz", data, size, &err) != 0)
        abort();
    records_init_over(&r, &split, &in);
    r.skips_bad = true;
    while (records_next(&r, &rec, &err) == 1)
        if (buf_put(joined, rec.text, rec.n, &err) != 0 ||
            (rec.is_ended && buf_put(joined, split.sep, split.n_sep, &err) != 0))
            abort();
    records_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const exact[] = {"line", "nul", "sep:ab", "sep:\\n\\n\\n", "whole"};
    struct buf joined = {0};
    read_all("jsonl:text", data, size, &joined);
    read_all("para", data, size, &joined);
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        joined.size = 0;
        read_all(exact[i], data, size, &joined);
        if (joined.size != size || (size > 0 && memcmp(joined.data, data, size) != 0))
            abort();
    }
    buf_free(&joined);
    return 0;
}
