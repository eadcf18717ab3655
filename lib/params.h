/* params: the list of a model's parameter tensors, in checkpoint order, under Hugging Face's names.
 * The values live in one flat f32 block (master weights); gradients and moments are blocks of the
 * same layout. Offsets are multiples of 16 elements, save those of k and v, which follow q without
 * a gap. */
#ifndef HM_PARAMS_H
#define HM_PARAMS_H

#include "config.h"
#include "tensor.h"

/* How a parameter starts, see params_init. */
enum init_kind {
    INIT_EMBED,
    INIT_ONE,
    INIT_LINEAR,
    INIT_LINEAR_OUT,
    INIT_CONV,
    INIT_A_LOG,
    INIT_DT_BIAS
};

struct param {
    char name[80];
    int n_dims;
    int64_t dim[TENSOR_DIMS];
    size_t offset, count; /* elements in the flat block */
    /* Rows of the product that starts with this matrix: its own and those of the neighbours that
     * read the same input (q, k and v are one product). 0: not a matrix, or a neighbour's part. */
    int64_t product_rows;
    enum init_kind init;
    bool is_matrix; /* used in products */
    bool has_decay; /* AdamW decays it: matrices, but not embeddings */
};

/* Indices into params.list; -1 where the layer has no such tensor. */
struct layer_params {
    int norm1, norm2, mlp_in, mlp_out;
    int in_proj, conv_w, conv_b, dt_bias, a_log, skip, gate_norm, out_proj; /* 'm' */
    int q, k, v, o;                                                         /* 't' */
};

struct params {
    struct param *list; /* owned */
    int n;
    size_t count;                /* elements of the flat block, padding included */
    int64_t n_values;            /* parameters without padding: the true count */
    int embed, final_norm, head; /* head == embed when tied */
    struct layer_params layer[CONFIG_MAX_LAYERS];
};

/* Builds the list from a checked config. */
MUST_USE int params_open(struct params *p, const struct config *c, struct err *err);
void params_free(struct params *p);

/* The f32 tensor of parameter i within the flat block `base`. */
struct tensor params_tensor(const struct params *p, int i, float *base);
/* The (product_rows, k) matrix of the product that starts with parameter i; base NULL: no data. */
struct tensor params_product(const struct params *p, int i, float *base);
/* Index of the parameter of that name, or -1. */
int params_find(const struct params *p, const char *name);

/* Fills the host block with initial values: the state-spaces/mamba recipe (mamba2.py,
 * mixer_seq_simple.py; see hm-train(1)). Parameter i draws from the stream (seed; RNG_INIT, i),
 * padding is zero. */
void params_init(const struct params *p, const struct config *c, uint64_t seed, float *base);

#endif
