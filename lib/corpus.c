/* corpus: random access to a set of shards; see corpus.h. */
#include "corpus.h"

#include <stdlib.h>
#include <string.h>

/* --- opening --- */

static int open_shards(struct corpus *c, const char *const *paths, int n_paths, struct err *err)
{
    c->shard = calloc((size_t)n_paths, sizeof *c->shard);
    if (!c->shard)
        return err_oom(err, (size_t)n_paths * sizeof *c->shard);
    for (int i = 0; i < n_paths; i++) {
        struct shard *s = &c->shard[i];
        TRY(shard_open(s, paths[i], err));
        c->n_shards++;
        if (!s->can_seek)
            return err_set(err, paths[i], "give shards as files; a token stream can come as \"-\"",
                           "is a pipe, and shards are read out of order");
        if (s->s.h.eos != ID_EOS)
            return err_set(err, paths[i], "encode with a tokenizer of tok-train",
                           "ends documents with id %d instead of %d", s->s.h.eos, ID_EOS);
        TRY(shard_agree(&c->shard[0].s.h, paths[0], &s->s.h, paths[i], err));
    }
    return 0;
}

/* Whether both count the text bytes of every id alike. */
static bool same_pieces(const struct stream_header *a, const struct stream_header *b)
{
    return a->piece_bytes && b->piece_bytes &&
           memcmp(a->piece_bytes, b->piece_bytes, (size_t)a->vocab) == 0;
}

/* Places the shards one after the other and adds them up. */
static int lay_out(struct corpus *c, struct err *err)
{
    const size_t n = (size_t)c->n_shards + 1;
    c->start = calloc(n, sizeof *c->start);
    c->first = calloc(n, sizeof *c->first);
    if (!c->start || !c->first)
        return err_oom(err, n * 16);
    uint64_t pos = 0;
    bool is_open = false, knows_bytes = true;
    c->piece_bytes = c->shard[0].s.h.piece_bytes;
    for (int i = 0; i < c->n_shards; i++) {
        const struct shard_head *s = &c->shard[i].s;
        if (s->n_tokens > 0 && (pos == 0 || (is_open && !s->is_rest)))
            pos++;
        c->start[i] = pos;
        pos += s->n_tokens;
        is_open = s->n_tokens > 0 ? s->is_open : is_open;
        c->first[i + 1] = c->first[i] + s->n_frames;
        c->n_tokens += s->n_tokens;
        c->n_docs += s->n_docs;
        c->n_bytes += s->n_bytes;
        knows_bytes = knows_bytes && s->h.piece_bytes;
        c->hash = XXH64(s->frame_hash, s->n_frames * sizeof *s->frame_hash, c->hash + 1);
        if (!same_pieces(&c->shard[0].s.h, &s->h))
            c->piece_bytes = NULL;
    }
    c->start[c->n_shards] = c->n_ids = pos;
    c->hash = c->hash ? c->hash : 1;
    if (!knows_bytes)
        c->n_bytes = 0;
    return 0;
}

static int take_cache(struct corpus *c, size_t cache_bytes, struct err *err)
{
    const uint64_t n_frames = c->first[c->n_shards];
    for (int i = 0; i < c->n_shards; i++) {
        const struct shard_head *s = &c->shard[i].s;
        const size_t bytes = s->n_frames ? shard_frame_n(&c->shard[i], 0) * (size_t)s->h.width : 0;
        c->slot_bytes = bytes > c->slot_bytes ? bytes : c->slot_bytes;
        TRY(shard_scratch_fit(&c->scratch, &c->shard[i], err));
    }
    uint64_t n = c->slot_bytes ? cache_bytes / c->slot_bytes : 1;
    n = n < 4 ? 4 : n;
    n = n > n_frames ? n_frames : n;
    c->n_slots = (uint32_t)n;
    c->slots = malloc(n * c->slot_bytes + 1);
    c->slot_of = malloc((n_frames + 1) * sizeof *c->slot_of);
    c->frame_of = malloc((n + 1) * sizeof *c->frame_of);
    c->is_used = calloc(n + 1, 1);
    if (!c->slots || !c->slot_of || !c->frame_of || !c->is_used)
        return err_oom(err, n * c->slot_bytes + n_frames * sizeof *c->slot_of);
    for (uint64_t i = 0; i < n_frames; i++)
        c->slot_of[i] = -1;
    for (uint64_t i = 0; i < n; i++)
        c->frame_of[i] = -1;
    return 0;
}

int corpus_open(struct corpus *c, const char *const *paths, int n_paths, size_t cache_bytes,
                struct err *err)
{
    *c = (struct corpus){0};
    int rc = shard_scratch_init(&c->scratch, err);
    if (rc == 0)
        rc = open_shards(c, paths, n_paths, err);
    if (rc == 0)
        rc = lay_out(c, err);
    if (rc == 0 && c->n_tokens == 0)
        rc = err_set(err, paths[0], "make shards of some text", "the shards hold no tokens");
    if (rc == 0)
        rc = take_cache(c, cache_bytes, err);
    if (rc != 0)
        corpus_close(c);
    return rc;
}

void corpus_close(struct corpus *c)
{
    for (int i = 0; i < c->n_shards; i++)
        shard_close(&c->shard[i]);
    shard_scratch_free(&c->scratch);
    free(c->shard);
    free(c->start);
    free(c->first);
    free(c->slots);
    free(c->slot_of);
    free(c->frame_of);
    free(c->is_used);
    *c = (struct corpus){0};
}

/* --- reading --- */

/* A slot to overwrite: the clock's hand passes slots that were used since its last round. */
static uint32_t free_slot(struct corpus *c)
{
    for (;;) {
        const uint32_t slot = c->hand;
        c->hand = (c->hand + 1) % c->n_slots;
        if (!c->is_used[slot])
            return slot;
        c->is_used[slot] = 0;
    }
}

/* Frame i of shard k, decompressed, as *raw. */
static int find_frame(struct corpus *c, int k, uint32_t i, const uint8_t **raw, struct err *err)
{
    const uint64_t frame = c->first[k] + i;
    if (c->slot_of[frame] < 0) {
        const uint32_t slot = free_slot(c);
        if (c->frame_of[slot] >= 0)
            c->slot_of[c->frame_of[slot]] = -1;
        c->frame_of[slot] = -1;
        TRY(shard_read(&c->shard[k], &c->scratch, i, c->slots + slot * c->slot_bytes, err));
        c->frame_of[slot] = (int64_t)frame;
        c->slot_of[frame] = (int32_t)slot;
    }
    const uint32_t slot = (uint32_t)c->slot_of[frame];
    c->is_used[slot] = 1;
    *raw = c->slots + slot * c->slot_bytes;
    return 0;
}

/* The last shard that begins at or before pos. Among several at one place, the one with ids. */
static int shard_at(const struct corpus *c, uint64_t pos)
{
    int lo = 0, hi = c->n_shards - 1;
    while (lo < hi) {
        const int mid = lo + (hi - lo + 1) / 2;
        if (c->start[mid] <= pos)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

static int check_ids(const struct corpus *c, int k, const int32_t *ids, size_t n, struct err *err)
{
    const struct shard *s = &c->shard[k];
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = (uint32_t)ids[i] > max ? (uint32_t)ids[i] : max;
    if (max < (uint32_t)s->s.h.vocab)
        return 0;
    return err_set(err, s->in.path, "make the shards again with shard",
                   "id %u is outside the vocabulary of %d", max, s->s.h.vocab);
}

int corpus_read(struct corpus *c, uint64_t pos, size_t n, int32_t *to, struct err *err)
{
    while (n > 0) {
        const int k = shard_at(c, pos);
        const struct shard *s = &c->shard[k];
        if (pos < c->start[k] || pos - c->start[k] >= s->s.n_tokens) {
            *to++ = ID_EOS;
            pos++;
            n--;
            continue;
        }
        const uint64_t at = pos - c->start[k];
        const uint32_t i = (uint32_t)(at / s->s.frame_ids), skip = (uint32_t)(at % s->s.frame_ids);
        const size_t left = shard_frame_n(s, i) - skip, take = n < left ? n : left;
        const uint8_t *raw;
        TRY(find_frame(c, k, i, &raw, err));
        stream_widen(to, raw + (size_t)skip * (size_t)s->s.h.width, s->s.h.width, take);
        TRY(check_ids(c, k, to, take, err));
        to += take;
        pos += take;
        n -= take;
    }
    return 0;
}
