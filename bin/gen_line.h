/* gen_line: records and typed lines: one byte ends each; on a terminal libedit edits them. */
#ifndef HM_GEN_LINE_H
#define HM_GEN_LINE_H

#include "io.h"

#include <stdbool.h>

/* Reads into *to (emptied first) up to the byte `end`, which is dropped. 1; 0: the input is over
 * and there was nothing more; -1. */
MUST_USE int gen_line_next(struct in *in, char end, struct buf *to, struct err *err);

struct line_editor; /* libedit with its history, or plain reading where stdin is no terminal */

/* history: a file that keeps the lines, or NULL. */
MUST_USE int line_editor_open(struct line_editor **e, const char *history, struct err *err);
bool line_editor_is_tty(const struct line_editor *e);
/* A line without its end into *to (emptied first). 1; 0: the end; 2: a signal came (cli_signal)
 * and the line was given up; -1. */
MUST_USE int line_editor_next(struct line_editor *e, const char *prompt, struct buf *to,
                              struct err *err);
void line_editor_close(struct line_editor *e);

#endif
