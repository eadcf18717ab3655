/* model_args: see model_args.h. */
#include "model_args.h"
#include "io.h"

#include <stddef.h>
#include <string.h>

enum { CONFIG_FILE_MAX = 1 << 20 };

/* One size of struct config. resets: the letters of what is derived anew when it is given. */
struct size_arg {
    const char *name;
    size_t at;
    bool is_float;
    const char *resets;
    const char *arg, *help;
};

#define AT(member) offsetof(struct config, member)
static const struct size_arg sizes[MODEL_ARGS_SIZES] = {
    {"width", AT(D), false, "fhkpsq", "D", "width of the residual stream (default: preset's)"},
    {"mlp", AT(F), false, "", "F", "width of the MLP (default 4 D)"},
    {"heads", AT(attn_heads), false, "pk", "H",
     "query heads of an attention layer (default: preset's)"},
    {"kv-heads", AT(kv_heads), false, "", "G",
     "key/value heads; they divide the query heads (default: preset's)"},
    {"head-dim", AT(head_dim), false, "hk", "P",
     "channels of an attention head (default: preset's)"},
    {"ssm-heads", AT(mamba_heads), false, "q", "H", "heads of a Mamba-2 layer (default 2 D / P)"},
    {"ssm-head-dim", AT(mamba_head_dim), false, "s", "P",
     "channels of a Mamba-2 head (default: preset's)"},
    {"ssm-groups", AT(mamba_groups), false, "", "G",
     "groups of heads that share B and C (default: preset's)"},
    {"state", AT(N), false, "", "N", "state size of a Mamba-2 head (default: preset's)"},
    {"conv", AT(K), false, "", "K", "taps of the causal convolution (default: preset's)"},
    {"chunk", AT(Q), false, "", "Q",
     "positions of a chunk of the SSD algorithm (default: preset's)"},
    {"vocab", AT(V), false, "", "V", "rows of the embedding (default: the tokenizer's)"},
    {"context", AT(max_positions), false, "", "T",
     "positions of a training row (default: preset's)"},
    {"rope-theta", AT(rope_theta), true, "", "X",
     "base of the rotary frequencies (default: preset's)"},
    {"norm-eps", AT(norm_eps), true, "", "X", "epsilon of the norms (default: preset's)"},
    {"embedding-multiplier", AT(embedding_multiplier), true, "", "X",
     "scale of the embedding (default: preset's)"},
    {"attention-multiplier", AT(attention_multiplier), true, "", "X",
     "scale of the attention scores (default 1/sqrt(P))"},
    {"residual-multiplier", AT(residual_multiplier), true, "", "X",
     "scale of each branch (default: preset's)"},
    {"logits-scaling", AT(logits_scaling), true, "", "X",
     "divisor of the logits (default: preset's)"},
    {"init-range", AT(init_range), true, "", "X",
     "standard deviation of the first embedding (default: preset's)"},
};

/* Positions of the options among the rows, before the sizes. */
enum { ROW_GROUP, ROW_PRESET, ROW_CONFIG, ROW_PATTERN, ROW_ROPE, ROW_UNTIED, ROW_SIZES };

static int *int_of(const struct size_arg *s, struct config *c)
{
    return (int *)(void *)((char *)c + s->at);
}

static float *float_of(const struct size_arg *s, struct config *c)
{
    return (float *)(void *)((char *)c + s->at);
}

int model_args_options(struct model_args *a, int preset, struct cli_opt *rows)
{
    *a = (struct model_args){.preset = preset};
    const struct cli_opt first[ROW_SIZES] = {
        {.kind = CLI_GROUP, .name = "Model"},
        {CLI_ENUM, 0, "preset", &a->preset, NULL, "sizes to start from", 0, 0,
         config_preset_names(), NULL},
        {CLI_TEXT, 0, "config", &a->config_path, "FILE",
         "JSON with the sizes to start from, as Hugging Face writes it", 0, 0, NULL, NULL},
        {CLI_TEXT, 0, "pattern", &a->pattern, "LETTERS",
         "a layer each: m Mamba-2, t attention, as in mmtmtmtm", 0, 0, NULL, NULL},
        {CLI_FLAG, 0, "rope", &a->use_rope, NULL, "rotary positions in the attention layers", 0, 0,
         NULL, NULL},
        {CLI_FLAG, 0, "untied", &a->is_untied, NULL, "a head of its own, not the embedding", 0, 0,
         NULL, NULL},
    };
    memcpy(rows, first, sizeof first);
    for (int i = 0; i < MODEL_ARGS_SIZES; i++) {
        const struct size_arg *s = &sizes[i];
        void *to = s->is_float ? (void *)&a->real[i] : (void *)&a->count[i];
        const double max = s->is_float ? 1e30 : 1 << 24;
        rows[ROW_SIZES + i] = (struct cli_opt){s->is_float ? CLI_FLOAT : CLI_INT,
                                               0,
                                               s->name,
                                               to,
                                               s->arg,
                                               s->help,
                                               s->is_float ? 0 : 1,
                                               max,
                                               NULL,
                                               NULL};
    }
    for (int i = ROW_PRESET; i < MODEL_ARGS_OPTS; i++)
        rows[i].is_set = &a->is_set[i];
    return MODEL_ARGS_OPTS;
}

static int read_config(struct config *c, const char *path, struct err *err)
{
    struct buf text = {0};
    int rc = io_read_file(path, &text, CONFIG_FILE_MAX, err);
    if (rc == 0 && config_parse(c, (const char *)text.data, text.size, err) != 0)
        rc = err_file(err, path);
    buf_free(&text);
    return rc;
}

/* Zeroes what is to follow from a size that was given. */
static void reset_derived(struct config *c, const char *letters)
{
    for (; *letters; letters++)
        switch (*letters) {
        case 'f':
            c->F = 0;
            break;
        case 'h':
            c->attn_heads = 0;
            break;
        case 'k':
            c->kv_heads = 0;
            break;
        case 'p':
            c->head_dim = 0;
            break;
        case 's':
            c->mamba_heads = 0;
            break;
        case 'q':
            c->mamba_head_dim = 0;
            break;
        }
}

static bool is_usual_scale(const struct config *c)
{
    struct config usual = *c;
    usual.attention_multiplier = 0;
    config_derive(&usual);
    return usual.attention_multiplier == c->attention_multiplier;
}

/* Puts the sizes that were given into c. */
static int apply(const struct model_args *a, struct config *c, struct err *err)
{
    for (int i = 0; i < MODEL_ARGS_SIZES; i++) {
        if (!a->is_set[ROW_SIZES + i])
            continue;
        if (sizes[i].is_float)
            *float_of(&sizes[i], c) = (float)a->real[i];
        else
            *int_of(&sizes[i], c) = (int)a->count[i];
    }
    if (a->pattern) {
        if (strlen(a->pattern) > CONFIG_MAX_LAYERS)
            return err_set(err, NULL, "use fewer layers", "--pattern is longer than %d layers",
                           CONFIG_MAX_LAYERS);
        snprintf(c->pattern, sizeof c->pattern, "%s", a->pattern);
    }
    if (a->is_set[ROW_ROPE])
        c->use_rope = a->use_rope;
    if (a->is_set[ROW_UNTIED])
        c->is_tied = !a->is_untied;
    return 0;
}

static bool says(const struct err *err, const char *text)
{
    return strstr(err->mend, text) || strstr(err->what, text);
}

/* Adds to the mend what the keys in it, a file's, are called as options, where it does not say. */
static int name_options(struct err *err)
{
    static const char *const names[][2] = {
        {"hidden_size", "--width"},
        {"num_attention_heads", "--heads"},
        {"num_key_value_heads", "--kv-heads"},
        {"shared_intermediate_size", "--mlp"},
        {"mamba_n_heads", "--ssm-heads"},
        {"mamba_d_head", "--ssm-head-dim"},
        {"mamba_n_groups", "--ssm-groups"},
        {"mamba_d_state", "--state"},
        {"mamba_d_conv", "--conv"},
        {"mamba_chunk_size", "--chunk"},
        {"max_position_embeddings", "--context"},
        {"vocab_size", "--vocab"},
        {"initializer_range", "--init-range"},
        {"rms_norm_eps", "--norm-eps"},
    };
    const char *before = " (";
    char more[sizeof err->mend] = "";
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!says(err, names[i][0]) || says(err, names[i][1]))
            continue;
        const size_t n = strlen(more);
        snprintf(more + n, sizeof more - n, "%s%s is %s", before, names[i][0], names[i][1]);
        before = ", ";
    }
    const size_t n = strlen(err->mend);
    if (*more)
        snprintf(err->mend + n, sizeof err->mend - n, "%s)", more);
    return -1;
}

int model_args_config(const struct model_args *a, int vocab, struct config *c, struct err *err)
{
    *c = (struct config){0};
    if (a->config_path)
        TRY(read_config(c, a->config_path, err));
    else
        TRY(config_preset(c, config_preset_names()[a->preset], err));
    if (vocab)
        c->V = vocab;
    const bool is_usual = is_usual_scale(c);
    for (int i = 0; i < MODEL_ARGS_SIZES; i++)
        if (a->is_set[ROW_SIZES + i])
            reset_derived(c, sizes[i].resets);
    if (is_usual) /* 1/sqrt(P), whatever P will be */
        c->attention_multiplier = 0;
    TRY(apply(a, c, err));
    config_derive(c);
    return config_check(c, err) == 0 ? 0 : name_options(err);
}

int64_t model_args_context(const struct model_args *a)
{
    int i = 0;
    while (sizes[i].at != AT(max_positions))
        i++;
    return a->is_set[ROW_SIZES + i] ? a->count[i] : 0;
}

/* Names the first difference as option and values in to[n]; false: there is none. */
static bool find_difference(struct config *a, struct config *b, char *to, size_t n)
{
    if (strcmp(a->pattern, b->pattern) != 0) {
        snprintf(to, n, "--pattern is %.40s, but was %.40s", a->pattern, b->pattern);
        return true;
    }
    if (a->use_rope != b->use_rope || a->is_tied != b->is_tied) {
        const bool is_rope = a->use_rope != b->use_rope;
        const bool is_on = is_rope ? a->use_rope : !a->is_tied;
        snprintf(to, n, "--%s is %s, but was %s", is_rope ? "rope" : "untied", is_on ? "on" : "off",
                 is_on ? "off" : "on");
        return true;
    }
    for (int i = 0; i < MODEL_ARGS_SIZES; i++) {
        const struct size_arg *s = &sizes[i];
        const double x = s->is_float ? (double)*float_of(s, a) : *int_of(s, a);
        const double y = s->is_float ? (double)*float_of(s, b) : *int_of(s, b);
        if (memcmp((char *)a + s->at, (char *)b + s->at, 4) != 0) {
            snprintf(to, n, "--%s is %.9g, but was %.9g", s->name, x, y);
            return true;
        }
    }
    return false;
}

int model_args_agree(const struct model_args *a, const struct config *c, struct err *err)
{
    char what[160];
    struct config wanted = *c, has = *c;
    if (a->is_set[ROW_PRESET] || a->is_set[ROW_CONFIG])
        TRY(model_args_config(a, c->V, &wanted, err));
    else
        TRY(apply(a, &wanted, err));
    if (find_difference(&wanted, &has, what, sizeof what))
        return err_set(err, NULL, "leave the option out, or begin a new model", "%s", what);
    return 0;
}
