/* Any bytes as a state file of a fixed small model: what fails leaves slot and ids as they were. */
#include "config.h"
#include "ops.h"
#include "state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* States need memory only, so a device of four functions will do. */
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dev dev = {.ops = &host_ops, .act_dtype = DT_F32};
    struct config c = {.V = 16, .D = 16, .N = 2, .pattern = "mt"};
    struct state s;
    struct in in;
    struct ids ids = {0};
    struct err err;
    config_derive(&c);
    if (state_open(&s, &c, &dev, 1, 4, &err) != 0)
        return 0;
    if (in_memory(&in, "fuzz", data, size, &err) == 0) {
        const int rc = state_load(&s, 0, &ids, 1, &in, &err);
        if (rc != 0 ? s.pos[0] != 0 || ids.n != 0 : s.pos[0] < 0 || s.pos[0] > s.S)
            abort();
        in_close(&in);
    }
    ids_free(&ids);
    state_free(&s);
    return 0;
}
