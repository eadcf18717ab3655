/* Shards: round trips by file and by pipe, what zstd makes of them, and every truncation and bit
 * flip of a small one. */
#include "data_test.h"

#include <fcntl.h>
#include <zstd.h>

static uint8_t lengths[70000];

static struct stream_header header(int vocab, int width, bool has_lengths)
{
    return (struct stream_header){.width = width,
                                  .vocab = vocab,
                                  .eos = 2,
                                  .sep = STREAM_LINE,
                                  .sep_bytes = "\n",
                                  .sep_len = 1,
                                  .tok_hash = 99,
                                  .piece_bytes = has_lengths ? lengths : NULL};
}

/* Reads all frames of an open shard. 0 when everything was right. */
static int read_frames(struct shard *s, struct ids *to, struct err *err)
{
    struct shard_scratch x;
    struct stream_counts c = {0};
    uint8_t *raw = calloc(s->s.frame_ids, 4);
    int32_t *ids = calloc(s->s.frame_ids, 4);
    int rc = shard_scratch_init(&x, err);
    for (uint32_t i = 0; rc == 0 && i < s->s.n_frames; i++) {
        const uint32_t n = shard_frame_n(s, i);
        rc = shard_read(s, &x, i, raw, err);
        if (rc == 0) {
            stream_widen(ids, raw, s->s.h.width, n);
            rc = stream_count(&c, &s->s.h, ids, n, err);
        }
        if (rc == 0)
            rc = ids_append(to, ids, n, err);
    }
    if (rc == 0)
        rc = shard_end(s, &c, err);
    shard_scratch_free(&x);
    free(raw);
    free(ids);
    return rc;
}

static int read_file(const char *path, struct ids *to, struct err *err)
{
    struct shard s;
    *err = (struct err){0};
    if (shard_open(&s, path, err) != 0)
        return -1;
    const int rc = read_frames(&s, to, err);
    shard_close(&s);
    return rc;
}

static int read_bytes(const uint8_t *bytes, size_t n, struct ids *to, struct err *err)
{
    struct shard s;
    *err = (struct err){0};
    if (shard_open_bytes(&s, bytes, n, err) != 0)
        return -1;
    const int rc = read_frames(&s, to, err);
    shard_close(&s);
    return rc;
}

static void test_round_trip(const struct scratch *x, int vocab, int width, size_t n)
{
    const struct stream_header h = header(vocab, width, true);
    const char *path = scratch_path(x, "a.tok.zst");
    int32_t *ids = calloc(n + 1, sizeof *ids);
    uint8_t *raw = calloc(n + 1, (size_t)width), *plain = calloc(n + 1, (size_t)width);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * i % (size_t)vocab);
    stream_narrow(raw, ids, width, n);
    make_shard(path, &h, ids, n);
    struct buf b = file_bytes(path);
    struct ids by_file = {0}, by_pipe = {0};
    struct err err;
    ok(read_file(path, &by_file, &err) == 0 && by_file.n == n &&
           (n == 0 || memcmp(by_file.data, ids, n * sizeof *ids) == 0),
       "%zu ids of %d by file %s", n, vocab, err.what);
    ok(read_bytes(b.data, b.size, &by_pipe, &err) == 0 && by_pipe.n == n &&
           (n == 0 || memcmp(by_pipe.data, ids, n * sizeof *ids) == 0),
       "%zu ids in order %s", n, err.what);
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    const size_t got = ZSTD_decompressDCtx(zstd, plain, (n + 1) * (size_t)width, b.data, b.size);
    ok(got == n * (size_t)width && memcmp(plain, raw, got) == 0,
       "zstd alone gives plain little-endian ids");
    ZSTD_freeDCtx(zstd);
    ids_free(&by_file);
    ids_free(&by_pipe);
    buf_free(&b);
    free(ids);
    free(raw);
    free(plain);
    unlink(path);
}

static void test_counts(const struct scratch *x)
{
    const struct stream_header h = header(40, 2, true);
    const char *one = scratch_path(x, "1.tok.zst"), *two = scratch_path(x, "2.tok.zst");
    const int32_t ids[8] = {5, 2, 6, 7, 8, 2, 9, 9};
    struct shard_writer w = {0};
    struct out out;
    struct err err;
    struct shard s = {0};
    int rc = shard_writer_init(&w, &h, 3, &err);
    rc = rc ? rc : shard_put(&w, ids, 4, &err);
    rc = rc ? rc : out_open(&out, one, &err);
    rc = rc ? rc : shard_write(&w, &out, &err);
    rc = rc ? rc : out_commit(&out, &err);
    rc = rc ? rc : shard_put(&w, ids + 4, 4, &err);
    rc = rc ? rc : out_open(&out, two, &err);
    rc = rc ? rc : shard_write(&w, &out, &err);
    rc = rc ? rc : out_commit(&out, &err);
    shard_writer_free(&w);
    ok(rc == 0 && shard_open(&s, one, &err) == 0, "a set of two, the first cut in a document");
    ok(s.s.n_tokens == 4 && s.s.n_docs == 2 && s.s.is_open && !s.s.is_rest && s.s.n_bytes == 20,
       "the first: two documents begin, the second goes on");
    shard_close(&s);
    ok(shard_open(&s, two, &err) == 0 && s.s.n_tokens == 4 && s.s.n_docs == 1 && s.s.is_open &&
           s.s.is_rest && s.s.n_bytes == 28,
       "the second: begins with the rest, one document begins");
    shard_close(&s);
    unlink(one);
    unlink(two);
}

/* What the file's own hash lets through must be caught by what the front says of it: the file is
 * damaged as a writer could damage it, with hashes made right again. */
static void want_refusal(struct buf *b, int at, uint32_t value, const char *what)
{
    struct ids got = {0};
    struct err err;
    const size_t front = get_u32(b->data + 4) + 8;
    const uint32_t old = get_u32(b->data + at);
    set_u32(b->data + at, value);
    set_u64(b->data + front - 8, XXH64(b->data, front - 8, 0));
    ok(read_bytes(b->data, b->size, &got, &err) == -1 && strstr(err.what, what) && err.mend[0],
       "front at %d = %u: %s", at, value, err.what);
    set_u32(b->data + at, old);
    set_u64(b->data + front - 8, XXH64(b->data, front - 8, 0));
    ids_free(&got);
}

static void test_messages(const struct scratch *x)
{
    const struct stream_header h = header(40, 2, false);
    const char *path = scratch_path(x, "m.tok.zst");
    const int32_t ids[5] = {39, 2, 7, 8, 2};
    make_shard(path, &h, ids, 5);
    struct buf b = file_bytes(path);
    struct ids got = {0};
    struct err err;
    ok(read_bytes(b.data, b.size, &got, &err) == 0, "whole before the damage");
    want_refusal(&b, 0, 0x184D2A51, "no shard");
    want_refusal(&b, 16, 2, "version 2");
    want_refusal(&b, 20, 4, "flags");
    want_refusal(&b, 20, 1, "counts");
    want_refusal(&b, 20, 2, "counts");
    want_refusal(&b, 24, 6, "instead of 12");
    want_refusal(&b, 24, 40000, "40000 tokens in 1 frames");
    want_refusal(&b, 24, 0, "0 tokens in 1 frames");
    want_refusal(&b, 32, 3, "counts");
    want_refusal(&b, 40, 1, "counts");
    want_refusal(&b, 48, 0, "5 tokens in 1 frames of 0");
    want_refusal(&b, 52, 2, "2 frames");
    want_refusal(&b, 56, 0, "seek table");
    want_refusal(&b, 64, 80, "front is damaged");
    want_refusal(&b, 68, 1, "flags");
    want_refusal(&b, 72 + 16, 39, "");
    ok(read_bytes(b.data, b.size, &got, &err) == 0, "whole again");
    ok(read_bytes((const uint8_t *)"hello\n", 6, &got, &err) == -1 &&
           strstr(err.what, "no shard of hm"),
       "text: %s", err.what);
    struct stream_header other = h;
    other.tok_hash++;
    ok(shard_agree(&h, "a", &other, "b", &err) == -1 && strcmp(err.file, "b") == 0 &&
           strstr(err.what, "than a"),
       "another tokenizer: %s: %s", err.file, err.what);
    other = h;
    other.vocab++;
    ok(shard_agree(&h, "a", &other, "b", &err) == -1 && strstr(err.what, "a has 40"),
       "another vocabulary: %s: %s", err.file, err.what);
    other = h;
    other.width = 4;
    ok(shard_agree(&h, "a", &other, "b", &err) == 0, "another width may be mixed in");
    ids_free(&got);
    buf_free(&b);
    unlink(path);
}

static void patch_file(int fd, const struct buf *b, size_t at)
{
    if (pwrite(fd, b->data + at, 1, (off_t)at) != 1)
        abort();
}

static void test_damage(const struct scratch *x, bool has_lengths)
{
    const struct stream_header h = header(40, 2, has_lengths);
    const char *path = scratch_path(x, "d.tok.zst");
    int32_t ids[90];
    for (int i = 0; i < 90; i++)
        ids[i] = i % 40;
    make_shard(path, &h, ids, 90);
    struct buf b = file_bytes(path);
    struct ids got = {0};
    struct err err;
    const int fd = open(path, O_RDWR);
    int n_pipe = 0, n_file = 0, n_mute = 0;
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        patch_file(fd, &b, bit / 8);
        n_pipe += read_bytes(b.data, b.size, &got, &err) == 0;
        n_mute += !err.file[0] || !err.what[0] || !err.mend[0];
        n_file += read_file(path, &got, &err) == 0;
        n_mute += !err.file[0] || !err.what[0] || !err.mend[0];
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        patch_file(fd, &b, bit / 8);
    }
    ok(n_pipe == 0 && n_file == 0, "%zu bit flips: %d missed in order, %d missed in a file",
       b.size * 8, n_pipe, n_file);
    ok(n_mute == 0, "%d of them without file, what and mend", n_mute);
    const size_t whole = b.size;
    if (buf_put(&b, "", 1, &err) != 0)
        abort();
    patch_file(fd, &b, whole);
    ok(read_bytes(b.data, b.size, &got, &err) == -1, "a byte too many: %s", err.what);
    ok(read_file(path, &got, &err) == -1, "in a file: %s", err.what);
    n_pipe = n_file = 0;
    for (size_t n = whole; n-- > 0;) {
        n_pipe += read_bytes(b.data, n, &got, &err) == 0;
        n_file += ftruncate(fd, (off_t)n) != 0 || read_file(path, &got, &err) == 0;
    }
    ok(n_pipe == 0 && n_file == 0, "%zu truncations: %d missed in order, %d missed in a file",
       whole, n_pipe, n_file);
    close(fd);
    ids_free(&got);
    buf_free(&b);
    unlink(path);
}

int main(void)
{
    const struct scratch x = scratch_open();
    for (int i = 0; i < 70000; i++)
        lengths[i] = (uint8_t)(i % 17);
    test_round_trip(&x, 40, 2, 0);
    test_round_trip(&x, 40, 2, 1);
    test_round_trip(&x, 65536, 2, SHARD_FRAME_IDS);
    test_round_trip(&x, 65536, 2, SHARD_FRAME_IDS + 1);
    test_round_trip(&x, 70000, 4, 3 * SHARD_FRAME_IDS - 5);
    test_counts(&x);
    test_messages(&x);
    test_damage(&x, false);
    test_damage(&x, true);
    ok(scratch_count(&x) == 0, "nothing is left behind");
    scratch_remove(&x);
    return tap_done();
}
