/* split: the ways in which text is separated into documents. */
#ifndef HM_SPLIT_H
#define HM_SPLIT_H

#include "err.h"

#include <stddef.h>
#include <stdint.h>

enum split_kind {
    SPLIT_LINE,  /* separator "\n" */
    SPLIT_NUL,   /* separator "\0" */
    SPLIT_SEP,   /* any bytes */
    SPLIT_PARA,  /* blank lines; the text keeps its inner line ends */
    SPLIT_WHOLE, /* a file is a document */
    SPLIT_JSONL, /* the text of a field of the object on each line */
    SPLIT_CSV,   /* a column of a table */
};

enum { SPLIT_SEP_BYTES = 32, SPLIT_FIELD_BYTES = 256 };

struct split {
    enum split_kind kind;
    uint8_t sep[SPLIT_SEP_BYTES]; /* what stands between documents when they are written again */
    size_t n_sep;
    char field[SPLIT_FIELD_BYTES]; /* SPLIT_JSONL, SPLIT_CSV */
};

/* Reads "line", "para", "nul", "sep:BYTES" (\n \r \t \0 \\ \xHH stand for bytes), "whole",
 * "jsonl:FIELD" or "csv:COLUMN". */
MUST_USE int split_parse(struct split *s, const char *spec, struct err *err);

#endif
