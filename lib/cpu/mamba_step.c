/* mamba_step: conv1d_step, ssd_step and gatenorm_fwd of a layer in one pass. A worker's share is a
 * run of (row, head) pairs: it convolves the head's own channels and, once a group, B and C,
 * advances the state and gates. Several workers may read the history of B and C, so that it shifts
 * in the second half, where each row is normalised. */
#include "conv1d.h"
#include "cpu_ops.h"
#include "ssd.h"
#include "vmath.h"

#include <assert.h>

struct step {
    struct dev *dev;
    const struct ssd_in *in;
    struct tensor *out;
    float *taps, *state;
    const struct tensor *xbc, *z, *conv_w, *conv_b, *norm_w;
    const struct step_rows *rows;
    float eps;
    float *squares; /* (R,H) sums of squares of the gated outputs */
    size_t shared_bytes, worker_bytes;
};

struct space {
    float *x, *y, *b, *c; /* (P) (P) (N) (N) */
};

static void carve(struct space *w, struct scratch *s, int P, int N)
{
    w->x = scratch_floats(s, (size_t)P);
    w->y = scratch_floats(s, (size_t)P);
    w->b = scratch_floats(s, (size_t)N);
    w->c = scratch_floats(s, (size_t)N);
}

static size_t worker_bytes(int P, int N)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, P, N);
    return s.used;
}

static size_t shared_bytes(int R, int H)
{
    struct scratch s = {0};
    scratch_floats(&s, (size_t)R * (size_t)H);
    return s.used;
}

size_t cpu_mamba_step_plan(const struct dev *dev, const struct sizes *s)
{
    return shared_bytes(s->R, s->H) + (size_t)n_workers_of(dev) * worker_bytes(s->P, s->N);
}

static float *history(const struct step *o, int r)
{
    return o->taps + o->rows->slot[r] * (tensor_cols(o->conv_w) - 1) * tensor_cols(o->xbc);
}

/* out = y silu(z); the sum of squares is returned. */
static float gate(float *restrict out, const float *restrict y, const float *restrict z, int P)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int p = 0; p < P; p++) {
        out[p] = y[p] * vsilu(z[p]);
        sum += out[p] * out[p];
    }
    return sum;
}

/* Heads [h0,h1) of row r, all of group g. */
static void run_heads(const struct step *o, struct space *w, int r, int g, int h0, int h1)
{
    const struct ssd_in *in = o->in;
    const int H = in->H, P = in->P, N = in->N, E = H * P, K = (int)tensor_cols(o->conv_w);
    const int64_t C = tensor_cols(o->xbc);
    const float *xbc = row(o->xbc, r);
    float *taps = history(o, r);
    struct ssd_token k = {.b = w->b, .c = w->c};
    conv1d_channels(w->b, taps, xbc, o->conv_w, o->conv_b, E + g * N, N);
    conv1d_channels(w->c, taps, xbc, o->conv_w, o->conv_b, E + (in->G + g) * N, N);
    for (int h = h0; h < h1; h++) {
        float *state = o->state + ((int64_t)o->rows->slot[r] * H + h) * P * N;
        conv1d_channels(w->x, taps, xbc, o->conv_w, o->conv_b, h * P, P);
        conv1d_shift(taps + h * P, xbc + h * P, P, K, C);
        ssd_step_sizes(&k, in, r, h);
        ssd_step_head(w->y, state, w->x, &k, P, N);
        o->squares[r * H + h] = gate(row(o->out, r) + h * P, w->y, row(o->z, r) + h * P, P);
    }
}

static void heads_share(void *arg, int worker, int n_workers)
{
    const struct step *o = arg;
    const int H = o->in->H, heads = H / o->in->G;
    struct scratch s = scratch_of(o->dev, o->shared_bytes, o->worker_bytes, worker);
    struct space w;
    size_t i, end;
    carve(&w, &s, o->in->P, o->in->N);
    pool_share((size_t)o->rows->R * (size_t)H, 1, worker, n_workers, &i, &end);
    while (i < end) {
        const int r = (int)(i / (size_t)H), h0 = (int)(i % (size_t)H), g = h0 / heads;
        const int h1 = min_int((g + 1) * heads, h0 + (int)(end - i));
        run_heads(o, &w, r, g, h0, h1);
        i += (size_t)(h1 - h0);
    }
}

static void norm_share(void *arg, int worker, int n_workers)
{
    const struct step *o = arg;
    const int H = o->in->H, E = H * o->in->P, K = (int)tensor_cols(o->conv_w);
    const int64_t C = tensor_cols(o->xbc);
    const float *restrict weight = o->norm_w->data;
    size_t begin, end;
    pool_share((size_t)o->rows->R, 1, worker, n_workers, &begin, &end);
    for (int r = (int)begin; r < (int)end; r++) {
        float *restrict out = row(o->out, r);
        float sum = 0;
        for (int h = 0; h < H; h++)
            sum += o->squares[r * H + h];
        const float rstd = 1.0f / sqrtf(sum / (float)E + o->eps);
        for (int i = 0; i < E; i++)
            out[i] *= rstd * weight[i];
        conv1d_shift(history(o, r) + E, row(o->xbc, r) + E, (int)(C - E), K, C);
    }
}

void cpu_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                    const struct tensor *xbc, const struct tensor *z, const struct tensor *conv_w,
                    const struct tensor *conv_b, const struct tensor *norm_w, float eps,
                    const struct ssd_in *in, const struct step_rows *rows)
{
    struct step o = {.dev = dev, .in = in, .out = out, .taps = taps, .state = state, .xbc = xbc};
    o.z = z;
    o.conv_w = conv_w;
    o.conv_b = conv_b;
    o.norm_w = norm_w;
    o.rows = rows;
    o.eps = eps;
    o.squares = dev->work;
    o.shared_bytes = shared_bytes(rows->R, in->H);
    o.worker_bytes = worker_bytes(in->P, in->N);
    assert(dev->work_bytes >= o.shared_bytes + (size_t)n_workers_of(dev) * o.worker_bytes);
    assert(tensor_cols(conv_w) <= CONV1D_MAX_TAPS);
    run_sized(dev, (int64_t)rows->R * in->H * in->P * in->N / 4, heads_share, &o);
    run_sized(dev, (int64_t)rows->R * in->H * in->P, norm_share, &o);
}
