/* ssd_step: one token of the recurrence for each row of a decode step. A worker's share is a run of
 * (row, head) pairs; sums run over N in an order that depends on N only. */
#include "ssd.h"

#include "cpu_ops.h"
#include "vec.h"
#include "vmath.h"

struct step {
    const struct ssd_in *in;
    struct tensor *y;
    float *state;
    const struct step_rows *rows;
};

/* State rows p .. p+count-1 (count at most 4): advanced, and their products with C. */
static inline __attribute__((always_inline)) quad advance(float *restrict s,
                                                          const float *restrict x,
                                                          const struct ssd_token *k, int N,
                                                          const int count)
{
    vec acc[4] = {vec_all(0), vec_all(0), vec_all(0), vec_all(0)};
    const vec decay = vec_all(k->decay);
    int n = 0;
    for (; n + VL <= N; n += VL) {
        const vec b = vec_load(k->b + n), c = vec_load(k->c + n);
#pragma GCC unroll 4
        for (int i = 0; i < count; i++) {
            const vec next = decay * vec_load(s + i * N + n) + vec_all(k->delta * x[i]) * b;
            vec_store(s + i * N + n, next);
            acc[i] += next * c;
        }
    }
    if (n < N) {
        const int left = N - n;
        const vec b = vec_load_part(k->b + n, left), c = vec_load_part(k->c + n, left);
        for (int i = 0; i < count; i++) {
            const vec old = vec_load_part(s + i * N + n, left);
            const vec next = decay * old + vec_all(k->delta * x[i]) * b;
            vec_store_part(s + i * N + n, next, left);
            acc[i] += next * c;
        }
    }
    return vec_sum4(acc[0], acc[1], acc[2], acc[3]);
}

void ssd_step_head(float *y, float *state, const float *x, const struct ssd_token *k, int P, int N)
{
    int p = 0;
    for (; p + 4 <= P; p += 4) {
        const quad sum = advance(state + (int64_t)p * N, x + p, k, N, 4);
        for (int i = 0; i < 4; i++)
            y[p + i] = sum[i] + k->skip * x[p + i];
    }
    for (; p < P; p++)
        y[p] = advance(state + (int64_t)p * N, x + p, k, N, 1)[0] + k->skip * x[p];
}

void ssd_step_sizes(struct ssd_token *k, const struct ssd_in *in, int r, int h)
{
    const float a = -expf(((const float *)in->a_log.data)[h]);
    k->delta = softplus(row(&in->dt, r)[h] + ((const float *)in->dt_bias.data)[h]);
    k->decay = expf(k->delta * a);
    k->skip = ((const float *)in->skip.data)[h];
}

static void step_share(void *arg, int worker, int n_workers)
{
    const struct step *o = arg;
    const struct ssd_in *in = o->in;
    const int H = in->H, P = in->P, N = in->N;
    size_t begin, end;
    pool_share((size_t)o->rows->R * (size_t)H, 1, worker, n_workers, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const int r = (int)(i / (size_t)H), h = (int)(i % (size_t)H), g = h / (H / in->G);
        float *state = o->state + ((int64_t)o->rows->slot[r] * H + h) * P * N;
        struct ssd_token k = {.b = row(&in->bmat, r) + g * N, .c = row(&in->cmat, r) + g * N};
        ssd_step_sizes(&k, in, r, h);
        ssd_step_head(row(o->y, r) + h * P, state, row(&in->x, r) + h * P, &k, P, N);
    }
}

void cpu_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                  const struct step_rows *rows)
{
    struct step o = {in, y, state, rows};
    run_sized(dev, (int64_t)rows->R * in->H * in->P * in->N / 4, step_share, &o);
}
