/* rope: rotary positions in place on x (M, n_heads*P): channels i and i+P/2 of a head turn by the
 * angle pos * theta^(-2i/P). Angles are reduced in double, so that far positions keep their digits;
 * the heads of a token share its sines. */
#include "cpu_ops.h"
#include "local.h"

#include <assert.h>
#include <math.h>

enum { MAX_PAIRS = 128 };

struct rope {
    struct tensor *x;
    const int32_t *pos;
    int n_heads, n_pairs;
    bool is_inverse;
    double rate[MAX_PAIRS]; /* radians a position */
};

static void turn(float *restrict low, float *restrict high, const float *restrict cosine,
                 const float *restrict sine, int n)
{
    for (int i = 0; i < n; i++) {
        const float a = low[i], b = high[i];
        low[i] = a * cosine[i] - b * sine[i];
        high[i] = b * cosine[i] + a * sine[i];
    }
}

static void rope_share(void *arg, int worker, int n_workers)
{
    const struct rope *o = arg;
    const int n = o->n_pairs;
    float cosine[MAX_PAIRS], sine[MAX_PAIRS];
    size_t begin, end;
    pool_share((size_t)tensor_rows(o->x), 1, worker, n_workers, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        for (int i = 0; i < n; i++) {
            const double angle = o->pos[r] * o->rate[i];
            cosine[i] = (float)cos(angle);
            sine[i] = (float)(o->is_inverse ? -sin(angle) : sin(angle));
        }
        float *x = row(o->x, (int64_t)r);
        for (int h = 0; h < o->n_heads; h++)
            turn(x + (int64_t)h * 2 * n, x + (int64_t)h * 2 * n + n, cosine, sine, n);
    }
}

void cpu_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads, float theta,
              bool inverse)
{
    struct rope o = {.x = x, .pos = pos, .n_heads = n_heads, .is_inverse = inverse};
    o.n_pairs = (int)tensor_cols(x) / n_heads / 2;
    assert(o.n_pairs <= MAX_PAIRS);
    for (int i = 0; i < o.n_pairs; i++)
        o.rate[i] = pow(theta, -(double)i / o.n_pairs);
    pool_run(pool_of(dev), rope_share, &o);
}
