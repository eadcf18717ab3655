/* train_ckpt: see train_ckpt.h. */
#include "train_ckpt.h"
#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define META_KEY   "hm.train"
#define TOK_TENSOR "tokenizer"

/* The three blocks and what their tensors' names begin with. */
enum { N_BLOCKS = 3 };
static const char *const block_prefix[N_BLOCKS] = {"", "hm.train.m.", "hm.train.v."};

/* Parameter i's tensor in a block. */
static struct tensor tensor_in(const struct train_blocks *b, int block, const struct params *p,
                               int i)
{
    void *const base[N_BLOCKS] = {b->weights, b->m, b->v};
    const struct param *q = &p->list[i];
    const enum dtype dtype = block ? b->moments : DT_F32;
    return tensor_of((char *)base[block] + q->offset * dtype_size(dtype), dtype, q->n_dims,
                     q->dim[0], q->dim[1], q->dim[2], 0);
}

/* --- reading --- */

static int head_from(struct train_head *h, const struct st *st, const char *path, struct err *err)
{
    const char *config = st_meta_get(st, "config"), *run = st_meta_get(st, META_KEY);
    if (!config || !run)
        return err_set(err, path, "begin a new run from its weights with --init-from",
                       "is no resumable checkpoint");
    *h = (struct train_head){0};
    if (config_parse(&h->c, config, strlen(config), err) != 0 || config_check(&h->c, err) != 0 ||
        train_meta_parse(h, run, strlen(run), err) != 0)
        return err_file(err, path);
    return 0;
}

int train_ckpt_head(struct train_head *h, const char *path, struct err *err)
{
    struct in in;
    struct st st = {0};
    TRY(in_open(&in, path, err));
    int rc = st_read_header(&st, &in, err);
    if (rc == 0)
        rc = head_from(h, &st, path, err);
    st_free(&st);
    in_close(&in);
    return rc;
}

static bool is_alike(const struct st_tensor *t, const struct tensor *q)
{
    if (t->dtype != q->dtype || t->n_dims != q->n_dims)
        return false;
    for (int d = 0; d < q->n_dims; d++)
        if (t->dim[d] != q->dim[d])
            return false;
    return true;
}

/* Where tensor i of the file belongs: NULL where it is none of ours. */
static void *place_of(const struct st_tensor *t, const struct params *p,
                      const struct train_blocks *to)
{
    for (int b = N_BLOCKS - 1; b >= 0; b--) {
        const size_t n = strlen(block_prefix[b]);
        if (strncmp(t->name, block_prefix[b], n) != 0)
            continue;
        const int i = params_find(p, t->name + n);
        if (i < 0)
            continue;
        const struct tensor q = tensor_in(to, b, p, i);
        if (is_alike(t, &q))
            return q.data;
    }
    return NULL;
}

static int load_tensor(const struct st *st, int i, struct in *in, const struct params *p,
                       const struct train_blocks *to, struct buf *tok, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    if (strcmp(t->name, TOK_TENSOR) == 0 && t->dtype == DT_U8) {
        TRY(buf_reserve(tok, t->bytes, err));
        TRY(st_read_tensor(st, i, in, tok->data + tok->size, err));
        tok->size += t->bytes;
        return 0;
    }
    void *place = place_of(t, p, to);
    if (!place)
        return err_set(err, in->path, NULL, "tensor %s is none of this model's training", t->name);
    return st_read_tensor(st, i, in, place, err);
}

int train_ckpt_load(const struct params *p, const struct train_blocks *to, struct buf *tok,
                    const char *path, struct err *err)
{
    struct in in;
    struct st st = {0};
    TRY(in_open(&in, path, err));
    int rc = st_read_header(&st, &in, err);
    /* names are unique, so the right number of known ones is all of them */
    if (rc == 0 && (st.n_tensors != N_BLOCKS * p->n + 1 || st_find(&st, TOK_TENSOR) < 0))
        rc = err_set(err, path, NULL, "has %d tensors, but this model's training needs %d",
                     st.n_tensors, N_BLOCKS * p->n + 1);
    for (int i = 0; i < st.n_tensors && rc == 0; i++)
        rc = load_tensor(&st, i, &in, p, to, tok, err);
    if (rc == 0)
        rc = st_read_end(&st, &in, err);
    st_free(&st);
    in_close(&in);
    return rc == 0 ? 0 : err_file(err, path);
}

/* --- writing --- */

static int add_meta(struct st *st, const struct train_head *h, struct err *err)
{
    struct buf config = {0}, run = {0};
    int rc = config_print(&h->c, &config, err);
    if (rc == 0)
        rc = buf_put(&config, "", 1, err);
    if (rc == 0)
        rc = train_meta_print(h, &run, err);
    if (rc == 0)
        rc = buf_put(&run, "", 1, err);
    if (rc == 0)
        rc = st_add_meta(st, "config", (const char *)config.data, err);
    if (rc == 0)
        rc = st_add_meta(st, META_KEY, (const char *)run.data, err);
    buf_free(&config);
    buf_free(&run);
    return rc;
}

/* data: room for one pointer a tensor. */
static int add_tensors(struct st *st, const void **data, const struct params *p,
                       const struct train_blocks *from, const struct buf *tok, struct err *err)
{
    int n = 0;
    for (int b = 0; b < N_BLOCKS; b++)
        for (int i = 0; i < p->n; i++) {
            char name[sizeof p->list[i].name + 16];
            const struct tensor t = tensor_in(from, b, p, i);
            snprintf(name, sizeof name, "%s%s", block_prefix[b], p->list[i].name);
            TRY(st_add_tensor(st, name, &t, err));
            data[n++] = t.data;
        }
    const struct tensor t = tensor_of(tok->data, DT_U8, 1, (int64_t)tok->size, 0, 0, 0);
    TRY(st_add_tensor(st, TOK_TENSOR, &t, err));
    data[n] = tok->data;
    return 0;
}

int train_ckpt_save(const struct train_head *h, const struct params *p,
                    const struct train_blocks *from, const struct buf *tok, const char *path,
                    struct err *err)
{
    const size_t bytes = ((size_t)N_BLOCKS * (size_t)p->n + 1) * sizeof(void *);
    const void **data = malloc(bytes);
    if (!data)
        return err_oom(err, bytes);
    struct st st = {0};
    struct out out = {0};
    int rc = add_meta(&st, h, err);
    if (rc == 0)
        rc = add_tensors(&st, data, p, from, tok, err);
    if (rc == 0)
        rc = out_open(&out, path, err);
    if (rc == 0) {
        rc = st_write(&st, data, &out, err);
        if (rc == 0)
            rc = out_commit(&out, err);
        else
            out_abort(&out);
    }
    st_free(&st);
    free(data);
    return rc;
}
