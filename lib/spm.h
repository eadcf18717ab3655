/* spm: the bridge to libsentencepiece, which trains the BPE models of tok-train. C interface over
 * the only C++ of hm. */
#ifndef HM_SPM_H
#define HM_SPM_H

#ifdef __cplusplus
extern "C" {
#endif

#include "buf.h"

#include <stdbool.h>

/* A word as text has it (with the space before it) and how often it occurs (>= 1). The bytes are
 * valid UTF-8 without NUL, tab, U+2581 and U+2585, at most SPM_WORD_BYTES of them. */
struct spm_word {
    const uint8_t *text;
    size_t n;
    uint64_t count;
};

enum { SPM_WORD_BYTES = 4096 };

struct spm_spec {
    int vocab; /* V wanted, special and byte pieces included */
    double
        coverage;  /* 0.98..1: the share of all characters that get pieces; the rest go as bytes */
    int max_chars; /* 1..512: characters in the longest piece */
    bool has_space_runs; /* pieces of several spaces */
};

/* The chat markers, control pieces from id 4 on, NULL-terminated; static. */
extern const char *const spm_markers[];

/* Appends the bytes of a model trained on n words to *model; the model may come out with fewer
 * than spec->vocab pieces where the words give no more. Same words in the same order and same spec:
 * same bytes. */
MUST_USE int spm_train(const struct spm_spec *spec, const struct spm_word *words, size_t n,
                       struct buf *model, struct err *err);

#ifdef __cplusplus
}
#endif

#endif
