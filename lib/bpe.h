/* bpe: SentencePiece's byte-pair encoding of one chunk of text. */
#ifndef HM_BPE_H
#define HM_BPE_H

#include "merges.h"

/* Appends the ids of n bytes. Time grows as n log n; about 40 bytes of memory a byte of text. */
MUST_USE int bpe_encode(const struct merges *m, const uint8_t *text, size_t n, struct ids *to,
                        struct err *err);

#endif
