/* batch: the loader. Which tokens step k reads is a pure function of (seed, k, sizes), see tokens
 * and rows in hm(7): the shards' concatenation, with a </s> in front, is cut into rows of T+1 ids
 * that overlap by one; rows are permuted by (seed, epoch); step k takes the next B*accum*world of
 * them, and steps run on over the end of an epoch. The last row of the concatenation may be short:
 * the rest of its targets are -1, its ids <pad>, a segment of its own.
 *
 * Row b of micro-batch `micro` of step k on a rank is number
 *     g = ((k*accum + micro)*world + rank)*B + b
 * of the run: the (g mod n_rows)-th of epoch g / n_rows in the order of rng_permute. So the step's
 * rows are the same however they are dealt out to accum and world. A row that begins inside a
 * document counts positions from 0. */
#ifndef HM_BATCH_H
#define HM_BATCH_H

#include "buf.h"

#include <stdbool.h>

/* One micro-batch: B rows of T positions, host memory. seg rises at each document edge of a row;
 * pos restarts. */
struct rows {
    const int32_t *ids, *target, *seg, *pos; /* (B,T); target -1: not scored */
    int B, T;
};

struct batch_opts {
    int B, T, accum; /* micro-batch rows, positions a row, micro-batches a step (of this rank) */
    int rank, world; /* 0 of 1 for a single process */
    uint64_t seed;
    bool is_shuffled; /* false: rows in order (validation) */
};

struct batch; /* open shards or a stream being read, prefetching on a thread of its own */

/* What a set of shards (or a stream) holds; all shards must agree. */
struct corpus_info {
    int vocab;         /* vocabulary size of the tokenizer */
    uint64_t tok_hash; /* its fingerprint */
    /* 0: not known (a stream: not yet). n_bytes: of text, separators included */
    uint64_t n_tokens, n_docs, n_bytes;
    /* (vocab) bytes of text each id stands for, </s>: the separator, so that any run of targets can
     * be counted; the loader's memory. NULL: not known, or not the same in all shards. */
    const uint8_t *piece_bytes;
    int64_t n_rows; /* of T positions; -1 for a stream */
};

/* paths: shard files, or the one path "-" for a token stream on stdin: one epoch in order. */
MUST_USE int batch_open(struct batch **b, const char *const *paths, int n_paths,
                        const struct batch_opts *opts, struct corpus_info *info, struct err *err);
void batch_close(struct batch *b);

/* Moves to the first micro-batch of step k. Shards: at once. Stream: skips forward. `hash` (from
 * batch_cursor at save time; 0: not checked) tells that the shards are the same, or that what was
 * skipped is what was read before. */
MUST_USE int batch_seek(struct batch *b, int64_t step, uint64_t hash, struct err *err);
/* Hash of the shards' content, or of all that the stream gave up to the micro-batch last returned:
 * goes into the checkpoint beside the step. Never 0 for shards. */
uint64_t batch_cursor(const struct batch *b);

/* The next micro-batch into *rows (memory of the loader, valid until the next call). 1: filled (in
 * the last step of a stream or of an unshuffled pass there may be rows whose targets are all -1);
 * 0: the stream, or the unshuffled pass, is over, which happens only before the first micro-batch
 * of a step; -1: failed. Allocates nothing. */
MUST_USE int batch_next(struct batch *b, struct rows *rows, struct err *err);

/* Targets of all micro-batches of the step of the next batch_next, on all ranks; 0 when that would
 * be the end. Shards: arithmetic. Stream: reads the step ahead. */
MUST_USE int batch_step_targets(struct batch *b, int64_t *n_targets, struct err *err);

/* Rows for texts that are not in shards (evaluation, tests): the rule above applied to ids in
 * memory, where seg, pos and the <s> rule are made from the ids alone. prev: the id before ids[0]
 * (ID_EOS at a document's start). ids holds n targets; arrays of T each are filled, short rows
 * padded. */
void batch_fill_row(const int32_t *ids, int n, int32_t prev, int T, int32_t *in, int32_t *target,
                    int32_t *seg, int32_t *pos);

#endif
