/* ckpt: checkpoints, one safetensors file each (format: hm-checkpoint(5)).
 *
 * A final one holds bf16 (or f32) weights under Hugging Face's names, "config" JSON in the metadata
 * and the tokenizer's bytes in the U8 tensor "tokenizer". A resumable one holds f32 weights and,
 * under "hm.train.", moments, counters, the loader's cursor, statistics and the run's own options.
 */
#ifndef HM_CKPT_H
#define HM_CKPT_H

#include "io.h"
#include "params.h"

/* What every user of a model needs, in host memory. */
struct ckpt {
    struct config c;
    struct params params;
    float *weights; /* flat f32 block of params.count; owned */
    struct buf tok; /* the tokenizer model's bytes; empty if the file has none (Hugging Face's own
                       files) */
};

/* Reads a model from a checkpoint file of either kind, or "-". A folder means its
 * model.safetensors; config.json beside the file is read where the metadata has no config. Training
 * tensors are verified and skipped. */
MUST_USE int ckpt_load(struct ckpt *k, const char *path, struct err *err);
void ckpt_free(struct ckpt *k);

/* Writes a final checkpoint. dtype: DT_BF16 or DT_F32; with BF16, A_log, D, dt_bias and norms stay
 * F32. */
MUST_USE int ckpt_save_model(const struct config *c, const struct params *p, const float *weights,
                             const struct buf *tok, enum dtype dtype, struct out *out,
                             struct err *err);

#endif
