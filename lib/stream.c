/* stream: token streams, written and read block by block; see stream.h, hm-stream(5). */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

/* First byte outside ASCII, both line ends and a control-Z: a transfer in text mode spoils it at
 * once. */
static const uint8_t magic[8] = {0x89, 'H', 'M', 'T', '\r', '\n', 0x1a, '\n'};

enum {
    MAX_VOCAB = 1 << 24,
    BLOCK_HEAD = 8, /* u32 ids in the block, u32 zero */
    END_BYTES = 32, /* after the block head with 0 ids: tokens, documents, text bytes, hash */
};

static const char again[] = "make the stream again with tok-encode";

const char *stream_sep_name(enum stream_sep sep)
{
    static const char *const names[] = {"?",     "line",  "paragraph", "nul",
                                        "bytes", "whole", "jsonl",     "csv"};
    return sep >= STREAM_LINE && sep <= STREAM_CSV ? names[sep] : names[0];
}

int stream_header_check(const struct stream_header *h, struct err *err)
{
    if (h->width != 2 && h->width != 4)
        return err_set(err, NULL, again, "token width %d is neither 2 nor 4", h->width);
    if (h->vocab < 1 || h->vocab > MAX_VOCAB)
        return err_set(err, NULL, again, "vocabulary of %d is not within 1..%d", h->vocab,
                       MAX_VOCAB);
    if (h->width == 2 && h->vocab > 65536)
        return err_set(err, NULL, again, "a vocabulary of %d does not fit ids of 2 bytes",
                       h->vocab);
    if (h->eos < 0 || h->eos >= h->vocab)
        return err_set(err, NULL, again, "end-of-document id %d is outside the vocabulary of %d",
                       h->eos, h->vocab);
    if (h->sep < STREAM_LINE || h->sep > STREAM_CSV)
        return err_set(err, NULL, "use the hm that wrote it, or make the stream again",
                       "unknown kind %d of document separator", (int)h->sep);
    if (h->sep_len < 0 || h->sep_len > STREAM_SEP_BYTES)
        return err_set(err, NULL, "use a shorter separator",
                       "separator of %d bytes is longer than %d", h->sep_len, STREAM_SEP_BYTES);
    for (int i = h->sep_len; i < STREAM_SEP_BYTES; i++)
        if (h->sep_bytes[i])
            return err_set(err, NULL, again, "bytes after the separator are not zero");
    return 0;
}

int stream_header_print(const struct stream_header *h, struct buf *to, struct err *err)
{
    TRY(stream_header_check(h, err));
    const size_t start = to->size;
    uint8_t head[STREAM_HEAD_BYTES] = {0}, hash[8];
    memcpy(head, magic, sizeof magic);
    set_u32(head + 8, STREAM_VERSION);
    set_u32(head + 12, (uint32_t)h->width);
    set_u32(head + 16, (uint32_t)h->vocab);
    set_u32(head + 20, (uint32_t)h->eos);
    set_u32(head + 24, (uint32_t)h->sep);
    set_u32(head + 28, (uint32_t)h->sep_len);
    set_u64(head + 32, h->tok_hash);
    memcpy(head + 40, h->sep_bytes, STREAM_SEP_BYTES);
    set_u32(head + 72, h->piece_bytes != NULL);
    TRY(buf_put(to, head, sizeof head, err));
    if (h->piece_bytes)
        TRY(buf_put(to, h->piece_bytes, (size_t)h->vocab, err));
    set_u64(hash, XXH64(to->data + start, to->size - start, 0));
    return buf_put(to, hash, sizeof hash, err);
}

/* The fixed part into *h, without the table. */
static int parse_head(struct stream_header *h, const uint8_t *head, bool *has_table,
                      struct err *err)
{
    if (memcmp(head, magic, sizeof magic) != 0)
        return err_set(err, NULL, "give what tok-encode writes", "is no token stream of hm");
    if (get_u32(head + 8) != STREAM_VERSION)
        return err_set(err, NULL, "use the hm that wrote it, or make the stream again",
                       "has version %u of the token stream, this hm reads version %d",
                       get_u32(head + 8), STREAM_VERSION);
    for (int at = 12; at <= 28; at += 4)
        if (get_u32(head + at) > MAX_VOCAB)
            return err_set(err, NULL, again, "header is damaged: field at byte %d is %u", at,
                           get_u32(head + at));
    *h = (struct stream_header){
        .width = (int)get_u32(head + 12),
        .vocab = (int)get_u32(head + 16),
        .eos = (int)get_u32(head + 20),
        .sep = (enum stream_sep)get_u32(head + 24),
        .sep_len = (int)get_u32(head + 28),
        .tok_hash = get_u64(head + 32),
    };
    memcpy(h->sep_bytes, head + 40, STREAM_SEP_BYTES);
    TRY(stream_header_check(h, err));
    if (get_u32(head + 72) > 1 || get_u32(head + 76) != 0)
        return err_set(err, NULL, "use the hm that wrote it, or make the stream again",
                       "header has flags that this hm does not know");
    *has_table = get_u32(head + 72) == 1;
    return 0;
}

int stream_header_size(const uint8_t *head, size_t *size_bytes, struct err *err)
{
    struct stream_header h;
    bool has_table;
    TRY(parse_head(&h, head, &has_table, err));
    *size_bytes = STREAM_HEAD_BYTES + (has_table ? (size_t)h.vocab : 0) + 8;
    return 0;
}

int stream_header_parse(struct stream_header *h, const uint8_t *bytes, size_t n, struct err *err)
{
    bool has_table;
    *h = (struct stream_header){0};
    if (n < STREAM_HEAD_BYTES + 8)
        return err_set(err, NULL, again, "header is truncated");
    TRY(parse_head(h, bytes, &has_table, err));
    const size_t size = STREAM_HEAD_BYTES + (has_table ? (size_t)h->vocab : 0) + 8;
    if (n != size)
        return err_set(err, NULL, again, "header has %zu bytes instead of %zu", n, size);
    if (XXH64(bytes, size - 8, 0) != get_u64(bytes + size - 8))
        return err_set(err, NULL, again, "header is damaged: its checksum differs");
    if (!has_table)
        return 0;
    h->piece_bytes = malloc((size_t)h->vocab);
    if (!h->piece_bytes)
        return err_oom(err, (size_t)h->vocab);
    memcpy(h->piece_bytes, bytes + STREAM_HEAD_BYTES, (size_t)h->vocab);
    return 0;
}

int stream_header_copy(struct stream_header *to, const struct stream_header *h, struct err *err)
{
    *to = *h;
    if (!h->piece_bytes)
        return 0;
    to->piece_bytes = malloc((size_t)h->vocab);
    if (!to->piece_bytes)
        return err_oom(err, (size_t)h->vocab);
    memcpy(to->piece_bytes, h->piece_bytes, (size_t)h->vocab);
    return 0;
}

void stream_header_free(struct stream_header *h)
{
    free(h->piece_bytes);
    *h = (struct stream_header){0};
}

int stream_count(struct stream_counts *c, const struct stream_header *h, const int32_t *ids,
                 size_t n, struct err *err)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = (uint32_t)ids[i] > max ? (uint32_t)ids[i] : max;
    if (max >= (uint32_t)h->vocab)
        return err_set(err, NULL, again, "id %u is outside the vocabulary of %d", max, h->vocab);
    uint64_t n_eos = 0, n_bytes = 0;
    for (size_t i = 0; i < n; i++)
        n_eos += ids[i] == h->eos;
    if (h->piece_bytes)
        for (size_t i = 0; i < n; i++)
            n_bytes += h->piece_bytes[ids[i]];
    c->n_tokens += n;
    c->n_eos += n_eos;
    c->n_bytes += n_bytes;
    if (n > 0)
        c->is_open = ids[n - 1] != h->eos;
    return 0;
}

void stream_widen(int32_t *to, const uint8_t *bytes, int width, size_t n)
{
    if (width == 2)
        for (size_t i = 0; i < n; i++)
            to[i] = bytes[2 * i] | bytes[2 * i + 1] << 8;
    else
        for (size_t i = 0; i < n; i++)
            to[i] = (int32_t)get_u32(bytes + 4 * i);
}

void stream_narrow(uint8_t *to, const int32_t *ids, int width, size_t n)
{
    if (width == 2)
        for (size_t i = 0; i < n; i++) {
            to[2 * i] = (uint8_t)ids[i];
            to[2 * i + 1] = (uint8_t)(ids[i] >> 8);
        }
    else
        for (size_t i = 0; i < n; i++)
            set_u32(to + 4 * i, (uint32_t)ids[i]);
}

/* --- writing --- */

static int put_bytes(struct stream_writer *w, const uint8_t *bytes, size_t n, struct err *err)
{
    XXH64_update(w->hash, bytes, n);
    return out_write(w->out, bytes, n, err);
}

/* Takes what both ends need: a hash state, ids and bytes of one block. */
static int take_block(XXH64_state_t **hash, int32_t **ids, uint8_t **bytes, struct err *err)
{
    const size_t n_bytes = BLOCK_HEAD + (size_t)STREAM_BLOCK_IDS * 4 + 8;
    *hash = XXH64_createState();
    *ids = malloc(STREAM_BLOCK_IDS * sizeof **ids);
    *bytes = malloc(n_bytes);
    if (!*hash || !*ids || !*bytes)
        return err_oom(err, n_bytes);
    XXH64_reset(*hash, 0);
    return 0;
}

int stream_begin(struct stream_writer *w, const struct stream_header *h, struct out *out,
                 struct err *err)
{
    *w = (struct stream_writer){.out = out};
    TRY(stream_header_copy(&w->h, h, err));
    if (w->h.width == 0)
        w->h.width = h->vocab > 65536 ? 4 : 2;
    TRY(take_block(&w->hash, &w->ids, &w->bytes, err));
    struct buf head = {0};
    int rc = stream_header_print(&w->h, &head, err);
    if (rc == 0)
        rc = put_bytes(w, head.data, head.size, err);
    buf_free(&head);
    return rc;
}

static int flush_block(struct stream_writer *w, struct err *err)
{
    if (w->n == 0)
        return 0;
    if (stream_count(&w->counts, &w->h, w->ids, w->n, err) != 0)
        return err_file(err, w->out->path);
    const size_t body = BLOCK_HEAD + w->n * (size_t)w->h.width;
    set_u32(w->bytes, (uint32_t)w->n);
    set_u32(w->bytes + 4, 0);
    stream_narrow(w->bytes + BLOCK_HEAD, w->ids, w->h.width, w->n);
    set_u64(w->bytes + body, XXH64(w->bytes, body, 0));
    w->n = 0;
    return put_bytes(w, w->bytes, body + 8, err);
}

int stream_put(struct stream_writer *w, const int32_t *ids, size_t n, struct err *err)
{
    while (n > 0) {
        const size_t room = STREAM_BLOCK_IDS - w->n, take = n < room ? n : room;
        memcpy(w->ids + w->n, ids, take * sizeof *ids);
        w->n += take;
        ids += take;
        n -= take;
        if (w->n == STREAM_BLOCK_IDS)
            TRY(flush_block(w, err));
    }
    return 0;
}

int stream_end(struct stream_writer *w, struct err *err)
{
    TRY(flush_block(w, err));
    uint8_t end[BLOCK_HEAD + END_BYTES] = {0};
    set_u64(end + 8, w->counts.n_tokens);
    set_u64(end + 16, stream_docs(&w->counts));
    set_u64(end + 24, w->counts.n_bytes);
    XXH64_update(w->hash, end, sizeof end - 8);
    set_u64(end + 32, XXH64_digest(w->hash));
    return out_write(w->out, end, sizeof end, err);
}

void stream_writer_free(struct stream_writer *w)
{
    stream_header_free(&w->h);
    if (w->hash)
        XXH64_freeState(w->hash);
    free(w->ids);
    free(w->bytes);
    *w = (struct stream_writer){0};
}

/* --- reading --- */

/* Exactly n bytes, hashed. An early end means that the producer never finished. */
static int get_bytes(struct stream_reader *r, uint8_t *to, size_t n, const char *what,
                     struct err *err)
{
    size_t got;
    TRY(in_read(r->in, to, n, &got, err));
    if (got < n)
        return err_set(err, r->in->path,
                       "its producer was stopped before the end: look for its message above, then "
                       "run the pipe again",
                       "token stream ends without an end record, in the %s after %llu tokens", what,
                       (unsigned long long)r->counts.n_tokens);
    XXH64_update(r->hash, to, n);
    return 0;
}

static int read_header(struct stream_reader *r, struct err *err)
{
    uint8_t head[STREAM_HEAD_BYTES];
    size_t got, size;
    TRY(in_read(r->in, head, sizeof head, &got, err));
    if (got == 0)
        return err_set(err, r->in->path,
                       "its producer failed before the first byte: look for its message above",
                       "token stream is empty");
    if (got < sizeof head)
        return err_set(err, r->in->path, "give what tok-encode writes",
                       "is no token stream of hm: it has only %zu bytes", got);
    TRY(stream_header_size(head, &size, err));
    XXH64_update(r->hash, head, sizeof head);
    uint8_t *all = malloc(size);
    if (!all)
        return err_oom(err, size);
    memcpy(all, head, sizeof head);
    int rc = get_bytes(r, all + sizeof head, size - sizeof head, "header", err);
    if (rc == 0)
        rc = stream_header_parse(&r->h, all, size, err);
    free(all);
    return rc;
}

int stream_open(struct stream_reader *r, struct in *in, struct err *err)
{
    *r = (struct stream_reader){.in = in};
    int rc = take_block(&r->hash, &r->ids, &r->bytes, err);
    if (rc == 0)
        rc = read_header(r, err);
    if (rc != 0) {
        stream_close(r);
        return err_file(err, in->path);
    }
    return 0;
}

/* The end record must agree with what was read, and nothing may follow it. */
static int read_end(struct stream_reader *r, struct err *err)
{
    uint8_t end[END_BYTES], more;
    size_t got;
    TRY(get_bytes(r, end, END_BYTES - 8, "end record", err));
    const uint64_t hash = XXH64_digest(r->hash);
    TRY(get_bytes(r, end + END_BYTES - 8, 8, "end record", err));
    if (get_u64(end + 24) != hash)
        return err_set(err, r->in->path, again,
                       "token stream is damaged: the checksum of the whole differs");
    if (get_u64(end) != r->counts.n_tokens || get_u64(end + 8) != stream_docs(&r->counts) ||
        get_u64(end + 16) != r->counts.n_bytes)
        return err_set(err, r->in->path, again,
                       "token stream is damaged: the end record's counts differ");
    TRY(in_read(r->in, &more, 1, &got, err));
    if (got != 0)
        return err_set(err, r->in->path, "give one stream at a time",
                       "bytes follow the token stream's end record");
    r->is_done = true;
    return 0;
}

int stream_next(struct stream_reader *r, const int32_t **ids, size_t *n, struct err *err)
{
    *n = 0;
    if (r->is_done)
        return 0;
    TRY(get_bytes(r, r->bytes, BLOCK_HEAD, "head of a block", err));
    const uint32_t count = get_u32(r->bytes);
    if (count > STREAM_BLOCK_IDS || get_u32(r->bytes + 4) != 0)
        return err_set(err, r->in->path, again,
                       "token stream is damaged: head of a block after %llu tokens",
                       (unsigned long long)r->counts.n_tokens);
    if (count == 0)
        return read_end(r, err);
    const size_t body = BLOCK_HEAD + count * (size_t)r->h.width;
    TRY(get_bytes(r, r->bytes + BLOCK_HEAD, body - BLOCK_HEAD + 8, "block", err));
    if (XXH64(r->bytes, body, 0) != get_u64(r->bytes + body))
        return err_set(err, r->in->path, again,
                       "token stream is damaged: checksum of a block after %llu tokens",
                       (unsigned long long)r->counts.n_tokens);
    stream_widen(r->ids, r->bytes + BLOCK_HEAD, r->h.width, count);
    if (stream_count(&r->counts, &r->h, r->ids, count, err) != 0)
        return err_file(err, r->in->path);
    *ids = r->ids;
    *n = count;
    return 1;
}

void stream_close(struct stream_reader *r)
{
    stream_header_free(&r->h);
    if (r->hash)
        XXH64_freeState(r->hash);
    free(r->ids);
    free(r->bytes);
    *r = (struct stream_reader){0};
}
