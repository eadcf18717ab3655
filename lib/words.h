/* words: counts the distinct words of a text, so that a tokenizer is trained in memory that grows
 * with the words, not with the text.
 *
 * A word begins at each space, which it keeps (with has_space_runs: at each run of spaces), just as
 * libsentencepiece cuts text. Bytes that no piece can hold end a word and are left out: invalid
 * UTF-8, NUL, tab, and U+2581 and U+2585, which sentencepiece uses itself. Longer words than
 * SPM_WORD_BYTES are cut. */
#ifndef HM_WORDS_H
#define HM_WORDS_H

#include "spm.h"

struct words {
    struct spm_word *list; /* owned, [n], in order of first occurrence; texts are owned too */
    size_t n, cap, max;
    uint32_t *slots; /* owned hash table of indices + 1 into list; 0 is empty */
    size_t slot_mask;
    uint8_t **blocks; /* owned: the texts, in blocks that never move */
    size_t n_blocks, block_used;
    bool has_space_runs;
    uint64_t n_words, n_bytes; /* counted so far */
};

/* max: distinct words at most, from 1 to 2^31. */
MUST_USE int words_init(struct words *w, size_t max, bool has_space_runs, struct err *err);
/* Counts the words of a document; one more distinct word than max is an error. */
MUST_USE int words_add(struct words *w, const void *text, size_t n, struct err *err);
void words_free(struct words *w);

#endif
