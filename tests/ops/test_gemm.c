/* gemm: its static parts, which the ops reach on some machines only: oneDNN's compiled bf16
 * products, their cache, and the plain product that stands in when memory is short. */
#include "gemm.c"

#include "ops_test.h"

struct operands {
    int m, n, k;
    double *a, *b, *c; /* op(A) (m,k), op(B) (k,n), C (m,n) before the product */
};

static double as_bf16(double x)
{
    return (double)bf16_to_f32(bf16_from_f32((float)x));
}

static double *transposed(const double *x, int rows, int cols)
{
    double *t = t_zeros((size_t)(rows * cols));
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            t[c * rows + r] = x[r * cols + c];
    return t;
}

static struct tensor stored(struct dev *dev, const double *x, int rows, int cols,
                            bool is_transposed)
{
    return is_transposed ? t_tensor(dev, transposed(x, rows, cols), cols, rows, rows + 1)
                         : t_tensor(dev, x, rows, cols, cols + 1);
}

static struct operands make_operands(int m, int n, int k)
{
    return (struct operands){m,
                             n,
                             k,
                             t_random((size_t)(m * k), 1, 1),
                             t_random((size_t)(k * n), 1, 2),
                             t_random((size_t)(m * n), 1, 3)};
}

/* Runs `how` on the operands, stored as the flags say, against the sum in double. */
static double product_error(struct dev *dev, const struct operands *o, int flags,
                            enum dtype product, void (*how)(const struct gemm *g))
{
    const bool trans_a = flags & 1, trans_b = flags & 2, add = flags & 4;
    const struct tensor a = stored(dev, o->a, o->m, o->k, trans_a);
    const struct tensor b = stored(dev, o->b, o->k, o->n, trans_b);
    struct tensor c = t_tensor(dev, o->c, o->m, o->n, o->n + 2);
    double *ref = t_zeros((size_t)(o->m * o->n));
    for (int i = 0; i < o->m; i++)
        for (int j = 0; j < o->n; j++) {
            double sum = add ? o->c[i * o->n + j] : 0;
            for (int l = 0; l < o->k; l++) {
                const double x = o->a[i * o->k + l], y = o->b[l * o->n + j];
                sum += product == DT_BF16 ? as_bf16(x) * as_bf16(y) : x * y;
            }
            ref[i * o->n + j] = sum;
        }
    const struct gemm g = {.m = o->m,
                           .n = o->n,
                           .k = o->k,
                           .trans_a = trans_a,
                           .trans_b = trans_b,
                           .add = add,
                           .product = product,
                           .b_dtype = DT_F32,
                           .a = a.data,
                           .lda = a.ld,
                           .b = b.data,
                           .ldb = b.ld,
                           .c = c.data,
                           .ldc = c.ld};
    how(&g);
    return t_error(dev, &c, ref);
}

static struct gemm_seat *seat; /* what the functions below try */
static float *work;

static void by_onednn(const struct gemm *g)
{
    bf16_gemm(seat, g, work);
}

static void by_rounding(const struct gemm *g)
{
    bf16_gemm(NULL, g, work);
}

/* The same set-up in f32, which oneDNN has everywhere. */
static void by_onednn_f32(const struct gemm *g)
{
    float *a = work, *b = work + BLOCK * BLOCK;
    for (int64_t r = 0; r < (g->trans_a ? g->k : g->m); r++)
        memcpy(a + r * (g->trans_a ? g->m : g->k), g->a + r * g->lda,
               (size_t)(g->trans_a ? g->m : g->k) * sizeof *a);
    for (int64_t r = 0; r < (g->trans_b ? g->n : g->k); r++)
        memcpy(b + r * (g->trans_b ? g->k : g->n), (const float *)g->b + r * g->ldb,
               (size_t)(g->trans_b ? g->k : g->n) * sizeof *b);
    if (!run_product(seat, g, dnnl_f32, a, b))
        g->c[0] = NAN;
}

static bool onednn_has_bf16(void)
{
    const struct shape s = {3, 5, 7, 7, 0, 1, 1, dnnl_bf16};
    return product_of(seat, &s);
}

static void check_products(struct dev *dev, bool has_bf16)
{
    static const int sizes[][3] = {{1, 1, 1}, {7, 5, 3}, {33, 40, 129}, {70, 65, 600}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct operands o = make_operands(sizes[i][0], sizes[i][1], sizes[i][2]);
        for (int flags = 0; flags < 8; flags++) {
            const double tol = f32_tol(o.k);
            ok_within(product_error(dev, &o, flags, DT_F32, plain_sgemm), tol,
                      "plain %dx%dx%d flags %d", o.m, o.n, o.k, flags);
            ok_within(product_error(dev, &o, flags, DT_BF16, by_rounding), tol,
                      "bf16 by sgemm %dx%dx%d flags %d", o.m, o.n, o.k, flags);
            ok_within(product_error(dev, &o, flags, DT_F32, by_onednn_f32), tol,
                      "f32 by a oneDNN primitive %dx%dx%d flags %d", o.m, o.n, o.k, flags);
            if (has_bf16)
                ok_within(product_error(dev, &o, flags, DT_BF16, by_onednn), tol,
                          "bf16 by oneDNN %dx%dx%d flags %d", o.m, o.n, o.k, flags);
        }
        free_all();
    }
}

/* Without a compiled product the seat must fall back, not leave C as it was. */
static void check_fallback(struct dev *dev)
{
    const struct operands o = make_operands(9, 11, 13);
    ok_within(product_error(dev, &o, 2, DT_BF16, by_onednn), f32_tol(13),
              "a bf16 product, whatever oneDNN has here");
    product_free(&seat->product[0]); /* an empty entry is no entry */
    ok_within(product_error(dev, &o, 2, DT_BF16, by_onednn), f32_tol(13), "and again");
}

/* More shapes than the cache holds: the oldest go, all results stay right. */
static void check_cache(struct dev *dev)
{
    bool is_right = true;
    for (int k = 1; k <= CACHE_SIZE + 5; k++) {
        const struct operands o = make_operands(1, 2, k);
        is_right = is_right && product_error(dev, &o, 0, DT_F32, by_onednn_f32) <= f32_tol(k);
        free_all();
    }
    const struct operands o = make_operands(1, 2, 1);
    const int n_made = seat->n_made;
    is_right = is_right && product_error(dev, &o, 0, DT_F32, by_onednn_f32) <= f32_tol(1);
    ok(is_right && n_made > CACHE_SIZE && seat->n_made == n_made + 1,
       "the cache forgets the oldest shape");
    is_right = product_error(dev, &o, 0, DT_F32, by_onednn_f32) <= f32_tol(1);
    ok(is_right && seat->n_made == n_made + 1, "and remembers the others");
}

int main(void)
{
    struct dev dev;
    struct err err;
    if (cpu_open(&dev, CPU_BASE, 1, &err) != 0)
        fail(err.what);
    struct gemm_cache *cache = calloc(1, sizeof *cache + sizeof *seat);
    cache->n_seats = 1;
    seat = &cache->seat[0];
    work = malloc(2 * BLOCK * BLOCK * sizeof *work);
    const bool has_bf16 = onednn_has_bf16();
    check_products(&dev, has_bf16);
    check_fallback(&dev);
    check_cache(&dev);
    if (!has_bf16)
        printf("# oneDNN has no bf16 product on this machine: its set-up is not tested\n");
    free_all();
    cpu_gemm_close(cache);
    cpu_gemm_close(NULL);
    free(work);
    dev_close(&dev);
    return tap_done();
}
