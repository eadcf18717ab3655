/* shard_write: ids into zstd frames and frames into a file; see shard.h, hm-shard(5). */
#include "shard.h"
#include "shard_format.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

int shard_writer_init(struct shard_writer *w, const struct stream_header *h, int level,
                      struct err *err)
{
    *w = (struct shard_writer){0};
    TRY(stream_header_copy(&w->h, h, err));
    w->ids = malloc(SHARD_FRAME_IDS * sizeof *w->ids);
    w->raw = malloc((size_t)SHARD_FRAME_IDS * 4);
    w->zstd = ZSTD_createCCtx();
    if (!w->ids || !w->raw || !w->zstd)
        return err_oom(err, (size_t)SHARD_FRAME_IDS * 8);
    const size_t a = ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, level);
    const size_t b = ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    if (ZSTD_isError(a) || ZSTD_isError(b))
        return err_set(err, NULL, "choose a level within 1..19", "zstd refuses level %d", level);
    return 0;
}

/* Compresses the ids gathered so far into one frame, and notes it in the index and the table. */
static int flush_frame(struct shard_writer *w, struct err *err)
{
    if (w->n == 0)
        return 0;
    if (w->index.size / INDEX_BYTES >= SHARD_MAX_FRAMES)
        return err_set(err, NULL, "ask for smaller shards", "shard has too many frames");
    TRY(stream_count(&w->counts, &w->h, w->ids, w->n, err));
    const size_t raw_bytes = w->n * (size_t)w->h.width, bound = ZSTD_compressBound(raw_bytes);
    stream_narrow(w->raw, w->ids, w->h.width, w->n);
    TRY(buf_reserve(&w->body, bound, err));
    uint8_t *to = w->body.data + w->body.size;
    const size_t size = ZSTD_compress2(w->zstd, to, bound, w->raw, raw_bytes);
    if (ZSTD_isError(size))
        return err_set(err, NULL, NULL, "zstd: %s", ZSTD_getErrorName(size));
    uint8_t index[INDEX_BYTES], entry[ENTRY_BYTES];
    set_u64(index, XXH64(to, size, 0));
    set_u32(index + 8, (uint32_t)size);
    set_u32(entry, (uint32_t)size);
    set_u32(entry + 4, (uint32_t)raw_bytes);
    set_u32(entry + 8, (uint32_t)XXH64(w->raw, raw_bytes, 0));
    w->body.size += size;
    w->n = 0;
    TRY(buf_put(&w->index, index, sizeof index, err));
    return buf_put(&w->tail, entry, sizeof entry, err);
}

int shard_put(struct shard_writer *w, const int32_t *ids, size_t n, struct err *err)
{
    while (n > 0) {
        const size_t room = SHARD_FRAME_IDS - w->n, take = n < room ? n : room;
        memcpy(w->ids + w->n, ids, take * sizeof *ids);
        w->n += take;
        ids += take;
        n -= take;
        if (w->n == SHARD_FRAME_IDS)
            TRY(flush_frame(w, err));
    }
    return 0;
}

/* The seek table: the front frame's entry, which has no content, then the frames'. */
static int print_tail(const struct shard_writer *w, size_t front_bytes, struct buf *to,
                      struct err *err)
{
    const size_t n_entries = 1 + w->tail.size / ENTRY_BYTES;
    uint8_t head[8], first[ENTRY_BYTES] = {0}, footer[FOOTER_BYTES];
    set_u32(head, TAIL_MAGIC);
    set_u32(head + 4, (uint32_t)(n_entries * ENTRY_BYTES + FOOTER_BYTES));
    set_u32(first, (uint32_t)front_bytes);
    set_u32(first + 8, (uint32_t)XXH64(NULL, 0, 0));
    set_u32(footer, (uint32_t)n_entries);
    footer[4] = TAIL_HAS_CHECKSUMS;
    set_u32(footer + 5, SEEKABLE_MAGIC);
    TRY(buf_put(to, head, sizeof head, err));
    TRY(buf_put(to, first, sizeof first, err));
    TRY(buf_put(to, w->tail.data, w->tail.size, err));
    return buf_put(to, footer, sizeof footer, err);
}

/* The front frame. Its size must be known before the seek table, whose hash it holds: front_bytes
 * is the sum of its parts. */
static int print_front(const struct shard_writer *w, const struct buf *header, size_t front_bytes,
                       uint64_t tail_hash, struct buf *to, struct err *err)
{
    uint8_t head[FRONT_BYTES] = {0}, hash[8];
    set_u32(head, FRONT_MAGIC);
    set_u32(head + 4, (uint32_t)(front_bytes - 8));
    memcpy(head + 8, shard_magic, sizeof shard_magic);
    set_u32(head + 16, SHARD_VERSION);
    set_u32(head + 20, (w->counts.is_open ? FLAG_OPEN : 0) | (w->is_rest ? FLAG_REST : 0));
    set_u64(head + 24, w->counts.n_tokens);
    set_u64(head + 32, stream_docs(&w->counts) - (w->is_rest && w->counts.n_tokens > 0));
    set_u64(head + 40, w->counts.n_bytes);
    set_u32(head + 48, SHARD_FRAME_IDS);
    set_u32(head + 52, (uint32_t)(w->index.size / INDEX_BYTES));
    set_u64(head + 56, tail_hash);
    set_u32(head + 64, (uint32_t)header->size);
    TRY(buf_put(to, head, sizeof head, err));
    TRY(buf_put(to, header->data, header->size, err));
    TRY(buf_put(to, w->index.data, w->index.size, err));
    set_u64(hash, XXH64(to->data, to->size, 0));
    return buf_put(to, hash, sizeof hash, err);
}

static int write_parts(struct shard_writer *w, struct out *out, struct buf *parts, struct err *err)
{
    struct buf *header = &parts[0], *tail = &parts[1], *front = &parts[2];
    TRY(stream_header_print(&w->h, header, err));
    const size_t front_bytes = FRONT_BYTES + header->size + w->index.size + 8;
    TRY(print_tail(w, front_bytes, tail, err));
    TRY(print_front(w, header, front_bytes, XXH64(tail->data, tail->size, 0), front, err));
    TRY(out_write(out, front->data, front->size, err));
    TRY(out_write(out, w->body.data, w->body.size, err));
    return out_write(out, tail->data, tail->size, err);
}

int shard_write(struct shard_writer *w, struct out *out, struct err *err)
{
    struct buf parts[3] = {{0}};
    int rc = flush_frame(w, err);
    if (rc == 0)
        rc = write_parts(w, out, parts, err);
    for (int i = 0; i < 3; i++)
        buf_free(&parts[i]);
    w->body.size = w->tail.size = w->index.size = 0;
    if (w->counts.n_tokens > 0)
        w->is_rest = w->counts.is_open;
    w->counts = (struct stream_counts){0};
    return rc;
}

void shard_writer_free(struct shard_writer *w)
{
    stream_header_free(&w->h);
    buf_free(&w->body);
    buf_free(&w->tail);
    buf_free(&w->index);
    ZSTD_freeCCtx(w->zstd);
    free(w->ids);
    free(w->raw);
    *w = (struct shard_writer){0};
}
