/* shard: files of token ids that can be read at any place (format: hm-shard(5)).
 *
 * A shard is a zstd seekable file: a skippable frame in front with the stream's header, counts and
 * an index of the frames; independent zstd frames of frame_ids ids each, the last one shorter; the
 * seek table. `zstd -dc` of it gives the ids alone, little-endian. Every byte is under an XXH64:
 * the index's own, and in the index that of each frame's compressed bytes and of the seek table. */
#ifndef HM_SHARD_H
#define HM_SHARD_H

#include "stream.h"

enum {
    SHARD_VERSION = 1,
    SHARD_FRAME_IDS = 16384, /* what the writer takes: a row costs a frame or two to read */
    SHARD_MAX_FRAME_IDS = 1 << 20,
    SHARD_MAX_FRAMES = 1 << 22,
};

/* What the front of a shard says. */
struct shard_head {
    struct stream_header h; /* owned */
    uint64_t n_tokens;
    uint64_t n_docs;  /* documents that begin here */
    uint64_t n_bytes; /* of text, separators included; 0: not known */
    bool is_open; /* the last id ends no document: it goes on in the next shard, or has no end */
    bool is_rest; /* the first id goes on with a document of the shard before */
    uint32_t frame_ids, n_frames;
    uint64_t tail_hash;    /* XXH64 of the seek table's bytes */
    uint64_t *frame_hash;  /* (n_frames) owned; XXH64 of the compressed bytes */
    uint32_t *frame_bytes; /* (n_frames) owned; compressed sizes */
};

/* Pure parsing of the front frame, its 8 bytes of magic and size included. */
MUST_USE int shard_head_parse(struct shard_head *s, const uint8_t *bytes, size_t n,
                              struct err *err);
void shard_head_free(struct shard_head *s);

/* --- writing: ids are compressed frame by frame into memory; the file is written at the end --- */

struct shard_writer {
    struct stream_header h; /* owned copy */
    struct stream_counts counts;
    bool is_rest;     /* the shard being filled began inside a document */
    void *zstd;       /* owned ZSTD_CCtx */
    struct buf body;  /* compressed frames */
    struct buf tail;  /* entries of the seek table */
    struct buf index; /* as in the file: hash and compressed size of each frame */
    int32_t *ids;     /* (SHARD_FRAME_IDS) owned: the frame being filled */
    uint8_t *raw;     /* owned */
    size_t n;
};

/* level: zstd's, 1..19. The struct may be used for any number of shards, one after the other:
 * shard_write leaves it empty. */
MUST_USE int shard_writer_init(struct shard_writer *w, const struct stream_header *h, int level,
                               struct err *err);
MUST_USE int shard_put(struct shard_writer *w, const int32_t *ids, size_t n, struct err *err);
/* Writes the whole file to out (out_commit or out_seal is the caller's) and empties the writer.
 * When its last document is not at its end, the next shard of this writer goes on with it. */
MUST_USE int shard_write(struct shard_writer *w, struct out *out, struct err *err);
void shard_writer_free(struct shard_writer *w);

/* --- reading --- */

struct shard {
    struct in in; /* owned */
    struct shard_head s;
    uint64_t *offset; /* (n_frames + 1) owned; of each frame, then of the seek table */
    uint32_t *check;  /* (n_frames) owned; XXH64 of each frame's ids, low half */
    bool can_seek;    /* false for a pipe: frames in order only, shard_end after them */
    uint64_t size;    /* bytes of the whole file */
};

/* What reading needs beside the file; one for any number of shards, used by one thread at a time.
 */
struct shard_scratch {
    void *zstd;       /* owned ZSTD_DCtx */
    struct buf bytes; /* compressed frame */
};
MUST_USE int shard_scratch_init(struct shard_scratch *x, struct err *err);
/* Takes the memory for the largest frame of s, so that shard_read allocates nothing. */
MUST_USE int shard_scratch_fit(struct shard_scratch *x, const struct shard *s, struct err *err);
void shard_scratch_free(struct shard_scratch *x);

/* Reads the front of a file or of "-". Of a file, the seek table and the size are checked too. */
MUST_USE int shard_open(struct shard *s, const char *path, struct err *err);
/* The same over n bytes of memory, which are copied. */
MUST_USE int shard_open_bytes(struct shard *s, const void *bytes, size_t n, struct err *err);
/* Ids of frame i: frame_ids, or fewer in the last. */
uint32_t shard_frame_n(const struct shard *s, uint32_t i);
/* Reads frame i into raw (frame_ids * width bytes) as little-endian ids and checks all of it. A
 * shard from a pipe gives its frames in order. */
MUST_USE int shard_read(struct shard *s, struct shard_scratch *x, uint32_t i, uint8_t *raw,
                        struct err *err);
/* After the last frame: the counts of all ids read must be the head's. Of a pipe, the seek table is
 * checked, and that nothing follows. */
MUST_USE int shard_end(struct shard *s, const struct stream_counts *counts, struct err *err);
/* Reads and checks everything from the first frame to the end. fn (or NULL) gets the ids frame by
 * frame; a failure of its own ends the scan. */
MUST_USE int shard_scan(struct shard *s, struct shard_scratch *x,
                        int (*fn)(void *arg, const int32_t *ids, size_t n, struct err *err),
                        void *arg, struct err *err);
void shard_close(struct shard *s);

/* Two shards (or a stream) of one set must speak of the same ids; the error names both files. */
MUST_USE int shard_agree(const struct stream_header *a, const char *path_a,
                         const struct stream_header *b, const char *path_b, struct err *err);

#endif
