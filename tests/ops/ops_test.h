/* ops_test: what the tests of the ops share: every usable CPU device, tensors in device memory,
 * comparison with the references, and finite differences.
 *
 * A test writes `static void check(struct dev *dev)` and calls each_device(check). Memory taken by
 * t_* is freed when each_device (or free_all) is done. */
#ifndef HM_OPS_TEST_H
#define HM_OPS_TEST_H

#include "cpu.h"
#include "ops.h"
#include "ref/ref.h"
#include "rng.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCKS = 4096 };

static struct {
    struct dev *dev; /* NULL: host memory */
    void *p;
} block[MAX_BLOCKS];
static int n_blocks;
static size_t guard_at; /* where the bytes behind the planned workspace start */

static const float gap_value = 1234.5f; /* lies between the columns of a slice */
static const uint8_t guard_byte = 0xA5;

__attribute__((unused, noreturn)) static void fail(const char *what)
{
    printf("Bail out! %s\n", what);
    exit(1);
}

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

/* Runs check on each CPU device that this machine can open, with 1 and 2 threads. */
__attribute__((unused)) static void each_device(void (*check)(struct dev *dev))
{
    for (int isa = 0; isa < CPU_ISAS; isa++)
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            struct dev dev;
            struct err err;
            if (!cpu_isa_usable((enum cpu_isa)isa))
                continue;
            if (cpu_open(&dev, (enum cpu_isa)isa, n_threads, &err) != 0)
                fail(err.what);
            check(&dev);
            free_all();
            dev_close(&dev);
        }
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

/* n host doubles, standard normal times scale, exact in float. seed names the values. */
__attribute__((unused)) static double *t_random(size_t n, double scale, uint32_t seed)
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

/* An f32 device tensor of rows x cols with row distance ld (0: cols), holding the host values;
 * gap_value in the gaps. */
__attribute__((unused)) static struct tensor t_tensor(struct dev *dev, const double *host,
                                                      int64_t rows, int64_t cols, int64_t ld)
{
    if (ld == 0)
        ld = cols;
    if (rows < 0 || cols < 0 || ld < cols || rows * ld > 1 << 28)
        fail("a test tensor of impossible size");
    const size_t n = (size_t)(rows * ld);
    float *tmp = calloc(n + 1, sizeof *tmp);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < ld; c++)
            tmp[r * ld + c] = c < cols ? (float)host[r * cols + c] : gap_value;
    struct tensor t = tensor_of(t_upload(dev, tmp, n * sizeof *tmp), DT_F32, 2, rows, cols, 0, 0);
    t.ld = ld;
    free(tmp);
    return t;
}

/* A tensor of garbage for an op to overwrite. */
__attribute__((unused)) static struct tensor t_garbage(struct dev *dev, int64_t rows, int64_t cols,
                                                       int64_t ld)
{
    const size_t n = (size_t)rows * (size_t)cols;
    double *junk = t_zeros(n);
    for (size_t i = 0; i < n; i++)
        junk[i] = i % 2 ? 77 : -55;
    return t_tensor(dev, junk, rows, cols, ld);
}

/* A vector of parameters (n). */
__attribute__((unused)) static struct tensor t_vector(struct dev *dev, const double *host,
                                                      int64_t n)
{
    struct tensor t = t_tensor(dev, host, 1, n, 0);
    t.n_dims = 1;
    t.dim[0] = n;
    return t;
}

/* The tensor's values, dense, on the host. NULL where a gap was written to. */
__attribute__((unused)) static float *t_values(struct dev *dev, const struct tensor *t)
{
    const int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    const size_t n = (size_t)(rows * t->ld);
    float *all = keep_block(NULL, calloc(n + 1, sizeof *all));
    dev_download(dev, all, t->data, n * sizeof *all);
    bool is_clean = true;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = cols; c < t->ld; c++)
            is_clean = is_clean && all[r * t->ld + c] == gap_value;
        memmove(all + r * cols, all + r * t->ld, (size_t)cols * sizeof *all);
    }
    return is_clean ? all : NULL;
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

/* Whether the two device blocks hold the same bytes. */
__attribute__((unused)) static bool same_bits(struct dev *dev, const void *a, const void *b,
                                              size_t bytes)
{
    void *x = keep_block(NULL, malloc(bytes)), *y = keep_block(NULL, malloc(bytes));
    dev_download(dev, x, a, bytes);
    dev_download(dev, y, b, bytes);
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
