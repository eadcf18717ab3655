/* words: a hash table of words over blocks of text; see words.h. */
#include "words.h"

#include "utf8.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BLOCK_BYTES = 1 << 20, FIRST_SLOTS = 1 << 16 };

int words_init(struct words *w, size_t max, bool has_space_runs, struct err *err)
{
    *w = (struct words){.max = max, .has_space_runs = has_space_runs, .slot_mask = FIRST_SLOTS - 1};
    w->slots = calloc(FIRST_SLOTS, sizeof *w->slots);
    return w->slots ? 0 : err_oom(err, FIRST_SLOTS * sizeof *w->slots);
}

void words_free(struct words *w)
{
    for (size_t i = 0; i < w->n_blocks; i++)
        free(w->blocks[i]);
    free(w->blocks);
    free(w->slots);
    free(w->list);
    *w = (struct words){0};
}

static int grow_slots(struct words *w, struct err *err)
{
    const size_t size = 2 * (w->slot_mask + 1);
    uint32_t *grown = calloc(size, sizeof *grown);
    if (!grown)
        return err_oom(err, size * sizeof *grown);
    free(w->slots);
    w->slots = grown;
    w->slot_mask = size - 1;
    for (size_t i = 0; i < w->n; i++) {
        size_t s = XXH3_64bits(w->list[i].text, w->list[i].n) & w->slot_mask;
        while (w->slots[s])
            s = (s + 1) & w->slot_mask;
        w->slots[s] = (uint32_t)i + 1;
    }
    return 0;
}

/* Copies a word to where it will stay. */
static int keep_text(struct words *w, const uint8_t *text, size_t n, const uint8_t **kept,
                     struct err *err)
{
    if (w->n_blocks == 0 || BLOCK_BYTES - w->block_used < n) {
        uint8_t **grown = realloc(w->blocks, (w->n_blocks + 1) * sizeof *grown);
        if (!grown)
            return err_oom(err, (w->n_blocks + 1) * sizeof *grown);
        w->blocks = grown;
        grown[w->n_blocks] = malloc(BLOCK_BYTES);
        if (!grown[w->n_blocks])
            return err_oom(err, BLOCK_BYTES);
        w->n_blocks++;
        w->block_used = 0;
    }
    uint8_t *to = w->blocks[w->n_blocks - 1] + w->block_used;
    memcpy(to, text, n);
    w->block_used += n;
    *kept = to;
    return 0;
}

static int add_new(struct words *w, const uint8_t *text, size_t n, size_t slot, struct err *err)
{
    if (w->n == w->max)
        return err_set(err, NULL,
                       "raise --max-words (about 1 KiB of memory a word), or train on a part of "
                       "the text with --sample",
                       "there are more than %zu different words", w->max);
    if (w->n == w->cap) {
        const size_t cap = w->cap ? 2 * w->cap : 4096;
        struct spm_word *grown = realloc(w->list, cap * sizeof *grown);
        if (!grown)
            return err_oom(err, cap * sizeof *grown);
        w->list = grown;
        w->cap = cap;
    }
    struct spm_word *word = &w->list[w->n];
    *word = (struct spm_word){.n = n, .count = 1};
    TRY(keep_text(w, text, n, &word->text, err));
    w->slots[slot] = (uint32_t)++w->n;
    return 2 * w->n > w->slot_mask ? grow_slots(w, err) : 0;
}

static int count(struct words *w, const uint8_t *text, size_t n, struct err *err)
{
    w->n_words++;
    for (size_t s = XXH3_64bits(text, n) & w->slot_mask;; s = (s + 1) & w->slot_mask) {
        if (!w->slots[s])
            return add_new(w, text, n, s, err);
        struct spm_word *word = &w->list[w->slots[s] - 1];
        if (word->n == n && memcmp(word->text, text, n) == 0) {
            word->count++;
            return 0;
        }
    }
}

/* The bytes of the character at p that can be in a word, 0 where it cannot. */
static inline size_t word_char(const uint8_t *p, size_t n)
{
    uint32_t code = 0;
    if (p[0] < 0x80)
        return p[0] != '\0' && p[0] != '\t';
    const size_t len = utf8_char(p, n, &code);
    return code == 0x2581 || code == 0x2585 ? 0 : len;
}

/* The end of the word that begins at `begin`, which is behind it unless no word can begin there. */
static size_t word_end(const struct words *w, const uint8_t *text, size_t begin, size_t n)
{
    size_t end = begin;
    while (end < n) {
        const bool is_space = text[end] == ' ' && end > begin;
        if (is_space && !(w->has_space_runs && text[end - 1] == ' '))
            break;
        const size_t len = word_char(text + end, n - end);
        if (len == 0 || end + len - begin > SPM_WORD_BYTES)
            break;
        end += len;
    }
    return end;
}

int words_add(struct words *w, const void *text, size_t n, struct err *err)
{
    const uint8_t *p = text;
    w->n_bytes += n;
    for (size_t begin = 0; begin < n;) {
        const size_t end = word_end(w, p, begin, n);
        if (end > begin)
            TRY(count(w, p + begin, end - begin, err));
        begin = end > begin ? end : begin + 1;
    }
    return 0;
}
