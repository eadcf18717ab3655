/* st_hash: see st_hash.h. The header's hash takes names, types, shapes and metadata sorted, lengths
 * in front, so that a file that another tool wrote again in another order still agrees. */
#include "st_hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

const char st_hash_key[] = "hm.xxh3", st_hash_prefix[] = "hm.xxh3.";

static void hash_text(XXH3_state_t *h, const char *s)
{
    uint8_t size[8];
    set_u64(size, strlen(s));
    XXH3_64bits_update(h, size, 8);
    XXH3_64bits_update(h, s, strlen(s));
}

static void hash_int(XXH3_state_t *h, uint64_t v)
{
    uint8_t bytes[8];
    set_u64(bytes, v);
    XXH3_64bits_update(h, bytes, 8);
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int by_key(const void *a, const void *b)
{
    const struct st_meta *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static void hash_sorted(XXH3_state_t *h, const struct st_tensor **tensor, int n_tensors,
                        const struct st_meta **meta, int n_meta)
{
    qsort(tensor, (size_t)n_tensors, sizeof(struct st_tensor *), by_name);
    qsort(meta, (size_t)n_meta, sizeof(struct st_meta *), by_key);
    for (int i = 0; i < n_tensors; i++) {
        hash_text(h, tensor[i]->name);
        hash_text(h, dtype_name(tensor[i]->dtype));
        hash_int(h, (uint64_t)tensor[i]->n_dims);
        for (int d = 0; d < tensor[i]->n_dims; d++)
            hash_int(h, (uint64_t)tensor[i]->dim[d]);
    }
    for (int i = 0; i < n_meta; i++) {
        if (strcmp(meta[i]->key, st_hash_key) == 0)
            continue;
        hash_text(h, meta[i]->key);
        hash_text(h, meta[i]->value);
    }
}

int st_header_hash(const struct st *st, uint64_t *hash, struct err *err)
{
    const size_t n = (size_t)st->n_tensors + (size_t)st->n_meta + 1;
    const void **list = malloc(n * sizeof *list);
    XXH3_state_t *h = XXH3_createState();
    if (list && h) {
        const struct st_tensor **tensor = (const struct st_tensor **)list;
        const struct st_meta **meta = (const struct st_meta **)(list + st->n_tensors);
        for (int i = 0; i < st->n_tensors; i++)
            tensor[i] = &st->tensor[i];
        for (int i = 0; i < st->n_meta; i++)
            meta[i] = &st->meta[i];
        XXH3_64bits_reset(h);
        hash_sorted(h, tensor, st->n_tensors, meta, st->n_meta);
        *hash = XXH3_64bits_digest(h);
    }
    const int rc = list && h ? 0 : err_oom(err, n * sizeof *list);
    XXH3_freeState(h);
    free(list);
    return rc;
}

uint64_t st_data_hash(const void *data, size_t n)
{
    const uint64_t hash = XXH3_64bits(data, n);
    return hash ? hash : 1;
}

void st_hash_key_of(char key[ST_HASH_KEY], const char *name)
{
    snprintf(key, ST_HASH_KEY, "%s%s", st_hash_prefix, name);
}

void st_put_hex(char to[17], uint64_t v)
{
    snprintf(to, 17, "%016" PRIx64, v);
}

bool st_get_hex(const char *s, uint64_t *v)
{
    *v = 0;
    int i = 0;
    for (; s[i]; i++) {
        const bool is_digit = s[i] >= '0' && s[i] <= '9', is_letter = s[i] >= 'a' && s[i] <= 'f';
        if (i == 16 || (!is_digit && !is_letter))
            return false;
        *v = *v << 4 | (uint64_t)(is_digit ? s[i] - '0' : s[i] - 'a' + 10);
    }
    return i == 16;
}
