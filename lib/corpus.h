/* corpus: the ids of a set of shards as one long run that can be read anywhere. Position 0 is a
 * virtual </s>, so that the first document begins like the others; another stands where a set whose
 * last document is unterminated is followed by a new document. Decompressed frames are kept in a
 * cache of fixed size. One thread at a time. */
#ifndef HM_CORPUS_H
#define HM_CORPUS_H

#include "shard.h"

struct corpus {
    struct shard *shard; /* (n_shards) owned */
    int n_shards;
    uint64_t *start; /* (n_shards + 1) owned: position of each shard's first id; the end */
    uint64_t *first; /* (n_shards + 1) owned: number of each shard's first frame */
    uint64_t n_ids;  /* positions, virtual ids included */
    uint64_t n_tokens, n_docs, n_bytes; /* sums; n_bytes 0 when a shard does not know */
    uint64_t hash; /* of the whole content: the same shards in the same order; never 0 */
    const uint8_t *piece_bytes; /* (vocab) borrowed from a shard; NULL where shards differ */

    struct shard_scratch scratch;
    uint8_t *slots; /* (n_slots, slot_bytes) owned: decompressed frames */
    size_t slot_bytes;
    uint32_t n_slots, hand; /* the clock's hand */
    int32_t *slot_of;       /* (frames) owned: the slot that holds a frame, or -1 */
    int64_t *frame_of;      /* (n_slots) owned: the frame in a slot, or -1 */
    uint8_t *is_used;       /* (n_slots) owned: read since the hand passed */
};

/* Opens the files, which must agree; cache_bytes bounds the cache (4 frames at least). */
MUST_USE int corpus_open(struct corpus *c, const char *const *paths, int n_paths,
                         size_t cache_bytes, struct err *err);
/* The n ids from position pos; pos + n <= n_ids. Allocates nothing. */
MUST_USE int corpus_read(struct corpus *c, uint64_t pos, size_t n, int32_t *to, struct err *err);
void corpus_close(struct corpus *c);

#endif
