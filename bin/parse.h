/* parse: words of the command line made numbers; used by cli.c, and by tools whose
 * options are lists. */
#ifndef HM_PARSE_H
#define HM_PARSE_H

#include "err.h"

#include <stdint.h>

/* Each reads the whole of `text`, or fails with what and mend (no file) for a message. lo == hi ==
 * 0: no bounds. */

/* Digits, a decimal point and exponent where the value comes out whole; K M G T are powers of 1000,
 * Ki Mi Gi Ti of 1024. */
MUST_USE int parse_int(int64_t *v, const char *text, double lo, double hi, struct err *err);
/* A finite decimal number, the same suffixes. */
MUST_USE int parse_float(double *v, const char *text, double lo, double hi, struct err *err);
/* Seconds: 90, 90s, 5m, 1.5h, 2d, 1h30m. */
MUST_USE int parse_time(double *v, const char *text, double lo, double hi, struct err *err);

#endif
