/* buf: growable bytes and ids; see buf.h. */
#include "buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Grows *data so that it holds need items of `item` bytes; doubling keeps appends amortised. */
static int grow(void **data, size_t *cap, size_t need, size_t item, struct err *err)
{
    if (need <= *cap)
        return 0;
    size_t next = *cap < 64 ? 64 : *cap;
    while (next < need) {
        if (next > SIZE_MAX / 2 / item)
            return err_oom(err, need);
        next *= 2;
    }
    void *p = realloc(*data, next * item);
    if (!p)
        return err_oom(err, next * item);
    *data = p;
    *cap = next;
    return 0;
}

int buf_reserve(struct buf *b, size_t n, struct err *err)
{
    void *p = b->data;
    if (n > SIZE_MAX - b->size)
        return err_oom(err, n);
    TRY(grow(&p, &b->cap, b->size + n, 1, err));
    b->data = p;
    return 0;
}

int buf_put(struct buf *b, const void *bytes, size_t n, struct err *err)
{
    TRY(buf_reserve(b, n, err));
    if (n)
        memcpy(b->data + b->size, bytes, n);
    b->size += n;
    return 0;
}

int buf_printf(struct buf *b, struct err *err, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    const int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int rc = n < 0 ? err_set(err, NULL, NULL, "cannot format a message") : 0;
    if (rc == 0)
        rc = buf_reserve(b, (size_t)n + 1, err);
    if (rc == 0) {
        vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, again);
        b->size += (size_t)n;
    }
    va_end(again);
    return rc;
}

void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

int ids_append(struct ids *a, const int32_t *id, size_t n, struct err *err)
{
    void *p = a->data;
    if (n > SIZE_MAX / sizeof *id - a->n)
        return err_oom(err, n);
    TRY(grow(&p, &a->cap, a->n + n, sizeof *id, err));
    a->data = p;
    if (n)
        memcpy(a->data + a->n, id, n * sizeof *id);
    a->n += n;
    return 0;
}

int ids_put(struct ids *a, int32_t id, struct err *err)
{
    return ids_append(a, &id, 1, err);
}

void ids_free(struct ids *a)
{
    free(a->data);
    *a = (struct ids){0};
}
