/* attn_step: attention of one new token a row over its slot's cache. A worker's share is a run of
 * (row, query head) pairs; heads of one KV head go over the cache together, so that it is read
 * once. Keys pass by in tiles counted from position 0 with a running softmax, so a row's sums
 * depend on its position only. The new key and value are read from the input: only the worker that
 * has the first head of a KV head writes them to the cache. */
#include "attn.h"

#include "cpu_ops.h"
#include "vec.h"
#include "vmath.h"

#include <assert.h>

enum { KEYS = 32 };

struct step {
    struct dev *dev;
    struct tensor *o, *kcache, *vcache;
    const struct tensor *q, *k, *v;
    const struct step_rows *rows;
    float scale;
    int H, P, G;
    size_t worker_bytes;
};

struct space {
    struct mat s, acc; /* (heads,KEYS) (heads,P) */
    float *top, *sum;  /* (heads) */
};

static void carve(struct space *w, struct scratch *s, int heads, int P)
{
    w->s = scratch_mat(s, heads, KEYS);
    w->acc = scratch_mat(s, heads, P);
    w->top = scratch_floats(s, (size_t)heads);
    w->sum = scratch_floats(s, (size_t)heads);
}

static size_t worker_bytes(int heads, int P)
{
    struct scratch s = {0};
    struct space w;
    carve(&w, &s, heads, P);
    return s.used;
}

size_t cpu_attn_step_plan(const struct dev *dev, const struct sizes *s)
{
    return (size_t)n_workers_of(dev) * worker_bytes(s->H / s->G, s->P);
}

/* Products of q with four keys. */
static inline quad dot_keys(const float *restrict q, const float *const *restrict key, int P)
{
    const float *k0 = key[0], *k1 = key[1], *k2 = key[2], *k3 = key[3];
    vec a = vec_all(0), b = a, c = a, d = a;
    int p = 0;
    for (; p + VL <= P; p += VL) {
        const vec qp = vec_load(q + p);
        a += qp * vec_load(k0 + p);
        b += qp * vec_load(k1 + p);
        c += qp * vec_load(k2 + p);
        d += qp * vec_load(k3 + p);
    }
    if (p < P) {
        const vec qp = vec_load_part(q + p, P - p);
        a += qp * vec_load_part(k0 + p, P - p);
        b += qp * vec_load_part(k1 + p, P - p);
        c += qp * vec_load_part(k2 + p, P - p);
        d += qp * vec_load_part(k3 + p, P - p);
    }
    return vec_sum4(a, b, c, d);
}

/* Scores of n keys become weights under the running softmax; returns what is left of the old ones.
 */
static float soften(float *restrict s, float scale, int n, float *top, float *sum)
{
    float high = *top, total = 0;
    for (int j = 0; j < n; j++) {
        s[j] *= scale;
        high = s[j] > high ? s[j] : high;
    }
    const float left = vexp(*top - high);
    for (int j = 0; j < n; j++)
        s[j] = vexp(s[j] - high);
    for (int j = 0; j < n; j++)
        total += s[j];
    *top = high;
    *sum = *sum * left + total;
    return left;
}

/* Query heads [h0,h1) of row r, all of KV head g. */
static void run_heads(const struct step *o, struct space *w, int r, int g, int h0, int h1)
{
    const int P = o->P, pos = o->rows->pos[r], heads = h1 - h0;
    const int64_t base = (int64_t)o->rows->slot[r] * o->kcache->dim[1];
    const struct mat keys = attn_mat(o->kcache, base, g, P),
                     values = attn_mat(o->vcache, base, g, P);
    const float *new_key = row(o->k, r) + g * P;
    const struct mat new_value = attn_mat(o->v, r, g, P);
    for (int h = 0; h < heads; h++) {
        memset(mat_at(w->acc, h, 0).p, 0, sizeof(float) * (size_t)P);
        w->top[h] = -3e38f;
        w->sum[h] = 0;
    }
    for (int j0 = 0; j0 <= pos; j0 += KEYS) {
        const int n = attn_min(KEYS, pos + 1 - j0), n_old = attn_min(n, pos - j0);
        for (int h = 0; h < heads; h++) {
            float *s = mat_at(w->s, h, 0).p;
            for (int j = 0; j < n; j += 4) {
                const float *key[4]; /* past the last one: that one again */
                for (int i = 0; i < 4; i++) {
                    const int at = attn_min(j + i, n - 1);
                    key[i] = at < n_old ? keys.p + (j0 + at) * keys.ld : new_key;
                }
                quad_store(s + j, dot_keys(row(o->q, r) + (h0 + h) * P, key, P));
            }
            const float left = soften(s, o->scale, n, &w->top[h], &w->sum[h]);
            float *restrict acc = mat_at(w->acc, h, 0).p;
            for (int p = 0; p < P; p++)
                acc[p] *= left;
        }
        mm_ab(w->acc, w->s, mat_at(values, j0, 0), heads, P, n_old, true);
        if (n_old < n)
            mm_ab(w->acc, mat_at(w->s, 0, n_old), new_value, heads, P, 1, true);
    }
    for (int h = 0; h < heads; h++)
        attn_copy_scaled(attn_mat(o->o, r, h0 + h, P), mat_at(w->acc, h, 0), 1.0f / w->sum[h], 1,
                         P);
    if (h0 == g * (o->H / o->G)) {
        memcpy(keys.p + pos * keys.ld, new_key, sizeof(float) * (size_t)P);
        memcpy(values.p + pos * values.ld, new_value.p, sizeof(float) * (size_t)P);
    }
}

static void step_share(void *arg, int worker, int n_workers)
{
    const struct step *o = arg;
    const int H = o->H, heads = H / o->G;
    struct scratch s = scratch_of(o->dev, 0, o->worker_bytes, worker);
    struct space w;
    size_t i, end;
    carve(&w, &s, heads, o->P);
    pool_share((size_t)o->rows->R * (size_t)H, 1, worker, n_workers, &i, &end);
    while (i < end) {
        const int r = (int)(i / (size_t)H), h0 = (int)(i % (size_t)H), g = h0 / heads;
        const int h1 = attn_min((g + 1) * heads, h0 + (int)(end - i));
        run_heads(o, &w, r, g, h0, h1);
        i += (size_t)(h1 - h0);
    }
}

void cpu_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                   const struct tensor *q, const struct tensor *k, const struct tensor *v,
                   float scale, int H, int P, int G, const struct step_rows *rows)
{
    struct step f = {dev, o, kcache, vcache, q, k, v, rows, scale, H, P, G, worker_bytes(H / G, P)};
    int64_t n_keys = 0;
    assert(dev->work_bytes >= (size_t)n_workers_of(dev) * f.worker_bytes);
    for (int r = 0; r < rows->R; r++)
        n_keys += rows->pos[r] + 1;
    run_sized(dev, n_keys * H * P / 4, step_share, &f);
}
