/* encode: text to ids and back with a SentencePiece BPE model.
 *
 * The ids are SentencePiece's own wherever it carries the text losslessly. Bytes that it would lose
 * (invalid UTF-8, a literal U+2581, spaces where the model has no piece for one) become byte
 * pieces, so decode(encode(x)) == x for any bytes. Control pieces (<s>, </s>, chat markers) never
 * come from text. A struct tok is read-only once open: threads may share it. */
#ifndef HM_ENCODE_H
#define HM_ENCODE_H

#include "buf.h"

struct tok;

/* Opens from a file (or "-"), or from the bytes of a model. The model must be BPE with byte
 * fallback, identity normalisation, no dummy prefix, whitespace kept, and the control ids
 * of buf.h. */
MUST_USE int tok_open(struct tok **t, const char *path, struct err *err);
MUST_USE int tok_open_bytes(struct tok **t, const void *bytes, size_t n, struct err *err);
void tok_close(struct tok *t);

int tok_vocab(const struct tok *t); /* V of the tokenizer */
/* XXH64 of the model's bytes: the fingerprint in streams and shards. */
uint64_t tok_hash(const struct tok *t);
/* The model's bytes as they were read; owned by t. */
const struct buf *tok_bytes(const struct tok *t);
/* The id of a control piece by its text ("<|user|>"), or -1. */
int32_t tok_control(const struct tok *t, const char *piece);

/* Appends the ids of n bytes of text. No <s> or </s> is added. */
MUST_USE int tok_encode(const struct tok *t, const void *text, size_t n, struct ids *to,
                        struct err *err);

/* What one thread remembers of the words it has met: encoding then runs several times as fast. It
 * serves one tokenizer. */
struct tok_cache;
MUST_USE int tok_cache_open(struct tok_cache **cache, struct err *err);
void tok_cache_close(struct tok_cache *cache);
/* tok_encode; cache may be NULL. */
MUST_USE int tok_encode_cached(const struct tok *t, struct tok_cache *cache, const void *text,
                               size_t n, struct ids *to, struct err *err);

/* A place to cut text such that the ids of both parts, put together, are those of the whole: the
 * last such place in 1..near, else the first after it, else n. So long texts can be shared out. */
size_t tok_cut(const struct tok *t, const void *text, size_t n, size_t near);

/* Appends the bytes of n ids. Control ids and <unk> decode to nothing. An id outside the vocabulary
 * is an error. */
MUST_USE int tok_decode(const struct tok *t, const int32_t *ids, size_t n, struct buf *to,
                        struct err *err);
/* The bytes of one id, *n of them (0 for control ids); static to t. For streaming. */
const char *tok_piece(const struct tok *t, int32_t id, size_t *n);

#endif
