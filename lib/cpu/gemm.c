/* gemm: products by oneDNN, called single-threaded from the pool's workers, each on its slice of
 * rows or of columns of the result (the longer side, so that less is packed twice).
 *
 * Where rows must not depend on each other, oneDNN is called for at most 96 of them, in whole units
 * that its tiles of 6 or 8 divide: it sums a rest of rows otherwise, and large matrices too. That
 * all such calls sum a row alike is nowhere promised; tests/ops/test_read.c watches it.
 *
 * f32 goes to dnnl_sgemm. bf16 goes block by block: the operands' blocks are rounded into the
 * workspace and multiplied by oneDNN's bf16 matmul where this CPU has instructions for it (AVX-512
 * or later), else by dnnl_sgemm on the rounded values: the same products, summed in another order.
 * Block and slice borders depend on sizes and worker count only. */
#include "gemm.h"

#include <assert.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>

enum {
    GRAIN = 16,  /* slices start at multiples of this, for whole vectors */
    SLICE = 128, /* columns, at least, of a tile of rows that must not depend on each other */
    ROWS = 4 * GEMM_UNIT, /* of such a call */
    BLOCK = 512,          /* rows, columns and depth of a bf16 block */
    CACHE_SIZE = 128      /* shapes that a worker remembers */
};

/* Everything that a compiled product depends on: the key of the cache. type: of A and B, whose
 * storage is dense. */
struct shape {
    int64_t m, n, k, ldc;
    int trans_a, trans_b, add;
    dnnl_data_type_t type;
};

struct product {
    struct shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
};

/* One a worker, so that nothing is shared and nothing is locked. */
struct gemm_seat {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    int n_made;
    struct product product[CACHE_SIZE];
};

struct gemm_cache {
    int n_seats;
    struct gemm_seat seat[];
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- f32 --- */

/* What dnnl_sgemm does, for when it finds no memory. */
static void plain_sgemm(const struct gemm *g)
{
    const float *b = g->b;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            float sum = g->add ? g->c[i * g->ldc + j] : 0;
            for (int64_t l = 0; l < g->k; l++)
                sum += (g->trans_a ? g->a[l * g->lda + i] : g->a[i * g->lda + l]) *
                       (g->trans_b ? b[j * g->ldb + l] : b[l * g->ldb + j]);
            g->c[i * g->ldc + j] = sum;
        }
}

static void sgemm(const struct gemm *g)
{
    if (dnnl_sgemm(g->trans_a ? 'T' : 'N', g->trans_b ? 'T' : 'N', g->m, g->n, g->k, 1, g->a,
                   g->lda, g->b, g->ldb, g->add, g->c, g->ldc) != dnnl_success)
        plain_sgemm(g);
}

/* The part of g's result with rows m0.. and columns n0.. and the part k0.. of the sums. */
static struct gemm part_of(const struct gemm *g, int64_t m0, int64_t m, int64_t n0, int64_t n,
                           int64_t k0, int64_t k)
{
    struct gemm p = *g;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a += g->trans_a ? k0 * g->lda + m0 : m0 * g->lda + k0;
    p.b = (const char *)g->b +
          (size_t)(g->trans_b ? n0 * g->ldb + k0 : k0 * g->ldb + n0) * dtype_size(g->b_dtype);
    p.c += m0 * g->ldc + n0;
    p.add = g->add || k0 > 0;
    return p;
}

/* --- bf16 --- */

static float rounded(float x)
{
    return bf16_to_f32(bf16_from_f32(x));
}

/* to (rows,cols) dense = from, as bf16 or as f32 values that bf16 can hold. */
static void pack(void *to, bool to_bf16, const void *from, enum dtype dtype, int64_t rows,
                 int64_t cols, int64_t ld)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *f = (const float *)from + r * ld;
        const uint16_t *h = (const uint16_t *)from + r * ld;
        uint16_t *to_h = (uint16_t *)to + r * cols;
        float *to_f = (float *)to + r * cols;
        if (to_bf16 && dtype == DT_BF16)
            memcpy(to_h, h, (size_t)cols * sizeof *h);
        else if (to_bf16)
            for (int64_t c = 0; c < cols; c++)
                to_h[c] = bf16_from_f32(f[c]);
        else if (dtype == DT_BF16)
            for (int64_t c = 0; c < cols; c++)
                to_f[c] = bf16_to_f32(h[c]);
        else
            for (int64_t c = 0; c < cols; c++)
                to_f[c] = rounded(f[c]);
    }
}

static bool has_bf16_product(void)
{
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

static void product_free(struct product *p)
{
    dnnl_primitive_destroy(p->primitive);
    dnnl_memory_destroy(p->a);
    dnnl_memory_destroy(p->b);
    dnnl_memory_destroy(p->c);
    *p = (struct product){0};
}

/* A (rows,cols) matrix as oneDNN sees it; transposed: stored as (cols,rows). */
static bool matrix_of(dnnl_memory_desc_t *md, dnnl_data_type_t type, int64_t rows, int64_t cols,
                      int64_t ld, bool is_transposed)
{
    const dnnl_dims_t dims = {rows, cols};
    const dnnl_dims_t strides = {is_transposed ? 1 : ld, is_transposed ? ld : 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides) == dnnl_success;
}

static bool compile(struct gemm_seat *seat, struct product *p, const dnnl_memory_desc_t *a,
                    const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *c,
                    const_dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd = NULL;
    const bool is_done =
        dnnl_matmul_desc_init(&desc, a, b, NULL, c) == dnnl_success &&
        dnnl_primitive_desc_create(&pd, &desc, attr, seat->engine, NULL) == dnnl_success &&
        dnnl_primitive_create(&p->primitive, pd) == dnnl_success &&
        dnnl_memory_create(&p->a, a, seat->engine, DNNL_MEMORY_NONE) == dnnl_success &&
        dnnl_memory_create(&p->b, b, seat->engine, DNNL_MEMORY_NONE) == dnnl_success &&
        dnnl_memory_create(&p->c, c, seat->engine, DNNL_MEMORY_NONE) == dnnl_success;
    dnnl_primitive_desc_destroy(pd);
    return is_done;
}

static bool product_make(struct gemm_seat *seat, struct product *p, const struct shape *s)
{
    dnnl_memory_desc_t a, b, c;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    const bool is_done =
        (seat->engine || dnnl_engine_create(&seat->engine, dnnl_cpu, 0) == dnnl_success) &&
        (seat->stream || dnnl_stream_create(&seat->stream, seat->engine,
                                            dnnl_stream_default_flags) == dnnl_success) &&
        matrix_of(&a, s->type, s->m, s->k, s->trans_a ? s->m : s->k, s->trans_a) &&
        matrix_of(&b, s->type, s->k, s->n, s->trans_b ? s->k : s->n, s->trans_b) &&
        matrix_of(&c, dnnl_f32, s->m, s->n, s->ldc, false) &&
        dnnl_primitive_attr_create(&attr) == dnnl_success &&
        dnnl_post_ops_create(&post) == dnnl_success &&
        (!s->add || dnnl_post_ops_append_sum(post, 1) == dnnl_success) &&
        dnnl_primitive_attr_set_post_ops(attr, post) == dnnl_success &&
        compile(seat, p, &a, &b, &c, attr);
    dnnl_post_ops_destroy(post);
    dnnl_primitive_attr_destroy(attr);
    if (is_done)
        p->shape = *s;
    else
        product_free(p);
    return is_done;
}

/* The compiled product of that shape; NULL where oneDNN has none. The oldest makes room. */
static struct product *product_of(struct gemm_seat *seat, const struct shape *s)
{
    const int n = seat->n_made < CACHE_SIZE ? seat->n_made : CACHE_SIZE;
    for (int i = 0; i < n; i++)
        if (memcmp(&seat->product[i].shape, s, sizeof *s) == 0)
            return &seat->product[i];
    struct product *p = &seat->product[seat->n_made % CACHE_SIZE];
    product_free(p);
    if (!product_make(seat, p, s))
        return NULL;
    seat->n_made++;
    return p;
}

/* g's product by oneDNN, its operands packed in a and b. False: oneDNN could not. */
static bool run_product(struct gemm_seat *seat, const struct gemm *g, dnnl_data_type_t type,
                        void *a, void *b)
{
    const struct shape s = {g->m, g->n, g->k, g->ldc, g->trans_a, g->trans_b, g->add, type};
    struct product *p = product_of(seat, &s);
    if (!p || dnnl_memory_set_data_handle(p->a, a) != dnnl_success ||
        dnnl_memory_set_data_handle(p->b, b) != dnnl_success ||
        dnnl_memory_set_data_handle(p->c, g->c) != dnnl_success)
        return false;
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}};
    return dnnl_primitive_execute(p->primitive, seat->stream, 3, args) == dnnl_success &&
           dnnl_stream_wait(seat->stream) == dnnl_success;
}

/* Packs both operands of a part and multiplies. seat NULL: by sgemm. */
static void block_product(struct gemm_seat *seat, const struct gemm *part, bool has_b, void *a,
                          void *b)
{
    const bool to_bf16 = seat;
    pack(a, to_bf16, part->a, DT_F32, part->trans_a ? part->k : part->m,
         part->trans_a ? part->m : part->k, part->lda);
    if (!has_b)
        pack(b, to_bf16, part->b, part->b_dtype, part->trans_b ? part->n : part->k,
             part->trans_b ? part->k : part->n, part->ldb);
    if (seat) {
        if (!run_product(seat, part, dnnl_bf16, a, b))
            block_product(NULL, part, false, a, b);
        return;
    }
    struct gemm g = *part;
    g.a = a;
    g.b = b;
    g.lda = g.trans_a ? g.m : g.k;
    g.ldb = g.trans_b ? g.k : g.n;
    sgemm(&g);
}

static void bf16_gemm(struct gemm_seat *seat, const struct gemm *g, float *work)
{
    float *a = work, *b = work + BLOCK * BLOCK;
    const int64_t rows = g->is_by_rows ? ROWS : BLOCK;
    for (int64_t n0 = 0; n0 < g->n; n0 += BLOCK)
        for (int64_t k0 = 0; k0 < g->k; k0 += BLOCK)
            for (int64_t m0 = 0; m0 < g->m; m0 += rows) {
                const struct gemm part =
                    part_of(g, m0, least(rows, g->m - m0), n0, least(BLOCK, g->n - n0), k0,
                            least(BLOCK, g->k - k0));
                block_product(seat, &part, m0 > 0, a, b);
            }
}

/* --- the slices --- */

struct gemm_job {
    const struct gemm *g;
    struct gemm_cache *cache;
    float *work;
    int n_slices; /* of columns, at most */
};

/* A worker's part of the product. */
static void run_part(const struct gemm_job *job, const struct gemm *part, int worker)
{
    omp_set_num_threads(1); /* of this thread; oneDNN asks for it */
    if (part->product == DT_BF16) {
        bf16_gemm(job->cache ? &job->cache->seat[worker] : NULL, part,
                  job->work + (size_t)worker * 2 * BLOCK * BLOCK);
        return;
    }
    const int64_t rows = part->is_by_rows ? ROWS : part->m;
    for (int64_t m0 = 0; m0 < part->m; m0 += rows) {
        const struct gemm some =
            part_of(part, m0, least(rows, part->m - m0), 0, part->n, 0, part->k);
        sgemm(&some);
    }
}

/* Tiles of ROWS rows, the last of fewer, and a slice of columns, the same slices whatever m is. A
 * worker takes neighbouring ones. */
static void by_rows_worker(void *arg, int worker, int n_workers)
{
    const struct gemm_job *job = arg;
    const struct gemm *g = job->g;
    const int n_slices = (int)least(job->n_slices, (g->n + SLICE - 1) / SLICE);
    const size_t n_blocks = (size_t)((g->m + ROWS - 1) / ROWS);
    size_t i, end;
    pool_share(n_blocks * (size_t)n_slices, 1, worker, n_workers, &i, &end);
    while (i < end) {
        const size_t slice = i / n_blocks, block = i % n_blocks;
        const size_t n = end - i < n_blocks - block ? end - i : n_blocks - block;
        size_t n0, n1;
        pool_share((size_t)g->n, GRAIN, (int)slice, n_slices, &n0, &n1);
        const int64_t m0 = (int64_t)block * ROWS, m = least((int64_t)n * ROWS, g->m - m0);
        const struct gemm part = part_of(g, m0, m, (int64_t)n0, (int64_t)(n1 - n0), 0, g->k);
        run_part(job, &part, worker);
        i += n;
    }
}

static void gemm_worker(void *arg, int worker, int n_workers)
{
    const struct gemm_job *job = arg;
    const struct gemm *g = job->g;
    const bool by_rows = g->m > g->n;
    size_t begin, end;
    pool_share((size_t)(by_rows ? g->m : g->n), GRAIN, worker, n_workers, &begin, &end);
    if (begin == end)
        return;
    const int64_t first = (int64_t)begin, count = (int64_t)(end - begin);
    const struct gemm part = by_rows ? part_of(g, first, count, 0, g->n, 0, g->k)
                                     : part_of(g, 0, g->m, first, count, 0, g->k);
    run_part(job, &part, worker);
}

/* Memory for the workers' primitives, taken at the first product; without it sgemm serves. */
static struct gemm_cache *cache_of(struct dev *dev)
{
    struct cpu *cpu = dev->impl;
    const int n = pool_size(cpu->pool);
    if (!cpu->gemm) {
        cpu->gemm = calloc(1, sizeof *cpu->gemm + (size_t)n * sizeof cpu->gemm->seat[0]);
        if (cpu->gemm)
            cpu->gemm->n_seats = n;
    }
    return cpu->gemm;
}

void cpu_gemm(struct dev *dev, const struct gemm *g)
{
    struct gemm_job job = {g, NULL, dev->work, pool_size(pool_of(dev))};
    if (g->product == DT_BF16 && has_bf16_product())
        job.cache = cache_of(dev);
    assert(!g->is_by_rows || g->m % GEMM_UNIT == 0);
    run_sized(dev, g->m * g->n * g->k / 8, g->is_by_rows ? by_rows_worker : gemm_worker, &job);
}

size_t cpu_gemm_plan(const struct dev *dev, enum dtype product)
{
    if (product != DT_BF16)
        return 0;
    return (size_t)pool_size(pool_of(dev)) * 2 * BLOCK * BLOCK * sizeof(float);
}

void cpu_gemm_close(struct gemm_cache *cache)
{
    if (!cache)
        return;
    for (int i = 0; i < cache->n_seats; i++) {
        struct gemm_seat *seat = &cache->seat[i];
        for (int j = 0; j < CACHE_SIZE; j++)
            product_free(&seat->product[j]);
        dnnl_stream_destroy(seat->stream);
        dnnl_engine_destroy(seat->engine);
    }
    free(cache);
}
