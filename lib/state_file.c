/* state_file: one slot of a state as a safetensors file; see state.h and hm-state(5). */
#include "state.h"
#include "safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IDS = 1 << 28 };

static const char mend_model[] = "load it into the model that saved it";
static const char mend_file[] =
    "the file is damaged or was written by something else: save it again";

/* One tensor of the file: where its bytes are on the device, and where on the host. */
struct piece {
    char name[32];
    struct tensor t; /* data: on the device */
    size_t at;       /* offset in the host block */
};

struct pieces {
    struct piece *list; /* owned */
    int n;
    uint8_t *host; /* owned */
    size_t bytes;
};

static void add(struct pieces *p, int layer, const char *what, const struct tensor *t)
{
    struct piece *piece = &p->list[p->n++];
    snprintf(piece->name, sizeof piece->name, "layers.%d.%s", layer, what);
    piece->t = *t;
    piece->at = p->bytes;
    p->bytes += (tensor_bytes(t) + 63) / 64 * 64;
}

/* The first n positions of a slot's keys or values, as (n,G,P). */
static struct tensor cached(const struct state *s, const struct tensor *rows, int n)
{
    return tensor_of(rows->data, rows->dtype, 3, n, s->c->kv_heads, s->c->head_dim, 0);
}

static void add_layer(struct pieces *p, const struct state *s, int i, int slot, int n_pos)
{
    const struct config *c = s->c;
    const int64_t C =
        (int64_t)c->mamba_heads * c->mamba_head_dim + 2 * (int64_t)c->mamba_groups * c->N;
    if (c->pattern[i] == 'm') {
        const struct tensor taps = tensor_of(state_taps(s, i, slot), DT_F32, 2, c->K - 1, C, 0, 0);
        const struct tensor ssm =
            tensor_of(state_ssm(s, i, slot), DT_F32, 3, c->mamba_heads, c->mamba_head_dim, c->N, 0);
        add(p, i, "taps", &taps);
        add(p, i, "ssm", &ssm);
    } else {
        const struct tensor k = state_keys(s, i, slot), v = state_values(s, i, slot);
        const struct tensor some_k = cached(s, &k, n_pos), some_v = cached(s, &v, n_pos);
        add(p, i, "k", &some_k);
        add(p, i, "v", &some_v);
    }
}

static void free_pieces(struct pieces *p)
{
    free(p->list);
    free(p->host);
}

/* All tensors of a slot that has read n_pos tokens, with host memory for their bytes. */
static int open_pieces(struct pieces *p, const struct state *s, int slot, int n_pos,
                       struct err *err)
{
    *p = (struct pieces){.list = calloc(2 * (size_t)s->c->L, sizeof *p->list)};
    if (!p->list)
        return err_oom(err, 2 * (size_t)s->c->L * sizeof *p->list);
    for (int i = 0; i < s->c->L; i++)
        add_layer(p, s, i, slot, n_pos);
    p->host = malloc(p->bytes + 1);
    if (p->host)
        return 0;
    free_pieces(p);
    return err_oom(err, p->bytes);
}

/* Names a model for messages. */
static void describe(char *to, size_t n, const struct config *c, uint64_t hash)
{
    snprintf(to, n, "%s, hidden_size %d, vocab_size %d, weights %016" PRIx64, c->pattern, c->D,
             c->V, hash);
}

/* --- saving --- */

static int write_pieces(struct st *st, struct pieces *p, const int32_t *ids, size_t n_ids,
                        struct out *out, struct err *err)
{
    const void **data = calloc((size_t)p->n + 1, sizeof *data);
    if (!data)
        return err_oom(err, (size_t)p->n * sizeof *data);
    int rc = 0;
    for (int i = 0; rc == 0 && i < p->n; i++) {
        struct tensor t = p->list[i].t;
        t.data = p->host + p->list[i].at;
        data[i] = t.data;
        rc = st_add_tensor(st, p->list[i].name, &t, err);
    }
    const struct tensor t = tensor_of((void *)ids, DT_I32, 1, (int64_t)n_ids, 0, 0, 0);
    data[p->n] = ids;
    if (rc == 0)
        rc = st_add_tensor(st, "ids", &t, err);
    if (rc == 0)
        rc = st_write(st, data, out, err);
    free(data);
    return rc;
}

static int add_metadata(struct st *st, const struct state *s, int n_pos, uint64_t model_hash,
                        struct err *err)
{
    char text[CONFIG_MAX_LAYERS + 128];
    TRY(st_add_meta(st, "hm.state", "1", err));
    describe(text, sizeof text, s->c, model_hash);
    TRY(st_add_meta(st, "model", text, err));
    snprintf(text, sizeof text, "%d", n_pos);
    return st_add_meta(st, "positions", text, err);
}

int state_save(const struct state *s, int slot, const int32_t *ids, size_t n_ids,
               uint64_t model_hash, struct out *out, struct err *err)
{
    struct pieces p;
    struct st st = {0};
    if (n_ids > MAX_IDS)
        return err_set(err, out->path, NULL, "%zu tokens are more than a state file holds", n_ids);
    TRY(open_pieces(&p, s, slot, s->pos[slot], err));
    for (int i = 0; i < p.n; i++)
        dev_download(s->dev, p.host + p.list[i].at, p.list[i].t.data, tensor_bytes(&p.list[i].t));
    int rc = dev_status(s->dev, err);
    if (rc == 0)
        rc = add_metadata(&st, s, s->pos[slot], model_hash, err);
    if (rc == 0)
        rc = write_pieces(&st, &p, ids, n_ids, out, err);
    st_free(&st);
    free_pieces(&p);
    return rc;
}

/* --- loading --- */

/* Positions of a state that this model may take over, -1 with the reason otherwise. */
static int check_header(const struct st *st, const struct state *s, uint64_t model_hash,
                        const char *path, struct err *err)
{
    char mine[CONFIG_MAX_LAYERS + 128], *end;
    const char *version = st_meta_get(st, "hm.state"), *model = st_meta_get(st, "model");
    const char *positions = st_meta_get(st, "positions");
    if (!version || !model || !positions || !st_meta_get(st, "hm.xxh3"))
        return err_set(err, path, "name a file made by --state-save or /save", "is no state file");
    if (strcmp(version, "1") != 0)
        return err_set(err, path, "use the version of hm that saved it",
                       "has version %.20s of the format, this hm reads 1", version);
    describe(mine, sizeof mine, s->c, model_hash);
    if (strcmp(model, mine) != 0)
        return err_set(err, path, mend_model,
                       "was saved by another model (%.200s) than this one (%.200s)", model, mine);
    const long n = strtol(positions, &end, 10);
    if (*end || end == positions || n < 0 || n > INT32_MAX)
        return err_set(err, path, mend_file, "has no count of positions");
    if (n > s->S && strchr(s->c->pattern, 't'))
        return err_set(err, path, "make the context longer", "holds %ld positions, %d fit here", n,
                       s->S);
    return (int)n;
}

static const struct piece *find(const struct pieces *p, const char *name)
{
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->list[i].name, name) == 0)
            return &p->list[i];
    return NULL;
}

static int read_ids(const struct st *st, int i, struct in *in, struct ids *ids, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    if (t->dtype != DT_I32 || t->n_dims != 1 || t->dim[0] > MAX_IDS)
        return err_set(err, in->path, mend_file, "its ids have the wrong type or shape");
    int32_t *list = malloc(t->bytes + 1);
    if (!list)
        return err_oom(err, t->bytes);
    int rc = st_read_tensor(st, i, in, list, err);
    if (rc == 0)
        rc = ids_append(ids, list, (size_t)t->dim[0], err);
    free(list);
    return rc;
}

static bool is_float(enum dtype dtype)
{
    return dtype == DT_F32 || dtype == DT_BF16 || dtype == DT_F16;
}

/* Keys and values of another type, as another device stores them. */
static int read_converted(const struct st *st, int i, struct in *in, const struct tensor *want,
                          void *to, struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    void *as_stored = malloc(t->bytes + 1);
    if (!as_stored)
        return err_oom(err, t->bytes);
    const int rc = st_read_tensor(st, i, in, as_stored, err);
    if (rc == 0)
        dtype_convert(to, want->dtype, as_stored, t->dtype, tensor_count(want));
    free(as_stored);
    return rc;
}

static int read_piece(const struct st *st, int i, struct in *in, const struct pieces *p,
                      struct err *err)
{
    const struct st_tensor *t = &st->tensor[i];
    const struct piece *want = find(p, t->name);
    if (!want || !is_float(t->dtype) || want->t.n_dims != t->n_dims ||
        memcmp(want->t.dim, t->dim, sizeof t->dim) != 0)
        return err_set(err, in->path, mend_file, "tensor %.40s is not this model's", t->name);
    void *to = p->host + want->at;
    return t->dtype == want->t.dtype ? st_read_tensor(st, i, in, to, err)
                                     : read_converted(st, i, in, &want->t, to, err);
}

/* Names are unique, each is one of ours or "ids", and there are as many: all are there. */
static int read_all(const struct st *st, struct in *in, const struct pieces *p, struct ids *ids,
                    struct err *err)
{
    if (st->n_tensors != p->n + 1 || st_find(st, "ids") < 0)
        return err_set(err, in->path, mend_file, "does not hold the tensors of this model's state");
    for (int i = 0; i < st->n_tensors; i++) {
        if (strcmp(st->tensor[i].name, "ids") == 0)
            TRY(read_ids(st, i, in, ids, err));
        else
            TRY(read_piece(st, i, in, p, err));
    }
    return st_read_end(st, in, err);
}

static int load_header_known(struct state *s, int slot, struct ids *ids, const struct st *st,
                             uint64_t model_hash, struct in *in, struct err *err)
{
    struct pieces p;
    const int n_pos = check_header(st, s, model_hash, in->path, err);
    if (n_pos < 0)
        return -1;
    TRY(open_pieces(&p, s, slot, n_pos, err));
    const size_t n_before = ids->n;
    const int rc = read_all(st, in, &p, ids, err);
    for (int i = 0; rc == 0 && i < p.n; i++)
        dev_upload(s->dev, p.list[i].t.data, p.host + p.list[i].at, tensor_bytes(&p.list[i].t));
    if (rc == 0)
        s->pos[slot] = n_pos;
    else
        ids->n = n_before;
    free_pieces(&p);
    return rc;
}

int state_load(struct state *s, int slot, struct ids *ids, uint64_t model_hash, struct in *in,
               struct err *err)
{
    struct st st;
    TRY(st_read_header(&st, in, err));
    const int rc = load_header_known(s, slot, ids, &st, model_hash, in, err);
    st_free(&st);
    return rc;
}
