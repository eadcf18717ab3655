/* The safetensors reader and writer: a round trip through a pipe, the file's exact form, headers
 * that must be refused, and every truncation and single bit flip of a file. */
#include "safetensors.h"
#include "st_hash.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static float weights[6] = {1, -2, 3, 0.5f, 1e30f, -0.0f};
static uint16_t halves[3] = {0x3F80, 0xC000, 0x7F7F};
static uint8_t raw[5] = "bytes";
static int32_t whole[2] = {7, -7};

/* Writes the four tensors to a pipe's end (they fit in its buffer) and returns the file's bytes. */
static struct buf write_file(void)
{
    struct st st = {0};
    struct err err;
    struct buf file = {0};
    const struct tensor t[4] = {
        tensor_of(raw, DT_U8, 1, 5, 0, 0, 0), tensor_of(halves, DT_BF16, 2, 3, 1, 0, 0),
        tensor_of(whole, DT_I32, 1, 2, 0, 0, 0), tensor_of(weights, DT_F32, 3, 2, 1, 3, 0)};
    const void *data[4] = {raw, halves, whole, weights};
    const char *const names[4] = {"tok", "b.weight", "ids", "a.weight"};
    int rc = 0, fd[2];
    for (int i = 0; i < 4; i++)
        rc |= st_add_tensor(&st, names[i], &t[i], &err);
    rc |= st_add_meta(&st, "config", "{\"a\":\"line\\n\xC3\xA9\"}\n", &err);
    if (pipe(fd) != 0)
        abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd[1]);
    struct out out;
    rc |= out_open(&out, path, &err);
    rc |= st_write(&st, data, &out, &err);
    rc |= out_commit(&out, &err);
    close(fd[1]);
    struct in in;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd[0]);
    rc |= in_open(&in, path, &err);
    rc |= in_all(&in, &file, 1 << 20, &err);
    in_close(&in);
    close(fd[0]);
    st_free(&st);
    ok(rc == 0, "a file is written through a pipe");
    return file;
}

/* Reads a whole file; skipping every second tensor. 0 when everything was right. */
static int read_file(const uint8_t *bytes, size_t n, struct st *st, uint8_t *to, struct err *err)
{
    struct in in;
    *st = (struct st){0};
    int rc = in_memory(&in, "test", bytes, n, err);
    if (rc == 0)
        rc = st_read_header(st, &in, err);
    for (int i = 0; rc == 0 && i < st->n_tensors; i++)
        rc = to && st->tensor[i].bytes <= 64 ? st_read_tensor(st, i, &in, to + 64 * i, err)
                                             : st_skip_tensor(st, i, &in, err);
    if (rc == 0)
        rc = st_read_end(st, &in, err);
    in_close(&in);
    return rc;
}

static void test_round_trip(const struct buf *file)
{
    struct st st;
    struct err err;
    uint8_t data[4 * 64];
    ok(read_file(file->data, file->size, &st, data, &err) == 0, "it reads back");
    const char *const order[4] = {"a.weight", "ids", "b.weight", "tok"};
    for (int i = 0; i < 4; i++)
        ok(strcmp(st.tensor[i].name, order[i]) == 0, "tensor %d is %s", i, order[i]);
    ok(st_find(&st, "ids") == 1 && st_find(&st, "none") == -1, "tensors are found by name");
    ok(memcmp(data, weights, sizeof weights) == 0 && memcmp(data + 64, whole, sizeof whole) == 0 &&
           memcmp(data + 128, halves, sizeof halves) == 0 && memcmp(data + 192, raw, 5) == 0,
       "the bytes are those written");
    ok(st.tensor[0].n_dims == 3 && st.tensor[0].dim[0] == 2 && st.tensor[0].dim[1] == 1 &&
           st.tensor[0].dim[2] == 3 && st.tensor[2].dtype == DT_BF16,
       "shapes and types too");
    ok(strcmp(st_meta_get(&st, "config"), "{\"a\":\"line\\n\xC3\xA9\"}\n") == 0 &&
           strcmp(st_meta_get(&st, "format"), "pt") == 0,
       "metadata too, with the format that Hugging Face wants");
    ok(get_u64(file->data) % 8 == 0 && file->data[8] == '{', "the data is aligned");
    st_free(&st);
    struct buf again = write_file();
    ok(again.size == file->size && memcmp(again.data, file->data, again.size) == 0,
       "the same tensors give the same bytes");
    buf_free(&again);
}

static void test_damage(const struct buf *file)
{
    struct st st;
    struct err err;
    int accepted = 0;
    for (size_t n = 0; n < file->size; n++) {
        accepted += read_file(file->data, n, &st, NULL, &err) == 0;
        st_free(&st);
    }
    ok(accepted == 0, "no truncation is accepted");
    struct buf copy = {0};
    if (buf_put(&copy, file->data, file->size, &err) != 0 || buf_put(&copy, "x", 1, &err) != 0)
        abort();
    ok(read_file(copy.data, copy.size, &st, NULL, &err) != 0, "nor a byte too many");
    st_free(&st);
    for (size_t bit = 0; bit < 8 * file->size; bit++) {
        copy.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        uint8_t data[4 * 64]; /* reading and skipping must both notice */
        bool is_noticed = read_file(copy.data, file->size, &st, NULL, &err) != 0;
        st_free(&st);
        if (bit % 3 == 0) {
            is_noticed = is_noticed && read_file(copy.data, file->size, &st, data, &err) != 0;
            st_free(&st);
        }
        if (!is_noticed) {
            accepted++;
            printf("# bit %zu of byte %zu is not noticed\n", bit % 8, bit / 8);
        }
        copy.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ok(accepted == 0, "no flipped bit is accepted");
    buf_free(&copy);
}

static void test_headers(void)
{
    static const struct {
        const char *json;
        uint64_t bytes;
        bool is_good;
    } cases[] = {
        {"{}", 0, true},
        {"{} ", 0, true},
        {"{}", 1, false},
        {"", 0, false},
        {"[]", 0, false},
        {" {}", 0, false},
        {"{}x", 0, false},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, true},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", 0, true},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", UINT64_MAX, true},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,5]}}", 5, false},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, false},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, false},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, false},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, false},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, false},
        {"{\"a\":[]}", 0, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         UINT64_MAX, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
         UINT64_MAX, false},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         4, false},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         4, true},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, true},
        {"{\"__metadata__\":{\"a\":1}}", 0, false},
        {"{\"__metadata__\":[]}", 0, false},
        {"{\"__metadata__\":{\"hm.xxh3\":\"0123456789abcdef\"}}", 0, false},
        {"{\"__metadata__\":{\"hm.xxh3.a\":\"0123456789abcdef\"}}", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st st;
        struct err err = {.what = ""};
        const int rc = st_parse(&st, cases[i].json, strlen(cases[i].json), cases[i].bytes, &err);
        ok((rc == 0) == cases[i].is_good, "header %s is %s (%s)", cases[i].json,
           cases[i].is_good ? "accepted" : "refused", err.what);
        st_free(&st);
    }
}

int main(void)
{
    struct buf file = write_file();
    test_round_trip(&file);
    test_damage(&file);
    test_headers();
    buf_free(&file);
    return tap_done();
}
