/* st_hash: the checksums that hm keeps in a safetensors file's metadata (hm-checkpoint(5)). */
#ifndef HM_ST_HASH_H
#define HM_ST_HASH_H

#include "safetensors.h"

enum { ST_HASH_KEY = 256 };

/* The metadata key of the header's hash, and what stands before a tensor's name in that of its own.
 */
extern const char st_hash_key[8], st_hash_prefix[9];

/* XXH3 of the header: of everything in it but the value under st_hash_key. */
MUST_USE int st_header_hash(const struct st *st, uint64_t *hash, struct err *err);
/* XXH3 of a tensor's bytes. Never 0, which means "none stored". */
uint64_t st_data_hash(const void *data, size_t n);

void st_hash_key_of(char key[ST_HASH_KEY], const char *name);
void st_put_hex(char to[17], uint64_t v);
/* False unless s is sixteen lower-case hex digits: one spelling, so that a flipped bit shows. */
bool st_get_hex(const char *s, uint64_t *v);

#endif
