/* chat: turns of a conversation over one slot of a state. What was read stays in the state, so
 * nothing is read twice: a turn costs its own tokens only. Before each turn the state is copied
 * into a ring of slots, which is what undo goes back to.
 *
 * With a tokenizer that has the control pieces <|user|> and <|assistant|> a conversation is
 *   <s> [<|system|> text <|end|>] <|user|> text <|end|> <|assistant|> answer <|end|> ...
 * (</s> where there is no <|end|>, and the plain text and a blank line where there is no
 * <|system|>). Without them it is plain text:
 *   <s> [text\n\n] User: text\nAssistant: answer\nUser: ... */
#ifndef HM_CHAT_H
#define HM_CHAT_H

#include "generate.h"

enum { CHAT_UNDO = 8 };

/* AUTO: markers where the tokenizer has them. A model that never saw the markers in training does
 * better with plain text. */
enum chat_form { CHAT_AUTO, CHAT_MARKERS, CHAT_PLAIN };

struct chat {
    struct model *model;   /* borrowed; opts.step_R >= 1, opts.read_T > 0 */
    const struct tok *tok; /* borrowed */
    struct gen_opts opts;  /* of every answer; the caller may change it between turns. Owned */
    struct state state;    /* slot 0: the conversation; 1 ...: marks */
    struct sampler sampler;
    struct ids ids; /* the conversation so far: state.pos[0] of them are read, the rest wait */
    struct buf system;
    size_t mark[CHAT_UNDO]; /* ring of places to go back to: ids then; slot 1 + i has the state */
    int n_marks, next_mark;
    bool has_markers;
    int32_t id_system, id_user, id_assistant, id_end; /* -1: not in the tokenizer */
    uint64_t n_read; /* tokens that the model was given, ever: reading and decoding */
};

/* S: positions of the conversation (see gen_open). opts is copied. chat_close also after a
 * failure. */
MUST_USE int chat_open(struct chat *c, struct model *m, const struct tok *tok,
                       const struct gen_opts *opts, enum chat_form form, int S, struct err *err);
void chat_close(struct chat *c);

struct chat_calls {
    void *arg;
    /* Certain bytes of the answer as they come. */
    int (*show)(void *arg, const void *bytes, size_t n, struct err *err);
    /* Polled between tokens: true ends the answer where it is. Or NULL. */
    bool (*is_cancelled)(void *arg);
};

/* One turn: reads the user's text, decodes the answer, which stays in the conversation. *answer is
 * initialised here and the caller's to free. A turn that was cancelled while the text was read did
 * not happen. */
MUST_USE int chat_say(struct chat *c, const void *text, size_t n, const struct chat_calls *calls,
                      struct completion *answer, struct err *err);
/* Takes back the last turn: bit for bit the state before it. At most CHAT_UNDO turns in a row. */
MUST_USE int chat_undo(struct chat *c, struct err *err);
/* Starts afresh, with the system text if there is one. */
MUST_USE int chat_reset(struct chat *c, struct err *err);
/* Sets the system text and starts afresh. */
MUST_USE int chat_system(struct chat *c, const void *text, size_t n, struct err *err);
/* The conversation in a file (hm-state(5)); nothing is read again by load. Undo does not go back
 * behind a load. */
MUST_USE int chat_save(const struct chat *c, struct out *out, struct err *err);
MUST_USE int chat_load(struct chat *c, struct in *in, struct err *err);

#endif
