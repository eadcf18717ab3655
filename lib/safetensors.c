/* safetensors: header parsing, streamed reading and writing; see safetensors.h. */
#include "safetensors.h"
#include "json.h"
#include "st_hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

enum { HEADER_MAX = 100000000, CHUNK = 1 << 16 };

static const char metadata_key[] = "__metadata__";
static const char mend_file[] =
    "the file is damaged or was written by something else: get it again";

void st_free(struct st *st)
{
    for (int i = 0; i < st->n_tensors; i++)
        free(st->tensor[i].name);
    for (int i = 0; i < st->n_meta; i++) {
        free(st->meta[i].key);
        free(st->meta[i].value);
    }
    free(st->tensor);
    free(st->meta);
    *st = (struct st){0};
}

int st_find(const struct st *st, const char *name)
{
    for (int i = 0; i < st->n_tensors; i++)
        if (strcmp(st->tensor[i].name, name) == 0)
            return i;
    return -1;
}

const char *st_meta_get(const struct st *st, const char *key)
{
    for (int i = 0; i < st->n_meta; i++)
        if (strcmp(st->meta[i].key, key) == 0)
            return st->meta[i].value;
    return NULL;
}

/* Room for one more item in a list of n; grows at powers of two. */
static int room(void **list, int n, size_t item, struct err *err)
{
    if (n & (n - 1))
        return 0;
    const size_t bytes = (n ? 2 * (size_t)n : 1) * item;
    void *p = realloc(*list, bytes);
    if (!p)
        return err_oom(err, bytes);
    *list = p;
    return 0;
}

/* --- parsing --- */

static int add_meta(struct st *st, const char *key, const char *value, struct err *err)
{
    void *list = st->meta;
    TRY(room(&list, st->n_meta, sizeof *st->meta, err));
    st->meta = list;
    struct st_meta m = {strdup(key), strdup(value)};
    if (!m.key || !m.value) {
        free(m.key);
        free(m.value);
        return err_oom(err, strlen(key) + strlen(value));
    }
    st->meta[st->n_meta++] = m;
    return 0;
}

static int parse_metadata(struct st *st, json_t *object, struct err *err)
{
    if (!json_is_object(object))
        return err_set(err, NULL, mend_file, "%s is no object", metadata_key);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (!json_is_string(value))
            return err_set(err, NULL, mend_file, "metadata %.60s is no string", key);
        TRY(add_meta(st, key, json_string_value(value), err));
    }
    return 0;
}

static int parse_shape(struct st_tensor *t, const json_t *shape, struct err *err)
{
    if (!json_is_array(shape) || json_array_size(shape) > TENSOR_DIMS)
        return err_set(err, NULL, mend_file, "tensor %.80s has no shape of up to %d dimensions",
                       t->name, TENSOR_DIMS);
    uint64_t bytes = dtype_size(t->dtype);
    for (t->n_dims = 0; t->n_dims < (int)json_array_size(shape); t->n_dims++) {
        const json_t *d = json_array_get(shape, (size_t)t->n_dims);
        const json_int_t v = json_integer_value(d);
        if (!json_is_integer(d) || v < 0 || __builtin_mul_overflow(bytes, (uint64_t)v, &bytes))
            return err_set(err, NULL, mend_file, "tensor %.80s has a bad shape", t->name);
        t->dim[t->n_dims] = v;
    }
    t->bytes = bytes;
    return 0;
}

static int parse_tensor(struct st *st, const char *name, const json_t *object, struct err *err)
{
    void *list = st->tensor;
    TRY(room(&list, st->n_tensors, sizeof *st->tensor, err));
    st->tensor = list;
    struct st_tensor *t = &st->tensor[st->n_tensors];
    *t = (struct st_tensor){.name = strdup(name)};
    if (!t->name)
        return err_oom(err, strlen(name));
    st->n_tensors++;

    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    if (!dtype || json_object_size(object) != 3)
        return err_set(err, NULL, mend_file, "tensor %.80s is not of dtype, shape, data_offsets",
                       name);
    t->dtype = dtype_parse(dtype);
    if (t->dtype == DT_COUNT)
        return err_set(err, NULL, "convert it to F32, BF16 or F16",
                       "tensor %.80s has the type %.16s, which hm does not read", name, dtype);
    TRY(parse_shape(t, json_object_get(object, "shape"), err));

    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return err_set(err, NULL, mend_file, "tensor %.80s has bad data_offsets", name);
    t->begin = (uint64_t)json_integer_value(begin);
    if ((uint64_t)json_integer_value(end) - t->begin != t->bytes)
        return err_set(err, NULL, mend_file, "tensor %.80s: shape and data_offsets disagree", name);
    return 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->bytes != y->bytes) /* empty tensors lie in front of what begins at the same byte */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int check_layout(struct st *st, uint64_t data_bytes, struct err *err)
{
    if (st->n_tensors)
        qsort(st->tensor, (size_t)st->n_tensors, sizeof *st->tensor, by_begin);
    uint64_t end = 0;
    for (int i = 0; i < st->n_tensors; i++) {
        if (st->tensor[i].begin != end)
            return err_set(err, NULL, mend_file, "tensor %.80s does not follow the one before it",
                           st->tensor[i].name);
        end += st->tensor[i].bytes; /* data_offsets are below 2^63: no overflow */
    }
    if (data_bytes != UINT64_MAX && end != data_bytes)
        return err_set(err, NULL, mend_file,
                       "holds %" PRIu64 " bytes of tensors, its header says %" PRIu64, data_bytes,
                       end);
    return 0;
}

/* A file either has all of hm's checksums or none. The object is the metadata's, for its index. */
static int check_hashes(struct st *st, const json_t *metadata, struct err *err)
{
    const char *stored = st_meta_get(st, st_hash_key);
    int n_hashes = 0;
    for (int i = 0; i < st->n_meta; i++)
        n_hashes += strncmp(st->meta[i].key, st_hash_prefix, sizeof st_hash_prefix - 1) == 0;
    if (!stored && n_hashes == 0)
        return 0;
    uint64_t hash, want;
    TRY(st_header_hash(st, &hash, err));
    if (!stored || !st_get_hex(stored, &want) || want != hash || n_hashes != st->n_tensors)
        return err_set(err, NULL, mend_file, "the header's checksum is wrong");
    for (int i = 0; i < st->n_tensors; i++) {
        char key[ST_HASH_KEY];
        st_hash_key_of(key, st->tensor[i].name);
        const char *text = json_string_value(json_object_get(metadata, key));
        if (!text || !st_get_hex(text, &st->tensor[i].xxh3) || st->tensor[i].xxh3 == 0)
            return err_set(err, NULL, mend_file, "tensor %.80s has no checksum",
                           st->tensor[i].name);
    }
    return 0;
}

static int parse_entries(struct st *st, json_t *root, uint64_t data_bytes, struct err *err)
{
    if (!json_is_object(root))
        return err_set(err, NULL, mend_file, "the header is no JSON object");
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, metadata_key) == 0)
            TRY(parse_metadata(st, value, err));
        else
            TRY(parse_tensor(st, key, value, err));
    }
    TRY(check_layout(st, data_bytes, err));
    return check_hashes(st, json_object_get(root, metadata_key), err);
}

int st_parse(struct st *st, const char *json, size_t n, uint64_t data_bytes, struct err *err)
{
    *st = (struct st){0};
    if (n == 0 || json[0] != '{')
        return err_set(err, NULL, "name a .safetensors file", "is no safetensors file");
    json_t *root;
    TRY(js_parse(&root, json, n, 0, err));
    const int rc = parse_entries(st, root, data_bytes, err);
    json_decref(root);
    if (rc != 0)
        st_free(st);
    return rc;
}

/* --- reading --- */

int st_read_header(struct st *st, struct in *in, struct err *err)
{
    *st = (struct st){0};
    uint8_t length[8];
    TRY(in_exact(in, length, 8, "safetensors header", err));
    const uint64_t n = get_u64(length);
    if (n > HEADER_MAX)
        return err_set(err, in->path, "name a .safetensors file", "is no safetensors file");
    /* Taken as it comes, so that a lying length costs no memory. */
    struct buf json = {0};
    int rc = 0;
    while (rc == 0 && json.size < n) {
        const size_t take = n - json.size < CHUNK ? (size_t)(n - json.size) : CHUNK;
        rc = buf_reserve(&json, take, err);
        if (rc == 0)
            rc = in_exact(in, json.data + json.size, take, "safetensors header", err);
        json.size += take;
    }
    if (rc == 0 && st_parse(st, (const char *)json.data, json.size, UINT64_MAX, err) != 0)
        rc = err_file(err, in->path);
    buf_free(&json);
    return rc;
}

static int check_data(const struct st_tensor *t, uint64_t hash, const struct in *in,
                      struct err *err)
{
    if (t->xxh3 && t->xxh3 != (hash ? hash : 1))
        return err_set(err, in->path, mend_file, "the checksum of tensor %.80s is wrong", t->name);
    return 0;
}

int st_read_tensor(const struct st *st, int i, struct in *in, void *to, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    TRY(in_exact(in, to, t->bytes, t->name, err));
    return t->xxh3 ? check_data(t, st_data_hash(to, t->bytes), in, err) : 0;
}

int st_skip_tensor(const struct st *st, int i, struct in *in, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    uint8_t *part = malloc(CHUNK);
    XXH3_state_t *h = XXH3_createState();
    int rc = part && h ? 0 : err_oom(err, CHUNK);
    if (rc == 0)
        XXH3_64bits_reset(h);
    for (uint64_t left = t->bytes; rc == 0 && left > 0;) {
        const size_t take = left < CHUNK ? (size_t)left : CHUNK;
        rc = in_exact(in, part, take, t->name, err);
        if (rc == 0)
            XXH3_64bits_update(h, part, take);
        left -= take;
    }
    if (rc == 0)
        rc = check_data(t, XXH3_64bits_digest(h), in, err);
    XXH3_freeState(h);
    free(part);
    return rc;
}

int st_read_end(const struct st *st, struct in *in, struct err *err)
{
    uint8_t one;
    size_t got;
    TRY(in_read(in, &one, 1, &got, err));
    if (got)
        return err_set(err, in->path, mend_file, "goes on after its last tensor");
    return 0;
}

/* --- writing --- */

int st_add_tensor(struct st *st, const char *name, const struct tensor *t, struct err *err)
{
    char key[ST_HASH_KEY], hex[17];
    if (strlen(name) + sizeof st_hash_prefix > sizeof key)
        return err_set(err, NULL, NULL, "the tensor name %.80s is too long", name);
    void *list = st->tensor;
    TRY(room(&list, st->n_tensors, sizeof *st->tensor, err));
    st->tensor = list;
    struct st_tensor added = {.dtype = t->dtype, .n_dims = t->n_dims, .bytes = tensor_bytes(t)};
    memcpy(added.dim, t->dim, sizeof added.dim);
    added.xxh3 = st_data_hash(t->data, added.bytes);
    st_hash_key_of(key, name);
    st_put_hex(hex, added.xxh3);
    TRY(add_meta(st, key, hex, err));
    added.name = strdup(name);
    if (!added.name)
        return err_oom(err, strlen(name));
    st->tensor[st->n_tensors++] = added;
    return 0;
}

int st_add_meta(struct st *st, const char *key, const char *value, struct err *err)
{
    return add_meta(st, key, value, err);
}

/* A tensor's place in the file. */
struct place {
    struct st_tensor *tensor;
};

/* The order of the format's own writer: wider types first, then by name, so that each tensor is
 * aligned to its type. */
static int file_order(const void *a, const void *b)
{
    static const int rank[DT_COUNT] = {
        [DT_U64] = 0,  [DT_I64] = 1, [DT_F32] = 2, [DT_I32] = 3,
        [DT_BF16] = 4, [DT_F16] = 5, [DT_U8] = 6,
    };
    const struct st_tensor *x = ((const struct place *)a)->tensor;
    const struct st_tensor *y = ((const struct place *)b)->tensor;
    const int by_rank = rank[x->dtype] - rank[y->dtype];
    return by_rank ? by_rank : strcmp(x->name, y->name);
}

static json_t *tensor_json(const struct st_tensor *t)
{
    const json_int_t begin = (json_int_t)t->begin;
    json_t *shape = json_array();
    for (int d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer(t->dim[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                     "data_offsets", begin, begin + (json_int_t)t->bytes);
}

/* The header's text, for tensors whose begin is set. */
static char *header_json(const struct st *st, const struct place *order)
{
    json_t *root = json_object(), *meta = json_object();
    bool is_ok = json_object_set_new(meta, "format", json_string("pt")) == 0;
    for (int i = 0; i < st->n_meta; i++)
        is_ok &= json_object_set_new(meta, st->meta[i].key, json_string(st->meta[i].value)) == 0;
    is_ok &= json_object_set_new(root, metadata_key, meta) == 0;
    for (int i = 0; i < st->n_tensors; i++)
        is_ok &=
            json_object_set_new(root, order[i].tensor->name, tensor_json(order[i].tensor)) == 0;
    char *text = is_ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}

static int write_header(const struct st *st, const struct place *order, struct out *out,
                        struct err *err)
{
    char *text = header_json(st, order);
    if (!text)
        return err_set(err, NULL, "use UTF-8 in names and metadata", "cannot make the header");
    const size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    uint8_t length[8];
    set_u64(length, padded);
    int rc = out_write(out, length, 8, err);
    if (rc == 0)
        rc = out_write(out, text, n, err);
    if (rc == 0)
        rc = out_write(out, "       ", padded - n, err);
    free(text);
    return rc;
}

static int write_ordered(struct st *st, struct place *order, const void *const *data,
                         struct out *out, struct err *err)
{
    for (int i = 0; i < st->n_tensors; i++)
        order[i].tensor = &st->tensor[i];
    qsort(order, (size_t)st->n_tensors, sizeof *order, file_order);
    uint64_t end = 0;
    for (int i = 0; i < st->n_tensors; i++) {
        order[i].tensor->begin = end;
        end += order[i].tensor->bytes;
    }
    TRY(write_header(st, order, out, err));
    for (int i = 0; i < st->n_tensors; i++)
        TRY(out_write(out, data[order[i].tensor - st->tensor], order[i].tensor->bytes, err));
    return 0;
}

int st_write(struct st *st, const void *const *data, struct out *out, struct err *err)
{
    uint64_t hash;
    char hex[17];
    if (!st_meta_get(st, "format"))
        TRY(add_meta(st, "format", "pt", err));
    TRY(st_header_hash(st, &hash, err));
    st_put_hex(hex, hash);
    TRY(add_meta(st, st_hash_key, hex, err));
    struct place *order = malloc(((size_t)st->n_tensors + 1) * sizeof *order);
    if (!order)
        return err_oom(err, (size_t)st->n_tensors * sizeof *order);
    const int rc = write_ordered(st, order, data, out, err);
    free(order);
    return rc;
}
