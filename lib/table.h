/* table: CSV records with a header, strictly RFC 4180 through libcsv: fields with commas, quotes or
 * line breaks are quoted, quotes in them doubled; lines end in LF or CRLF; a byte order mark before
 * the header and blank lines are skipped (in a table of one column a blank line is an empty field).
 *
 * Every mistake is an error with `file:line`: records of another length than the header, stray
 * quotes, a quote that never closes, a column that is there twice. */
#ifndef HM_TABLE_H
#define HM_TABLE_H

#include "io.h"

enum { TABLE_MAX_COLUMNS = 4096, TABLE_RECORD_BYTES = 1 << 28 };

struct table;

/* Opens the file (or "-") and reads its header. */
MUST_USE int table_open(struct table **t, const char *path, struct err *err);
/* The same over an input that is open, which the table takes over (also when it fails). */
MUST_USE int table_over(struct table **t, struct in *in, struct err *err);
void table_close(struct table *t);

int table_n_columns(const struct table *t);
/* The header's field: *n bytes and a NUL; owned by t. */
const char *table_name(const struct table *t, int column, size_t *n);
/* The column of that name, or an error that lists those there are. */
MUST_USE int table_column(const struct table *t, const char *name, int *column, struct err *err);

/* The next record: 1, 0 at the end, -1. */
MUST_USE int table_next(struct table *t, struct err *err);
/* After table_next gave -1: whether the record was merely of the wrong length, so that the next
 * call goes on behind it. */
bool table_can_go_on(const struct table *t);
/* A field of the current record: *n bytes and a NUL; valid until the next table_next. */
const char *table_field(const struct table *t, int column, size_t *n);
/* The line where the current record begins, from 1. */
uint64_t table_line(const struct table *t);

#endif
