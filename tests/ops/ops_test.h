/* ops_test: what the tests of the ops share: every usable device, tensors in device memory,
 * comparison with the references, and finite differences.
 *
 * A test writes `static void check(struct dev *dev)` and calls each_device(check). Memory taken by
 * t_* is freed when each_device (or free_all) is done. t_tensor and t_garbage make activations, in
 * the device's act_dtype; t_f32, t_vector and t_garbage_f32 what ops.h says is f32 everywhere.
 * Values of t_random are exact in all types, so that a device is to answer for its own rounding
 * only, which tol() allows. */
#ifndef HM_OPS_TEST_H
#define HM_OPS_TEST_H

#include "each_device.h"
#include "ref/ref.h"
#include "rng.h"

enum { MAX_BLOCKS = 4096 };

static struct {
    struct dev *dev; /* NULL: host memory */
    void *p;
} block[MAX_BLOCKS];
static int n_blocks;
static size_t guard_at; /* where the bytes behind the planned workspace start */

static const float gap_value = 1232; /* lies between the columns of a slice */
static const uint8_t guard_byte = 0xA5;

__attribute__((unused)) static void free_all(void)
{
    while (n_blocks-- > 0) {
        if (block[n_blocks].dev)
            dev_free(block[n_blocks].dev, block[n_blocks].p);
        else
            free(block[n_blocks].p);
    }
    n_blocks = 0;
}

static void *keep_block(struct dev *dev, void *p)
{
    if (n_blocks == MAX_BLOCKS || !p)
        fail("out of test memory");
    block[n_blocks].dev = dev;
    block[n_blocks++].p = p;
    return p;
}

__attribute__((unused)) static void each_device(void (*check)(struct dev *dev))
{
    each_device_of(check, free_all);
}

/* Workspace for the op at these sizes, followed by a guard; check it with guard_ok. */
__attribute__((unused)) static void reserve(struct dev *dev, enum op op, const struct sizes *s)
{
    struct err err;
    uint8_t guard[64];
    memset(guard, guard_byte, sizeof guard);
    guard_at = dev->ops->plan(dev, op, s);
    if (dev_reserve(dev, guard_at + sizeof guard, &err) != 0)
        fail(err.what);
    dev_upload(dev, (uint8_t *)dev->work + guard_at, guard, sizeof guard);
}

__attribute__((unused)) static bool guard_ok(struct dev *dev)
{
    uint8_t guard[64];
    dev_download(dev, guard, (uint8_t *)dev->work + guard_at, sizeof guard);
    for (size_t i = 0; i < sizeof guard; i++)
        if (guard[i] != guard_byte)
            return false;
    return true;
}

/* x rounded to the 8 significant bits that bf16 has. */
static double to_8_bits(double x)
{
    return (double)bf16_to_f32(bf16_from_f32((float)x));
}

/* n host doubles, standard normal times scale, of 8 bits. seed names the values. */
__attribute__((unused)) static double *t_random(size_t n, double scale, uint32_t seed)
{
    double *x = keep_block(NULL, calloc(n + 1, sizeof *x));
    for (size_t i = 0; i < n; i++)
        x[i] = to_8_bits(scale * (double)rng_normal(7, seed, i));
    return x;
}

/* The same values with all the bits of a float. */
__attribute__((unused)) static double *t_random_f32(size_t n, double scale, uint32_t seed)
{
    double *x = keep_block(NULL, calloc(n + 1, sizeof *x));
    for (size_t i = 0; i < n; i++)
        x[i] = (double)(float)(scale * (double)rng_normal(7, seed, i));
    return x;
}

__attribute__((unused)) static double *t_zeros(size_t n)
{
    return keep_block(NULL, calloc(n + 1, sizeof(double)));
}

__attribute__((unused)) static double *t_copy(const double *from, size_t n)
{
    double *x = t_zeros(n);
    memcpy(x, from, n * sizeof *x);
    return x;
}

/* Device memory holding a copy of the host's bytes. */
__attribute__((unused)) static void *t_upload(struct dev *dev, const void *host, size_t bytes)
{
    struct err err;
    void *p;
    if (dev_alloc(dev, &p, bytes ? bytes : 1, &err) != 0)
        fail(err.what);
    dev_upload(dev, p, host, bytes);
    return keep_block(dev, p);
}

/* A handle that holds the master weights (n,k), or is them. */
__attribute__((unused)) static struct weight t_weight(struct dev *dev, const struct tensor *master,
                                                      enum dtype dtype)
{
    const int n = (int)tensor_rows(master), k = (int)tensor_cols(master);
    struct weight w = {.rows = n, .cols = k, .dtype = dtype};
    const size_t bytes = dev->ops->weight_bytes(dev, n, k, dtype);
    w.data = bytes ? t_upload(dev, t_zeros(bytes), bytes) : master->data;
    dev->ops->weight_fill(dev, &w, master);
    return w;
}

static void encode(void *to, size_t i, float x, enum dtype dtype)
{
    if (dtype == DT_F32)
        ((float *)to)[i] = x;
    else
        ((uint16_t *)to)[i] = dtype == DT_BF16 ? bf16_from_f32(x) : f16_from_f32(x);
}

static float decode(const void *from, size_t i, enum dtype dtype)
{
    if (dtype == DT_F32)
        return ((const float *)from)[i];
    const uint16_t half = ((const uint16_t *)from)[i];
    return dtype == DT_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

/* A device tensor of rows x cols with row distance ld (0: cols), holding the host values;
 * gap_value in the gaps. */
__attribute__((unused)) static struct tensor t_typed(struct dev *dev, enum dtype dtype,
                                                     const double *host, int64_t rows, int64_t cols,
                                                     int64_t ld)
{
    if (ld == 0)
        ld = cols;
    if (rows < 0 || cols < 0 || ld < cols || rows * ld > 1 << 28)
        fail("a test tensor of impossible size");
    const size_t n = (size_t)(rows * ld), size = dtype_size(dtype);
    void *tmp = calloc(n + 1, size);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++)
            encode(tmp, (size_t)(r * ld + c), c < cols ? (float)host[r * cols + c] : gap_value,
                   dtype);
    struct tensor t = tensor_of(t_upload(dev, tmp, n * size), dtype, 2, rows, cols, 0, 0);
    t.ld = ld;
    free(tmp);
    return t;
}

/* Activations. */
__attribute__((unused)) static struct tensor t_tensor(struct dev *dev, const double *host,
                                                      int64_t rows, int64_t cols, int64_t ld)
{
    return t_typed(dev, dev->act_dtype, host, rows, cols, ld);
}

/* Parameters, their gradients, states, statistics. */
__attribute__((unused)) static struct tensor t_f32(struct dev *dev, const double *host,
                                                   int64_t rows, int64_t cols, int64_t ld)
{
    return t_typed(dev, DT_F32, host, rows, cols, ld);
}

static double *junk_values(int64_t n)
{
    double *junk = t_zeros((size_t)n);
    for (int64_t i = 0; i < n; i++)
        junk[i] = i % 2 ? 77 : -55;
    return junk;
}

/* Tensors of garbage for an op to overwrite. */
__attribute__((unused)) static struct tensor t_garbage(struct dev *dev, int64_t rows, int64_t cols,
                                                       int64_t ld)
{
    return t_tensor(dev, junk_values(rows * cols), rows, cols, ld);
}
__attribute__((unused)) static struct tensor t_garbage_f32(struct dev *dev, int64_t rows,
                                                           int64_t cols, int64_t ld)
{
    return t_f32(dev, junk_values(rows * cols), rows, cols, ld);
}

/* A vector of parameters (n). */
__attribute__((unused)) static struct tensor t_vector(struct dev *dev, const double *host,
                                                      int64_t n)
{
    struct tensor t = t_f32(dev, host, 1, n, 0);
    t.n_dims = 1;
    t.dim[0] = n;
    return t;
}

/* The tensor's values, dense, on the host. NULL where a gap was written to. */
__attribute__((unused)) static float *t_values(struct dev *dev, const struct tensor *t)
{
    const int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    const size_t n = (size_t)(rows * t->ld), size = dtype_size(t->dtype);
    float *values = keep_block(NULL, calloc((size_t)(rows * cols) + 1, sizeof *values));
    void *all = keep_block(NULL, calloc(n + 1, size));
    dev_download(dev, all, t->data, n * size);
    hash_bytes(all, n * size);
    bool is_clean = true;
    for (size_t i = 0; i < n; i++) {
        const int64_t r = (int64_t)i / t->ld, c = (int64_t)i % t->ld;
        const float x = decode(all, i, t->dtype);
        if (c < cols)
            values[r * cols + c] = x;
        else
            is_clean = is_clean && x == gap_value;
    }
    return is_clean ? values : NULL;
}

/* Equal to the bit. */
__attribute__((unused)) static bool t_same(struct dev *dev, const struct tensor *a,
                                           const struct tensor *b)
{
    const float *va = t_values(dev, a), *vb = t_values(dev, b);
    return va && vb && memcmp(va, vb, tensor_count(a) * sizeof *va) == 0;
}

/* ||t - ref|| / ||ref||; infinite for NaN or where the op wrote between the columns. */
__attribute__((unused)) static double t_error(struct dev *dev, const struct tensor *t,
                                              const double *ref)
{
    const float *got = t_values(dev, t);
    return got ? rel_error(got, ref, tensor_count(t)) : INFINITY;
}

__attribute__((unused)) static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* What f32 sums of n terms may be off by, relative to the result's norm: 3 roundings of 2^-23 a
 * term, adding up like a random walk. */
__attribute__((unused)) static double f32_tol(double n_terms)
{
    return 3 * 0x1p-23 * (1 + sqrt(n_terms));
}

/* f32_tol or another bound for f32, and what a device of 16-bit activations may add: its result is
 * rounded once, and at most two of the intermediate values that products read. Rounding a value to
 * n significant bits errs by 2^-n/sqrt(3) of its binade's begin at the root of the mean square, so
 * by norm 2^-(n+1) stands for each. A bound of 0 is for copies, and stays. */
__attribute__((unused)) static double tol(const struct dev *dev, double of_f32)
{
    const double unit = dev->act_dtype == DT_F32 ? 0 : dev->act_dtype == DT_BF16 ? 0x1p-9 : 0x1p-12;
    return of_f32 == 0 ? 0 : of_f32 + 3 * unit;
}

/* Whether the two device blocks hold the same bytes. */
__attribute__((unused)) static bool same_bits(struct dev *dev, const void *a, const void *b,
                                              size_t bytes)
{
    void *x = keep_block(NULL, malloc(bytes)), *y = keep_block(NULL, malloc(bytes));
    dev_download(dev, x, a, bytes);
    dev_download(dev, y, b, bytes);
    hash_bytes(x, bytes);
    hash_bytes(y, bytes);
    return memcmp(x, y, bytes) == 0;
}

/* How far the gradient `grad` of f with respect to x (n) is from central differences, by norm. f
 * reads x, which is one of the arrays that ctx points to, and is restored. */
__attribute__((unused)) static double fd_error(double (*f)(void *ctx), void *ctx, double *x,
                                               const double *grad, size_t n)
{
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        const double kept = x[i], h = 1e-5 * (1 + fabs(kept));
        x[i] = kept + h;
        const double above = f(ctx);
        x[i] = kept - h;
        const double below = f(ctx);
        x[i] = kept;
        const double g = (above - below) / (2 * h);
        diff += (g - grad[i]) * (g - grad[i]);
        norm += g * g;
    }
    return diff >= 0 ? sqrt(diff) / (sqrt(norm) + 1e-30) : INFINITY;
}
static const double fd_tol __attribute__((unused)) = 1e-7; /* above fd_error of a right gradient */

#endif
