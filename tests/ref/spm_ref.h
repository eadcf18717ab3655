/* spm_ref: libsentencepiece's own encoder, what tok_encode is held against. */
#ifndef HM_SPM_REF_H
#define HM_SPM_REF_H

#ifdef __cplusplus
extern "C" {
#endif

#include "spm.h"

struct spm_ref;

MUST_USE int spm_ref_open(struct spm_ref **r, const void *model, size_t n, struct err *err);
/* Appends the ids of the text. */
MUST_USE int spm_ref_encode(const struct spm_ref *r, const void *text, size_t n, struct ids *to,
                            struct err *err);
int spm_ref_vocab(const struct spm_ref *r);
const char *spm_ref_piece(const struct spm_ref *r, int id, size_t *n);
float spm_ref_score(const struct spm_ref *r, int id);
void spm_ref_close(struct spm_ref *r);

/* Trains on lines of text, as spm_train(1) does, with the settings of lib/spm.cpp. */
MUST_USE int spm_ref_train(const struct spm_spec *spec, const char *const *lines, size_t n,
                           struct buf *model, struct err *err);

#ifdef __cplusplus
}
#endif

#endif
