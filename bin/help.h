/* help: --help and --version, made from the table of options; used by cli.c alone. */
#ifndef HM_HELP_H
#define HM_HELP_H

#include "cli.h"

/* rows: the tool's options and everybody's, the fields still holding their defaults. */
void help_print(const struct cli_tool *t, const struct cli_opt *rows);
void help_version(const struct cli_tool *t);

#endif
