/* generate: completions of prompts, decoded as a ragged batch.
 *
 * Each prompt takes a slot of the state: its ids but the last are read into it, together with those
 * of the other prompts that take slots now (model_read_all), and from then on one step of the model
 * moves all taken slots by a token. A slot whose prompt is done is taken by the next one; nothing
 * is padded. A prompt's completion does not depend on what the other slots hold: reads and steps
 * treat each row alone, and a choice is keyed by (seed, key, position).
 *
 * On a device that works by itself the next step is begun before the host has seen what the last
 * one chose; a prompt that turns out to be done has been stepped once too often then, which nothing
 * but its slot sees. */
#ifndef HM_GENERATE_H
#define HM_GENERATE_H

#include "encode.h"
#include "model.h"
#include "sampler.h"
#include "stops.h"

/* What a completion is asked to be. */
struct gen_opts {
    struct sample_opts sample;
    int max_tokens;     /* 0: only read the prompt */
    bool ignore_eos;    /* </s> is never chosen */
    int32_t end_id;     /* another id that ends a completion as </s> does; -1: none */
    bool has_seed;      /* the seed was the prompt's own: key 0, wherever the prompt stands */
    struct stops stops; /* owned */
};
/* 128 tokens, sample_defaults. */
void gen_defaults(struct gen_opts *o);
MUST_USE int gen_opts_copy(struct gen_opts *to, const struct gen_opts *from, struct err *err);
/* sample_set, and "max_tokens" and "ignore_eos" (0 or 1). */
MUST_USE int gen_set(struct gen_opts *o, const char *name, double value, struct err *err);
/* What the sampler is to do: o->sample, and </s> below every other where ignore_eos is on. */
MUST_USE int gen_choice(const struct gen_opts *o, int V, struct sample_opts *choice,
                        struct err *err);
void gen_opts_free(struct gen_opts *o);

enum gen_stop { GEN_GOES_ON, GEN_EOS, GEN_STRING, GEN_LENGTH, GEN_CONTEXT, GEN_CANCELLED };
/* "eos", "stop", "length", "context", "cancelled"; static. */
const char *gen_stop_name(enum gen_stop stop);

/* A completion as it grows. Zeroed by completion_init. */
struct completion {
    struct ids ids; /* every token chosen, </s> and those of a stop string too */
    float *logp;    /* (ids.n) log-probability of each under the unmodified softmax; owned */
    size_t logp_cap;
    struct flow flow; /* its text */
    enum gen_stop stop;
};
void completion_init(struct completion *c);
/* Takes one chosen token: text, stop strings, limits. room: how many more tokens the state can
 * hold after this one. Sets c->stop. */
MUST_USE int completion_put(struct completion *c, const struct gen_opts *o, const struct tok *tok,
                            int32_t id, float logp, int64_t room, struct err *err);
void completion_free(struct completion *c);

struct gen_prompt {
    struct buf text;  /* as given, for --echo */
    struct buf label; /* JSON text of the user's "id", or empty */
    struct gen_opts opts;
};
void gen_prompt_free(struct gen_prompt *p);

struct gen_result {
    const struct gen_prompt *prompt;
    int64_t number; /* of the prompt, from 0 */
    size_t n_read;  /* ids of the prompt, <s> included */
    const struct completion *completion;
    double read_s, decode_s; /* wall time: until the prompt was read, with those beside it; from
                                then to the last token */
};

struct gen_totals {
    int64_t n_prompts, n_done; /* taken in; finished */
    int64_t n_read, n_decoded; /* tokens */
};

/* What the caller of gen_run provides. */
struct gen_calls {
    void *arg;
    /* The next prompt into a zeroed *p, which gen_run then owns. 1; 0: no more; -1. */
    int (*next)(void *arg, struct gen_prompt *p, struct err *err);
    /* A prompt is finished; called in the order of the prompts. */
    int (*done)(void *arg, const struct gen_result *r, struct err *err);
    /* Certain bytes of the text, as they come; only of the oldest prompt that is not done. Or
     * NULL. */
    int (*show)(void *arg, const void *bytes, size_t n, struct err *err);
    /* A prompt was read into `slot` of s, all but the last of ids. Or NULL. */
    int (*read)(void *arg, const struct state *s, int slot, const struct ids *ids,
                uint64_t model_hash, struct err *err);
    /* After each step; true: stop now. Or NULL. */
    bool (*tick)(void *arg, const struct gen_totals *t);
};

struct gen_slot;
struct gen {
    struct model *model;   /* borrowed; opts.step_R >= n_slots, opts.read_T > 0 */
    const struct tok *tok; /* borrowed */
    int n_slots;
    struct state state; /* n_slots, and one more that holds the prefix */
    struct sampler sampler;
    struct ids prefix;     /* what every prompt begins with: <s>, or a loaded state's ids */
    struct gen_slot *slot; /* (n_slots) owned */
    struct read *text;     /* (n_slots) owned: what is to be read together */
    /* rows of the steps under way; (n_slots) owned */
    int32_t *row_slot, *row_id, *row_choice;
    int64_t *row_number; /* of the prompt that had the slot */
    float *row_logp;
};

/* S: positions a slot can hold (of the 't' layers' caches; without such layers there is no
 * bound). */
MUST_USE int gen_open(struct gen *g, struct model *m, const struct tok *tok, int n_slots, int S,
                      struct err *err);
/* Every prompt now goes on from the saved state instead of from <s>. */
MUST_USE int gen_load_prefix(struct gen *g, struct in *in, struct err *err);
/* Completes prompts until next() says that there are no more. 0: all done; 1: tick() stopped it;
 * -1: failed. A prompt that a slot cannot hold is not read: it comes back with GEN_CONTEXT and no
 * tokens. */
MUST_USE int gen_run(struct gen *g, const struct gen_calls *calls, struct err *err);
void gen_close(struct gen *g);

/* Whether a loaded state's ids are those of the model and not fewer than it has read. */
MUST_USE int gen_check_ids(const struct ids *ids, int32_t n_read, int V, const char *path,
                           struct err *err);
/* Positions that a slot may be filled to: S, or no bound for a model without attention. */
int64_t gen_room(const struct state *s);

#endif
