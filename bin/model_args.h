/* model_args: the options that shape a model (preset, JSON file, every size), for tools that make
 * one. */
#ifndef HM_MODEL_ARGS_H
#define HM_MODEL_ARGS_H

#include "cli.h"
#include "config.h"

enum { MODEL_ARGS_SIZES = 20, MODEL_ARGS_OPTS = MODEL_ARGS_SIZES + 6 };

struct model_args {
    int preset;
    const char *config_path, *pattern;
    bool use_rope, is_untied;
    int64_t count[MODEL_ARGS_SIZES]; /* the whole-number sizes, 0 until given */
    double real[MODEL_ARGS_SIZES];   /* the others */
    bool is_set[MODEL_ARGS_OPTS];    /* by the position among the options */
};

/* Defaults, and the rows of the option table: a heading and the options. Returns how many rows of
 * `rows`, which has room for MODEL_ARGS_OPTS, were filled. */
int model_args_options(struct model_args *a, int preset, struct cli_opt *rows);
/* The config that was asked for: preset or file, then each size given, then what follows from them.
 * vocab: of the tokenizer, unless --vocab was given; 0: not known, as in the preset. */
MUST_USE int model_args_config(const struct model_args *a, int vocab, struct config *c,
                               struct err *err);
/* --context, 0 where it was not given. */
int64_t model_args_context(const struct model_args *a);
/* Whether what was given is what c has, a model's that is there already; the error names the
 * option.
 */
MUST_USE int model_args_agree(const struct model_args *a, const struct config *c, struct err *err);

#endif
