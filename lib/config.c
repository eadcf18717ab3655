/* config: presets, derived sizes and rules; see config.h. */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* tiny is what two cores train in five minutes on ten megabytes of text; measured on WordNet's
 * glosses, the scaled embedding is worth 0.02 bits per byte there, narrow and shallow more than
 * wide or deep. */
static const struct preset {
    const char *name;
    int V, D, F, attn_heads, kv_heads, N, Q, max_positions;
    float embedding_multiplier;
    const char *pattern;
} presets[] = {
    {"tiny", 4096, 128, 256, 2, 1, 64, 64, 256, 12, "mtm"},
    {"base", 32000, 512, 2048, 8, 2, 128, 128, 1024, 1, "mmtmtmtm"},
    {"50m", 32000, 512, 2048, 8, 2, 128, 128, 1024, 1, "mmtmtmtm"},
    {"100m", 32000, 768, 3072, 12, 4, 128, 128, 1024, 1, "mmtmtmtm"},
    {"200m", 32000, 1024, 4096, 16, 4, 128, 128, 1024, 1, "mmtmmtmmtm"},
    {"350m", 32000, 1280, 5120, 20, 4, 128, 128, 1024, 1, "mmtmmtmmtmm"},
};

enum { N_PRESETS = sizeof presets / sizeof *presets, MAX_WIDTH = 1 << 16 };

const char *const *config_preset_names(void)
{
    static const char *const names[N_PRESETS + 1] = {"tiny", "base", "50m", "100m",
                                                     "200m", "350m", NULL};
    return names;
}

int config_preset(struct config *c, const char *name, struct err *err)
{
    for (int i = 0; i < N_PRESETS; i++) {
        const struct preset *p = &presets[i];
        if (strcmp(p->name, name) != 0)
            continue;
        *c = (struct config){.V = p->V,
                             .D = p->D,
                             .F = p->F,
                             .N = p->N,
                             .Q = p->Q,
                             .attn_heads = p->attn_heads,
                             .kv_heads = p->kv_heads,
                             .max_positions = p->max_positions,
                             .embedding_multiplier = p->embedding_multiplier,
                             .is_tied = true};
        snprintf(c->pattern, sizeof c->pattern, "%s", p->pattern);
        config_derive(c);
        return 0;
    }
    return err_set(err, NULL, "use tiny, base, 50m, 100m, 200m or 350m", "there is no preset %.40s",
                   name);
}

static void set_int(int *field, int value)
{
    if (*field == 0)
        *field = value;
}

static void set_float(float *field, float value)
{
    if (*field == 0.0f)
        *field = value;
}

/* The widest usual head that divides width; width itself where none does. */
static int head_width(int width)
{
    for (int p = 64; p >= 16; p /= 2)
        if (width % p == 0)
            return p;
    return width;
}

/* A quarter of the query heads, rounded down to a divisor of them. */
static int kv_default(int heads)
{
    int kv = heads / 4 > 0 ? heads / 4 : 1;
    while (heads % kv)
        kv--;
    return kv;
}

void config_derive(struct config *c)
{
    const int D = c->D > 0 && c->D <= MAX_WIDTH ? c->D : 1; /* config_check refuses others */
    c->L = (int)strnlen(c->pattern, CONFIG_MAX_LAYERS);
    set_int(&c->F, 4 * D);
    set_int(&c->mamba_head_dim, c->mamba_heads > 0 ? 2 * D / c->mamba_heads : head_width(2 * D));
    set_int(&c->mamba_heads, c->mamba_head_dim > 0 ? 2 * D / c->mamba_head_dim : 1);
    set_int(&c->mamba_groups, 1);
    set_int(&c->N, 128);
    set_int(&c->K, 4);
    set_int(&c->Q, 128);
    set_int(&c->head_dim, c->attn_heads > 0 ? D / c->attn_heads : head_width(D));
    set_int(&c->attn_heads, c->head_dim > 0 ? D / c->head_dim : 1);
    set_int(&c->kv_heads, c->attn_heads > 0 ? kv_default(c->attn_heads) : 1);
    set_int(&c->max_positions, 1024);
    set_float(&c->rope_theta, 10000.0f);
    set_float(&c->norm_eps, 1e-5f);
    set_float(&c->embedding_multiplier, 1.0f);
    set_float(&c->attention_multiplier, c->head_dim > 0 ? 1.0f / sqrtf((float)c->head_dim) : 1.0f);
    set_float(&c->residual_multiplier, 1.0f);
    set_float(&c->logits_scaling, 1.0f);
    set_float(&c->init_range, 0.02f);
}

/* --- rules --- */

struct range {
    const char *key, *option; /* of the JSON; of the tools */
    int value, low, high;
};

static int check_ranges(const struct config *c, struct err *err)
{
    const struct range ranges[] = {
        {"vocab_size", "vocab", c->V, 4, 1 << 24},
        {"hidden_size", "width", c->D, 8, MAX_WIDTH},
        {"shared_intermediate_size", "mlp", c->F, 1, 1 << 20},
        {"num_hidden_layers", "pattern", c->L, 1, CONFIG_MAX_LAYERS},
        {"mamba_n_heads", "ssm-heads", c->mamba_heads, 1, 1 << 14},
        {"mamba_d_head", "ssm-head-dim", c->mamba_head_dim, 16, 128},
        {"mamba_n_groups", "ssm-groups", c->mamba_groups, 1, 1 << 14},
        {"mamba_d_state", "state", c->N, 1, 1024},
        {"mamba_d_conv", "conv", c->K, 2, 16},
        {"mamba_chunk_size", "chunk", c->Q, 1, 4096},
        {"num_attention_heads", "heads", c->attn_heads, 1, 1 << 12},
        {"num_key_value_heads", "kv-heads", c->kv_heads, 1, 1 << 12},
        {"max_position_embeddings", "context", c->max_positions, 1, 1 << 24},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        const struct range *r = &ranges[i];
        char mend[96];
        if (r->value >= r->low && r->value <= r->high)
            continue;
        snprintf(mend, sizeof mend, "set it to %d up to %d", r->low, r->high);
        return err_set(err, NULL, mend, "%s (--%s) is %d", r->key, r->option, r->value);
    }
    return 0;
}

static int check_floats(const struct config *c, struct err *err)
{
    const struct {
        const char *key, *option;
        float value;
    } floats[] = {
        {"rms_norm_eps", "norm-eps", c->norm_eps},
        {"rope_theta", "rope-theta", c->rope_theta},
        {"embedding_multiplier", "embedding-multiplier", c->embedding_multiplier},
        {"attention_multiplier", "attention-multiplier", c->attention_multiplier},
        {"residual_multiplier", "residual-multiplier", c->residual_multiplier},
        {"logits_scaling", "logits-scaling", c->logits_scaling},
        {"initializer_range", "init-range", c->init_range},
    };
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        if (!(floats[i].value > 0.0f) || !isfinite(floats[i].value))
            return err_set(err, NULL, "set it to a finite number above 0", "%s (--%s) is %g",
                           floats[i].key, floats[i].option, (double)floats[i].value);
    return 0;
}

static int check_pattern(const struct config *c, struct err *err)
{
    static const char mend[] = "write m for a Mamba-2 layer and t for an attention layer";
    const size_t n = strnlen(c->pattern, sizeof c->pattern);
    if (n == 0)
        return err_set(err, NULL, mend, "the layer pattern is empty");
    if (n > CONFIG_MAX_LAYERS)
        return err_set(err, NULL, "use fewer layers", "the layer pattern is longer than %d",
                       CONFIG_MAX_LAYERS);
    const size_t good = strspn(c->pattern, "mt");
    if (good < n)
        return err_set(err, NULL, mend, "the layer pattern has the letter '%c'", c->pattern[good]);
    if ((int)n != c->L)
        return err_set(err, NULL, "give one letter a layer",
                       "the layer pattern has %zu letters for %d layers", n, c->L);
    return 0;
}

static int check_heads(const struct config *c, struct err *err)
{
    const int E = c->mamba_heads * c->mamba_head_dim;
    if (E % c->D != 0)
        return err_set(err, NULL,
                       "choose mamba_n_heads (--ssm-heads) and mamba_d_head (--ssm-head-dim) whose "
                       "product is twice hidden_size",
                       "%d Mamba heads of %d are no multiple of hidden_size %d", c->mamba_heads,
                       c->mamba_head_dim, c->D);
    if (c->mamba_heads % c->mamba_groups != 0)
        return err_set(err, NULL, "set mamba_n_groups (--ssm-groups) to a divisor of mamba_n_heads",
                       "%d Mamba heads do not divide into %d groups", c->mamba_heads,
                       c->mamba_groups);
    if ((int64_t)c->attn_heads * c->head_dim != c->D)
        return err_set(err, NULL, "set num_attention_heads (--heads) to a divisor of hidden_size",
                       "%d attention heads of %d do not make up hidden_size %d", c->attn_heads,
                       c->head_dim, c->D);
    if (c->attn_heads % c->kv_heads != 0)
        return err_set(
            err, NULL, "set num_key_value_heads (--kv-heads) to a divisor of num_attention_heads",
            "%d attention heads do not share %d key/value heads", c->attn_heads, c->kv_heads);
    if (c->head_dim < 8 || c->head_dim > 256 || (c->use_rope && c->head_dim % 2))
        return err_set(
            err, NULL,
            "change num_attention_heads (--heads): heads are 8 to 256 wide, even for RoPE",
            "attention heads are %d wide", c->head_dim);
    return 0;
}

int config_check(const struct config *c, struct err *err)
{
    TRY(check_pattern(c, err));
    TRY(check_ranges(c, err));
    TRY(check_floats(c, err));
    return check_heads(c, err);
}
