/* vocab: a bounded reader of the protobuf message that a SentencePiece model is; see vocab.h.
 *
 * Wire form: fields of (key, value), key = number << 3 | kind; kinds: 0 varint, 1 eight bytes,
 * 2 length and bytes, 5 four bytes. Unknown fields are skipped, a later value replaces an earlier
 * one. */
#include "vocab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_EIGHT = 1, WIRE_BYTES = 2, WIRE_FOUR = 5 };

/* Numbers of the fields that are read, from sentencepiece_model.proto. */
enum {
    MODEL_PIECE = 1,
    MODEL_TRAINER = 2,
    MODEL_NORMALIZER = 3,
    MODEL_DENORMALIZER = 5,
    PIECE_TEXT = 1,
    PIECE_SCORE = 2,
    PIECE_KIND = 3,
    TRAINER_TYPE = 3,
    TRAINER_BYTE_FALLBACK = 35,
    NORMALIZER_RULES = 2,
    NORMALIZER_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_SPACES = 4,
    NORMALIZER_ESCAPE_SPACES = 5,
};

struct wire {
    const uint8_t *at, *end;
};

struct field {
    uint64_t number;
    int kind;
    uint64_t value;      /* varint, or the bits of four or eight bytes */
    struct wire content; /* of WIRE_BYTES */
};

static int broken(struct err *err)
{
    return err_set(err, NULL, "give a model made by tok-train or spm_train",
                   "is no SentencePiece model, or is damaged");
}

static int get_varint(struct wire *w, uint64_t *v, struct err *err)
{
    *v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end)
            return broken(err);
        const uint8_t b = *w->at++;
        *v |= (uint64_t)(b & 0x7F) << shift;
        if (b < 0x80)
            return 0;
    }
    return broken(err);
}

static int get_fixed(struct wire *w, int n, uint64_t *v, struct err *err)
{
    if (w->end - w->at < n)
        return broken(err);
    *v = 0;
    for (int i = 0; i < n; i++)
        *v |= (uint64_t)*w->at++ << 8 * i;
    return 0;
}

/* The next field of a message: 1, 0 at its end, -1. */
static int next_field(struct wire *w, struct field *f, struct err *err)
{
    if (w->at == w->end)
        return 0;
    uint64_t key;
    TRY(get_varint(w, &key, err));
    *f = (struct field){.number = key >> 3, .kind = (int)(key & 7)};
    switch (f->kind) {
    case WIRE_VARINT:
        TRY(get_varint(w, &f->value, err));
        return 1;
    case WIRE_EIGHT:
        TRY(get_fixed(w, 8, &f->value, err));
        return 1;
    case WIRE_FOUR:
        TRY(get_fixed(w, 4, &f->value, err));
        return 1;
    case WIRE_BYTES:
        TRY(get_varint(w, &f->value, err));
        if (f->value > (uint64_t)(w->end - w->at))
            return broken(err);
        f->content = (struct wire){w->at, w->at + f->value};
        w->at += f->value;
        return 1;
    default:
        return broken(err);
    }
}

static int add_piece(struct vocab *v, const struct piece *p, struct err *err)
{
    if (p->n == 0)
        return err_set(err, NULL, NULL, "piece %d of the model is empty", v->V);
    if (p->n > PIECE_MAX_BYTES)
        return err_set(err, NULL, "train with a smaller --max_sentencepiece_length",
                       "piece %d of the model is longer than %d bytes", v->V, PIECE_MAX_BYTES);
    if (v->V == VOCAB_MAX)
        return err_set(err, NULL, NULL, "the model has more than %d pieces", VOCAB_MAX);
    if (v->V == v->cap) {
        const int cap = v->cap ? 2 * v->cap : 4096;
        struct piece *grown = realloc(v->pieces, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_oom(err, (size_t)cap * sizeof *grown);
        v->pieces = grown;
        v->cap = cap;
    }
    v->pieces[v->V++] = *p;
    return 0;
}

static int read_piece(struct vocab *v, struct wire w, struct err *err)
{
    struct piece p = {.type = PIECE_NORMAL};
    struct field f;
    int more;
    while ((more = next_field(&w, &f, err)) == 1) {
        if (f.number == PIECE_TEXT && f.kind == WIRE_BYTES) {
            p.text = f.content.at;
            p.n = f.value > PIECE_MAX_BYTES ? PIECE_MAX_BYTES + 1 : (uint32_t)f.value;
        } else if (f.number == PIECE_SCORE && f.kind == WIRE_FOUR) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&p.score, &bits, sizeof bits);
            if (!isfinite(p.score))
                return err_set(err, NULL, NULL, "the score of piece %d is not finite", v->V);
        } else if (f.number == PIECE_KIND && f.kind == WIRE_VARINT) {
            if (f.value < PIECE_NORMAL || f.value > PIECE_BYTE)
                return broken(err);
            p.type = (enum piece_type)f.value;
        }
    }
    TRY(more);
    return add_piece(v, &p, err);
}

static int read_trainer(struct vocab *v, struct wire w, struct err *err)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f, err)) == 1) {
        if (f.kind != WIRE_VARINT)
            continue;
        if (f.number == TRAINER_TYPE)
            v->model_type = f.value <= 4 ? (int)f.value : 0;
        else if (f.number == TRAINER_BYTE_FALLBACK)
            v->has_byte_fallback = f.value != 0;
    }
    return more;
}

static int read_normalizer(struct vocab *v, struct wire w, struct err *err)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f, err)) == 1) {
        if (f.number == NORMALIZER_RULES && f.kind == WIRE_BYTES)
            v->has_rules |= f.value > 0;
        if (f.kind != WIRE_VARINT)
            continue;
        if (f.number == NORMALIZER_DUMMY_PREFIX)
            v->has_dummy_prefix = f.value != 0;
        else if (f.number == NORMALIZER_REMOVE_SPACES)
            v->removes_spaces = f.value != 0;
        else if (f.number == NORMALIZER_ESCAPE_SPACES)
            v->escapes_spaces = f.value != 0;
    }
    return more;
}

/* The settings of the denormalizer count for nothing where it has no rules. */
static int read_denormalizer(struct vocab *v, struct wire w, struct err *err)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f, err)) == 1)
        if (f.number == NORMALIZER_RULES && f.kind == WIRE_BYTES)
            v->has_rules |= f.value > 0;
    return more;
}

static int read_model(struct vocab *v, struct wire w, struct err *err)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f, err)) == 1) {
        if (f.kind != WIRE_BYTES)
            continue;
        if (f.number == MODEL_PIECE)
            TRY(read_piece(v, f.content, err));
        else if (f.number == MODEL_TRAINER)
            TRY(read_trainer(v, f.content, err));
        else if (f.number == MODEL_NORMALIZER)
            TRY(read_normalizer(v, f.content, err));
        else if (f.number == MODEL_DENORMALIZER)
            TRY(read_denormalizer(v, f.content, err));
    }
    TRY(more);
    return v->V > 0 ? 0 : broken(err);
}

int vocab_read(struct vocab *v, const void *bytes, size_t n, struct err *err)
{
    /* The defaults of the message's definition. */
    *v = (struct vocab){
        .model_type = 1, .has_dummy_prefix = true, .removes_spaces = true, .escapes_spaces = true};
    if (n == 0)
        return broken(err);
    const struct wire w = {bytes, (const uint8_t *)bytes + n};
    if (read_model(v, w, err) == 0)
        return 0;
    vocab_free(v);
    return -1;
}

void vocab_free(struct vocab *v)
{
    free(v->pieces);
    *v = (struct vocab){0};
}

static int hex(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int vocab_byte(const struct piece *p)
{
    if (p->n != 6 || memcmp(p->text, "<0x", 3) != 0 || p->text[5] != '>')
        return -1;
    const int high = hex(p->text[3]), low = hex(p->text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}
