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
    return (size_t)n_workers_of(dev) * worker_bytes(s->H, s->P);
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

/* Keys [j0,j0+n) of KV head g, whose query heads [h0,h1) of row r are rows i0.. of w's. */
static void run_tile(const struct step *o, struct space *w, int r, int g, int h0, int h1, int i0,
                     int j0, int n)
{
    const int P = o->P, pos = o->rows->pos[r], heads = h1 - h0, n_old = attn_min(n, pos - j0);
    const int64_t base = (int64_t)o->rows->slot[r] * o->kcache->dim[1] + j0;
    const struct mat keys = attn_mat(o->kcache, base, g, P);
    const struct mat values = attn_mat(o->vcache, base, g, P), acc = mat_at(w->acc, i0, 0);
    for (int h = 0; h < heads; h++) {
        float *s = mat_at(w->s, h, 0).p, *restrict sums = mat_at(acc, h, 0).p;
        for (int j = 0; j < n; j += 4) {
            const float *key[4]; /* past the last one: that one again */
            for (int i = 0; i < 4; i++) {
                const int at = attn_min(j + i, n - 1);
                key[i] = at < n_old ? keys.p + at * keys.ld : row(o->k, r) + g * P;
            }
            quad_store(s + j, dot_keys(row(o->q, r) + (h0 + h) * P, key, P));
        }
        const float left = soften(s, o->scale, n, &w->top[i0 + h], &w->sum[i0 + h]);
        for (int p = 0; p < P; p++)
            sums[p] *= left;
    }
    mm_ab(acc, w->s, values, heads, P, n_old, true);
    if (n_old < n)
        mm_ab(acc, mat_at(w->s, 0, n_old), attn_mat(o->v, r, g, P), heads, P, 1, true);
}

/* The new key and value of KV head g of row r go into the cache. */
static void store_new(const struct step *o, int r, int g)
{
    const int64_t at = (int64_t)o->rows->slot[r] * o->kcache->dim[1] + o->rows->pos[r];
    const size_t bytes = sizeof(float) * (size_t)o->P;
    memcpy(attn_mat(o->kcache, at, g, o->P).p, attn_mat(o->k, r, g, o->P).p, bytes);
    memcpy(attn_mat(o->vcache, at, g, o->P).p, attn_mat(o->v, r, g, o->P).p, bytes);
}

/* Query heads [h0,h1) of row r. Tiles run outside, KV heads inside: a tile's rows of the cache lie
 * side by side. */
static void run_heads(const struct step *o, struct space *w, int r, int h0, int h1)
{
    const int P = o->P, pos = o->rows->pos[r], per_group = o->H / o->G;
    for (int i = 0; i < h1 - h0; i++) {
        memset(mat_at(w->acc, i, 0).p, 0, sizeof(float) * (size_t)P);
        w->top[i] = -3e38f;
        w->sum[i] = 0;
    }
    for (int j0 = 0; j0 <= pos; j0 += KEYS)
        for (int h = h0, end; h < h1; h = end) {
            const int g = h / per_group;
            end = attn_min((g + 1) * per_group, h1);
            run_tile(o, w, r, g, h, end, h - h0, j0, attn_min(KEYS, pos + 1 - j0));
        }
    for (int h = h0; h < h1; h++) {
        attn_copy_scaled(attn_mat(o->o, r, h, P), mat_at(w->acc, h - h0, 0), 1.0f / w->sum[h - h0],
                         1, P);
        if (h % per_group == 0)
            store_new(o, r, h / per_group);
    }
}

static void step_share(void *arg, int worker, int n_workers)
{
    const struct step *o = arg;
    const int H = o->H;
    struct scratch s = scratch_of(o->dev, 0, o->worker_bytes, worker);
    struct space w;
    size_t i, end;
    carve(&w, &s, H, o->P);
    pool_share((size_t)o->rows->R * (size_t)H, 1, worker, n_workers, &i, &end);
    while (i < end) {
        const int r = (int)(i / (size_t)H), h0 = (int)(i % (size_t)H);
        const int h1 = attn_min(H, h0 + (int)(end - i));
        run_heads(o, &w, r, h0, h1);
        i += (size_t)(h1 - h0);
    }
}

void cpu_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                   const struct tensor *q, const struct tensor *k, const struct tensor *v,
                   float scale, int H, int P, int G, const struct step_rows *rows)
{
    struct step f = {dev, o, kcache, vcache, q, k, v, rows, scale, H, P, G, worker_bytes(H, P)};
    int64_t n_keys = 0;
    assert(dev->work_bytes >= (size_t)n_workers_of(dev) * f.worker_bytes);
    for (int r = 0; r < rows->R; r++)
        n_keys += rows->pos[r] + 1;
    run_sized(dev, n_keys * H * P / 4, step_share, &f);
}
