/* shard_print: what the tool shard prints of shards: a table, or their ids in other forms. */
#ifndef HM_SHARD_PRINT_H
#define HM_SHARD_PRINT_H

#include "shard.h"

#include <stdio.h>

/* The CSV header, and a record for one shard, from its front alone. */
void shard_list_head(FILE *to);
MUST_USE int shard_list(const char *path, FILE *to, struct err *err);

/* Reads a shard whole. */
MUST_USE int shard_verify(const char *path, struct err *err);

/* The ids of shards that agree, one after the other, as a token stream or as a data file of llm.c
 * (256 int32: magic, version, tokens; then uint16). Where a set with an unterminated document is
 * followed by another set, a </s> is put between. A commit or an abort of out is the caller's. */
MUST_USE int shard_cat_stream(const char *const *paths, int n, struct out *out, struct err *err);
MUST_USE int shard_cat_llmc(const char *const *paths, int n, struct out *out, struct err *err);

#endif
