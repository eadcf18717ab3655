/* ckpt: reading a model, writing a final checkpoint; see ckpt.h. */
#include "ckpt.h"
#include "safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX_BYTES = 1 << 20, TOK_MAX_BYTES = 1 << 28 };

static const char tok_name[] = "tokenizer";
static const char mend_tensor[] = "use a checkpoint whose tensors match its config";

void ckpt_free(struct ckpt *k)
{
    params_free(&k->params);
    free(k->weights);
    buf_free(&k->tok);
    *k = (struct ckpt){0};
}

/* --- loading --- */

/* The config beside a checkpoint that has none in its metadata, as Hugging Face writes them. */
static int read_config_beside(struct ckpt *k, const char *path, struct err *err)
{
    char name[256];
    struct buf text = {0};
    const char *slash = strrchr(path, '/');
    const int folder = slash ? (int)(slash + 1 - path) : 0;
    if (strcmp(path, "-") == 0)
        return err_set(err, path, "read the file by its name, with config.json beside it",
                       "the checkpoint has no config in its metadata");
    if (snprintf(name, sizeof name, "%.*sconfig.json", folder, path) >= (int)sizeof name)
        return err_set(err, path, "use a shorter path", "path is too long");
    int rc = io_read_file(name, &text, CONFIG_MAX_BYTES, err);
    if (rc == 0 && config_parse(&k->c, (const char *)text.data, text.size, err) != 0)
        rc = err_file(err, name);
    buf_free(&text);
    return rc;
}

static int read_config(struct ckpt *k, const struct st *st, const char *path, struct err *err)
{
    const char *text = st_meta_get(st, "config");
    if (!text)
        return read_config_beside(k, path, err);
    if (config_parse(&k->c, text, strlen(text), err) != 0)
        return err_file(err, path);
    return 0;
}

/* Turns n values of a narrower type, which lie at the end of the n floats' memory, into floats in
 * place: value i is read before float i overwrites it. */
static void widen(float *w, const uint16_t *narrow, size_t n, enum dtype dtype)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, narrow + i, sizeof h);
        const float f = dtype == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
        memcpy(w + i, &f, sizeof f);
    }
}

/* "96x32" */
static void shape_text(char to[80], const int64_t *dim, int n_dims)
{
    size_t at = 0;
    to[0] = '\0';
    for (int i = 0; i < n_dims; i++)
        at += (size_t)snprintf(to + at, 80 - at, i ? "x%" PRId64 : "%" PRId64, dim[i]);
}

static int read_param(struct ckpt *k, int param, const struct st *st, int i, struct in *in,
                      struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    const struct param *want = &k->params.list[param];
    if (t->n_dims != want->n_dims || memcmp(t->dim, want->dim, sizeof t->dim) != 0) {
        char got[80], needed[80];
        shape_text(got, t->dim, t->n_dims);
        shape_text(needed, want->dim, want->n_dims);
        return err_set(err, in->path, mend_tensor, "tensor %s is %s, the config says %s", t->name,
                       got, needed);
    }
    float *w = k->weights + want->offset;
    if (t->dtype == DT_F32)
        return st_read_tensor(st, i, in, w, err);
    if (t->dtype != DT_BF16 && t->dtype != DT_F16)
        return err_set(err, in->path, "convert it to F32, BF16 or F16", "tensor %s is of type %s",
                       t->name, dtype_name(t->dtype));
    void *end = w + want->count;
    uint16_t *narrow = (uint16_t *)end - want->count;
    TRY(st_read_tensor(st, i, in, narrow, err));
    widen(w, narrow, want->count, t->dtype);
    return 0;
}

static int read_tok(struct ckpt *k, const struct st *st, int i, struct in *in, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    if (t->dtype != DT_U8 || t->bytes > TOK_MAX_BYTES)
        return err_set(err, in->path, "use a checkpoint made by hm-train",
                       "tensor %s is no tokenizer", t->name);
    TRY(buf_reserve(&k->tok, t->bytes, err));
    k->tok.size = t->bytes;
    return st_read_tensor(st, i, in, k->tok.data, err);
}

/* Tensors that would change what the model computes, and that the config does not call for. */
static bool is_foreign(const struct ckpt *k, const char *name)
{
    return strncmp(name, "model.", 6) == 0 ||
           (strcmp(name, "lm_head.weight") == 0 && !k->c.is_tied);
}

static int read_tensors(struct ckpt *k, const struct st *st, struct in *in, struct err *err)
{
    int n_found = 0;
    for (int i = 0; i < st->n_tensors; i++) {
        const char *name = st->tensor[i].name;
        const int param = params_find(&k->params, name);
        if (param >= 0)
            TRY(read_param(k, param, st, i, in, err));
        else if (strcmp(name, tok_name) == 0)
            TRY(read_tok(k, st, i, in, err));
        else if (is_foreign(k, name))
            return err_set(err, in->path, mend_tensor, "tensor %.80s is none of this model's",
                           name);
        else
            TRY(st_skip_tensor(st, i, in, err));
        n_found += param >= 0;
    }
    for (int i = 0; n_found < k->params.n && i < k->params.n; i++)
        if (st_find(st, k->params.list[i].name) < 0)
            return err_set(err, in->path, mend_tensor, "tensor %s is missing",
                           k->params.list[i].name);
    return st_read_end(st, in, err);
}

static int read_model(struct ckpt *k, struct in *in, struct st *st, struct err *err)
{
    TRY(st_read_header(st, in, err));
    TRY(read_config(k, st, in->path, err));
    TRY(params_open(&k->params, &k->c, err));
    k->weights = calloc(k->params.count, sizeof *k->weights);
    if (!k->weights)
        return err_oom(err, k->params.count * sizeof *k->weights);
    return read_tensors(k, st, in, err);
}

int ckpt_load(struct ckpt *k, const char *path, struct err *err)
{
    char file[256];
    struct stat info;
    struct in in;
    struct st st = {0};
    *k = (struct ckpt){0};
    if (strcmp(path, "-") != 0 && stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        TRY(io_join(file, sizeof file, path, "model.safetensors", err));
        path = file;
    }
    TRY(in_open(&in, path, err));
    int rc = read_model(k, &in, &st, err);
    if (rc != 0) {
        rc = err_file(err, path);
        ckpt_free(k);
    }
    st_free(&st);
    in_close(&in);
    return rc;
}

/* --- saving --- */

/* A checkpoint being written: its header, the bytes of its tensors, and those that it owns. */
struct save {
    struct st st;
    const void **data;
    void **owned;
    int n;
};

static int add_param(struct save *s, const struct params *p, int i, const float *weights,
                     enum dtype dtype, struct err *err)
{
    const struct param *t = &p->list[i];
    const bool is_wide = dtype == DT_F32 || (!t->is_matrix && t->init != INIT_CONV);
    struct tensor out = params_tensor(p, i, (float *)weights);
    if (!is_wide) {
        uint16_t *narrow = malloc(t->count * sizeof *narrow);
        if (!narrow)
            return err_oom(err, t->count * sizeof *narrow);
        for (size_t j = 0; j < t->count; j++)
            narrow[j] = bf16_from_f32(weights[t->offset + j]);
        s->owned[s->n] = narrow;
        out.data = narrow;
        out.dtype = DT_BF16;
    }
    s->data[s->n++] = out.data;
    return st_add_tensor(&s->st, t->name, &out, err);
}

static int add_config(struct save *s, const struct config *c, struct err *err)
{
    struct buf text = {0};
    int rc = config_print(c, &text, err);
    if (rc == 0)
        rc = buf_put(&text, "", 1, err);
    if (rc == 0)
        rc = st_add_meta(&s->st, "config", (const char *)text.data, err);
    buf_free(&text);
    return rc;
}

static int add_all(struct save *s, const struct config *c, const struct params *p,
                   const float *weights, const struct buf *tok, enum dtype dtype, struct err *err)
{
    if (!s->data || !s->owned)
        return err_oom(err, (size_t)p->n * sizeof *s->data);
    TRY(add_config(s, c, err));
    for (int i = 0; i < p->n; i++)
        TRY(add_param(s, p, i, weights, dtype, err));
    if (tok->size == 0)
        return 0;
    const struct tensor t = tensor_of(tok->data, DT_U8, 1, (int64_t)tok->size, 0, 0, 0);
    s->data[s->n++] = tok->data;
    return st_add_tensor(&s->st, tok_name, &t, err);
}

int ckpt_save_model(const struct config *c, const struct params *p, const float *weights,
                    const struct buf *tok, enum dtype dtype, struct out *out, struct err *err)
{
    const size_t n = (size_t)p->n + 1;
    struct save s = {.data = calloc(n, sizeof *s.data), .owned = calloc(n, sizeof *s.owned)};
    int rc = add_all(&s, c, p, weights, tok, dtype, err);
    if (rc == 0)
        rc = st_write(&s.st, s.data, out, err);
    for (size_t i = 0; s.owned && i < n; i++)
        free(s.owned[i]);
    free(s.owned);
    free(s.data);
    st_free(&s.st);
    return rc;
}
