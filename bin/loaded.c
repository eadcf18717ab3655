/* loaded: see loaded.h. */
#include "loaded.h"

#include <stdlib.h>

int loaded_read(struct loaded *l, const struct cli_tool *tool, const struct loaded_args *a,
                struct err *err)
{
    const char *path = a->model;
    TRY(cli_default_file(&path, "model.safetensors", "--model", err));
    TRY(ckpt_load(&l->ckpt, path, err));
    if (l->ckpt.tok.size > 0 &&
        tok_open_bytes(&l->tok, l->ckpt.tok.data, l->ckpt.tok.size, err) != 0)
        return err_file(err, path);
    if (l->tok && tok_vocab(l->tok) > l->ckpt.c.V)
        return err_set(err, path, "make the checkpoint again",
                       "its tokenizer has %d ids, its model %d", tok_vocab(l->tok), l->ckpt.c.V);
    return device_open(&l->dev, tool, a->device, (int)a->threads, a->dtype, false, err);
}

/* Tokens of a pass that reads: as many as keep the device busy, but fewer where half of its memory
 * would go to them and the weights. */
static int choose_read_T(const struct loaded *l, struct model_opts *opts, struct err *err)
{
    enum { LEAST = 256 };
    for (opts->read_T = l->dev.read_T; opts->read_T > LEAST; opts->read_T /= 2) {
        struct arena plan = {0};
        TRY(model_plan(&l->ckpt.c, opts, &l->dev, &plan, err));
        if (l->dev.free_bytes == 0 || plan.used <= l->dev.free_bytes / 2)
            return 0;
    }
    return 0;
}

int loaded_open(struct loaded *l, const struct loaded_args *a, struct model_opts *opts,
                struct err *err)
{
    opts->product = device_product(&l->dev, a->dtype);
    TRY(choose_read_T(l, opts, err));
    TRY(model_open(&l->model, &l->ckpt.c, opts, &l->dev, err));
    TRY(model_set_weights(&l->model, l->ckpt.weights, err));
    free(l->ckpt.weights);
    l->ckpt.weights = NULL;
    return 0;
}

void loaded_close(struct loaded *l)
{
    model_close(&l->model);
    tok_close(l->tok);
    dev_close(&l->dev);
    ckpt_free(&l->ckpt);
    *l = (struct loaded){0};
}
