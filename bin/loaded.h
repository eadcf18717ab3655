/* loaded: a model ready for use: checkpoint, device, tokenizer, weights. What hm-gen, hm-eval and
 * others do alike before their work. */
#ifndef HM_LOADED_H
#define HM_LOADED_H

#include "ckpt.h"
#include "device.h"
#include "encode.h"
#include "model.h"

struct loaded_args {
    const char *model;  /* file, folder, "-", or NULL: model.safetensors in the working directory */
    const char *device; /* as device_open */
    int64_t threads;    /* 0: one a core */
    int dtype;          /* of products: index into device_dtypes */
};

struct loaded {
    struct ckpt ckpt;
    struct dev dev;
    struct model model;
    struct tok *tok; /* NULL: the checkpoint has no tokenizer */
};

/* Reads the checkpoint and its tokenizer, and opens the device. */
MUST_USE int loaded_read(struct loaded *l, const struct cli_tool *tool, const struct loaded_args *a,
                         struct err *err);
/* Opens the model for these passes and sets its weights; opts->product and read_T are filled in.
 * The host's copy of the weights is freed. */
MUST_USE int loaded_open(struct loaded *l, const struct loaded_args *a, struct model_opts *opts,
                         struct err *err);
/* Accepts a zeroed struct. */
void loaded_close(struct loaded *l);

#endif
