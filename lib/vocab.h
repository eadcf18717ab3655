/* vocab: reads a SentencePiece model (a ModelProto in protobuf wire form) from untrusted bytes.
 *
 * libsentencepiece's own interface shows neither which pieces are user-defined nor how the model
 * normalises text, and hm must know both; so the few fields it needs are read here, with bounds. */
#ifndef HM_VOCAB_H
#define HM_VOCAB_H

#include "buf.h"

#include <stdbool.h>

/* SentencePiece's values. */
enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN = 2,
    PIECE_CONTROL = 3,
    PIECE_USER = 4, /* matched whole before any merge */
    PIECE_UNUSED = 5,
    PIECE_BYTE = 6,
};

enum { VOCAB_MAX = 1 << 24, PIECE_MAX_BYTES = 2048, MODEL_MAX_BYTES = 1 << 28 };

struct piece {
    const uint8_t *text; /* not owned: points into the model's bytes; a space is U+2581 here */
    uint32_t n;          /* bytes, 1..PIECE_MAX_BYTES */
    float score;
    enum piece_type type;
};

struct vocab {
    struct piece *pieces; /* owned, [V] */
    int V, cap;
    int model_type; /* 2 is BPE */
    bool has_byte_fallback;
    bool has_rules; /* a table of character rewrites, either way */
    bool has_dummy_prefix, removes_spaces, escapes_spaces;
};

/* Reads n bytes, which must outlive *v. Checks the form only: tok_open says what hm can use. */
MUST_USE int vocab_read(struct vocab *v, const void *bytes, size_t n, struct err *err);
void vocab_free(struct vocab *v);

/* The byte that the piece "<0x41>" stands for, or -1. */
int vocab_byte(const struct piece *p);

#endif
