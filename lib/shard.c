/* shard: reading shards, at any frame of a file or in order from a pipe; see shard.h,
 * hm-shard(5). */
#include "shard.h"
#include "shard_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

/* The front of the most frames over the largest vocabulary stays below it. */
enum { MAX_FRONT_BYTES = 1 << 27 };

static const char again[] = "make the shards again with shard, or fetch the file again";
static const char newer[] = "use the hm that wrote it, or make the shards again";

/* --- the front --- */

/* The fixed part, all but the hash: everything that says how much more there is. */
static int parse_fixed(struct shard_head *s, const uint8_t *p, size_t *header_bytes,
                       struct err *err)
{
    if (get_u32(p) != FRONT_MAGIC || memcmp(p + 8, shard_magic, sizeof shard_magic) != 0)
        return err_set(err, NULL, "give a file that shard wrote", "is no shard of hm");
    if (get_u32(p + 16) != SHARD_VERSION)
        return err_set(err, NULL, newer, "has version %u of the shard, this hm reads version %d",
                       get_u32(p + 16), SHARD_VERSION);
    const uint32_t flags = get_u32(p + 20);
    if (flags & ~(uint32_t)(FLAG_OPEN | FLAG_REST) || get_u32(p + 68) != 0)
        return err_set(err, NULL, newer, "has flags that this hm does not know");
    *s = (struct shard_head){
        .n_tokens = get_u64(p + 24),
        .n_docs = get_u64(p + 32),
        .n_bytes = get_u64(p + 40),
        .is_open = flags & FLAG_OPEN,
        .is_rest = flags & FLAG_REST,
        .frame_ids = get_u32(p + 48),
        .n_frames = get_u32(p + 52),
        .tail_hash = get_u64(p + 56),
    };
    if (s->frame_ids < 1 || s->frame_ids > SHARD_MAX_FRAME_IDS || s->n_frames > SHARD_MAX_FRAMES ||
        s->n_tokens > (uint64_t)s->n_frames * s->frame_ids ||
        s->n_tokens + s->frame_ids <= (uint64_t)s->n_frames * s->frame_ids)
        return err_set(err, NULL, again, "front is damaged: %llu tokens in %u frames of %u",
                       (unsigned long long)s->n_tokens, s->n_frames, s->frame_ids);
    *header_bytes = get_u32(p + 64);
    return 0;
}

static int parse_index(struct shard_head *s, const uint8_t *p, struct err *err)
{
    s->frame_hash = malloc(sizeof *s->frame_hash * (s->n_frames + 1u));
    s->frame_bytes = malloc(sizeof *s->frame_bytes * (s->n_frames + 1u));
    if (!s->frame_hash || !s->frame_bytes)
        return err_oom(err, s->n_frames * 12ul);
    const size_t most = ZSTD_compressBound(s->frame_ids * (size_t)s->h.width);
    for (uint32_t i = 0; i < s->n_frames; i++, p += INDEX_BYTES) {
        s->frame_hash[i] = get_u64(p);
        s->frame_bytes[i] = get_u32(p + 8);
        if (s->frame_bytes[i] > most)
            return err_set(err, NULL, again, "front is damaged: frame %u of %u bytes is too large",
                           i, s->frame_bytes[i]);
    }
    return 0;
}

int shard_head_parse(struct shard_head *s, const uint8_t *bytes, size_t n, struct err *err)
{
    size_t header_bytes;
    *s = (struct shard_head){0};
    if (n < FRONT_BYTES + 8)
        return err_set(err, NULL, again, "front is truncated");
    TRY(parse_fixed(s, bytes, &header_bytes, err));
    const size_t size = FRONT_BYTES + header_bytes + (size_t)s->n_frames * INDEX_BYTES + 8;
    if (size != n || get_u32(bytes + 4) != n - 8)
        return err_set(err, NULL, again, "front is damaged: it has %zu bytes instead of %zu", n,
                       size);
    if (XXH64(bytes, n - 8, 0) != get_u64(bytes + n - 8))
        return err_set(err, NULL, again, "front is damaged: its checksum differs");
    TRY(stream_header_parse(&s->h, bytes + FRONT_BYTES, header_bytes, err));
    return parse_index(s, bytes + FRONT_BYTES + header_bytes, err);
}

void shard_head_free(struct shard_head *s)
{
    stream_header_free(&s->h);
    free(s->frame_hash);
    free(s->frame_bytes);
    *s = (struct shard_head){0};
}

/* --- bytes of the file --- */

/* n bytes at an offset of the file, or of a pipe, which must stand there. */
static int fetch(struct shard *s, uint64_t offset, uint8_t *to, size_t n, const char *what,
                 struct err *err)
{
    if (!s->can_seek && s->in.offset != offset)
        return err_set(err, s->in.path, "give the shard as a file",
                       "a pipe cannot be read out of order");
    if (!s->can_seek)
        return in_exact(&s->in, to, n, what, err);
    while (n > 0) {
        const ssize_t got = pread(s->in.fd, to, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, s->in.path, NULL, "cannot read");
        if (got == 0)
            return err_set(err, s->in.path, again, "truncated in the %s, at byte %llu", what,
                           (unsigned long long)offset);
        to += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int read_front(struct shard *s, struct buf *front, struct err *err)
{
    TRY(buf_reserve(front, FRONT_BYTES, err));
    TRY(in_read(&s->in, front->data, FRONT_BYTES, &front->size, err));
    if (front->size < FRONT_BYTES)
        return err_set(err, s->in.path, "give a file that shard wrote",
                       "is no shard of hm: it has only %zu bytes", front->size);
    size_t header_bytes;
    TRY(parse_fixed(&s->s, front->data, &header_bytes, err));
    size_t left = get_u32(front->data + 4);
    if (left > MAX_FRONT_BYTES || left < FRONT_BYTES)
        return err_set(err, s->in.path, again, "front is damaged: its size is %zu bytes", left);
    left -= FRONT_BYTES - 8;
    /* In steps, so that a damaged size costs no more memory than there are bytes. */
    while (left > 0) {
        const size_t n = left < 1 << 20 ? left : 1 << 20;
        TRY(buf_reserve(front, n, err));
        TRY(in_exact(&s->in, front->data + front->size, n, "front", err));
        front->size += n;
        left -= n;
    }
    return shard_head_parse(&s->s, front->data, front->size, err);
}

/* --- the seek table --- */

static size_t tail_bytes(const struct shard *s)
{
    return 8 + ((size_t)s->s.n_frames + 1) * ENTRY_BYTES + FOOTER_BYTES;
}

/* Every entry must say what the index says. Checksums of the frames' ids are compared with those
 * seen (pipe) or kept for shard_read (file). */
static int check_tail(struct shard *s, const uint8_t *tail, struct err *err)
{
    const size_t n = tail_bytes(s);
    if (XXH64(tail, n, 0) != s->s.tail_hash)
        return err_set(err, s->in.path, again, "seek table is damaged: its checksum differs");
    const uint8_t *footer = tail + n - FOOTER_BYTES, *entry = tail + 8;
    if (get_u32(tail) != TAIL_MAGIC || get_u32(tail + 4) != n - 8 ||
        get_u32(footer) != s->s.n_frames + 1 || footer[4] != TAIL_HAS_CHECKSUMS ||
        get_u32(footer + 5) != SEEKABLE_MAGIC || get_u32(entry) != s->offset[0] ||
        get_u32(entry + 4) != 0)
        return err_set(err, s->in.path, again, "seek table is none of zstd's seekable format");
    for (uint32_t i = 0; i < s->s.n_frames; i++) {
        entry += ENTRY_BYTES;
        if (get_u32(entry) != s->s.frame_bytes[i] ||
            get_u32(entry + 4) != shard_frame_n(s, i) * (uint32_t)s->s.h.width ||
            (!s->can_seek && get_u32(entry + 8) != s->check[i]))
            return err_set(err, s->in.path, again, "seek table differs from the index at frame %u",
                           i);
        s->check[i] = get_u32(entry + 8);
    }
    return 0;
}

static int read_tail(struct shard *s, struct err *err)
{
    struct buf tail = {0};
    int rc = buf_reserve(&tail, tail_bytes(s), err);
    if (rc == 0)
        rc = fetch(s, s->offset[s->s.n_frames], tail.data, tail_bytes(s), "seek table", err);
    if (rc == 0)
        rc = check_tail(s, tail.data, err);
    buf_free(&tail);
    return rc;
}

/* --- opening and closing --- */

static int find_offsets(struct shard *s, size_t front_bytes, struct err *err)
{
    const uint32_t n = s->s.n_frames;
    s->offset = malloc(sizeof *s->offset * (n + 1u));
    s->check = calloc(n + 1u, sizeof *s->check);
    if (!s->offset || !s->check)
        return err_oom(err, sizeof *s->offset * (n + 1u));
    s->offset[0] = front_bytes;
    for (uint32_t i = 0; i < n; i++)
        s->offset[i + 1] = s->offset[i] + s->s.frame_bytes[i];
    s->size = s->offset[n] + tail_bytes(s);
    return 0;
}

static int open_parts(struct shard *s, struct err *err)
{
    struct buf front = {0};
    struct stat st;
    int rc = read_front(s, &front, err);
    if (rc == 0)
        rc = find_offsets(s, front.size, err);
    buf_free(&front);
    s->can_seek = s->in.fd > STDIN_FILENO && fstat(s->in.fd, &st) == 0 && S_ISREG(st.st_mode);
    if (rc != 0 || !s->can_seek)
        return rc;
    if ((uint64_t)st.st_size != s->size)
        return err_set(err, s->in.path, again, "has %llu bytes instead of %llu",
                       (unsigned long long)st.st_size, (unsigned long long)s->size);
    return read_tail(s, err);
}

static int finish_open(struct shard *s, int rc, struct err *err)
{
    char path[sizeof s->in.path];
    memcpy(path, s->in.path, sizeof path);
    if (rc == 0)
        rc = open_parts(s, err);
    if (rc == 0)
        return 0;
    shard_close(s);
    return err_file(err, path);
}

int shard_open(struct shard *s, const char *path, struct err *err)
{
    *s = (struct shard){0};
    return finish_open(s, in_open(&s->in, path, err), err);
}

int shard_open_bytes(struct shard *s, const void *bytes, size_t n, struct err *err)
{
    *s = (struct shard){0};
    return finish_open(s, in_memory(&s->in, "-", bytes, n, err), err);
}

void shard_close(struct shard *s)
{
    in_close(&s->in);
    shard_head_free(&s->s);
    free(s->offset);
    free(s->check);
    *s = (struct shard){0};
}

/* --- frames --- */

uint32_t shard_frame_n(const struct shard *s, uint32_t i)
{
    const uint64_t left = s->s.n_tokens - (uint64_t)i * s->s.frame_ids;
    return left < s->s.frame_ids ? (uint32_t)left : s->s.frame_ids;
}

int shard_scratch_init(struct shard_scratch *x, struct err *err)
{
    *x = (struct shard_scratch){.zstd = ZSTD_createDCtx()};
    return x->zstd ? 0 : err_oom(err, 1 << 17);
}

int shard_scratch_fit(struct shard_scratch *x, const struct shard *s, struct err *err)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < s->s.n_frames; i++)
        most = s->s.frame_bytes[i] > most ? s->s.frame_bytes[i] : most;
    return buf_reserve(&x->bytes, most, err);
}

void shard_scratch_free(struct shard_scratch *x)
{
    ZSTD_freeDCtx(x->zstd);
    buf_free(&x->bytes);
    *x = (struct shard_scratch){0};
}

int shard_read(struct shard *s, struct shard_scratch *x, uint32_t i, uint8_t *raw, struct err *err)
{
    const size_t size = s->s.frame_bytes[i];
    const size_t raw_bytes = shard_frame_n(s, i) * (size_t)s->s.h.width;
    TRY(buf_reserve(&x->bytes, size, err));
    TRY(fetch(s, s->offset[i], x->bytes.data, size, "frames", err));
    if (XXH64(x->bytes.data, size, 0) != s->s.frame_hash[i])
        return err_set(err, s->in.path, again, "frame %u is damaged: its checksum differs", i);
    const size_t got = ZSTD_decompressDCtx(x->zstd, raw, raw_bytes, x->bytes.data, size);
    if (ZSTD_isError(got))
        return err_set(err, s->in.path, again, "frame %u is damaged: %s", i,
                       ZSTD_getErrorName(got));
    if (got != raw_bytes)
        return err_set(err, s->in.path, again, "frame %u has %zu bytes of ids instead of %zu", i,
                       got, raw_bytes);
    const uint32_t check = (uint32_t)XXH64(raw, raw_bytes, 0);
    if (s->can_seek && check != s->check[i])
        return err_set(err, s->in.path, again, "frame %u is damaged: the ids' checksum differs", i);
    s->check[i] = check;
    return 0;
}

int shard_end(struct shard *s, const struct stream_counts *counts, struct err *err)
{
    const uint64_t n_docs = stream_docs(counts) - (s->s.is_rest && counts->n_tokens > 0);
    if (counts->is_open != s->s.is_open || counts->n_tokens != s->s.n_tokens ||
        n_docs != s->s.n_docs || counts->n_bytes != s->s.n_bytes)
        return err_set(err, s->in.path, again,
                       "counts of tokens, documents or bytes differ from the front's");
    if (s->can_seek)
        return 0;
    TRY(read_tail(s, err));
    uint8_t more;
    size_t got;
    TRY(in_read(&s->in, &more, 1, &got, err));
    return got == 0 ? 0 : err_set(err, s->in.path, again, "bytes follow the seek table");
}

int shard_agree(const struct stream_header *a, const char *path_a, const struct stream_header *b,
                const char *path_b, struct err *err)
{
    static const char mend[] = "encode both with the same tok.model";
    if (a->vocab != b->vocab)
        return err_set(err, path_b, mend, "has a vocabulary of %d, %s has %d", b->vocab, path_a,
                       a->vocab);
    if (a->tok_hash != b->tok_hash)
        return err_set(err, path_b, mend, "was made with another tokenizer than %s", path_a);
    if (a->eos != b->eos)
        return err_set(err, path_b, mend, "ends documents with id %d, %s with %d", b->eos, path_a,
                       a->eos);
    return 0;
}
