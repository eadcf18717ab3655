/* Any bytes as a CSV table: every record has the header's number of fields, and a table written
 * from what was read reads the same. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(struct buf *to, const void *bytes, size_t n)
{
    struct err err;
    if (buf_put(to, bytes, n, &err) != 0)
        abort();
}

static void put_field(struct buf *to, const char *field, size_t n, bool is_first)
{
    put(to, is_first ? "\"" : ",\"", is_first ? 1 : 2);
    for (size_t i = 0; i < n; i++)
        put(to, field[i] == '"' ? "\"\"" : field + i, field[i] == '"' ? 2 : 1);
    put(to, "\"", 1);
}

/* Reads the whole table and appends it, every field quoted. -1: it has a mistake. */
static int rewrite(const uint8_t *data, size_t size, struct buf *to)
{
    struct table *t;
    struct in in;
    struct err err;
    size_t n;
    int more;
    if (in_memory(&in, "fuzz", data, size, &err) != 0 || table_over(&t, &in, &err) != 0)
        return -1;
    for (int i = 0; i < table_n_columns(t); i++) {
        const char *name = table_name(t, i, &n);
        put_field(to, name, n, i == 0);
    }
    put(to, "\r\n", 2);
    for (;;) {
        while ((more = table_next(t, &err)) < 0 && table_can_go_on(t))
            ;
        if (more < 1)
            break;
        for (int i = 0; i < table_n_columns(t); i++) {
            const char *field = table_field(t, i, &n);
            put_field(to, field, n, i == 0);
        }
        put(to, "\r\n", 2);
    }
    table_close(t);
    return more;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf once = {0}, twice = {0};
    if (rewrite(data, size, &once) == 0 &&
        (rewrite(once.data, once.size, &twice) != 0 || once.size != twice.size ||
         memcmp(once.data, twice.data, once.size) != 0))
        abort();
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
