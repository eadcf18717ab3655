/* State files of a fixed small model. Odd first byte: the rest is the file. Even: the rest says
 * what tensors and metadata to put into a file whose checksums are right, since no mutation would
 * get past those. What fails must leave the slot and the ids as they were. */
#include "config.h"
#include "ops.h"
#include "safetensors.h"
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* States need memory only, so a device of a few functions will do. */
static int host_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    *p = calloc(1, bytes);
    return *p ? 0 : err_oom(err, bytes);
}

static void host_free(struct dev *dev, void *p)
{
    free(p);
}

static void host_zero(struct dev *dev, void *p, size_t bytes)
{
    memset(p, 0, bytes);
}

static void host_copy(struct dev *dev, void *to, const void *from, size_t bytes)
{
    memmove(to, from, bytes);
}

static const struct ops host_ops = {
    .alloc = host_alloc, .free = host_free, .zero = host_zero, .upload = host_copy};

/* One tensor from up to six bytes: name, type, dimensions. */
static size_t add_tensor(struct st *st, const uint8_t *at, size_t n, const void *bytes)
{
    static const char *const names[] = {"ids",        "layers.0.taps", "layers.0.ssm", "layers.1.k",
                                        "layers.1.v", "layers.0.k",    "layers.9.ssm", "x"};
    struct err err;
    uint8_t b[6] = {0};
    const size_t take = n < sizeof b ? n : sizeof b;
    memcpy(b, at, take);
    struct tensor t = tensor_of((void *)bytes, b[1] % DT_COUNT, 1 + b[2] / 64, b[2] % 64, b[3] % 40,
                                b[4] % 17, b[5] % 3);
    for (int d = t.n_dims; d < TENSOR_DIMS; d++)
        t.dim[d] = 0;
    if (tensor_bytes(&t) <= 4096 && st_find(st, names[b[0] % 8]) < 0 &&
        st_add_tensor(st, names[b[0] % 8], &t, &err) != 0)
        abort();
    return take;
}

/* Writes the file into a pipe, which holds it all, and opens the other end. */
static int open_made(struct in *in, const uint8_t *data, size_t size)
{
    static const uint8_t bytes[4096];
    static const char *const positions[] = {"0", "1", "2", "4", "5", "-1", "x", "99999999999"};
    const void *blocks[8] = {bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes};
    struct st st = {0};
    struct err err;
    struct out out;
    char path[40];
    int fd[2];
    if (pipe(fd) != 0)
        abort();
    const uint8_t first = size ? data[0] : 0;
    for (size_t at = 1; at < size;)
        at += add_tensor(&st, data + at, size - at, bytes);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd[1]);
    int rc = st_add_meta(&st, "hm.state", first & 64 ? "2" : "1", &err);
    rc |= st_add_meta(&st, "positions", positions[first % 8], &err);
    rc |= st_add_meta(&st, "model",
                      first & 32 ? "another"
                                 : "mt, hidden_size 16, vocab_size 16, weights 0000000000000001",
                      &err);
    rc |= out_open(&out, path, &err);
    rc |= st_write(&st, blocks, &out, &err);
    rc |= out_commit(&out, &err);
    close(fd[1]);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd[0]);
    rc |= in_open(in, path, &err);
    close(fd[0]);
    st_free(&st);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dev dev = {.ops = &host_ops, .act_dtype = DT_F32};
    struct config c = {.V = 16, .D = 16, .N = 2, .pattern = "mt"};
    struct state s;
    struct in in;
    struct ids ids = {0};
    struct err err;
    if (size == 0 || size > 4096)
        return 0;
    config_derive(&c);
    if (state_open(&s, &c, &dev, 1, 4, &err) != 0)
        abort();
    const int rc = data[0] % 2 ? in_memory(&in, "fuzz", data + 1, size - 1, &err)
                               : open_made(&in, data + 1, size - 1);
    if (rc != 0)
        abort();
    const int loaded = state_load(&s, 0, &ids, 1, &in, &err);
    if (loaded != 0 ? s.pos[0] != 0 || ids.n != 0 : s.pos[0] < 0 || s.pos[0] > s.S)
        abort();
    in_close(&in);
    ids_free(&ids);
    state_free(&s);
    return 0;
}
