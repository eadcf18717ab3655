/* stops: stop strings and whole characters in a growing text; see stops.h. */
#include "stops.h"

#include <stdlib.h>
#include <string.h>

int stops_add(struct stops *s, const void *bytes, size_t n, struct err *err)
{
    if (n == 0)
        return err_set(err, NULL, "leave it out", "a stop string is empty");
    if (n > STOP_MAX_BYTES)
        return err_set(err, NULL, "use a shorter one", "a stop string is longer than %d bytes",
                       STOP_MAX_BYTES);
    if (s->n == STOPS_MAX)
        return err_set(err, NULL, "use fewer", "more than %d stop strings", STOPS_MAX);
    struct buf *item = realloc(s->item, (size_t)(s->n + 1) * sizeof *item);
    if (!item)
        return err_oom(err, (size_t)(s->n + 1) * sizeof *item);
    s->item = item;
    s->item[s->n] = (struct buf){0};
    TRY(buf_put(&s->item[s->n], bytes, n, err));
    s->n++;
    return 0;
}

int stops_copy(struct stops *to, const struct stops *from, struct err *err)
{
    stops_free(to);
    for (int i = 0; i < from->n; i++)
        TRY(stops_add(to, from->item[i].data, from->item[i].size, err));
    return 0;
}

void stops_free(struct stops *s)
{
    for (int i = 0; i < s->n; i++)
        buf_free(&s->item[i]);
    free(s->item);
    *s = (struct stops){0};
}

/* Where the earliest stop string begins that ends after `old` bytes, or text->size; *which names
 * it. */
static size_t find_stop(const struct buf *text, size_t old, const struct stops *s, int *which)
{
    size_t best = text->size;
    *which = -1;
    for (int i = 0; i < s->n; i++) {
        const struct buf *stop = &s->item[i];
        const size_t from = old + 1 > stop->size ? old + 1 - stop->size : 0;
        if (from >= text->size)
            continue;
        const uint8_t *at = memmem(text->data + from, text->size - from, stop->data, stop->size);
        if (at && (size_t)(at - text->data) < best) {
            best = (size_t)(at - text->data);
            *which = i;
        }
    }
    return best;
}

int flow_put(struct flow *f, const struct stops *s, const void *bytes, size_t n, struct err *err)
{
    if (f->stop >= 0 || n == 0)
        return 0;
    const size_t old = f->text.size;
    TRY(buf_put(&f->text, bytes, n, err));
    f->text.size = find_stop(&f->text, old, s, &f->stop);
    return 0;
}

/* The longest end of the text that begins a stop string, in bytes. */
static size_t half_stop(const struct buf *text, const struct stops *s)
{
    size_t held = 0;
    for (int i = 0; i < s->n; i++) {
        const struct buf *stop = &s->item[i];
        size_t n = stop->size - 1 < text->size ? stop->size - 1 : text->size;
        while (n > held && memcmp(text->data + text->size - n, stop->data, n) != 0)
            n--;
        if (n > held)
            held = n;
    }
    return held;
}

const uint8_t *flow_take(struct flow *f, const struct stops *s, bool is_last, size_t *n)
{
    size_t certain = f->text.size;
    if (!is_last && f->stop < 0 && certain > 0)
        certain -= half_stop(&f->text, s);
    if (certain > 0)
        certain = utf8_whole(f->text.data, certain);
    *n = certain > f->shown ? certain - f->shown : 0;
    const uint8_t *at = *n ? f->text.data + f->shown : NULL;
    f->shown += *n;
    return at;
}

void flow_free(struct flow *f)
{
    buf_free(&f->text);
    *f = FLOW_EMPTY;
}

int utf8_prefix(const uint8_t *p, size_t n)
{
    const uint8_t a = p[0];
    if (a < 0x80)
        return 1;
    const int len = a >= 0xC2 && a <= 0xDF   ? 2
                    : a >= 0xE0 && a <= 0xEF ? 3
                    : a >= 0xF0 && a <= 0xF4 ? 4
                                             : 0;
    if (len == 0)
        return 0;
    /* the second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF */
    const uint8_t lo = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80;
    const uint8_t hi = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (n >= 2 && (p[1] < lo || p[1] > hi))
        return 0;
    for (int i = 2; i < len && (size_t)i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n < (size_t)len ? -1 : len;
}

size_t utf8_whole(const uint8_t *p, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        if ((p[n - back] & 0xC0) == 0x80)
            continue;
        return utf8_prefix(p + n - back, back) < 0 ? n - back : n;
    }
    return n;
}
