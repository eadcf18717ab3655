/* merges: builds the tables of merges.h. Every piece of c characters can come from c-1 pairs; those
 * whose halves are symbols themselves are the merges. */
#include "merges.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

bool merges_can_match(const struct piece *p)
{
    if (p->type != PIECE_NORMAL && p->type != PIECE_USER && p->type != PIECE_UNUSED)
        return false;
    uint32_t code;
    for (size_t i = 0, len; i < p->n; i += len) {
        len = utf8_char(p->text + i, p->n - i, &code);
        if (len == 0 || code == ' ')
            return false;
    }
    return true;
}

static int find_bytes(struct merges *m, const struct vocab *v, struct err *err)
{
    memset(m->byte_id, 0xFF, sizeof m->byte_id);
    for (int i = 0; i < v->V; i++) {
        if (v->pieces[i].type != PIECE_BYTE)
            continue;
        const int byte = vocab_byte(&v->pieces[i]);
        if (byte < 0 || m->byte_id[byte] >= 0)
            return err_set(err, NULL, NULL, "byte piece %d of the model is wrong", i);
        m->byte_id[byte] = i;
    }
    for (int b = 0; b < 256; b++)
        if (m->byte_id[b] < 0)
            return err_set(err, NULL, "train one with tok-train", "has no piece for byte 0x%02X",
                           (unsigned)b);
    return 0;
}

/* Appends a piece's text as it stands in texts: U+2581 becomes a space. */
static int put_text(struct buf *to, const struct piece *p, struct err *err)
{
    TRY(buf_reserve(to, p->n, err));
    for (size_t i = 0; i < p->n;) {
        const bool is_space = p->n - i >= 3 && memcmp(p->text + i, "\xE2\x96\x81", 3) == 0;
        to->data[to->size++] = is_space ? ' ' : p->text[i];
        i += is_space ? 3 : 1;
    }
    return 0;
}

/* The texts of all pieces; control and unknown pieces stand for no bytes, byte pieces for one. */
static int make_texts(struct merges *m, const struct vocab *v, struct buf *texts, struct err *err)
{
    m->V = m->n_symbols = v->V;
    m->text_begin = malloc(((size_t)v->V + 1) * sizeof *m->text_begin);
    if (!m->text_begin)
        return err_oom(err, ((size_t)v->V + 1) * sizeof *m->text_begin);
    for (int i = 0; i < v->V; i++) {
        const struct piece *p = &v->pieces[i];
        m->text_begin[i] = (uint32_t)texts->size;
        if (p->type == PIECE_BYTE) {
            const uint8_t byte = (uint8_t)vocab_byte(p);
            TRY(buf_put(texts, &byte, 1, err));
        } else if (p->type != PIECE_CONTROL && p->type != PIECE_UNKNOWN) {
            TRY(put_text(texts, p, err));
        }
    }
    m->text_begin[v->V] = (uint32_t)texts->size;
    return 0;
}

/* The slot that holds this text, or the empty one where it would go. */
static size_t find_slot(const struct merges *m, const uint8_t *text, size_t n)
{
    for (size_t i = XXH3_64bits(text, n) & m->slot_mask;; i = (i + 1) & m->slot_mask) {
        size_t len;
        if (m->slots[i] == NO_SYMBOL)
            return i;
        const uint8_t *other = merges_text(m, m->slots[i], &len);
        if (len == n && memcmp(other, text, n) == 0)
            return i;
    }
}

static int make_slots(struct merges *m, const struct vocab *v, size_t n_chars, struct err *err)
{
    size_t size = 1024;
    while (size < 2 * ((size_t)v->V + n_chars))
        size *= 2;
    m->slots = malloc(size * sizeof *m->slots);
    if (!m->slots)
        return err_oom(err, size * sizeof *m->slots);
    memset(m->slots, 0xFF, size * sizeof *m->slots);
    m->slot_mask = size - 1;
    for (int i = 0; i < v->V; i++) {
        if (!merges_can_match(&v->pieces[i]))
            continue;
        size_t n;
        const uint8_t *text = merges_text(m, i, &n);
        const size_t slot = find_slot(m, text, n);
        if (m->slots[slot] != NO_SYMBOL)
            return err_set(err, NULL, NULL, "pieces %d and %d of the model are the same",
                           (int)m->slots[slot], i);
        m->slots[slot] = i;
    }
    return 0;
}

/* Marks which bytes follow each other inside pieces: text can be cut everywhere else. */
static void mark_joins(struct merges *m, const uint8_t *text, size_t n)
{
    for (size_t i = 1; i < n; i++)
        m->joins[text[i - 1]][text[i] >> 3] |= (uint8_t)(1 << (text[i] & 7));
}

/* The place of a character in the page table, a new page being made where needed. NULL: no memory.
 */
static int32_t *char_place(struct merges *m, uint32_t code, size_t *n_pages)
{
    uint16_t *page = &m->page[code >> 8];
    if (*page == 0) {
        int32_t *grown = realloc(m->pages, (*n_pages + 1) * 256 * sizeof *grown);
        if (!grown)
            return NULL;
        m->pages = grown;
        memset(grown + *n_pages * 256, 0xFF, 256 * sizeof *grown);
        *page = (uint16_t)(*n_pages)++;
    }
    return &m->pages[(size_t)*page << 8 | (code & 0xFF)];
}

/* Gives every character of a piece its symbol, and a new one where it is no piece itself. The text
 * of a new symbol goes to the end of *texts, of which m->text is the current address. */
static int add_chars(struct merges *m, int32_t id, struct buf *texts, size_t *n_pages,
                     struct err *err)
{
    const size_t begin = m->text_begin[id], end = m->text_begin[id + 1];
    for (size_t i = begin, len; i < end; i += len) {
        uint32_t code = 0;
        len = utf8_char(texts->data + i, end - i, &code);
        int32_t *place = char_place(m, code, n_pages);
        if (!place)
            return err_oom(err, 256 * sizeof *place);
        if (*place != NO_SYMBOL)
            continue;
        const size_t slot = find_slot(m, texts->data + i, len);
        if (m->slots[slot] == NO_SYMBOL) {
            TRY(buf_reserve(texts, len, err));
            m->text = texts->data;
            TRY(buf_put(texts, texts->data + i, len, err));
            m->slots[slot] = m->n_symbols++;
            m->text_begin[m->n_symbols] = (uint32_t)texts->size;
        }
        *place = m->slots[slot];
    }
    return 0;
}

static size_t count_chars(const struct vocab *v)
{
    size_t n = 0;
    for (int i = 0; i < v->V; i++)
        if (merges_can_match(&v->pieces[i]))
            n += v->pieces[i].n;
    return n < 0x110000 ? n : 0x110000;
}

static int make_chars(struct merges *m, const struct vocab *v, struct buf *texts, size_t n_chars,
                      struct err *err)
{
    size_t n_pages = 1;
    const size_t n_begin = (size_t)v->V + n_chars + 1;
    uint32_t *grown = realloc(m->text_begin, n_begin * sizeof *grown);
    m->pages = malloc(256 * sizeof *m->pages);
    if (grown)
        m->text_begin = grown;
    if (!grown || !m->pages)
        return err_oom(err, n_begin * sizeof *grown);
    memset(m->pages, 0xFF, 256 * sizeof *m->pages);
    for (int i = 0; i < v->V; i++) {
        if (!merges_can_match(&v->pieces[i]))
            continue;
        size_t n;
        const uint8_t *text = merges_text(m, i, &n);
        mark_joins(m, text, n);
        TRY(add_chars(m, i, texts, &n_pages, err));
    }
    return 0;
}

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* rank[id], 0 for the best score; equal scores share one. */
static int make_ranks(const struct vocab *v, int32_t *rank, struct err *err)
{
    struct scored *order = malloc((size_t)v->V * sizeof *order);
    if (!order)
        return err_oom(err, (size_t)v->V * sizeof *order);
    for (int i = 0; i < v->V; i++)
        order[i] = (struct scored){v->pieces[i].score, i};
    qsort(order, (size_t)v->V, sizeof *order, by_score);
    for (int i = 0, r = 0; i < v->V; i++) {
        if (i > 0 && order[i].score != order[i - 1].score)
            r = i;
        rank[order[i].id] = r;
    }
    free(order);
    return 0;
}

/* Calls for each pair of symbols that makes this piece; *n_merges counts them, and they go into the
 * table where there is one. */
static void split_piece(struct merges *m, int32_t id, int32_t rank, size_t *n_merges)
{
    size_t n;
    uint32_t code = 0;
    const uint8_t *text = merges_text(m, id, &n);
    for (size_t i = utf8_char(text, n, &code); i < n; i += utf8_char(text + i, n - i, &code)) {
        const int32_t left = m->slots[find_slot(m, text, i)];
        if (left == NO_SYMBOL)
            continue;
        const int32_t right = m->slots[find_slot(m, text + i, n - i)];
        if (right == NO_SYMBOL)
            continue;
        ++*n_merges;
        if (!m->table)
            continue;
        const uint64_t mask = UINT64_MAX >> m->table_shift;
        uint64_t slot = merges_slot(left, right, m->table_shift);
        while (m->table[slot].left != NO_SYMBOL)
            slot = (slot + 1) & mask;
        m->table[slot] = (struct merge){left, right, id, rank};
    }
}

static int make_table(struct merges *m, const struct vocab *v, const int32_t *rank, struct err *err)
{
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        size_t n_merges = 0;
        for (int i = 0; i < v->V; i++)
            if (merges_can_match(&v->pieces[i]))
                split_piece(m, i, rank[i], &n_merges);
        if (pass == 1)
            break;
        m->table_shift = 64 - 10;
        while (1ull << (64 - m->table_shift) < 2 * n_merges + 1)
            m->table_shift--;
        const size_t size = 1ull << (64 - m->table_shift);
        m->table = malloc(size * sizeof *m->table);
        if (!m->table)
            return err_oom(err, size * sizeof *m->table);
        memset(m->table, 0xFF, size * sizeof *m->table);
    }
    return 0;
}

/* Notes what is special: user-defined pieces by length and first byte, and whether any is unused.
 */
static int make_types(struct merges *m, const struct vocab *v, struct err *err)
{
    bool has_size[PIECE_MAX_BYTES + 1] = {false};
    m->type = malloc((size_t)v->V);
    if (!m->type)
        return err_oom(err, (size_t)v->V);
    for (int i = 0; i < v->V; i++) {
        m->type[i] = (uint8_t)v->pieces[i].type;
        m->has_unused |= v->pieces[i].type == PIECE_UNUSED;
        if (v->pieces[i].type != PIECE_USER || !merges_can_match(&v->pieces[i]))
            continue;
        size_t n;
        const uint8_t *text = merges_text(m, i, &n);
        m->n_user_sizes += !has_size[n];
        has_size[n] = true;
        m->user_first[text[0]] = true;
    }
    if (m->n_user_sizes == 0)
        return 0;
    m->user_sizes = malloc((size_t)m->n_user_sizes * sizeof *m->user_sizes);
    if (!m->user_sizes)
        return err_oom(err, (size_t)m->n_user_sizes * sizeof *m->user_sizes);
    for (int size = PIECE_MAX_BYTES, n = 0; size > 0; size--)
        if (has_size[size])
            m->user_sizes[n++] = (uint16_t)size;
    return 0;
}

int32_t merges_user(const struct merges *m, const uint8_t *text, size_t n)
{
    if (n == 0 || !m->user_first[text[0]])
        return NO_SYMBOL;
    for (int i = 0; i < m->n_user_sizes; i++) {
        if (m->user_sizes[i] > n)
            continue;
        const int32_t id = m->slots[find_slot(m, text, m->user_sizes[i])];
        if (id != NO_SYMBOL && id < m->V && m->type[id] == PIECE_USER)
            return id;
    }
    return NO_SYMBOL;
}

static int build(struct merges *m, const struct vocab *v, struct buf *texts, struct err *err)
{
    const size_t n_chars = count_chars(v);
    TRY(find_bytes(m, v, err));
    TRY(make_texts(m, v, texts, err));
    TRY(buf_reserve(texts, 4, err)); /* data is not NULL from here on */
    m->text = texts->data;
    TRY(make_slots(m, v, n_chars, err));
    TRY(make_chars(m, v, texts, n_chars, err));
    m->text = texts->data;
    TRY(make_types(m, v, err));
    int32_t *rank = malloc((size_t)v->V * sizeof *rank);
    if (!rank)
        return err_oom(err, (size_t)v->V * sizeof *rank);
    int rc = make_ranks(v, rank, err);
    if (rc == 0)
        rc = make_table(m, v, rank, err);
    free(rank);
    return rc;
}

int merges_build(struct merges *m, const struct vocab *v, struct err *err)
{
    struct buf texts = {0};
    *m = (struct merges){0};
    const int rc = build(m, v, &texts, err);
    m->text = texts.data; /* now owned by m */
    if (rc != 0)
        merges_free(m);
    return rc;
}

void merges_free(struct merges *m)
{
    free(m->text);
    free(m->text_begin);
    free(m->slots);
    free(m->table);
    free(m->pages);
    free(m->type);
    free(m->user_sizes);
    *m = (struct merges){0};
}
