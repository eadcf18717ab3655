/* Presets and their parameter counts, the JSON form, the rules, and the tensors' names, shapes and
 * first values. */
#include "config.h"
#include "params.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

static void test_presets(void)
{
    static const struct {
        const char *name;
        double millions;
    } cases[] = {{"base", 52.1}, {"50m", 52.1}, {"100m", 104.8}, {"200m", 212.7}, {"350m", 351}};
    struct config c;
    struct params p;
    struct err err;
    for (const char *const *name = config_preset_names(); *name; name++)
        ok(config_preset(&c, *name, &err) == 0 && config_check(&c, &err) == 0, "preset %s", *name);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (config_preset(&c, cases[i].name, &err) != 0 || params_open(&p, &c, &err) != 0)
            abort();
        const double tolerance = cases[i].millions < 200 ? 0.05 : 0.5;
        ok(fabs((double)p.n_values / 1e6 - cases[i].millions) <= tolerance,
           "%s has %.2fM parameters", cases[i].name, (double)p.n_values / 1e6);
        params_free(&p);
    }
    if (config_preset(&c, "tiny", &err) != 0 || params_open(&p, &c, &err) != 0)
        abort();
    ok(p.n_values >= 1000000 && p.n_values <= 4000000, "tiny has %.2fM", (double)p.n_values / 1e6);
    params_free(&p);
    ok(config_preset(&c, "huge", &err) != 0 && strstr(err.mend, "tiny"), "no other preset");
}

static void test_round_trip(void)
{
    struct config c, back;
    struct err err;
    struct buf text = {0}, again = {0};
    uint64_t hash, other;
    if (config_preset(&c, "100m", &err) != 0)
        abort();
    c.use_rope = true;
    c.rope_theta = 123456.789f;
    c.norm_eps = 1e-6f;
    c.attention_multiplier = 0.1f;
    c.logits_scaling = 3.0f;
    c.is_tied = false;
    ok(config_print(&c, &text, &err) == 0, "a config is printed");
    ok(config_parse(&back, (char *)text.data, text.size, &err) == 0, "and read (%s)", err.what);
    ok(memcmp(&c, &back, sizeof c) == 0, "as the same config");
    ok(config_print(&back, &again, &err) == 0 && again.size == text.size &&
           memcmp(text.data, again.data, text.size) == 0,
       "which prints the same bytes");
    ok(config_hash(&c, &hash, &err) == 0 && config_hash(&back, &other, &err) == 0 && hash == other,
       "and has the same hash");
    back.N = 64;
    ok(config_hash(&back, &other, &err) == 0 && hash != other, "that another config has not");
    buf_free(&text);
    buf_free(&again);
}

/* A small dense model, with room for one more line at its end. */
#define HEAD                                                                                       \
    "{\"model_type\": \"granitemoehybrid\", \"hidden_size\": 64, \"vocab_size\": 320,"             \
    "\"shared_intermediate_size\": 160, \"num_local_experts\": 0, \"num_attention_heads\": 4,"     \
    "\"mamba_n_heads\": 8, \"num_hidden_layers\": 2"

static void test_reading(void)
{
    struct config c;
    struct err err = {.what = ""};
    const char *text = HEAD ", \"layer_types\": [\"linear_attention\", \"full_attention\"],"
                            "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5},"
                            "\"time_step_limit\": [0.0, {\"__float__\": \"Infinity\"}]}";
    ok(config_parse(&c, text, strlen(text), &err) == 0, "the newer spelling (%s)", err.what);
    ok(strcmp(c.pattern, "mt") == 0 && c.rope_theta == 5.0f && !c.use_rope, "means the same");
    ok(c.attention_multiplier == 1.0f && c.norm_eps == 1e-6f && !c.is_tied && c.kv_heads == 4 &&
           c.mamba_head_dim == 16 && c.N == 256,
       "missing keys are what transformers takes");
    text = HEAD ", \"layer_types\": [\"mamba\", \"attention\"], \"rope_theta\": 7,"
                "\"position_embedding_type\": \"rope\", \"time_step_limit\": [0.0, Infinity]}";
    ok(config_parse(&c, text, strlen(text), &err) == 0 && strcmp(c.pattern, "mt") == 0 &&
           c.use_rope && c.rope_theta == 7.0f,
       "the older spelling, with bare Infinity");
    text = HEAD ", \"layer_types\": null}";
    ok(config_parse(&c, text, strlen(text), &err) == 0 && strcmp(c.pattern, "mm") == 0,
       "no layer_types: all Mamba");
    text = "{\"hidden_size\": 96, \"vocab_size\": 512, \"layer_types\": [\"mamba\",\"attention\"]}";
    ok(config_parse(&c, text, strlen(text), &err) == 0 && c.is_tied && c.F == 384 &&
           c.mamba_heads * c.mamba_head_dim == 192 && c.attn_heads * c.head_dim == 96 &&
           fabsf(c.attention_multiplier - 1.0f / sqrtf((float)c.head_dim)) < 1e-7f,
       "a config of one's own needs the sizes only (%s)", err.what);
}

static void test_refusals(void)
{
    static const char *const lines[] = {
        "\"num_local_experts\": 8}",
        "\"attention_bias\": true}",
        "\"mamba_proj_bias\": true}",
        "\"mamba_conv_bias\": false}",
        "\"hidden_act\": \"gelu\"}",
        "\"time_step_limit\": [0.0, 0.1]}",
        "\"time_step_limit\": [0.001, Infinity]}",
        "\"rope_scaling\": {\"type\": \"linear\"}}",
        "\"rope_parameters\": {\"rope_type\": \"yarn\"}}",
        "\"partial_rotary_factor\": 0.5}",
        "\"sliding_window\": 128}",
        "\"mamba_expand\": 3, \"mamba_d_head\": 16}",
        "\"mamba_d_head\": 32}",
        "\"mamba_n_groups\": 3}",
        "\"mamba_d_conv\": 1}",
        "\"head_dim\": 8}",
        "\"num_key_value_heads\": 3}",
        "\"layer_types\": [\"mamba\"]}",
        "\"layer_types\": [\"mamba\", \"moe\"]}",
        "\"layer_types\": \"mamba\"}",
        "\"rms_norm_eps\": 0}",
        "\"rms_norm_eps\": \"small\"}",
        "\"logits_scaling\": -1}",
        "\"embedding_multiplier\": Infinity}",
        "\"tie_word_embeddings\": 1}",
        "\"mamba_d_state\": 1.5}",
        "\"mamba_d_state\": -64}",
        "\"mamba_d_state\": 0}",
        "\"num_key_value_heads\": 0}",
        "\"norm_eps\": 1, \"rms_norm_eps\": 1e-300}",
        "\"max_position_embeddings\": 99999999999}",
        "\"mamba_d_state\": 64, \"mamba_d_state\": 64}",
        "\"x\": 1} {",
        "\"x\": nan}",
    };
    struct config c;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct err err = {.what = ""};
        char text[1024];
        const char *head = HEAD;
        const char *experts = strstr(head, "\"num_local_experts\": 0, ");
        if (i == 0) /* the key that HEAD has already */
            snprintf(text, sizeof text, "%.*s%s, %s", (int)(experts - head), head,
                     experts + strlen("\"num_local_experts\": 0, "), lines[i]);
        else
            snprintf(text, sizeof text, "%s, %s", head, lines[i]);
        ok(config_parse(&c, text, strlen(text), &err) != 0 && err.what[0] && err.mend[0],
           "refused: %s (%s: %s)", lines[i], err.what, err.mend);
    }
}

static void test_check(void)
{
    struct config c;
    struct err err;
    if (config_preset(&c, "tiny", &err) != 0)
        abort();
    /* sizes whose products do not fit an int are refused, not multiplied */
    c.D = 2000000000;
    c.F = c.mamba_head_dim = c.attn_heads = 0;
    config_derive(&c);
    ok(config_check(&c, &err) != 0 && strstr(err.what, "hidden_size (--width)"), "%s", err.what);
    if (config_preset(&c, "tiny", &err) != 0)
        abort();
    c.attn_heads = 4096;
    c.head_dim = 1 << 24;
    ok(config_check(&c, &err) != 0 && strstr(err.mend, "--heads"), "%s: %s", err.what, err.mend);
    if (config_preset(&c, "tiny", &err) != 0)
        abort();
    c.L = 4;
    strcpy(c.pattern, "mmxm");
    ok(config_check(&c, &err) != 0 && strstr(err.what, "'x'"), "%s", err.what);
    strcpy(c.pattern, "mm");
    ok(config_check(&c, &err) != 0, "%s", err.what);
    c.pattern[0] = '\0';
    ok(config_check(&c, &err) != 0, "%s", err.what);
    strcpy(c.pattern, "mmtm");
    c.attn_heads = 5;
    ok(config_check(&c, &err) != 0 && strstr(err.mend, "num_attention_heads"), "%s", err.what);
}

static void test_params(void)
{
    struct config c;
    struct params p;
    struct err err;
    if (config_preset(&c, "tiny", &err) != 0)
        abort();
    c.L = 4;
    strcpy(c.pattern, "mmtm");
    c.is_tied = false;
    c.mamba_groups = 2;
    if (params_open(&p, &c, &err) != 0)
        abort();
    const int conv = params_find(&p, "model.layers.0.mamba.conv1d.weight");
    ok(conv == p.layer[0].conv_w && p.list[conv].n_dims == 3 &&
           p.list[conv].dim[0] == 2 * c.D + 4 * c.N && p.list[conv].dim[1] == 1 &&
           p.list[conv].dim[2] == c.K,
       "conv1d.weight is (E+2GN, 1, K)");
    const int in = params_find(&p, "model.layers.3.mamba.in_proj.weight");
    ok(in == p.layer[3].in_proj && p.list[in].dim[0] == 4 * c.D + 4 * c.N + c.mamba_heads &&
           p.list[in].dim[1] == c.D && p.list[in].has_decay,
       "in_proj is (2E+2GN+H, D)");
    ok(params_find(&p, "lm_head.weight") == p.head && p.head != p.embed &&
           !p.list[p.embed].has_decay && p.list[p.embed].is_matrix,
       "an untied head");
    ok(p.layer[2].in_proj == -1 && p.layer[0].q == -1 &&
           p.list[p.layer[2].k].dim[0] == c.kv_heads * c.head_dim,
       "attention layers have their own");
    float *base = malloc(2 * p.count * sizeof *base), *again = base + p.count;
    params_init(&p, &c, 5, base);
    params_init(&p, &c, 5, again);
    ok(memcmp(base, again, p.count * sizeof *base) == 0, "the same seed gives the same values");
    params_init(&p, &c, 6, again);
    ok(memcmp(base, again, p.count * sizeof *base) != 0, "and another seed others");
    size_t used = 0;
    bool is_aligned = true;
    for (int i = 0; i < p.n; i++) {
        is_aligned &= p.list[i].offset % 16 == 0 && p.list[i].offset >= used;
        used = p.list[i].offset + p.list[i].count;
    }
    ok(is_aligned && used <= p.count, "tensors are aligned and apart");
    const float *bias = base + p.list[p.layer[0].dt_bias].offset;
    const float *a_log = base + p.list[p.layer[0].a_log].offset;
    bool is_right = true;
    for (int h = 0; h < c.mamba_heads; h++) {
        const double dt = log1p(exp(bias[h]));
        is_right &= dt > 0.99e-3 && dt < 0.101 && a_log[h] >= 0.0f && a_log[h] <= logf(16.0f);
    }
    ok(is_right, "time steps start within 0.001 to 0.1, A within 1 to 16");
    double sum = 0;
    const struct param *out = &p.list[p.layer[0].out_proj];
    for (size_t j = 0; j < out->count; j++)
        sum += (double)base[out->offset + j] * base[out->offset + j];
    const double want = 1.0 / sqrt(3.0 * 2 * c.D) / sqrt(2.0 * c.L);
    ok_within(fabs(sqrt(sum / (double)out->count) / want - 1), 0.02, "out_proj's deviation");
    free(base);
    params_free(&p);
}

int main(void)
{
    test_presets();
    test_round_trip();
    test_reading();
    test_refusals();
    test_check();
    test_params();
    return tap_done();
}
