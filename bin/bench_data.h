/* bench_data: what hm-bench reads where the user names nothing: text, a tokenizer trained on it,
 * shards of random ids. All of it is the same in each run. */
#ifndef HM_BENCH_DATA_H
#define HM_BENCH_DATA_H

#include "encode.h"

/* Appends n_bytes of lines of made-up words, as frequent as words are (Zipf). */
MUST_USE int bench_data_text(struct buf *to, size_t n_bytes, struct err *err);
/* A tokenizer of about n_ids trained on the text. */
MUST_USE int bench_data_tok(struct tok **tok, const struct buf *text, int n_ids, struct err *err);
/* Writes a shard of n_tokens random ids below vocab, in long documents, into a new folder of
 * $TMPDIR or /tmp; path and folder have room for 256. bench_data_remove takes both away, which may
 * be done as soon as the shard is open. */
MUST_USE int bench_data_shard(char *folder, char *path, int vocab, int64_t n_tokens,
                              struct err *err);
void bench_data_remove(const char *folder, const char *path);

#endif
