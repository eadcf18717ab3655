/* tokmodel: writes tokenizer models piece by piece (protobuf, see lib/vocab.c), so that tests have
 * models that nobody would train. */
#ifndef HM_TOKMODEL_H
#define HM_TOKMODEL_H

#include "vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_all(struct buf *to, const void *bytes, size_t n)
{
    struct err err;
    if (buf_put(to, bytes, n, &err) != 0)
        abort();
}

static void put_byte(struct buf *to, unsigned b)
{
    put_all(to, &(uint8_t){(uint8_t)b}, 1);
}

static void put_message(struct buf *to, unsigned number, const struct buf *content)
{
    put_byte(to, number << 3 | 2);
    put_byte(to, 0x80 | ((unsigned)content->size & 0x7F));
    put_byte(to, (unsigned)(content->size >> 7));
    put_all(to, content->data, content->size);
}

static void put_piece(struct buf *to, const char *text, float score, enum piece_type type)
{
    struct buf piece = {0};
    put_byte(&piece, 1 << 3 | 2);
    put_byte(&piece, (unsigned)strlen(text));
    put_all(&piece, text, strlen(text));
    put_byte(&piece, 2 << 3 | 5);
    put_all(&piece, &score, 4);
    put_byte(&piece, 3 << 3);
    put_byte(&piece, type);
    put_message(to, 1, &piece);
    buf_free(&piece);
}

struct model_settings {
    int model_type, byte_fallback, dummy_prefix, remove_spaces, escape_spaces;
    const char *rules;
};

static const struct model_settings GOOD = {2, 1, 0, 0, 1, ""};

static void put_settings(struct buf *to, const struct model_settings *s)
{
    struct buf trainer = {0}, normalizer = {0};
    const uint8_t t[] = {3 << 3, (uint8_t)s->model_type, (35 << 3 & 0x7F) | 0x80, 35 << 3 >> 7,
                         (uint8_t)s->byte_fallback};
    put_all(&trainer, t, sizeof t);
    put_message(to, 2, &trainer);
    const uint8_t n[] = {3 << 3, (uint8_t)s->dummy_prefix,  4 << 3,     (uint8_t)s->remove_spaces,
                         5 << 3, (uint8_t)s->escape_spaces, 2 << 3 | 2, (uint8_t)strlen(s->rules)};
    put_all(&normalizer, n, sizeof n);
    put_all(&normalizer, s->rules, strlen(s->rules));
    put_message(to, 3, &normalizer);
    buf_free(&trainer);
    buf_free(&normalizer);
}

static void put_specials(struct buf *to)
{
    put_piece(to, "<unk>", 0, PIECE_UNKNOWN);
    put_piece(to, "<s>", 0, PIECE_CONTROL);
    put_piece(to, "</s>", 0, PIECE_CONTROL);
    put_piece(to, "<pad>", 0, PIECE_CONTROL);
    for (unsigned b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        put_piece(to, text, 0, PIECE_BYTE);
    }
}

#endif
