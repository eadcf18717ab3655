/* gen_chat: the terminal's side of hm-gen --chat: lines, commands, answers as they come. */
#ifndef HM_GEN_CHAT_H
#define HM_GEN_CHAT_H

#include "gen_args.h"

/* Talks until the input ends or /exit. Returns the tool's status; a struct err that stops the
 * chat is printed. */
int gen_chat(const struct cli_tool *tool, const struct gen_args *a, struct loaded *l,
             const struct gen_opts *opts, int S);

#endif
