/* merges: the tables that BPE encoding looks things up in, made once from a model's pieces.
 *
 * Pieces are kept in the form that text has, with a space where the model writes U+2581, so that
 * text needs no rewriting, and a U+2581 in the text is just a character that no piece has.
 *
 * A symbol is what merging works on: ids 0..V-1 are the pieces, further ones are characters that
 * occur in pieces but are none themselves. Two symbols merge where their texts joined are a piece.
 */
#ifndef HM_MERGES_H
#define HM_MERGES_H

#include "vocab.h"

enum { NO_SYMBOL = -1, NO_RANK = INT32_MAX };

struct merge {
    int32_t left, right; /* symbols; left is NO_SYMBOL in an empty slot */
    int32_t merged;      /* the piece they make */
    int32_t rank;        /* 0 is merged first; equal scores have equal ranks */
};

struct merges {
    int V, n_symbols;
    uint8_t *text;          /* owned: the texts of all symbols in a row */
    uint32_t *text_begin;   /* owned, [n_symbols + 1] */
    int32_t *slots;         /* owned hash table: text of a matchable piece or character -> symbol */
    size_t slot_mask;       /* its size - 1 */
    struct merge *table;    /* owned hash table of all merges */
    int table_shift;        /* 64 - log2 of its size */
    int32_t *pages;         /* owned: 256 characters a page -> symbol; page 0 has none */
    uint16_t page[0x1100];  /* by code point >> 8 */
    uint8_t joins[256][32]; /* bit (a,b): some piece has byte b right after byte a */
    uint8_t *type;          /* owned, [V]: enum piece_type */
    uint16_t *user_sizes;   /* owned: the lengths that user-defined pieces have, longest first */
    int n_user_sizes;
    bool user_first[256]; /* by the first byte: whether such a piece may begin here */
    bool has_unused;
    int32_t byte_id[256]; /* the byte pieces */
};

/* Whether text takes part in merging: neither control, byte and unknown pieces, nor those that no
 * text can match since they have an invalid character or a plain space. */
bool merges_can_match(const struct piece *p);

/* Fails where a piece is there twice or one of the 256 bytes has none. */
MUST_USE int merges_build(struct merges *m, const struct vocab *v, struct err *err);
void merges_free(struct merges *m);

/* The user-defined piece that the text begins with, the longest of several, or NO_SYMBOL. */
int32_t merges_user(const struct merges *m, const uint8_t *text, size_t n);

/* Whether what happens at one place can depend on far text: then text must not be cut. */
static inline bool merges_need_whole_text(const struct merges *m)
{
    return m->n_user_sizes > 0 || m->has_unused;
}

static inline const uint8_t *merges_text(const struct merges *m, int32_t symbol, size_t *n)
{
    *n = m->text_begin[symbol + 1] - m->text_begin[symbol];
    return m->text + m->text_begin[symbol];
}

static inline int32_t merges_char(const struct merges *m, uint32_t code)
{
    return m->pages[(size_t)m->page[code >> 8] << 8 | (code & 0xFF)];
}

static inline bool merges_joins(const struct merges *m, uint8_t a, uint8_t b)
{
    return m->joins[a][b >> 3] >> (b & 7) & 1;
}

static inline uint64_t merges_slot(int32_t left, int32_t right, int shift)
{
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (key ^ key >> 29) * 0x9E3779B97F4A7C15u >> shift;
}

/* The merge of two symbols, or NULL. */
static inline const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right)
{
    const uint64_t mask = UINT64_MAX >> m->table_shift;
    for (uint64_t i = merges_slot(left, right, m->table_shift);; i = (i + 1) & mask) {
        const struct merge *e = &m->table[i];
        if (e->left == left && e->right == right)
            return e;
        if (e->left == NO_SYMBOL)
            return NULL;
    }
}

#endif
