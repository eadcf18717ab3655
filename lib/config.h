/* config: the shape of a model, its JSON form (Hugging Face GraniteMoeHybrid, dense) and the
 * presets. */
#ifndef HM_CONFIG_H
#define HM_CONFIG_H

#include "buf.h"

#include <stdbool.h>

enum { CONFIG_MAX_LAYERS = 256 };

struct config {
    int V, D, F, L;
    char pattern[CONFIG_MAX_LAYERS + 1]; /* L letters: 'm' Mamba-2, 't' attention */
    /* mixer 'm': E = H*P inner width (expand * D), G groups of B and C, N state, K taps, Q chunk */
    int mamba_heads, mamba_head_dim, mamba_groups, N, K, Q;
    /* mixer 't' */
    int attn_heads, kv_heads, head_dim;
    bool use_rope;
    float rope_theta;
    int max_positions; /* T of training: rows of T+1 ids */
    float norm_eps;
    float embedding_multiplier, attention_multiplier, residual_multiplier, logits_scaling;
    bool is_tied;     /* the head is the embedding */
    float init_range; /* standard deviation of the embedding's initial values */
};

/* The preset of that name ("tiny", "base", "50m", "100m", "200m", "350m"). */
MUST_USE int config_preset(struct config *c, const char *name, struct err *err);
/* Names of the presets, NULL-terminated; static. */
const char *const *config_preset_names(void);

/* Sets what follows from D where the caller left 0: F, heads, head_dim, attention_multiplier =
 * 1/sqrt(head_dim). */
void config_derive(struct config *c);
/* Every rule that ops and formats rely on; the error names the option or key to change. */
MUST_USE int config_check(const struct config *c, struct err *err);

/* Reads config.json text as Hugging Face writes it: both spellings of layer_types, rope_theta and
 * rope_parameters, Infinity and {"__float__": "Infinity"}. Keys that change the function and that
 * hm does not have (experts, biases, time_step_limit) are refused; unknown keys are ignored. */
MUST_USE int config_parse(struct config *c, const char *json, size_t n, struct err *err);
/* Appends the JSON that transformers and config_parse read; same config, same bytes. */
MUST_USE int config_print(const struct config *c, struct buf *to, struct err *err);

/* XXH64 of config_print's bytes: what checkpoints, states and caches are checked against. */
MUST_USE int config_hash(const struct config *c, uint64_t *hash, struct err *err);

#endif
