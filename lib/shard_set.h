/* shard_set: a token stream's ids into sets of shards: NAME-00000.tok.zst and so on, and one such
 * set for each split. All files lie under temporary names until shard_set_commit. */
#ifndef HM_SHARD_SET_H
#define HM_SHARD_SET_H

#include "shard.h"

enum { SHARD_SET_MAX = 16 }; /* sets of one run, the rest included */

struct shard_set_opts {
    const char *folder;
    const char *name[SHARD_SET_MAX]; /* of the rest, then of each split; borrowed */
    double share[SHARD_SET_MAX];     /* of the documents, 0..1; [0] is not looked at */
    int n;                           /* 1 + splits */
    uint64_t size_tokens; /* a shard ends at the first document end at or past it, at twice it */
    int level;            /* zstd's */
};

struct shard_part {
    struct shard_writer writer;
    struct out *file; /* (n_files) owned: sealed, not yet renamed */
    int n_files;
    uint64_t n_held;             /* ids in the writer */
    struct stream_counts counts; /* of all its shards */
    uint64_t size_bytes;         /* of all its files */
};

struct shard_set {
    struct shard_set_opts opts;
    struct shard_part part[SHARD_SET_MAX];
    struct ids doc; /* the document whose set is not known yet, with splits only */
    void *hash;     /* owned XXH64 state */
};

/* Reads "valid=2%,test=0.5%" (or NULL: no splits) into opts->n, name[1..] and share[1..]; name[0]
 * is set already and checked with them. text is cut up in place and must outlive opts. */
MUST_USE int shard_set_splits(struct shard_set_opts *opts, char *text, struct err *err);

MUST_USE int shard_set_open(struct shard_set *s, const struct stream_header *h,
                            const struct shard_set_opts *opts, struct err *err);
/* Ids in the order of the stream, cut anywhere. With splits a document is held in memory until its
 * end, as its hash tells where it goes: XXH64 of its ids without </s>, as 4 bytes each, over 2^64,
 * falls into the first share, the second, ... or the rest. */
MUST_USE int shard_set_put(struct shard_set *s, const int32_t *ids, size_t n, struct err *err);
/* Finishes the last shards, renames all, and removes what an older, longer set of the same name
 * has beyond the new one's last file. */
MUST_USE int shard_set_commit(struct shard_set *s, struct err *err);
/* Drops what is not renamed, and frees. */
void shard_set_close(struct shard_set *s);

#endif
