/* tensor: a typed view of memory that something else owns. Row-major; the leading dimensions
 * flatten to rows, and `ld` is the distance between rows in elements, so that a slice of columns
 * (z, x, B, C, dt of one projection) is a tensor too. Element (i, j, ..., c) is data[((i*dim[1] +
 * j)*...)*ld + c]. */
#ifndef HM_TENSOR_H
#define HM_TENSOR_H

#include "dtype.h"

#include <stdbool.h>

enum { TENSOR_DIMS = 4 };

struct tensor {
    void *data; /* in the memory of the device that uses it */
    enum dtype dtype;
    int n_dims; /* 1 to TENSOR_DIMS */
    int64_t dim[TENSOR_DIMS];
    int64_t ld; /* >= dim[n_dims-1] */
};

/* A dense view of data. Unused dimensions are given as 0: tensor_of(p, DT_F32, 2, B, D, 0, 0). */
static inline struct tensor tensor_of(void *data, enum dtype dtype, int n_dims, int64_t d0,
                                      int64_t d1, int64_t d2, int64_t d3)
{
    struct tensor t = {data, dtype, n_dims, {d0, d1, d2, d3}, 0};
    t.ld = t.dim[n_dims - 1];
    return t;
}

/* Columns of the last dimension, rows of all the others together, and elements in all. */
static inline int64_t tensor_cols(const struct tensor *t)
{
    return t->dim[t->n_dims - 1];
}
static inline int64_t tensor_rows(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims - 1; i++)
        n *= t->dim[i];
    return n;
}
static inline size_t tensor_count(const struct tensor *t)
{
    return (size_t)(tensor_rows(t) * tensor_cols(t));
}
static inline size_t tensor_bytes(const struct tensor *t)
{
    return tensor_count(t) * dtype_size(t->dtype);
}
static inline bool tensor_is_dense(const struct tensor *t)
{
    return t->ld == tensor_cols(t) || tensor_rows(t) <= 1;
}

/* Columns [begin, begin+n) of t, with the same row distance, as (rows, n). */
static inline struct tensor tensor_slice(const struct tensor *t, int64_t begin, int64_t n)
{
    struct tensor s = {(char *)t->data + (size_t)begin * dtype_size(t->dtype),
                       t->dtype,
                       2,
                       {tensor_rows(t), n, 0, 0},
                       t->ld};
    return s;
}

/* Rows [begin, begin+n) of t flattened to (rows, cols). */
static inline struct tensor tensor_row_range(const struct tensor *t, int64_t begin, int64_t n)
{
    struct tensor s = {(char *)t->data + (size_t)(begin * t->ld) * dtype_size(t->dtype),
                       t->dtype,
                       2,
                       {n, tensor_cols(t), 0, 0},
                       t->ld};
    return s;
}

#endif
