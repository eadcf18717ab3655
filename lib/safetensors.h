/* safetensors: the checkpoint container, read and written as a stream (no seeking). Format: INTEROP
 * in safetensors(5); u64 length, JSON header padded with spaces to a multiple of 8, then the
 * tensors' bytes back to back. On top of the format hm keeps in __metadata__ an XXH3 of every
 * tensor ("hm.xxh3.NAME") and of the other metadata and shapes ("hm.xxh3"), so that every byte is
 * under a checksum; files without them are read too. */
#ifndef HM_SAFETENSORS_H
#define HM_SAFETENSORS_H

#include "buf.h"
#include "io.h"
#include "tensor.h"

struct st_tensor {
    char *name; /* owned by the struct st */
    enum dtype dtype;
    int n_dims;
    int64_t dim[TENSOR_DIMS];
    uint64_t begin, bytes; /* within the data part */
    uint64_t xxh3;         /* 0: none stored */
};

struct st_meta {
    char *key, *value; /* owned; value is any string */
};

/* A header: parsed from bytes, or being built for a file to write. Tensors are in file order. */
struct st {
    struct st_tensor *tensor;
    int n_tensors;
    struct st_meta *meta;
    int n_meta;
};

void st_free(struct st *st);

/* Pure parsing of the JSON header (n bytes) for a data part of data_bytes (UINT64_MAX: not known, a
 * pipe). Checks everything: contiguous offsets, sizes, shapes, names, duplicates, the metadata
 * hash. */
MUST_USE int st_parse(struct st *st, const char *json, size_t n, uint64_t data_bytes,
                      struct err *err);
/* Reads the length and the header from in, which then stands at the first tensor's bytes. */
MUST_USE int st_read_header(struct st *st, struct in *in, struct err *err);
/* Reads tensor i's bytes; tensors must be read or skipped in order. Verifies its checksum. st_skip
 * verifies too. */
MUST_USE int st_read_tensor(const struct st *st, int i, struct in *in, void *to, struct err *err);
MUST_USE int st_skip_tensor(const struct st *st, int i, struct in *in, struct err *err);
/* After the last tensor: the input must be at its end. */
MUST_USE int st_read_end(const struct st *st, struct in *in, struct err *err);
int st_find(const struct st *st, const char *name);            /* index or -1 */
const char *st_meta_get(const struct st *st, const char *key); /* or NULL */

/* Building: add tensors (data is hashed at once, so it must be final) and metadata, then st_write.
 * Order in the file: as the format's own writer, by alignment then name; data[i] belongs to the
 * i-th added. "format": "pt" is added. */
MUST_USE int st_add_tensor(struct st *st, const char *name, const struct tensor *t,
                           struct err *err);
MUST_USE int st_add_meta(struct st *st, const char *key, const char *value, struct err *err);
MUST_USE int st_write(struct st *st, const void *const *data, struct out *out, struct err *err);

#endif
