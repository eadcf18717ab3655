/* roofline: see roofline.h. */
#include "roofline.h"
#include "arena.h"
#include "trace.h"

#include <stdlib.h>
#include <string.h>

enum { AT_ONCE = 8, LEAST_PASSES = 3, SMALLEST = 256, LARGEST = 8192, STREAM_COLS = 4096 };

/* Bytes of a memory read that the threads share: whole cache lines. */
struct stream {
    const uint64_t *word;
    size_t n;
    uint64_t sum[256 * 8]; /* a line a worker: what was read must be used */
};

static void read_share(void *arg, int worker, int n_workers)
{
    struct stream *s = arg;
    size_t begin, end;
    uint64_t sum = 0;
    pool_share(s->n, 512, worker, n_workers, &begin, &end);
#pragma omp simd reduction(^ : sum)
    for (size_t i = begin; i < end; i++)
        sum ^= s->word[i];
    s->sum[(size_t)worker % 256 * 8] += sum;
}

static void fill_share(void *arg, int worker, int n_workers)
{
    struct stream *s = arg;
    size_t begin, end;
    pool_share(s->n, 512, worker, n_workers, &begin, &end);
    for (size_t i = begin; i < end; i++)
        ((uint64_t *)s->word)[i] = i;
}

static int read_by_pool(double *byte_s, struct pool *pool, size_t bytes, double time_s,
                        struct err *err)
{
    struct stream s = {.n = bytes / sizeof *s.word};
    uint64_t *memory = aligned_alloc(ARENA_ALIGN, (bytes + 63) / 64 * 64);
    if (!memory)
        return err_oom(err, bytes);
    s.word = memory;
    pool_run(pool, fill_share, &s);
    const double begin = trace_now();
    for (int i = 0; i < LEAST_PASSES || trace_now() - begin < time_s; i++) {
        const double start = trace_now();
        pool_run(pool, read_share, &s);
        const double rate = (double)bytes / (trace_now() - start);
        *byte_s = rate > *byte_s ? rate : *byte_s;
    }
    free(memory);
    return 0;
}

/* --- products on the device --- */

/* x (M,k), w (n,k) and y (M,n) for one product, in one block. */
struct probe {
    struct dev *dev;
    void *block;
    struct tensor x, y, master; /* master: w in f32 */
    struct weight w;
};

/* Small numbers of both signs: no products are denormal or overflow. */
static int fill(struct probe *p, const struct tensor *to, struct err *err)
{
    const size_t n = tensor_count(to);
    float *host = malloc(n * sizeof *host);
    if (!host)
        return err_oom(err, n * sizeof *host);
    uint16_t *half = (uint16_t *)(void *)host;
    for (size_t i = 0; i < n; i++) {
        const float v = (float)((int)(i * 2654435761u >> 8 & 1023) - 512) / 1024.0f;
        if (to->dtype == DT_F32)
            host[i] = v;
        else
            half[i] = to->dtype == DT_BF16 ? bf16_from_f32(v) : f16_from_f32(v);
    }
    dev_upload(p->dev, to->data, host, tensor_bytes(to));
    free(host);
    return 0;
}

static int probe_open(struct probe *p, struct dev *dev, int M, int n, int k, enum dtype dtype,
                      struct err *err)
{
    const struct ops *ops = dev->ops;
    const struct sizes sizes = {.B = 1, .T = M, .D = k, .F = n, .V = n, .R = M, .dtype = dtype};
    const size_t handle = ops->weight_bytes(dev, n, k, dtype);
    struct arena a = {0};
    *p = (struct probe){.dev = dev};
    TRY(dev_reserve(dev, ops->plan(dev, OP_LINEAR, &sizes), err));
    for (int pass = 0; pass < 2; pass++) { /* plan, then take */
        a.used = 0;
        p->x = arena_tensor(&a, MEM_ACTS, dev->act_dtype, 2, M, k, 0, 0);
        p->y = arena_tensor(&a, MEM_ACTS, dev->act_dtype, 2, M, n, 0, 0);
        p->master = arena_tensor(&a, MEM_WEIGHTS, DT_F32, 2, n, k, 0, 0);
        void *data = handle ? arena_take(&a, handle, MEM_WEIGHTS) : p->master.data;
        if (pass == 0) {
            TRY(dev_alloc(dev, &p->block, a.used, err));
            a.base = p->block;
            continue;
        }
        p->w = (struct weight){n, k, dtype, 0, data};
        TRY(fill(p, &p->x, err));
        TRY(fill(p, &p->master, err));
        ops->weight_fill(dev, &p->w, &p->master);
    }
    return 0;
}

static void probe_close(struct probe *p)
{
    dev_free(p->dev, p->block);
}

enum probe_what { PROBE_FWD, PROBE_STEP, PROBE_COPY };

/* Seconds of a call; several are under way where the device works by itself, so that waiting for it
 * does not count. */
static double probe_run(struct probe *p, enum probe_what what)
{
    const struct ops *ops = p->dev->ops;
    const size_t half = tensor_bytes(&p->master) / 2;
    const int n = p->dev->is_host ? 1 : AT_ONCE;
    dev_sync(p->dev);
    const double start = trace_now();
    for (int i = 0; i < n; i++)
        if (what == PROBE_STEP)
            ops->linear_step(p->dev, &p->y, &p->x, &p->w);
        else if (what == PROBE_FWD)
            ops->linear_fwd(p->dev, &p->y, &p->x, &p->w);
        else
            dev_copy(p->dev, (char *)p->master.data + half, p->master.data, half);
    dev_sync(p->dev);
    return (trace_now() - start) / n;
}

/* The shortest of calls over about time_s. */
static double probe_best(struct probe *p, enum probe_what what, double time_s)
{
    const double begin = trace_now();
    double best = probe_run(p, what);
    for (int i = 0; i < LEAST_PASSES || trace_now() - begin < time_s; i++) {
        const double time = probe_run(p, what);
        best = time < best ? time : best;
    }
    return best;
}

/* Seconds of the shortest call that does next to nothing. */
static double shortest_wait(struct probe *p)
{
    double best = 1;
    for (int i = 0; i < 32; i++) {
        dev_sync(p->dev);
        const double start = trace_now();
        dev_zero(p->dev, p->y.data, sizeof(float));
        dev_sync(p->dev);
        const double time = trace_now() - start;
        best = time < best ? time : best;
    }
    return best;
}

int roofline_memory(struct roofline *r, struct dev *dev, struct pool *pool, size_t stream_bytes,
                    double time_s, struct err *err)
{
    struct probe p;
    const enum dtype dtype = dev->act_dtype; /* a GPU's products have that type alone */
    const size_t row = STREAM_COLS * dtype_size(dtype);
    const int n = (int)(stream_bytes / row) + 1;
    r->byte_s = 0;
    if (pool)
        TRY(read_by_pool(&r->byte_s, pool, stream_bytes, time_s / 2, err));
    const int rc = probe_open(&p, dev, 1, n, STREAM_COLS, dtype, err);
    if (rc == 0) {
        const double read = (double)n * (double)row / probe_best(&p, PROBE_STEP, time_s / 2);
        r->byte_s = read > r->byte_s ? read : r->byte_s;
    }
    if (rc == 0 && !pool) {
        const double moved = (double)tensor_bytes(&p.master); /* half of it read, half written */
        const double copied = moved / probe_best(&p, PROBE_COPY, time_s / 2);
        r->byte_s = copied > r->byte_s ? copied : r->byte_s;
    }
    if (rc == 0)
        r->wait_s = dev->is_host ? 0 : shortest_wait(&p);
    probe_close(&p);
    return rc;
}

int roofline_products(struct roofline *r, struct dev *dev, enum dtype dtype, double time_s,
                      struct err *err)
{
    double *rate = dtype == DT_F32 ? &r->f32_flop_s : &r->bf16_flop_s, best_s = 0;
    *rate = 0;
    for (int n = SMALLEST; n <= LARGEST && best_s < time_s / 4; n *= 2) {
        struct probe p;
        const int rc = probe_open(&p, dev, n, n, n, dtype, err);
        if (rc == 0) {
            best_s = probe_best(&p, PROBE_FWD, time_s / 2);
            const double flop_s = 2.0 * n * n * n / best_s;
            *rate = flop_s > *rate ? flop_s : *rate;
        }
        probe_close(&p);
        TRY(rc);
    }
    return 0;
}
