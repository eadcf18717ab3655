/* bench_args: the options of hm-bench. */
#ifndef HM_BENCH_ARGS_H
#define HM_BENCH_ARGS_H

#include "dry.h"
#include "model_args.h"

enum bench_what { BENCH_TRAIN, BENCH_PREFILL, BENCH_DECODE, BENCH_ENCODE, BENCH_LOAD, BENCH_OPS };

enum { BENCH_LIST_MAX = 16, BENCH_ARGS_OPTS = MODEL_ARGS_OPTS + 24 };

struct bench_args_list {
    const char *text; /* as given: "0,1024" */
    int value[BENCH_LIST_MAX], n;
};

struct bench_args {
    struct model_args size;
    const char *model, *tokenizer, *text, *device, *what, *predict;
    const struct gpu *gpu; /* of --predict, or NULL */
    unsigned whats;        /* bits of enum bench_what */
    int64_t batch, threads, repeat, stream;
    double time_s;
    struct bench_args_list prompt, depth, rows;
    int dtype, recompute, format;
    struct cli_opt table[BENCH_ARGS_OPTS + 1];
};

/* Defaults and the table of options; *a must stay where it is. */
void bench_args_table(struct bench_args *a, struct cli_tool *t);
/* Reads the lists, checks them and the operands; 0, or the status of a usage error. */
MUST_USE int bench_args_check(struct bench_args *a, const struct cli_tool *t, char **shard,
                              int n_shards);
static inline bool bench_args_wants(const struct bench_args *a, enum bench_what what)
{
    return a->whats >> what & 1u;
}
/* The model to bench: that of the checkpoint, with another --context if given, or what the options
 * say where has is NULL. Without --prompt, prompts are as long as rows. */
MUST_USE int bench_args_config(struct bench_args *a, const struct config *has, struct config *c,
                               struct err *err);
bool bench_args_table_wanted(const struct bench_args *a, bool is_tty);

#endif
