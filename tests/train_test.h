/* train_test: what the tests of training share: a corpus of fixed sequences, a small model, a run.
 */
#ifndef HM_TRAIN_TEST_H
#define HM_TRAIN_TEST_H

#include "cpu.h"
#include "data_test.h"
#include "rng.h"
#include "train_run.h"

enum { TEST_ROWS = 64, TEST_T = 16, TEST_V = 140 };

struct train_test {
    struct scratch scratch;
    struct dev dev;
    struct buf tok;
    char shard[256];
    struct train_head head; /* of a new run */
    struct err err;
};

/* A shard of TEST_ROWS rows of TEST_T targets, one document without an end. The id before each row
 * is its own, so that the row can be known from its first input; the others are noise. */
static void make_rows(const char *path)
{
    int32_t ids[TEST_ROWS * TEST_T];
    uint8_t piece_bytes[TEST_V];
    struct stream_header h = {.width = 2,
                              .vocab = TEST_V,
                              .eos = ID_EOS,
                              .sep = STREAM_LINE,
                              .sep_bytes = "\n",
                              .sep_len = 1,
                              .tok_hash = 77,
                              .piece_bytes = piece_bytes};
    for (int i = 0; i < TEST_V; i++)
        piece_bytes[i] = i < 4 ? 0 : 3;
    piece_bytes[ID_EOS] = 1;
    for (int i = 0; i < TEST_ROWS * TEST_T; i++) {
        const bool is_name = i % TEST_T == TEST_T - 1;
        ids[i] = is_name ? 4 + i / TEST_T
                         : 70 + (int32_t)(philox(5, 0, (uint64_t)i).v[0] % (TEST_V - 70));
    }
    make_shard(path, &h, ids, TEST_ROWS * TEST_T);
}

static struct train_test train_test_open(void)
{
    struct train_test t = {.scratch = scratch_open()};
    snprintf(t.shard, sizeof t.shard, "%s", scratch_path(&t.scratch, "a.tok.zst"));
    make_rows(t.shard);
    int rc = cpu_open(&t.dev, cpu_isa_best(), 2, &t.err);
    rc = rc ? rc : buf_put(&t.tok, "the tokenizer", 13, &t.err);
    if (rc != 0)
        abort();
    struct config *c = &t.head.c;
    *c = (struct config){.V = TEST_V,
                         .D = 32,
                         .F = 48,
                         .N = 16,
                         .Q = 8,
                         .attn_heads = 2,
                         .kv_heads = 1,
                         .mamba_head_dim = 16,
                         .max_positions = TEST_T,
                         .is_tied = true,
                         .pattern = "mtm"};
    config_derive(c);
    train_opts_default(&t.head.opts);
    t.head.opts.batch = 4;
    t.head.opts.accum = 2;
    t.head.opts.max_steps = 8;
    t.head.opts.warmup = 2;
    t.head.opts.save_time = 0;
    return t;
}

static void train_test_close(struct train_test *t)
{
    dev_close(&t->dev);
    buf_free(&t->tok);
    scratch_remove(&t->scratch);
}

/* Opens a training on the shard, which validates on it as well; from a checkpoint where path is not
 * NULL. Aborts on failure. */
__attribute__((unused)) static void test_begin(struct train_test *t, struct train *r,
                                               const struct train_head *head, const char *path)
{
    const char *shards[] = {t->shard};
    const struct train_data d = {shards, shards, 1, 1};
    struct train_head h = *head;
    int rc = path ? train_ckpt_head(&h, path, &t->err) : 0;
    rc = rc ? rc : train_open(r, &h, &d, &t->tok, 77, &t->dev, &t->err);
    rc = rc ? rc : path ? train_restore(r, path, &t->err) : train_init(r, &t->err);
    if (rc != 0) {
        printf("# %s: %s\n", t->err.file, t->err.what);
        abort();
    }
}

#endif
