/* stops: the text of a completion as its bytes come. It ends before the first stop string, and is
 * given out only as far as it is certain: never half a UTF-8 character, never the beginning of what
 * may still become a stop string. Pure logic, no model. */
#ifndef HM_STOPS_H
#define HM_STOPS_H

#include "buf.h"

#include <stdbool.h>

/* A list of stop strings. A zeroed struct is an empty list. */
struct stops {
    struct buf *item; /* (n) owned */
    int n;
};

enum { STOPS_MAX = 64, STOP_MAX_BYTES = 4096 };

/* Appends a copy of n bytes. Refuses an empty string, one over STOP_MAX_BYTES, and more than
 * STOPS_MAX of them. */
MUST_USE int stops_add(struct stops *s, const void *bytes, size_t n, struct err *err);
/* Replaces *to by a copy of from. */
MUST_USE int stops_copy(struct stops *to, const struct stops *from, struct err *err);
void stops_free(struct stops *s);

/* The text so far. A zeroed struct with stop = -1 is empty: use FLOW_EMPTY. */
struct flow {
    struct buf text; /* cut before the stop string once one came */
    size_t shown;    /* bytes that flow_take has handed out */
    int stop;        /* index of the stop string that ended the text, -1: none yet */
};
#define FLOW_EMPTY ((struct flow){.stop = -1})

/* Appends n bytes of a new token. When they complete a stop string, cuts the text before its
 * earliest place (the first of the list where two begin there) and sets f->stop; bytes put after
 * that are ignored. */
MUST_USE int flow_put(struct flow *f, const struct stops *s, const void *bytes, size_t n,
                      struct err *err);
/* The bytes that are certain and were not handed out yet: *n of them, within f->text; marks them
 * as handed out. is_last: no more will come, so a half stop string is plain text; half a character
 * at the very end stays back all the same. */
const uint8_t *flow_take(struct flow *f, const struct stops *s, bool is_last, size_t *n);
void flow_free(struct flow *f);

/* Bytes of the well-formed UTF-8 character that p[0..n) starts with (n >= 1); 0 when it is
 * ill-formed; -1 when it is cut off and more bytes could complete it. */
int utf8_prefix(const uint8_t *p, size_t n);
/* n less the bytes of a cut-off character at the end. */
size_t utf8_whole(const uint8_t *p, size_t n);

#endif
