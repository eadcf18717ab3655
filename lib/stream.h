/* stream: the token stream, what tok-encode writes and shard reads through a pipe (format:
 * hm-stream(5)).
 *
 * A header says what the ids mean, blocks carry them, and an end record with counts and a hash of
 * every byte closes the stream: a producer that was killed is told from one that finished. All
 * integers are little-endian. The header may carry a table of how many bytes of text each id stands
 * for (</s>: the separator), so that anybody can count the text bytes of any run of ids. */
#ifndef HM_STREAM_H
#define HM_STREAM_H

#include "io.h"

#include <xxhash.h>

enum {
    STREAM_VERSION = 1,
    STREAM_HEAD_BYTES = 80, /* the fixed part; the table of lengths and a hash follow */
    STREAM_SEP_BYTES = 32,  /* the longest separator */
    STREAM_BLOCK_IDS = 65536,
};

/* How the text was cut into documents. */
enum stream_sep {
    STREAM_LINE = 1,
    STREAM_PARAGRAPH = 2, /* blank lines */
    STREAM_NUL = 3,
    STREAM_BYTES = 4, /* any bytes the user named */
    STREAM_WHOLE = 5, /* each file is one document */
    STREAM_JSONL = 6, /* a field of a JSON line */
    STREAM_CSV = 7,   /* a column of a CSV record */
};

struct stream_header {
    int width; /* bytes an id: 2 or 4. 0 for stream_begin: the smallest that holds the vocabulary */
    int vocab; /* ids are 0..vocab-1 */
    int eos;   /* the id that ends a document */
    enum stream_sep sep;
    uint8_t sep_bytes[STREAM_SEP_BYTES]; /* what decoding writes for eos */
    int sep_len;                         /* 0..STREAM_SEP_BYTES */
    uint64_t tok_hash;                   /* tok_hash of encode.h */
    uint8_t *piece_bytes; /* (vocab) bytes of text each id stands for, or NULL: not known */
};

/* "line", "paragraph", ... for messages and tables; static. "?" for what is none. */
const char *stream_sep_name(enum stream_sep sep);
/* Whether the fields go together; the error says which does not. */
MUST_USE int stream_header_check(const struct stream_header *h, struct err *err);
/* Appends the header's bytes (fixed part, table, hash). */
MUST_USE int stream_header_print(const struct stream_header *h, struct buf *to, struct err *err);
/* Bytes of the whole header, told from its first STREAM_HEAD_BYTES; checks magic, version and every
 * field but the hash. */
MUST_USE int stream_header_size(const uint8_t *head, size_t *size_bytes, struct err *err);
/* Pure parsing of size_bytes as above. h->piece_bytes is owned by the caller:
 * stream_header_free. */
MUST_USE int stream_header_parse(struct stream_header *h, const uint8_t *bytes, size_t n,
                                 struct err *err);
MUST_USE int stream_header_copy(struct stream_header *to, const struct stream_header *h,
                                struct err *err);
void stream_header_free(struct stream_header *h);

/* Counts over ids in order. A zeroed struct is the start. */
struct stream_counts {
    uint64_t n_tokens; /* ids, eos included */
    uint64_t n_eos;
    uint64_t n_bytes; /* of text, separators included; 0 without a table */
    bool is_open;     /* the last id was not eos: an unterminated document */
};
/* Adds n ids, each of which must lie in the vocabulary (an error names the first that does not). */
MUST_USE int stream_count(struct stream_counts *c, const struct stream_header *h,
                          const int32_t *ids, size_t n, struct err *err);
static inline uint64_t stream_docs(const struct stream_counts *c)
{
    return c->n_eos + c->is_open;
}

/* Little-endian ids of 2 or 4 bytes from and to int32. */
void stream_widen(int32_t *to, const uint8_t *bytes, int width, size_t n);
void stream_narrow(uint8_t *to, const int32_t *ids, int width, size_t n);

struct stream_writer {
    struct out *out;        /* borrowed */
    struct stream_header h; /* owned copy */
    struct stream_counts counts;
    XXH64_state_t *hash; /* owned; of every byte so far */
    int32_t *ids;        /* (STREAM_BLOCK_IDS) owned: the block being filled */
    uint8_t *bytes;      /* owned */
    size_t n;
};

/* Writes the header. Afterwards: any number of stream_put (eos included in the ids), then
 * stream_end, which writes the end record; out_commit is the caller's. stream_writer_free at any
 * time. */
MUST_USE int stream_begin(struct stream_writer *w, const struct stream_header *h, struct out *out,
                          struct err *err);
MUST_USE int stream_put(struct stream_writer *w, const int32_t *ids, size_t n, struct err *err);
MUST_USE int stream_end(struct stream_writer *w, struct err *err);
void stream_writer_free(struct stream_writer *w);

struct stream_reader {
    struct in *in;          /* borrowed */
    struct stream_header h; /* owned */
    struct stream_counts counts;
    XXH64_state_t *hash;
    int32_t *ids; /* (STREAM_BLOCK_IDS) owned */
    uint8_t *bytes;
    bool is_done;
};

/* Reads the header of the stream in `in`. */
MUST_USE int stream_open(struct stream_reader *r, struct in *in, struct err *err);
/* The next block: *ids points at *n >= 1 ids of the reader's own, valid until the next call. 1: a
 * block; 0: the end, and the end record agrees with everything that was read; -1: failed, also when
 * the input ends without an end record. Allocates nothing. */
MUST_USE int stream_next(struct stream_reader *r, const int32_t **ids, size_t *n, struct err *err);
void stream_close(struct stream_reader *r);

#endif
