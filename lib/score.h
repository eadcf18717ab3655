/* score: loss, perplexity and bits per byte of documents, one after the other, and the protocol
 * that the figures belong to. */
#ifndef HM_SCORE_H
#define HM_SCORE_H

#include "eval.h"

enum eval_protocol {
    EVAL_DOCUMENTS, /* each document from <s>; long ones by a carried state */
    EVAL_WINDOW,    /* each document from <s>; long ones by overlapping windows */
    EVAL_ROWS,      /* as in training: rows of T targets, cut anywhere */
};

struct score_opts {
    enum eval_protocol protocol;
    int window, stride; /* EVAL_WINDOW: targets seen, and targets scored, a window; window <= T */
    int sep_bytes;      /* bytes of text that </s> stands for */
    const uint8_t *piece_bytes; /* (V) bytes of each id, </s> too, in place of the tokenizer's; or
                                   NULL */
};

struct text_score {
    double nats;
    uint64_t n_tokens; /* targets scored: every token and every </s> */
    uint64_t n_bytes;  /* of text, separators included; 0: not known */
    uint64_t n_words;  /* runs of bytes other than white space, within a document; 0: not known */
    uint64_t n_docs;
};

struct scorer {
    struct eval *eval; /* borrowed */
    struct score_opts opts;
    struct text_score score;
    struct ids held; /* EVAL_ROWS: targets of the row being filled */
    int32_t prev;    /* EVAL_ROWS: the id before them */
    bool is_open;    /* EVAL_ROWS: the document before had no </s> */
};

void score_begin(struct scorer *c, struct eval *e, const struct score_opts *opts);
/* One document of n ids, its </s> included unless the text ended without a separator. */
MUST_USE int score_put(struct scorer *c, const int32_t *ids, size_t n, struct err *err);
/* Runs what is left; the score is complete. */
MUST_USE int score_end(struct scorer *c, struct err *err);
void score_free(struct scorer *c);

/* The protocol in words, for tables and records: what was seen, what was scored. */
MUST_USE int score_describe(const struct scorer *c, struct buf *to, struct err *err);

#endif
