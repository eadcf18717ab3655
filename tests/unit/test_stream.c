/* Token streams: exact bytes, round trips, and every truncation and bit flip of a small stream. */
#include "data_test.h"

static uint8_t lengths[70000];

static struct stream_header header(int vocab, int width, bool has_lengths)
{
    struct stream_header h = {.width = width,
                              .vocab = vocab,
                              .eos = 2,
                              .sep = STREAM_BYTES,
                              .sep_bytes = "\n\n",
                              .sep_len = 2,
                              .tok_hash = 0x0123456789ABCDEFull,
                              .piece_bytes = has_lengths ? lengths : NULL};
    return h;
}

/* Reads a whole stream into *to. 0 when everything was right. */
static int read_all(const uint8_t *bytes, size_t n, struct ids *to, struct stream_counts *counts,
                    struct err *err)
{
    struct stream_reader r;
    struct in in;
    const int32_t *ids;
    size_t got;
    *err = (struct err){0};
    if (in_memory(&in, "test", bytes, n, err) != 0 || stream_open(&r, &in, err) != 0) {
        in_close(&in);
        return -1;
    }
    int more;
    while ((more = stream_next(&r, &ids, &got, err)) == 1)
        if (ids_append(to, ids, got, err) != 0)
            abort();
    if (more == 0 && stream_next(&r, &ids, &got, err) != 0)
        more = -1; /* the end must last */
    *counts = r.counts;
    stream_close(&r);
    in_close(&in);
    return more;
}

static void test_bytes(const struct scratch *s)
{
    const struct stream_header h = header(300, 2, false);
    const int32_t ids[3] = {258, 7, 2};
    struct buf b = make_stream(s, &h, ids, 3, 3);
    static const uint8_t head[40] = {0x89, 'H', 'M',  'T',  '\r', '\n', 0x1a, '\n', 1,    0,
                                     0,    0,   2,    0,    0,    0,    44,   1,    0,    0,
                                     2,    0,   0,    0,    4,    0,    0,    0,    2,    0,
                                     0,    0,   0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 1};
    static const uint8_t block[14] = {3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 7, 0, 2, 0};
    static const uint8_t end[24] = {0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
                                    0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    ok(b.size == 80 + 8 + 14 + 8 + 40 && memcmp(b.data, head, 40) == 0 &&
           memcmp(b.data + 40, "\n\n\0", 3) == 0,
       "header's bytes");
    ok(get_u64(b.data + 80) == XXH64(b.data, 80, 0), "header's hash");
    ok(memcmp(b.data + 88, block, 14) == 0 && get_u64(b.data + 102) == XXH64(b.data + 88, 14, 0),
       "block's bytes and hash");
    ok(memcmp(b.data + 110, end, 24) == 0 && get_u64(b.data + 134) == 0 &&
           get_u64(b.data + 142) == XXH64(b.data, 142, 0),
       "end record's bytes and hash");
    buf_free(&b);
}

/* Ids that rise through the vocabulary, a </s> after every 1000th. */
static int32_t *make_ids(size_t n, int vocab)
{
    int32_t *ids = calloc(n + 1, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = i % 1000 == 999 ? 2 : 3 + (int32_t)(i % (size_t)(vocab - 3));
    return ids;
}

static void test_round_trip(const struct scratch *s, int vocab, int width, size_t n, size_t piece,
                            bool has_lengths)
{
    const struct stream_header h = header(vocab, width, has_lengths);
    int32_t *ids = make_ids(n, vocab);
    struct buf b = make_stream(s, &h, ids, n, piece);
    struct ids got = {0};
    struct stream_counts c;
    struct err err;
    uint64_t n_bytes = 0;
    for (size_t i = 0; has_lengths && i < n; i++)
        n_bytes += lengths[ids[i]];
    const int rc = read_all(b.data, b.size, &got, &c, &err);
    ok(rc == 0 && got.n == n && (n == 0 || memcmp(got.data, ids, n * sizeof *ids) == 0),
       "%zu ids of %d, width %d, in pieces of %zu %s", n, vocab, width, piece, err.what);
    ok(c.n_tokens == n && c.n_bytes == n_bytes && stream_docs(&c) == (n + 999) / 1000,
       "its counts");
    ids_free(&got);
    buf_free(&b);
    free(ids);
}

/* Whether a header is refused before any id is read. */
static bool is_header_refused(const uint8_t *bytes, size_t n)
{
    struct stream_reader r;
    struct in in;
    struct err err;
    if (in_memory(&in, "test", bytes, n, &err) != 0)
        abort();
    const bool is_open = stream_open(&r, &in, &err) == 0;
    if (is_open)
        stream_close(&r);
    in_close(&in);
    return !is_open;
}

/* A flip may not pass for another stream, nor may a cut or a longer one; and no wrong id may be
 * given out before the damage is found. */
static void test_damage(const struct scratch *s, bool has_lengths)
{
    const struct stream_header h = header(40, 2, has_lengths);
    int32_t ids[90];
    for (int i = 0; i < 90; i++)
        ids[i] = i % 40;
    struct buf b = make_stream(s, &h, ids, 90, 90);
    const size_t head_bytes = STREAM_HEAD_BYTES + (has_lengths ? 40 : 0) + 8;
    struct ids got = {0};
    struct stream_counts c;
    struct err err;
    int n_missed = 0, n_mute = 0;
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        got.n = 0;
        n_missed += read_all(b.data, b.size, &got, &c, &err) == 0;
        n_missed += got.n > 0 && memcmp(got.data, ids, got.n * sizeof *ids) != 0;
        n_missed += bit / 8 < head_bytes && !is_header_refused(b.data, b.size);
        n_mute += !err.file[0] || !err.what[0] || !err.mend[0];
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ok(n_missed == 0 && n_mute == 0, "%zu bit flips: %d missed, %d without file, what and mend",
       b.size * 8, n_missed, n_mute);
    n_missed = 0;
    for (size_t n = 0; n < b.size; n++)
        n_missed += read_all(b.data, n, &got, &c, &err) == 0;
    ok(n_missed == 0, "%zu truncations: %d missed", b.size, n_missed);
    if (buf_put(&b, "", 1, &err) != 0)
        abort();
    ok(read_all(b.data, b.size, &got, &c, &err) == -1 && strstr(err.what, "follow"),
       "a byte too many: %s", err.what);
    ids_free(&got);
    buf_free(&b);
}

/* Changes a field of the header, makes its hash right again, and wants this said. */
static void want_refusal(const struct scratch *s, int at, uint32_t value, const char *what)
{
    const struct stream_header h = header(40, 2, false);
    const int32_t id = 2;
    struct buf b = make_stream(s, &h, &id, 1, 1);
    struct ids got = {0};
    struct stream_counts c;
    struct err err;
    set_u32(b.data + at, value);
    set_u64(b.data + 80, XXH64(b.data, 80, 0));
    ok(read_all(b.data, b.size, &got, &c, &err) == -1 && strstr(err.what, what) && err.mend[0],
       "field at %d = %u: %s", at, value, err.what);
    ids_free(&got);
    buf_free(&b);
}

static void test_messages(const struct scratch *s)
{
    want_refusal(s, 8, 2, "version 2");
    want_refusal(s, 12, 3, "width 3");
    want_refusal(s, 16, 0, "vocabulary of 0");
    want_refusal(s, 16, 70000, "does not fit");
    want_refusal(s, 20, 40, "end-of-document id 40");
    want_refusal(s, 24, 9, "separator");
    want_refusal(s, 28, 33, "longer than 32");
    want_refusal(s, 28, 1, "not zero");
    want_refusal(s, 72, 2, "flags");
    want_refusal(s, 76, 1, "flags");

    struct ids got = {0};
    struct stream_counts c;
    struct err err;
    ok(read_all((const uint8_t *)"", 0, &got, &c, &err) == -1 && strstr(err.what, "empty"),
       "no bytes: %s", err.what);
    ok(read_all((const uint8_t *)"hello\n", 6, &got, &c, &err) == -1 &&
           strstr(err.what, "no token stream"),
       "text: %s", err.what);
    const struct stream_header h = header(40, 2, false);
    const int32_t ids[2] = {39, 2};
    struct buf b = make_stream(s, &h, ids, 2, 2);
    ok(read_all(b.data, b.size - 40, &got, &c, &err) == -1 &&
           strstr(err.what, "without an end record"),
       "killed producer: %s", err.what);
    buf_free(&b);
    ids_free(&got);
}

/* An end record whose counts are wrong under a right hash, as a wrong writer would make it. */
static void test_end_counts(const struct scratch *s)
{
    const struct stream_header h = header(40, 2, true);
    const int32_t ids[3] = {39, 2, 7};
    for (size_t field = 8; field <= 24; field += 8) {
        struct buf b = make_stream(s, &h, ids, 3, 3);
        struct ids got = {0};
        struct stream_counts c;
        struct err err;
        b.data[b.size - 40 + field]++;
        set_u64(b.data + b.size - 8, XXH64(b.data, b.size - 8, 0));
        ok(read_all(b.data, b.size, &got, &c, &err) == -1 && strstr(err.what, "counts"),
           "end record, count at %zu: %s", field, err.what);
        ids_free(&got);
        buf_free(&b);
    }
}

static void test_writer_refuses(const struct scratch *s)
{
    struct stream_header h = header(40, 0, false);
    struct stream_writer w;
    struct out out;
    struct err err = {0};
    const int32_t high = 40, low = -1;
    if (out_open(&out, scratch_path(s, "refused"), &err) != 0)
        abort();
    ok(stream_begin(&w, &h, &out, &err) == 0 && w.h.width == 2, "width 0: 2 bytes serve 40 ids");
    ok(stream_put(&w, &high, 1, &err) == 0 && stream_end(&w, &err) == -1, "id 40 of 40: %s",
       err.what);
    stream_writer_free(&w);
    ok(stream_begin(&w, &h, &out, &err) == 0 && stream_put(&w, &low, 1, &err) == 0 &&
           stream_end(&w, &err) == -1,
       "id -1: %s", err.what);
    stream_writer_free(&w);
    h.vocab = 65537;
    ok(stream_begin(&w, &h, &out, &err) == 0 && w.h.width == 4, "width 0: 65537 ids need 4");
    stream_writer_free(&w);
    h.width = 2;
    ok(stream_begin(&w, &h, &out, &err) == -1, "65537 ids in 2 bytes: %s", err.what);
    stream_writer_free(&w);
    out_abort(&out);
}

int main(void)
{
    const struct scratch s = scratch_open();
    for (int i = 0; i < 70000; i++)
        lengths[i] = (uint8_t)(i % 17);
    test_bytes(&s);
    test_round_trip(&s, 40, 2, 0, 1, true);
    test_round_trip(&s, 40, 2, 1, 1, true);
    test_round_trip(&s, 40, 4, 5000, 7, false);
    test_round_trip(&s, 65536, 2, 65536, 65536, true);
    test_round_trip(&s, 65536, 2, 65537, 1000, true);
    test_round_trip(&s, 70000, 4, 200000, 99999, true);
    test_damage(&s, false);
    test_damage(&s, true);
    test_messages(&s);
    test_end_counts(&s);
    test_writer_refuses(&s);
    ok(scratch_count(&s) == 0, "nothing is left behind");
    scratch_remove(&s);
    return tap_done();
}
