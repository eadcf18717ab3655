/* buf: a growable run of bytes. A zeroed struct is a valid empty buffer; data is NULL until the
 * first put. buf_free accepts a zeroed struct and leaves one. Growth at least doubles, so puts are
 * amortised. */
#ifndef HM_BUF_H
#define HM_BUF_H

#include "err.h"

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data; /* owned; `size` bytes are used, `cap` are allocated */
    size_t size, cap;
};

/* Makes room for n more bytes after size. */
MUST_USE int buf_reserve(struct buf *b, size_t n, struct err *err);
/* Appends n bytes, or a formatted string without its final NUL. */
MUST_USE int buf_put(struct buf *b, const void *bytes, size_t n, struct err *err);
MUST_USE int buf_printf(struct buf *b, struct err *err, const char *fmt, ...) PRINTF(3, 4);
void buf_free(struct buf *b);

/* Ids that every tokenizer of hm has; 4 up to the byte pieces are chat markers. */
enum { ID_UNK = 0, ID_BOS = 1, ID_EOS = 2, ID_PAD = 3 };

/* A typed growable array of 32-bit ids, the currency between tokenizer, model and tools. Same
 * rules. */
struct ids {
    int32_t *data;
    size_t n, cap;
};
MUST_USE int ids_put(struct ids *a, int32_t id, struct err *err);
MUST_USE int ids_append(struct ids *a, const int32_t *id, size_t n, struct err *err);
void ids_free(struct ids *a);

#endif
