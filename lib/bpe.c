/* bpe: merges the symbols of a chunk of text: of all neighbours that can merge, the pair whose
 * piece scores best goes first, the leftmost of equals; see bpe.h. Short chunks are merged by
 * scanning, long ones (a sentence without spaces, a megabyte of one letter) with a heap. */
#include "bpe.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>

enum { FROZEN = 1 << 30 }; /* flag of a symbol that never merges */

/* --- symbols in and ids out --- */

/* Writes the symbols of the n > 0 bytes at text, at most one a byte, and returns their number.
 * A character that is in no piece comes as its byte pieces, which merge with nothing. */
static size_t put_symbols(const struct merges *m, const uint8_t *text, size_t n, int32_t *symbol)
{
    size_t n_symbols = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t code;
        const int32_t user = merges_user(m, text + i, n - i);
        if (user != NO_SYMBOL) {
            merges_text(m, user, &len);
            symbol[n_symbols++] = user | FROZEN;
            continue;
        }
        len = utf8_char(text + i, n - i, &code);
        const int32_t s = len ? merges_char(m, code) : NO_SYMBOL;
        if (s != NO_SYMBOL) {
            symbol[n_symbols++] = s;
            continue;
        }
        if (len == 0)
            len = 1;
        for (size_t k = 0; k < len; k++)
            symbol[n_symbols++] = m->byte_id[text[i + k]];
    }
    return n_symbols;
}

/* Appends the ids that a symbol stands for: itself, or the bytes of a character that is no piece.
 * An unused piece goes back to the two symbols it was last made of: split[2 * id]. */
static int put_ids(const struct merges *m, int32_t symbol, const int32_t *split, struct ids *to,
                   struct err *err)
{
    if (symbol & FROZEN)
        return ids_put(to, symbol & ~FROZEN, err);
    if (symbol < m->V) {
        if (!split || m->type[symbol] != PIECE_UNUSED || split[2 * symbol] == NO_SYMBOL)
            return ids_put(to, symbol, err);
        TRY(put_ids(m, split[2 * symbol], split, to, err));
        return put_ids(m, split[2 * symbol + 1], split, to, err);
    }
    size_t n;
    const uint8_t *text = merges_text(m, symbol, &n);
    for (size_t i = 0; i < n; i++)
        TRY(ids_put(to, m->byte_id[text[i]], err));
    return 0;
}

/* --- short chunks: scan for the best pair --- */

enum { SHORT_BYTES = 96 };

/* What becomes of symbol i and the one after it. */
struct pairs {
    int32_t rank[SHORT_BYTES]; /* NO_RANK where they cannot merge */
    int32_t merged[SHORT_BYTES];
};

static void look_up(const struct merges *m, const int32_t *symbol, struct pairs *p, size_t i)
{
    const struct merge *e = merges_find(m, symbol[i], symbol[i + 1]);
    p->rank[i] = e ? e->rank : NO_RANK;
    p->merged[i] = e ? e->merged : NO_SYMBOL;
}

static void drop(int32_t *a, size_t at, size_t n)
{
    memmove(a + at, a + at + 1, (n - at - 1) * sizeof *a);
}

/* Merges 1..SHORT_BYTES symbols in place and returns how many are left. */
static size_t merge_short(const struct merges *m, int32_t *symbol, size_t n)
{
    struct pairs p;
    for (size_t i = 0; i + 1 < n; i++)
        look_up(m, symbol, &p, i);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (p.rank[i] < p.rank[best])
                best = i;
        if (p.rank[best] == NO_RANK)
            break;
        symbol[best] = p.merged[best];
        drop(symbol, best + 1, n);
        if (best + 2 < n) {
            drop(p.rank, best + 1, n - 1);
            drop(p.merged, best + 1, n - 1);
        }
        n--;
        if (best + 1 < n)
            look_up(m, symbol, &p, best);
        if (best > 0)
            look_up(m, symbol, &p, best - 1);
    }
    return n;
}

static int encode_short(const struct merges *m, const uint8_t *text, size_t n, struct ids *to,
                        struct err *err)
{
    int32_t symbol[SHORT_BYTES];
    const size_t n_symbols = put_symbols(m, text, n, symbol);
    const size_t left = merge_short(m, symbol, n_symbols);
    for (size_t i = 0; i < left; i++)
        TRY(put_ids(m, symbol[i], NULL, to, err));
    return 0;
}

/* --- long chunks: a heap of pairs over a linked list of symbols --- */

struct node {
    int32_t symbol; /* NO_SYMBOL once merged into the left one */
    int32_t prev, next;
};

struct entry {
    int32_t rank, at; /* ordered by these: the leftmost of equals first */
    int32_t left, right;
};

struct agenda {
    const struct merges *m;
    struct node *node; /* [n] */
    struct entry *heap;
    size_t n, n_heap, heap_cap;
    int32_t *split; /* [2V], or NULL where no piece is unused */
};

static inline bool is_before(const struct entry *a, const struct entry *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_up(struct entry *heap, size_t i, struct entry e)
{
    for (; i > 0 && is_before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

static void sift_down(struct entry *heap, size_t n, size_t i, struct entry e)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &e))
            break;
        heap[i] = heap[child];
    }
    heap[i] = e;
}

/* Adds the pair of node `at` and the one after it, where they can merge. */
static int add_pair(struct agenda *a, int32_t at, struct err *err)
{
    if (at < 0 || a->node[at].next < 0)
        return 0;
    const int32_t left = a->node[at].symbol, right = a->node[a->node[at].next].symbol;
    const struct merge *e = merges_find(a->m, left, right);
    if (!e)
        return 0;
    if (a->split && a->m->type[e->merged] == PIECE_UNUSED) {
        a->split[2 * e->merged] = left;
        a->split[2 * e->merged + 1] = right;
    }
    if (a->n_heap == a->heap_cap) {
        const size_t cap = a->heap_cap ? 2 * a->heap_cap : 256;
        struct entry *grown = realloc(a->heap, cap * sizeof *grown);
        if (!grown)
            return err_oom(err, cap * sizeof *grown);
        a->heap = grown;
        a->heap_cap = cap;
    }
    sift_up(a->heap, a->n_heap++, (struct entry){e->rank, at, left, right});
    return 0;
}

static int merge_all(struct agenda *a, struct err *err)
{
    for (size_t i = 0; i + 1 < a->n; i++)
        TRY(add_pair(a, (int32_t)i, err));
    while (a->n_heap > 0) {
        const struct entry top = a->heap[0];
        a->n_heap--;
        sift_down(a->heap, a->n_heap, 0, a->heap[a->n_heap]);
        struct node *left = &a->node[top.at];
        if (left->symbol != top.left || left->next < 0 || a->node[left->next].symbol != top.right)
            continue; /* one of the two has merged otherwise meanwhile */
        struct node *right = &a->node[left->next];
        left->symbol = merges_find(a->m, top.left, top.right)->merged;
        left->next = right->next;
        right->symbol = NO_SYMBOL;
        if (left->next >= 0)
            a->node[left->next].prev = top.at;
        TRY(add_pair(a, left->prev, err));
        TRY(add_pair(a, top.at, err));
    }
    return 0;
}

static int open_agenda(struct agenda *a, const struct merges *m, const uint8_t *text, size_t n,
                       struct err *err)
{
    int32_t *symbol = malloc(n * sizeof *symbol);
    if (!symbol)
        return err_oom(err, n * sizeof *symbol);
    a->m = m;
    a->n = put_symbols(m, text, n, symbol);
    a->node = malloc(a->n * sizeof *a->node);
    for (size_t i = 0; a->node && i < a->n; i++)
        a->node[i] = (struct node){symbol[i], (int32_t)i - 1, i + 1 < a->n ? (int32_t)i + 1 : -1};
    free(symbol);
    if (!a->node)
        return err_oom(err, a->n * sizeof *a->node);
    if (!m->has_unused)
        return 0;
    a->split = malloc(2 * (size_t)m->V * sizeof *a->split);
    if (!a->split)
        return err_oom(err, 2 * (size_t)m->V * sizeof *a->split);
    memset(a->split, 0xFF, 2 * (size_t)m->V * sizeof *a->split);
    return 0;
}

static int encode_long(const struct merges *m, const uint8_t *text, size_t n, struct ids *to,
                       struct err *err)
{
    if (n > INT32_MAX)
        return err_set(err, NULL, "separate the documents with --split",
                       "a text of %zu bytes has no place where it could be cut", n);
    struct agenda a = {0};
    int rc = open_agenda(&a, m, text, n, err);
    if (rc == 0)
        rc = merge_all(&a, err);
    for (int32_t i = 0; rc == 0 && i >= 0; i = a.node[i].next)
        rc = put_ids(m, a.node[i].symbol, a.split, to, err);
    free(a.node);
    free(a.heap);
    free(a.split);
    return rc;
}

int bpe_encode(const struct merges *m, const uint8_t *text, size_t n, struct ids *to,
               struct err *err)
{
    if (n == 0)
        return 0;
    if (n <= SHORT_BYTES && !merges_need_whole_text(m))
        return encode_short(m, text, n, to, err);
    return encode_long(m, text, n, to, err);
}
