/* config_json: the config's JSON form, Hugging Face's GraniteMoeHybrid config.json; see config.h.
 */
#include "config.h"
#include "json.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* --- reading --- */

/* One config.json being read. A key that is missing or null has the value that transformers gives
 * it where the file says that it is theirs (model_type), else 0, which config_derive replaces. */
struct reader {
    const json_t *root;
    bool is_hf;
    struct err *err;
};

static const json_t *get(const struct reader *r, const char *key)
{
    const json_t *v = json_object_get(r->root, key);
    return json_is_null(v) ? NULL : v;
}

static int read_int(const struct reader *r, const char *key, int hf_default, int *to)
{
    const json_t *v = get(r, key);
    *to = r->is_hf ? hf_default : 0;
    if (!v)
        return 0;
    const json_int_t value = json_integer_value(v);
    if (!json_is_integer(v) || value < 1 || value > INT_MAX)
        return err_set(r->err, NULL, "write a whole number above 0", "%s is no such number", key);
    *to = (int)value;
    return 0;
}

/* A number, or one of the ways in which Python writes infinity. */
static bool to_double(const json_t *v, double *to)
{
    const json_t *named = json_object_get(v, "__float__");
    const char *text = json_string_value(named ? named : v);
    if (json_is_number(v))
        *to = json_number_value(v);
    else if (text && strcmp(text, "Infinity") == 0)
        *to = INFINITY;
    else
        return false;
    return true;
}

static int read_float(const struct reader *r, const char *key, double hf_default, float *to)
{
    const json_t *v = get(r, key);
    double value = r->is_hf ? hf_default : 0.0;
    if (v && !to_double(v, &value))
        return err_set(r->err, NULL, "write a number", "%s is no number", key);
    *to = (float)value;
    if (v && !(*to > 0.0f))
        return err_set(r->err, NULL, "write a number above 0", "%s is %g", key, value);
    return 0;
}

static int read_bool(const struct reader *r, const char *key, bool missing, bool *to)
{
    const json_t *v = get(r, key);
    *to = v ? json_is_true(v) : missing;
    if (v && !json_is_boolean(v))
        return err_set(r->err, NULL, "write true or false", "%s is neither true nor false", key);
    return 0;
}

/* Refuses a switch that hm has only in the one position. */
static int demand(const struct reader *r, const char *key, bool missing, bool want)
{
    bool value;
    TRY(read_bool(r, key, missing, &value));
    if (value != want)
        return err_set(r->err, NULL, "use a model without it", "%s is %s, which hm does not do",
                       key, value ? "true" : "false");
    return 0;
}

static int demand_text(const struct reader *r, const char *key, const char *want)
{
    const json_t *v = get(r, key);
    const char *text = json_string_value(v);
    if (v && (!text || strcmp(text, want) != 0))
        return err_set(r->err, NULL, "use a model without it", "%s is not \"%s\", all that hm does",
                       key, want);
    return 0;
}

/* Both spellings: "mamba" and "attention", and from transformers 5.13 on "linear_attention" and
 * "full_attention". */
static int read_pattern(const struct reader *r, struct config *c)
{
    const json_t *list = get(r, "layer_types");
    TRY(read_int(r, "num_hidden_layers", 32, &c->L));
    const size_t n = list ? json_array_size(list) : (size_t)c->L;
    if ((list && !json_is_array(list)) || n > CONFIG_MAX_LAYERS || n == 0)
        return err_set(r->err, NULL, "write an array of \"mamba\" and \"attention\"",
                       "layer_types does not list 1 to %d layers", CONFIG_MAX_LAYERS);
    for (size_t i = 0; i < n; i++) {
        const char *type = list ? json_string_value(json_array_get(list, i)) : "mamba";
        if (type && (strcmp(type, "mamba") == 0 || strcmp(type, "linear_attention") == 0))
            c->pattern[i] = 'm';
        else if (type && (strcmp(type, "attention") == 0 || strcmp(type, "full_attention") == 0))
            c->pattern[i] = 't';
        else
            return err_set(r->err, NULL, "write \"mamba\" or \"attention\"",
                           "layer_types[%zu] is \"%.40s\"", i, type ? type : "");
    }
    if (get(r, "num_hidden_layers") && c->L != (int)n)
        return err_set(r->err, NULL, "list one type a layer",
                       "layer_types lists %zu layers, num_hidden_layers is %d", n, c->L);
    return 0;
}

static int read_rope(const struct reader *r, struct config *c)
{
    const char *type = json_string_value(get(r, "position_embedding_type"));
    const struct reader inner = {get(r, "rope_parameters"), r->is_hf, r->err};
    c->use_rope = type && strcmp(type, "rope") == 0;
    if (get(r, "rope_scaling"))
        return err_set(r->err, NULL, "use a model without it",
                       "rope_scaling is set, which hm does not do");
    TRY(demand_text(&inner, "rope_type", "default"));
    TRY(read_float(r, "rope_theta", 10000.0, &c->rope_theta));
    if (!get(r, "rope_theta"))
        TRY(read_float(&inner, "rope_theta", 10000.0, &c->rope_theta));
    const struct reader *const places[] = {r, &inner};
    for (int i = 0; i < 2; i++) {
        double factor = 1.0;
        const json_t *v = get(places[i], "partial_rotary_factor");
        if (v && (!to_double(v, &factor) || factor != 1.0))
            return err_set(r->err, NULL, "use a model without it",
                           "partial_rotary_factor is not 1, all that hm does");
    }
    return 0;
}

static int check_time_step_limit(const struct reader *r)
{
    const json_t *limit = get(r, "time_step_limit");
    double low, high;
    if (!limit)
        return 0;
    if (json_array_size(limit) != 2 || !to_double(json_array_get(limit, 0), &low) ||
        !to_double(json_array_get(limit, 1), &high) || low != 0.0 || !isinf(high))
        return err_set(r->err, NULL, "use a model without it",
                       "time_step_limit is not [0, Infinity], all that hm does");
    return 0;
}

/* Everything that would change the function and that hm does not have. */
static int refuse_foreign(const struct reader *r)
{
    const json_t *experts =
        get(r, "num_local_experts"); /* transformers takes 8 where it is missing */
    TRY(demand_text(r, "model_type", "granitemoehybrid"));
    if (experts ? !json_is_integer(experts) || json_integer_value(experts) != 0 : r->is_hf)
        return err_set(r->err, NULL, "use a dense model, whose num_local_experts is 0",
                       "the model has experts");
    TRY(demand(r, "attention_bias", false, false));
    TRY(demand(r, "mamba_proj_bias", false, false));
    TRY(demand(r, "mlp_bias", false, false));
    TRY(demand(r, "mamba_conv_bias", true, true));
    TRY(demand_text(r, "hidden_act", "silu"));
    TRY(demand_text(r, "normalization_function", "rmsnorm"));
    if (get(r, "sliding_window"))
        return err_set(r->err, NULL, "use a model without it",
                       "sliding_window is set, which hm does not do");
    return check_time_step_limit(r);
}

static int read_mamba(const struct reader *r, struct config *c)
{
    int expand;
    TRY(read_int(r, "mamba_expand", 2, &expand));
    TRY(read_int(r, "mamba_n_heads", 128, &c->mamba_heads));
    const json_t *d_head = get(r, "mamba_d_head");
    if (!json_is_string(d_head)) /* "auto" */
        TRY(read_int(r, "mamba_d_head", 0, &c->mamba_head_dim));
    TRY(read_int(r, "mamba_n_groups", 1, &c->mamba_groups));
    TRY(read_int(r, "mamba_d_state", 256, &c->N));
    TRY(read_int(r, "mamba_d_conv", 4, &c->K));
    TRY(read_int(r, "mamba_chunk_size", 256, &c->Q));
    const int64_t E = (int64_t)(expand ? expand : 2) * c->D;
    if (c->mamba_head_dim == 0 && c->mamba_heads > 0 && E / c->mamba_heads <= INT_MAX)
        c->mamba_head_dim = (int)(E / c->mamba_heads);
    if (expand && c->mamba_heads && (int64_t)c->mamba_heads * c->mamba_head_dim != E)
        return err_set(r->err, NULL, "make mamba_n_heads * mamba_d_head that product",
                       "mamba_n_heads %d * mamba_d_head %d is not mamba_expand %d * hidden_size %d",
                       c->mamba_heads, c->mamba_head_dim, expand, c->D);
    return 0;
}

static int read_attention(const struct reader *r, struct config *c)
{
    TRY(read_int(r, "num_attention_heads", 32, &c->attn_heads));
    TRY(read_int(r, "num_key_value_heads", c->attn_heads, &c->kv_heads));
    TRY(read_float(r, "attention_multiplier", 1.0, &c->attention_multiplier));
    TRY(read_int(r, "head_dim", 0, &c->head_dim));
    if (c->head_dim && c->attn_heads && (int64_t)c->head_dim * c->attn_heads != c->D)
        return err_set(r->err, NULL, "leave head_dim out",
                       "head_dim %d is not hidden_size / num_attention_heads", c->head_dim);
    return 0;
}

static int read_config(const struct reader *r, struct config *c)
{
    TRY(refuse_foreign(r));
    TRY(read_pattern(r, c));
    TRY(read_int(r, "vocab_size", 32000, &c->V));
    TRY(read_int(r, "hidden_size", 4096, &c->D));
    TRY(read_int(r, "shared_intermediate_size", 1024, &c->F));
    if (!r->is_hf && c->F == 0)
        TRY(read_int(r, "intermediate_size", 0, &c->F));
    TRY(read_mamba(r, c));
    TRY(read_attention(r, c));
    TRY(read_rope(r, c));
    TRY(read_int(r, "max_position_embeddings", 2048, &c->max_positions));
    TRY(read_float(r, "rms_norm_eps", 1e-6, &c->norm_eps));
    TRY(read_float(r, "embedding_multiplier", 1.0, &c->embedding_multiplier));
    TRY(read_float(r, "residual_multiplier", 1.0, &c->residual_multiplier));
    TRY(read_float(r, "logits_scaling", 1.0, &c->logits_scaling));
    TRY(read_float(r, "initializer_range", 0.02, &c->init_range));
    TRY(read_bool(r, "tie_word_embeddings", !r->is_hf, &c->is_tied));
    config_derive(c);
    return config_check(c, r->err);
}

int config_parse(struct config *c, const char *json, size_t n, struct err *err)
{
    json_t *root;
    *c = (struct config){0};
    TRY(js_parse_python(&root, json, n, err));
    const struct reader r = {root, json_object_get(root, "model_type") != NULL, err};
    const int rc = json_is_object(root)
                       ? read_config(&r, c)
                       : err_set(err, NULL, "write {...}", "the config is no JSON object");
    json_decref(root);
    return rc;
}

/* --- writing --- */

/* The shortest text that reads back as the same float, with a point or exponent so that Python
 * takes it for a float too. */
static void float_text(char to[32], float v)
{
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(to, 28, "%.*g", digits, (double)v);
        if (strtof(to, NULL) == v)
            break;
    }
    const size_t n = strlen(to);
    if (!strpbrk(to, ".e"))
        memcpy(to + n, ".0", 3);
}

static int put_int(struct buf *to, const char *key, int v, struct err *err)
{
    return buf_printf(to, err, ",\n \"%s\": %d", key, v);
}

static int put_float(struct buf *to, const char *key, float v, struct err *err)
{
    char text[32];
    float_text(text, v);
    return buf_printf(to, err, ",\n \"%s\": %s", key, text);
}

static int put_layer_types(const struct config *c, struct buf *to, struct err *err)
{
    TRY(buf_printf(to, err, ",\n \"layer_types\": ["));
    for (int i = 0; i < c->L; i++)
        TRY(buf_printf(to, err, "%s\"%s\"", i ? ", " : "",
                       c->pattern[i] == 'm' ? "mamba" : "attention"));
    return buf_printf(to, err, "]");
}

static int put_attention(const struct config *c, struct buf *to, struct err *err)
{
    TRY(put_int(to, "num_attention_heads", c->attn_heads, err));
    TRY(put_int(to, "num_key_value_heads", c->kv_heads, err));
    TRY(buf_printf(to, err, ",\n \"attention_bias\": false,\n \"attention_dropout\": 0.0"));
    TRY(put_float(to, "attention_multiplier", c->attention_multiplier, err));
    TRY(put_float(to, "embedding_multiplier", c->embedding_multiplier, err));
    TRY(put_float(to, "residual_multiplier", c->residual_multiplier, err));
    TRY(put_float(to, "logits_scaling", c->logits_scaling, err));
    TRY(buf_printf(to, err, ",\n \"position_embedding_type\": \"%s\"",
                   c->use_rope ? "rope" : "nope"));
    TRY(put_float(to, "rope_theta", c->rope_theta, err));
    TRY(buf_printf(to, err, ",\n \"rope_scaling\": null"));
    return put_int(to, "max_position_embeddings", c->max_positions, err);
}

static int put_mamba(const struct config *c, struct buf *to, struct err *err)
{
    TRY(put_int(to, "mamba_n_heads", c->mamba_heads, err));
    TRY(put_int(to, "mamba_d_head", c->mamba_head_dim, err));
    TRY(put_int(to, "mamba_n_groups", c->mamba_groups, err));
    TRY(put_int(to, "mamba_d_state", c->N, err));
    TRY(put_int(to, "mamba_d_conv", c->K, err));
    TRY(put_int(to, "mamba_expand", c->mamba_heads * c->mamba_head_dim / c->D, err));
    TRY(put_int(to, "mamba_chunk_size", c->Q, err));
    return buf_printf(to, err, ",\n \"mamba_conv_bias\": true,\n \"mamba_proj_bias\": false");
}

int config_print(const struct config *c, struct buf *to, struct err *err)
{
    TRY(buf_printf(to, err,
                   "{\n \"architectures\": [\"GraniteMoeHybridForCausalLM\"],\n"
                   " \"model_type\": \"granitemoehybrid\""));
    TRY(put_int(to, "vocab_size", c->V, err));
    TRY(put_int(to, "hidden_size", c->D, err));
    TRY(put_int(to, "num_hidden_layers", c->L, err));
    TRY(put_int(to, "intermediate_size", c->F, err));
    TRY(put_int(to, "shared_intermediate_size", c->F, err));
    TRY(buf_printf(to, err, ",\n \"num_local_experts\": 0,\n \"num_experts_per_tok\": 0"));
    TRY(put_layer_types(c, to, err));
    TRY(put_attention(c, to, err));
    TRY(put_mamba(c, to, err));
    TRY(buf_printf(to, err, ",\n \"hidden_act\": \"silu\""));
    TRY(put_float(to, "rms_norm_eps", c->norm_eps, err));
    TRY(put_float(to, "initializer_range", c->init_range, err));
    return buf_printf(to, err,
                      ",\n \"tie_word_embeddings\": %s,\n \"use_cache\": true,\n"
                      " \"bos_token_id\": %d,\n \"eos_token_id\": %d,\n \"pad_token_id\": %d,\n"
                      " \"output_router_logits\": false,\n \"router_aux_loss_coef\": 0.01\n}\n",
                      c->is_tied ? "true" : "false", ID_BOS, ID_EOS, ID_PAD);
}

int config_hash(const struct config *c, uint64_t *hash, struct err *err)
{
    struct buf text = {0};
    const int rc = config_print(c, &text, err);
    if (rc == 0)
        *hash = XXH64(text.data, text.size, 0);
    buf_free(&text);
    return rc;
}
