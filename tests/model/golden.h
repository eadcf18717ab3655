/* golden: reads the files of tests/golden: weights, config, and the ids, logits, loss, gradients
 * and greedy continuation that another implementation (Hugging Face transformers) gives for them in
 * f32. */
#ifndef HM_GOLDEN_H
#define HM_GOLDEN_H

#include "ckpt.h"
#include "model_test.h"
#include "safetensors.h"

struct golden {
    struct ckpt k;
    struct st st;
    void **data; /* of each tensor */
};

static void golden_open(struct golden *g, const char *path)
{
    struct in in;
    struct err err;
    must(ckpt_load(&g->k, path, &err), &err);
    must(in_open(&in, path, &err), &err);
    must(st_read_header(&g->st, &in, &err), &err);
    g->data = calloc((size_t)g->st.n_tensors, sizeof *g->data);
    for (int i = 0; i < g->st.n_tensors; i++) {
        g->data[i] = malloc(g->st.tensor[i].bytes + 1);
        must(st_read_tensor(&g->st, i, &in, g->data[i], &err), &err);
    }
    must(st_read_end(&g->st, &in, &err), &err);
    in_close(&in);
}

static void golden_close(struct golden *g)
{
    for (int i = 0; i < g->st.n_tensors; i++)
        free(g->data[i]);
    free(g->data);
    st_free(&g->st);
    ckpt_free(&g->k);
}

static const struct st_tensor *golden_entry(const struct golden *g, const char *name)
{
    const int i = st_find(&g->st, name);
    if (i < 0) {
        printf("Bail out! the file has no %s\n", name);
        exit(1);
    }
    return &g->st.tensor[i];
}

static void *golden_data(const struct golden *g, const char *name)
{
    return g->data[golden_entry(g, name) - g->st.tensor];
}

/* Every id but a row's first is a target. */
static struct batch_rows golden_rows(const struct golden *g)
{
    const struct st_tensor *t = golden_entry(g, "golden.ids");
    const int B = (int)t->dim[0], T = (int)t->dim[1];
    const int32_t *ids = golden_data(g, "golden.ids");
    struct batch_rows b = make_rows(B, T);
    const size_t M = (size_t)B * (size_t)T;
    for (size_t i = 0; i < M; i++) {
        const int pos = (int)(i % (size_t)T);
        b.block[i] = ids[i];
        b.block[M + i] = pos + 1 < T ? ids[i + 1] : -1;
        b.block[3 * M + i] = pos;
    }
    return b;
}

#endif
