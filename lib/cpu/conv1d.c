/* conv1d: causal depthwise convolution and SiLU over (B,T,C), tap K-1 on the current token:
 *   y_t = silu(bias + sum_j w[j] x_{t-K+1+j}),
 * taps in another segment left out. A worker owns a range of channels for all of B and T, so the
 * sums over time of dw and dbias have one order whatever the number of workers. */
#include "conv1d.h"

#include "cpu_ops.h"
#include "local.h"
#include "vmath.h"

#include <assert.h>

/* Channels at a time: 64 is twice as fast as 128 or more, measured on Zen 3. */
enum { BLOCK = 64, MAX_TAPS = CONV1D_MAX_TAPS };

struct conv {
    const struct tensor *x, *w, *bias, *y; /* y: dy in the backward */
    struct tensor *dx, *dw, *dbias;
    const int32_t *seg;
    float *taps; /* of a read or a step, whose rows are one document; NULL: zeros before t = 0 */
    const struct step_rows *rows;
    const struct read_rows *read; /* NULL: B sequences of T */
    int B, T;
};

/* Tokens of one sequence: rows r0 .. of x; of a read its history taps (K-1,C), or NULL. */
struct span {
    int64_t r0;
    int T;
    float *taps;
};

static struct span span_of(const struct conv *o, int b)
{
    const struct read_rows *read = o->read;
    const int64_t n_taps = (tensor_cols(o->w) - 1) * tensor_cols(o->x);
    if (!read)
        return (struct span){(int64_t)b * o->T, o->T, NULL};
    return (struct span){read->begin[b], read->begin[b + 1] - read->begin[b],
                         o->taps + read->slot[b] * n_taps};
}

/* The weights of n channels from c0 on, tap by tap, and their bias. */
struct block {
    float w[MAX_TAPS][BLOCK], bias[BLOCK];
    int c0, n, K;
};

static void load_block(struct block *blk, const struct tensor *weight, const struct tensor *biases,
                       int c0, int n)
{
    const int K = (int)tensor_cols(weight);
    const float *bias = biases->data;
    blk->c0 = c0;
    blk->n = n;
    blk->K = K;
    for (int c = 0; c < n; c++) {
        const float *w = row(weight, c0 + c);
        blk->bias[c] = bias[c0 + c];
        for (int j = 0; j < K; j++)
            blk->w[j][c] = w[j];
    }
}

/* pre = bias + sum of the taps whose input is not NULL; in[j] is the input under tap j. */
static inline void apply_taps(float *restrict pre, const struct block *blk,
                              const float *const *restrict in)
{
    const int n = blk->n;
    for (int c = 0; c < n; c++)
        pre[c] = blk->bias[c];
    for (int j = 0; j < blk->K; j++) {
        const float *restrict xj = in[j], *restrict wj = blk->w[j];
        if (xj)
            for (int c = 0; c < n; c++)
                pre[c] += wj[c] * xj[c];
    }
}

/* The usual case, four taps and all of them there. */
static inline void apply_four(float *restrict pre, const struct block *blk,
                              const float *const *restrict in)
{
    const float *restrict x0 = in[0], *restrict x1 = in[1], *restrict x2 = in[2],
                          *restrict x3 = in[3];
    for (int c = 0; c < blk->n; c++)
        pre[c] = blk->bias[c] + blk->w[0][c] * x0[c] + blk->w[1][c] * x1[c] + blk->w[2][c] * x2[c] +
                 blk->w[3][c] * x3[c];
}

static inline void convolve(float *restrict pre, const struct block *blk,
                            const float *const *restrict in)
{
    if (blk->K == 4 && in[0] && in[1] && in[2])
        apply_four(pre, blk, in);
    else
        apply_taps(pre, blk, in);
}

static inline void silu(float *restrict y, const float *restrict pre, int n)
{
    for (int c = 0; c < n; c++)
        y[c] = vsilu(pre[c]);
}

/* Inputs under the taps at token t: NULL before the segment, or before the sequence unless the
 * history taps reach there. */
static void tap_inputs(const float **in, const struct conv *o, const struct block *blk,
                       const struct span *at, int t)
{
    const int64_t r = at->r0 + t, C = tensor_cols(o->x);
    for (int j = 0; j < blk->K; j++) {
        const int back = blk->K - 1 - j, u = t - back;
        in[j] = NULL;
        if (u >= 0 && (!o->seg || o->seg[r - back] == o->seg[r]))
            in[j] = row(o->x, r - back) + blk->c0;
        else if (u < 0 && at->taps)
            in[j] = at->taps + (blk->K - 1 + u) * C + blk->c0;
    }
}

/* The last K-1 inputs of a sequence, some of them perhaps from the old history. */
static void keep_taps(const struct conv *o, const struct block *blk, const struct span *at)
{
    const int64_t C = tensor_cols(o->x), K1 = blk->K - 1;
    for (int64_t j = 0; j < K1; j++) {
        const int64_t t = at->T - K1 + j;
        float *to = at->taps + j * C + blk->c0;
        const float *from = t >= 0 ? row(o->x, at->r0 + t) + blk->c0 : to + (int64_t)at->T * C;
        memmove(to, from, sizeof(float) * (size_t)blk->n);
    }
}

static void fwd_block(const struct conv *o, int c0, int n)
{
    struct block blk;
    float pre[BLOCK];
    const float *in[MAX_TAPS];
    load_block(&blk, o->w, o->bias, c0, n);
    for (int b = 0; b < o->B; b++) {
        const struct span at = span_of(o, b);
        for (int t = 0; t < at.T; t++) {
            tap_inputs(in, o, &blk, &at, t);
            convolve(pre, &blk, in);
            silu(row(o->y, at.r0 + t) + c0, pre, n);
        }
        if (at.taps)
            keep_taps(o, &blk, &at);
    }
}

/* Sums over time of one block. */
struct sums {
    float w[MAX_TAPS][BLOCK], bias[BLOCK];
};

static inline void add_product(float *restrict sum, const float *restrict a,
                               const float *restrict b, int n)
{
    for (int c = 0; c < n; c++)
        sum[c] += a[c] * b[c];
}

/* dpre at (b,t) from a recomputed pre, and its share of dw and dbias. */
static void bwd_pre(float *restrict dpre, struct sums *sums, const struct conv *o,
                    const struct block *blk, const struct span *at, int t)
{
    float pre[BLOCK];
    const float *in[MAX_TAPS];
    const float *restrict dy = row(o->y, at->r0 + t) + blk->c0;
    tap_inputs(in, o, blk, at, t);
    convolve(pre, blk, in);
    for (int c = 0; c < blk->n; c++)
        dpre[c] = dy[c] * vsilu_grad(pre[c]);
    for (int c = 0; c < blk->n; c++)
        sums->bias[c] += dpre[c];
    for (int j = 0; j < blk->K; j++)
        if (in[j])
            add_product(sums->w[j], dpre, in[j], blk->n);
}

/* Time runs backwards: dx_t needs dpre of t .. t+K-1, which stay in a ring. */
static void bwd_block(const struct conv *o, int c0, int n)
{
    struct block blk;
    struct sums sums = {0};
    float dpre[MAX_TAPS][BLOCK] = {0};
    load_block(&blk, o->w, o->bias, c0, n);
    for (int b = 0; b < o->B; b++) {
        const struct span at = span_of(o, b);
        for (int t = o->T - 1; t >= 0; t--) {
            const int64_t r = at.r0 + t;
            bwd_pre(dpre[t % blk.K], &sums, o, &blk, &at, t);
            float *restrict dx = row(o->dx, r) + c0;
            for (int c = 0; c < n; c++)
                dx[c] = blk.w[blk.K - 1][c] * dpre[t % blk.K][c];
            for (int i = 1; i < blk.K && t + i < o->T; i++)
                if (!o->seg || o->seg[r + i] == o->seg[r])
                    add_product(dx, blk.w[blk.K - 1 - i], dpre[(t + i) % blk.K], n);
        }
    }
    float *dbias = o->dbias->data;
    for (int c = 0; c < n; c++) {
        float *dw = row(o->dw, c0 + c);
        dbias[c0 + c] += sums.bias[c];
        for (int j = 0; j < blk.K; j++)
            dw[j] += sums.w[j][c];
    }
}

/* One token of one row: history taps (K-1,C) from channel c0 on, input x from channel c0 on. */
static void step_row(float *y, const float *taps, const float *x, const struct block *blk,
                     int64_t C)
{
    float pre[BLOCK];
    const float *in[MAX_TAPS];
    for (int j = 0; j < blk->K - 1; j++)
        in[j] = taps + j * C;
    in[blk->K - 1] = x;
    convolve(pre, blk, in);
    silu(y, pre, blk->n);
}

void conv1d_shift(float *taps, const float *x, int n, int K, int64_t C)
{
    for (int j = 0; j < K - 1; j++)
        memcpy(taps + j * C, j + 1 < K - 1 ? taps + (j + 1) * C : x, sizeof(float) * (size_t)n);
}

void conv1d_channels(float *y, const float *taps, const float *x, const struct tensor *w,
                     const struct tensor *bias, int c0, int n)
{
    const int64_t C = tensor_rows(w);
    struct block blk;
    for (int c = 0; c < n; c += BLOCK) {
        load_block(&blk, w, bias, c0 + c, n - c < BLOCK ? n - c : BLOCK);
        step_row(y + c, taps + c0 + c, x + c0 + c, &blk, C);
    }
}

static void step_block(const struct conv *o, int c0, int n)
{
    struct block blk;
    const int64_t C = tensor_cols(o->x);
    load_block(&blk, o->w, o->bias, c0, n);
    for (int r = 0; r < o->rows->R; r++) {
        float *taps = o->taps + (int64_t)o->rows->slot[r] * (blk.K - 1) * C + c0;
        const float *x = row(o->x, r) + c0;
        step_row(row(o->y, r) + c0, taps, x, &blk, C);
        conv1d_shift(taps, x, n, blk.K, C);
    }
}

static void for_blocks(const struct conv *o, int worker, int n_workers,
                       void (*fn)(const struct conv *o, int c0, int n))
{
    size_t begin, end;
    pool_share((size_t)tensor_cols(o->x), 16, worker, n_workers, &begin, &end);
    for (size_t c = begin; c < end; c += BLOCK)
        fn(o, (int)c, (int)(end - c < BLOCK ? end - c : BLOCK));
}

static void fwd_share(void *arg, int worker, int n_workers)
{
    for_blocks(arg, worker, n_workers, fwd_block);
}

static void bwd_share(void *arg, int worker, int n_workers)
{
    for_blocks(arg, worker, n_workers, bwd_block);
}

static void step_share(void *arg, int worker, int n_workers)
{
    for_blocks(arg, worker, n_workers, step_block);
}

void cpu_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct tensor *w, const struct tensor *bias, const int32_t *seg, int B,
                    int T)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS);
    struct conv o = {.x = x, .w = w, .bias = bias, .y = y, .seg = seg};
    o.B = B;
    o.T = T;
    pool_run(pool_of(dev), fwd_share, &o);
}

void cpu_conv1d_read(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias,
                     const struct read_rows *rows)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS);
    struct conv o = {.x = x, .w = w, .bias = bias, .y = y, .taps = taps, .read = rows};
    o.B = rows->R;
    pool_run(pool_of(dev), fwd_share, &o);
}

void cpu_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, struct tensor *dbias,
                    const struct tensor *dy, const struct tensor *x, const struct tensor *w,
                    const struct tensor *bias, const int32_t *seg, int B, int T)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS);
    struct conv o = {.x = x, .w = w, .bias = bias, .y = dy, .dx = dx, .dw = dw, .dbias = dbias};
    o.seg = seg;
    o.B = B;
    o.T = T;
    pool_run(pool_of(dev), bwd_share, &o);
}

void cpu_conv1d_step(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias,
                     const struct step_rows *rows)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS);
    struct conv o = {.x = x, .w = w, .bias = bias, .y = y, .taps = taps, .rows = rows};
    run_sized(dev, rows->R * tensor_cols(x), step_share, &o);
}
