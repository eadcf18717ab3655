/* gen_args: the options of hm-gen. */
#ifndef HM_GEN_ARGS_H
#define HM_GEN_ARGS_H

#include "chat.h"
#include "loaded.h"

enum gen_stream { STREAM_AUTO, STREAM_ALWAYS, STREAM_NEVER };

struct gen_args {
    struct loaded_args model;
    int64_t context, batch;
    /* in */
    const char *prompt;
    bool is_jsonl, is_null, is_escaped, is_chat, is_batch_set;
    const char *state_load, *state_save;
    /* out */
    const char *out;
    bool is_json, has_echo, has_rates;
    int stream; /* enum gen_stream */
    /* chat */
    const char *system, *history;
    int chat_form; /* enum chat_form */
    /* choice */
    int64_t max_tokens, top_k, repeat_last, seed;
    double temperature, top_p, min_p, typical_p, repeat_penalty, freq_penalty, pres_penalty;
    bool is_greedy, ignore_eos, is_max_tokens_set;
    struct cli_list stop, bias;
};

enum { GEN_ROWS = 48 };

void gen_args_defaults(struct gen_args *a);
/* Fills the rows of the option table, a zeroed one last. */
void gen_args_rows(struct gen_args *a, struct cli_opt rows[GEN_ROWS]);
/* What goes together and what does not; an error says so. */
MUST_USE int gen_args_check(const struct gen_args *a, struct err *err);
/* The options of a completion. V bounds the ids of biases. */
MUST_USE int gen_args_opts(const struct gen_args *a, int V, struct gen_opts *o, struct err *err);

#endif
