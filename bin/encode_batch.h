/* encode_batch: some MiB of text of many documents, encoded by all threads, order kept. Used by
 * tok-encode. */
#ifndef HM_ENCODE_BATCH_H
#define HM_ENCODE_BATCH_H

#include "encode.h"
#include "threads.h"

#include <stdbool.h>

enum { BATCH_BYTES = 4 << 20 };

struct batch_part; /* a stretch of one document */
struct batch_hand; /* what a thread has */

struct encode_batch {
    const struct tok *tok; /* borrowed */
    struct pool *pool;     /* borrowed */
    struct buf text;
    struct batch_part *parts; /* owned */
    size_t n_parts, cap;
    struct batch_hand *hands; /* owned, one a thread */
    int n_hands;
};

MUST_USE int encode_batch_open(struct encode_batch *b, const struct tok *tok, struct pool *pool,
                               struct err *err);
/* Adds a document; </s> follows its ids where it is ended. */
MUST_USE int encode_batch_add(struct encode_batch *b, const void *text, size_t n, bool is_ended,
                              struct err *err);
static inline bool encode_batch_is_full(const struct encode_batch *b)
{
    return b->text.size >= BATCH_BYTES || b->n_parts >= BATCH_BYTES / 8;
}
/* Encodes what was added; then encode_batch_ids gives the ids, hand by hand, and
 * encode_batch_clear makes room for more. */
MUST_USE int encode_batch_run(struct encode_batch *b, struct err *err);
const struct ids *encode_batch_ids(const struct encode_batch *b, int hand);
void encode_batch_clear(struct encode_batch *b);
void encode_batch_close(struct encode_batch *b);

#endif
