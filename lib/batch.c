/* batch: rows of tokens for training and evaluation, filled ahead on a thread of its own; see
 * batch.h. The thread walks through micro-batches in order and fills a ring of slots; the caller
 * takes them out. Moving to another step starts a new generation: what the thread was filling for
 * the old one is dropped. */
#include "batch.h"
#include "corpus.h"
#include "rng.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    CACHE_BYTES = 32 << 20, /* of decompressed frames */
    READ_AHEAD = 2,         /* slots beside the one the caller holds */
};

struct slot {
    int32_t *ids, *target, *seg, *pos; /* (B,T) */
    int status;                        /* 1 filled, 0 the end, -1 failed with err */
    int64_t step_targets;              /* stream: targets of the step up to here, all ranks */
    uint64_t cursor;                   /* stream: hash of all ids up to here */
    struct err err;
};

struct batch {
    struct batch_opts opts;
    bool is_stream;
    int64_t n_rows;       /* shards */
    struct corpus corpus; /* shards */
    struct in in;         /* stream */
    int stop_fd[2];       /* stream: a pipe whose writing end is closed to stop a read */
    struct stream_reader reader;
    XXH64_state_t *hash;  /* of the stream's ids */
    const int32_t *block; /* stream: ids read and not yet used */
    size_t block_n;
    int32_t prev;         /* stream: the id before them */
    int64_t step_targets; /* stream: of the step being filled */
    int32_t *row;         /* (T+1) ids of a row */

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake, ready; /* the thread has work; a slot is filled */
    bool has_thread, is_stopping;
    uint64_t generation;
    struct slot *slot; /* (n_slots) ring */
    int n_slots, tail, n_ready;
    bool is_held;      /* the caller uses slot `tail` */
    bool is_over;      /* the thread has met the end or a failure */
    int64_t next_fill; /* micro-batch of this rank that the thread fills next */
    int64_t next;      /* the one that the caller gets next */
    uint64_t cursor;
};

/* --- filling --- */

void batch_fill_row(const int32_t *ids, int n, int32_t prev, int T, int32_t *in, int32_t *target,
                    int32_t *seg, int32_t *pos)
{
    int32_t s = 0, p = 0;
    for (int t = 0; t < T; t++) {
        const bool is_pad = t >= n, is_edge = is_pad ? t == n : prev == ID_EOS;
        if (is_edge && t > 0) {
            s++;
            p = 0;
        }
        in[t] = is_pad ? ID_PAD : is_edge ? ID_BOS : prev;
        target[t] = is_pad ? -1 : ids[t];
        seg[t] = s;
        pos[t] = p++;
        prev = is_pad ? prev : ids[t];
    }
}

static void fill_slot_row(const struct batch *b, struct slot *s, int row, const int32_t *ids, int n,
                          int32_t prev)
{
    const int T = b->opts.T;
    const size_t at = (size_t)row * (size_t)T;
    batch_fill_row(ids, n, prev, T, s->ids + at, s->target + at, s->seg + at, s->pos + at);
}

static int64_t rows_per_step(const struct batch *b)
{
    return (int64_t)b->opts.B * b->opts.accum * b->opts.world;
}

/* The row of the concatenation that is number g of the run, or -1 after an unshuffled pass. */
static int64_t row_of(const struct batch *b, int64_t g)
{
    if (!b->opts.is_shuffled)
        return g < b->n_rows ? g : -1;
    const uint64_t n = (uint64_t)b->n_rows, epoch = (uint64_t)g / n;
    return (int64_t)rng_permute(b->opts.seed, rng_stream(RNG_SHUFFLE, 0, (uint32_t)epoch),
                                (uint64_t)g % n, n);
}

static int fill_from_shards(struct batch *b, struct slot *s, int64_t micro, struct err *err)
{
    const int T = b->opts.T;
    const int64_t step = micro / b->opts.accum;
    if (!b->opts.is_shuffled && step * rows_per_step(b) >= b->n_rows)
        return 0;
    for (int i = 0; i < b->opts.B; i++) {
        const int64_t g = (micro * b->opts.world + b->opts.rank) * b->opts.B + i;
        const int64_t row = row_of(b, g);
        uint64_t n = 0;
        if (row >= 0) {
            const uint64_t start = (uint64_t)row * (uint64_t)T;
            n = b->corpus.n_ids - 1 - start;
            n = n < (uint64_t)T ? n : (uint64_t)T;
            TRY(corpus_read(&b->corpus, start, n + 1, b->row, err));
        }
        fill_slot_row(b, s, i, b->row + 1, (int)n, b->row[0]);
    }
    return 1;
}

/* Up to T ids of the stream into row[1..], the id before them into row[0]; *n = 0 at its end. */
static int read_row(struct batch *b, int *n, struct err *err)
{
    b->row[0] = b->prev;
    *n = 0;
    while (*n < b->opts.T) {
        if (b->block_n == 0) {
            const int more = stream_next(&b->reader, &b->block, &b->block_n, err);
            if (more < 0)
                return -1;
            if (more == 0)
                break;
        }
        const size_t room = (size_t)(b->opts.T - *n);
        const size_t take = b->block_n < room ? b->block_n : room;
        memcpy(b->row + 1 + *n, b->block, take * sizeof *b->row);
        b->block += take;
        b->block_n -= take;
        *n += (int)take;
    }
    b->prev = b->row[*n];
    XXH64_update(b->hash, b->row + 1, (size_t)*n * sizeof *b->row);
    return 0;
}

/* Reads the rows of all ranks, keeps this rank's. */
static int fill_from_stream(struct batch *b, struct slot *s, int64_t micro, struct err *err)
{
    const int B = b->opts.B, first = b->opts.rank * B;
    const bool is_first = micro % b->opts.accum == 0;
    if (is_first)
        b->step_targets = 0;
    for (int i = 0; i < B * b->opts.world; i++) {
        int n;
        TRY(read_row(b, &n, err));
        if (n == 0 && i == 0 && is_first)
            return 0;
        b->step_targets += n;
        if (i >= first && i < first + B)
            fill_slot_row(b, s, i - first, b->row + 1, n, b->row[0]);
    }
    s->step_targets = b->step_targets;
    s->cursor = XXH64_digest(b->hash);
    return 1;
}

static void *prefetch(void *arg)
{
    struct batch *b = arg;
    pthread_mutex_lock(&b->lock);
    while (!b->is_stopping) {
        if (b->n_ready == b->n_slots || b->is_over) {
            pthread_cond_wait(&b->wake, &b->lock);
            continue;
        }
        const uint64_t generation = b->generation;
        const int64_t micro = b->next_fill;
        struct slot *s = &b->slot[(b->tail + b->n_ready) % b->n_slots];
        pthread_mutex_unlock(&b->lock);
        s->status = b->is_stream ? fill_from_stream(b, s, micro, &s->err)
                                 : fill_from_shards(b, s, micro, &s->err);
        pthread_mutex_lock(&b->lock);
        if (generation != b->generation)
            continue;
        b->next_fill++;
        b->n_ready++;
        b->is_over = s->status != 1;
        pthread_cond_signal(&b->ready);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

/* --- opening and closing --- */

static int check_opts(const struct batch_opts *o, int n_paths, struct err *err)
{
    if (n_paths < 1)
        return err_set(err, NULL, "name shards, or - for a token stream", "no shards are given");
    if (o->B < 1 || o->T < 1 || o->accum < 1 || o->world < 1 || o->rank < 0 ||
        o->rank >= o->world || o->B > 1 << 20 || o->T > 1 << 24 || o->accum > 1 << 20 ||
        o->world > 1 << 20)
        return err_set(err, NULL, "give positive sizes, and a rank below the world's size",
                       "batch of %d x %d, %d micro-batches, rank %d of %d makes no sense", o->B,
                       o->T, o->accum, o->rank, o->world);
    return 0;
}

static int open_source(struct batch *b, const char *const *paths, int n_paths,
                       struct corpus_info *info, struct err *err)
{
    if (b->is_stream) {
        TRY(in_open(&b->in, "-", err));
        if (pipe2(b->stop_fd, O_CLOEXEC) != 0)
            return err_errno(err, NULL, NULL, "cannot make a pipe");
        b->in.stop_fd = b->stop_fd[0];
        TRY(stream_open(&b->reader, &b->in, err));
        const struct stream_header *h = &b->reader.h;
        if (h->eos != ID_EOS)
            return err_set(err, "-", "encode with a tokenizer of tok-train",
                           "ends documents with id %d instead of %d", h->eos, ID_EOS);
        if (!(b->hash = XXH64_createState()))
            return err_oom(err, sizeof(uint64_t) * 11);
        XXH64_reset(b->hash, h->tok_hash);
        b->prev = ID_EOS;
        b->n_rows = -1;
        *info = (struct corpus_info){.vocab = h->vocab,
                                     .tok_hash = h->tok_hash,
                                     .piece_bytes = h->piece_bytes,
                                     .n_rows = -1};
        return 0;
    }
    const struct corpus *c = &b->corpus;
    TRY(corpus_open(&b->corpus, paths, n_paths, CACHE_BYTES, err));
    b->n_rows = (int64_t)((c->n_ids - 1 + (uint64_t)b->opts.T - 1) / (uint64_t)b->opts.T);
    b->cursor = c->hash;
    *info = (struct corpus_info){.vocab = c->shard[0].s.h.vocab,
                                 .tok_hash = c->shard[0].s.h.tok_hash,
                                 .n_tokens = c->n_tokens,
                                 .n_docs = c->n_docs,
                                 .n_bytes = c->n_bytes,
                                 .piece_bytes = c->piece_bytes,
                                 .n_rows = b->n_rows};
    return 0;
}

/* A stream's ring holds a whole step, so that its targets can be counted ahead. */
static int take_slots(struct batch *b, struct err *err)
{
    const size_t n = (size_t)b->opts.B * (size_t)b->opts.T;
    b->n_slots = 1 + (b->is_stream && b->opts.accum > READ_AHEAD ? b->opts.accum : READ_AHEAD);
    b->slot = calloc((size_t)b->n_slots, sizeof *b->slot);
    b->row = malloc(((size_t)b->opts.T + 1) * sizeof *b->row);
    if (!b->slot || !b->row)
        return err_oom(err, (size_t)b->n_slots * sizeof *b->slot);
    for (int i = 0; i < b->n_slots; i++) {
        struct slot *s = &b->slot[i];
        s->ids = calloc(n * 4, sizeof *s->ids);
        if (!s->ids)
            return err_oom(err, n * 4 * sizeof *s->ids);
        s->target = s->ids + n;
        s->seg = s->target + n;
        s->pos = s->seg + n;
    }
    return 0;
}

/* Signals belong to the tool's thread. */
static int start_thread(struct batch *b, struct err *err)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    b->has_thread = pthread_create(&b->thread, NULL, prefetch, b) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return b->has_thread ? 0 : err_set(err, NULL, NULL, "cannot start the loader's thread");
}

int batch_open(struct batch **batch, const char *const *paths, int n_paths,
               const struct batch_opts *opts, struct corpus_info *info, struct err *err)
{
    *batch = NULL;
    TRY(check_opts(opts, n_paths, err));
    struct batch *b = calloc(1, sizeof *b);
    if (!b)
        return err_oom(err, sizeof *b);
    b->opts = *opts;
    b->is_stream = n_paths == 1 && strcmp(paths[0], "-") == 0;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    pthread_cond_init(&b->ready, NULL);
    int rc = open_source(b, paths, n_paths, info, err);
    if (rc == 0)
        rc = take_slots(b, err);
    if (rc == 0)
        rc = start_thread(b, err);
    if (rc != 0) {
        batch_close(b);
        return -1;
    }
    *batch = b;
    return 0;
}

void batch_close(struct batch *b)
{
    if (!b)
        return;
    if (b->has_thread) {
        pthread_mutex_lock(&b->lock);
        b->is_stopping = true;
        pthread_cond_signal(&b->wake);
        pthread_mutex_unlock(&b->lock);
        /* A read of a stream may wait for ever: the hang-up of the pipe ends it. */
        if (b->stop_fd[1] > 0)
            close(b->stop_fd[1]);
        b->stop_fd[1] = 0;
        pthread_join(b->thread, NULL);
    }
    pthread_cond_destroy(&b->ready);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    for (int i = 0; i < b->n_slots && b->slot; i++)
        free(b->slot[i].ids);
    free(b->slot);
    free(b->row);
    if (b->hash)
        XXH64_freeState(b->hash);
    for (int i = 0; i < 2; i++)
        if (b->stop_fd[i] > 0)
            close(b->stop_fd[i]);
    stream_close(&b->reader);
    in_close(&b->in);
    corpus_close(&b->corpus);
    free(b);
}

/* --- taking --- */

int batch_next(struct batch *b, struct rows *rows, struct err *err)
{
    pthread_mutex_lock(&b->lock);
    if (b->is_held) {
        b->is_held = false;
        b->tail = (b->tail + 1) % b->n_slots;
        b->n_ready--;
        pthread_cond_signal(&b->wake);
    }
    while (b->n_ready == 0)
        pthread_cond_wait(&b->ready, &b->lock);
    const struct slot *s = &b->slot[b->tail];
    const int status = s->status;
    if (status == 1) {
        b->is_held = true;
        b->next++;
        if (b->is_stream)
            b->cursor = s->cursor;
    } else if (status < 0) {
        *err = s->err;
    }
    pthread_mutex_unlock(&b->lock);
    *rows = (struct rows){s->ids, s->target, s->seg, s->pos, b->opts.B, b->opts.T};
    return status;
}

static int64_t shard_step_targets(const struct batch *b, int64_t step)
{
    const int64_t n = rows_per_step(b), first = step * n, T = b->opts.T;
    const int64_t missing = b->n_rows * T - (int64_t)(b->corpus.n_ids - 1);
    int64_t n_targets = 0;
    if (missing == 0 && b->opts.is_shuffled)
        return n * T;
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = row_of(b, first + i);
        n_targets += row < 0 ? 0 : row == b->n_rows - 1 ? T - missing : T;
    }
    return n_targets;
}

int batch_step_targets(struct batch *b, int64_t *n_targets, struct err *err)
{
    const int accum = b->opts.accum;
    if (!b->is_stream) {
        *n_targets = shard_step_targets(b, b->next / accum);
        return 0;
    }
    pthread_mutex_lock(&b->lock);
    const int n = b->is_held + accum - (int)(b->next % accum);
    while (b->n_ready < n && !b->is_over)
        pthread_cond_wait(&b->ready, &b->lock);
    /* When the step is not all there, the thread's last slot says why. */
    const int last = b->n_ready < n ? b->n_ready : n;
    const struct slot *s = &b->slot[(b->tail + last - 1) % b->n_slots];
    const int status = s->status;
    *n_targets = status == 1 ? s->step_targets : 0;
    if (status < 0)
        *err = s->err;
    pthread_mutex_unlock(&b->lock);
    return status < 0 ? -1 : 0;
}

uint64_t batch_cursor(const struct batch *b)
{
    return b->cursor;
}

/* Takes out and drops what lies before the step. */
static int skip_stream(struct batch *b, int64_t step, struct err *err)
{
    if (step * b->opts.accum < b->next)
        return err_set(err, "-", "start the pipe again", "a stream cannot go back to step %lld",
                       (long long)step);
    while (b->next < step * b->opts.accum) {
        struct rows rows;
        const int status = batch_next(b, &rows, err);
        if (status < 0)
            return -1;
        if (status == 0)
            return err_set(err, "-", "feed the stream that the run began with",
                           "stream ends before step %lld", (long long)step);
    }
    return 0;
}

int batch_seek(struct batch *b, int64_t step, uint64_t hash, struct err *err)
{
    if (step < 0 || step > INT64_MAX / 2 / rows_per_step(b))
        return err_set(err, NULL, NULL, "step %lld is out of range", (long long)step);
    if (b->is_stream) {
        TRY(skip_stream(b, step, err));
    } else {
        pthread_mutex_lock(&b->lock);
        b->generation++;
        b->n_ready = 0;
        b->is_held = b->is_over = false;
        b->next = b->next_fill = step * b->opts.accum;
        pthread_cond_signal(&b->wake);
        pthread_mutex_unlock(&b->lock);
    }
    if (hash != 0 && hash != b->cursor)
        return err_set(err, b->is_stream ? "-" : "", "give the data that the run began with",
                       b->is_stream ? "what the stream brings up to step %lld is not what was read "
                                      "before"
                                    : "the shards are not those that were read before, up to step "
                                      "%lld",
                       (long long)step);
    return 0;
}
