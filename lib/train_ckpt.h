/* train_ckpt: the resumable checkpoint (format: hm-checkpoint(5)). One safetensors file: the f32
 * master weights under Hugging Face's names, AdamW's moments (f32 or bf16) under "hm.train.m." and
 * "hm.train.v." and those names, the tokenizer's bytes in "tokenizer"; in the metadata "config",
 * and "hm.train", a JSON object of the run's options and counters. No times and no paths: the same
 * training gives the same bytes. */
#ifndef HM_TRAIN_CKPT_H
#define HM_TRAIN_CKPT_H

#include "io.h"
#include "params.h"
#include "train_opts.h"

/* What a run knows at the edge between two steps, besides weights and moments. */
struct train_state {
    int64_t step;                        /* steps done, skipped ones included */
    int64_t total;                       /* steps of the run; 0: not fixed yet */
    int64_t warmup;                      /* steps */
    int64_t tokens;                      /* targets of the steps done */
    uint64_t cursor;                     /* batch_cursor */
    int64_t rank, world;                 /* 0 of 1 */
    uint64_t tok_hash;                   /* fingerprint of the tokenizer */
    uint64_t corpus_tokens, corpus_docs; /* of the shards; 0: a stream */
    double best_loss;                    /* of the validations so far */
    int64_t best_step, valid_step;       /* -1: none yet; valid_step: of the last validation */
    /* of struct step_ctl: counters, and statistics of the outlier test */
    int64_t skipped, skipped_in_row, applied;
    double loss_mean, loss_var, gnorm_mean, gnorm_var;
    double fp16_scale; /* 0: there is none */
    int64_t fp16_good;
};

/* All but the tensors. */
struct train_head {
    struct config c;
    struct train_opts opts;
    struct train_state state;
};

/* The tensors, in host memory: three blocks of params.count elements. */
struct train_blocks {
    float *weights;
    void *m, *v;
    enum dtype moments; /* of m and v */
};

/* Pure: the "hm.train" metadata. Doubles survive exactly. */
MUST_USE int train_meta_print(const struct train_head *h, struct buf *to, struct err *err);
/* Fills opts and state; every field must be there and possible. */
MUST_USE int train_meta_parse(struct train_head *h, const char *json, size_t n, struct err *err);

/* Reads the header only. A final checkpoint, which cannot be resumed, is an error. */
MUST_USE int train_ckpt_head(struct train_head *h, const char *path, struct err *err);
/* Fills the blocks (laid out as params, which is of the same config; padding is left alone) and tok
 * (appended to). Every tensor must be there, and nothing else; every byte is verified. */
MUST_USE int train_ckpt_load(const struct params *p, const struct train_blocks *to, struct buf *tok,
                             const char *path, struct err *err);
MUST_USE int train_ckpt_save(const struct train_head *h, const struct params *p,
                             const struct train_blocks *from, const struct buf *tok,
                             const char *path, struct err *err);

#endif
