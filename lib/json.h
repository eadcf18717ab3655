/* json: what hm adds to jansson (whose own names are json_*): parsing with the place of a mistake
 * in the message, and Infinity and NaN, which Python writes as bare words. */
#ifndef HM_JSON_H
#define HM_JSON_H

#include "buf.h"

#include <jansson.h>

/* Parses n bytes that hold one JSON value and nothing else; duplicate keys, bad UTF-8 and NUL are
 * errors. *root is the caller's reference (json_decref). flags: more of jansson's JSON_*. */
MUST_USE int js_parse(json_t **root, const char *text, size_t n, size_t flags, struct err *err);

/* The same after bare Infinity, -Infinity and NaN became the strings "Infinity", "-Infinity" and
 * "NaN". */
MUST_USE int js_parse_python(json_t **root, const char *text, size_t n, struct err *err);

/* Appends the value's text; real numbers come back to the bit. flags: more of jansson's JSON_*.
 * root: still the caller's; NULL, as jansson gives where memory ran out, is an error. */
MUST_USE int js_print(const json_t *root, size_t flags, struct buf *to, struct err *err);

#endif
