/* ssd_chunk: loading of a chunk for the SSD passes; see ssd.h. */
#include "ssd.h"
#include "vmath.h"

void ssd_carve_chunk(struct ssd_chunk *ch, struct scratch *s, int Q, int P, int N)
{
    const size_t q = (size_t)Q;
    ch->start = scratch_take(s, q * sizeof(int));
    ch->b = scratch_mat(s, Q, N);
    ch->c = scratch_mat(s, Q, N);
    ch->bt = scratch_mat(s, N, Q);
    ch->cb = scratch_mat(s, Q, Q);
    ch->sum = scratch_take(s, q * sizeof(double));
    ch->delta = scratch_floats(s, q);
    ch->from_start = scratch_floats(s, q);
    ch->to_end = scratch_floats(s, q);
    ch->to_tile = scratch_floats(s, q);
    ch->in_tile = scratch_floats(s, SSD_TILE);
    ch->xs = scratch_mat(s, Q, P);
}

static void find_documents(struct ssd_chunk *ch, const struct ssd_in *in, int t_first)
{
    int start = -1;
    ch->n_live = ch->n;
    for (int t = 0; t < ch->n; t++) {
        const int32_t *seg = in->seg ? in->seg + ch->r0 + t : NULL;
        if (seg && t_first + t > 0 && seg[0] != seg[-1]) {
            start = t;
            ch->n_live = min_int(ch->n_live, t);
        }
        ch->start[t] = start;
    }
    ch->n_cut = start > 0 ? start : 0;
}

void ssd_load_group(struct ssd_chunk *ch, const struct ssd_in *in, int64_t r0, int T, int z, int g)
{
    const int N = in->N, t_first = z * in->Q;
    ch->n = min_int(in->Q, T - t_first);
    ch->r0 = r0 + t_first;
    find_documents(ch, in, t_first);
    for (int t = 0; t < ch->n; t++) {
        memcpy(mat_at(ch->b, t, 0).p, row(&in->bmat, ch->r0 + t) + g * N,
               sizeof(float) * (size_t)N);
        memcpy(mat_at(ch->c, t, 0).p, row(&in->cmat, ch->r0 + t) + g * N,
               sizeof(float) * (size_t)N);
    }
    mm_transpose(ch->bt, ch->b, ch->n, N);
    for (int t0 = 0; t0 < ch->n; t0 += SSD_TILE) {
        const int t1 = min_int(t0 + SSD_TILE, ch->n);
        mm_ab(mat_at(ch->cb, t0, 0), mat_at(ch->c, t0, 0), ch->bt, t1 - t0, t1, N, false);
    }
}

void ssd_load_head(struct ssd_chunk *ch, const struct ssd_in *in, const float *delta, int h)
{
    const float a = -expf(((const float *)in->a_log.data)[h]);
    const int n = ch->n;
    double sum = 0;
    for (int t = 0; t < n; t++) {
        ch->delta[t] = delta[(ch->r0 + t) * in->H + h];
        sum += (double)a * ch->delta[t];
        ch->sum[t] = sum;
    }
    for (int t = 0; t < n; t++) {
        ch->from_start[t] = vexp((float)ch->sum[t]);
        ch->to_end[t] = vexp((float)(sum - ch->sum[t]));
    }
    ch->through = ch->n_live == n ? ch->from_start[n - 1] : 0;
    for (int t = 0; t < n; t++) {
        const float *restrict x = row(&in->x, ch->r0 + t) + (int64_t)h * in->P;
        float *restrict xs = mat_at(ch->xs, t, 0).p;
        for (int p = 0; p < in->P; p++)
            xs[p] = ch->delta[t] * x[p];
    }
}

/* Columns before the tile take two factors, exp(sum_t - sum_t0) exp(sum_t0 - sum_u), both at most
 * 1, so that only the tile on the diagonal costs an exp an element. */
void ssd_decay_tile(struct mat to, const struct ssd_chunk *ch, int t0, int t1)
{
    const double origin = ch->sum[t0];
    float *restrict to_tile = ch->to_tile, *restrict in_tile = ch->in_tile;
    for (int u = 0; u < t0; u++)
        to_tile[u] = vexp((float)(origin - ch->sum[u]));
    for (int t = 0; t < SSD_TILE; t++)
        in_tile[t] = (float)(ch->sum[t0 + t < t1 ? t0 + t : t1 - 1] - origin);
    for (int t = t0; t < t1; t++) {
        float *restrict out = to.p + (t - t0) * to.ld;
        float tile[SSD_TILE];
        const float here = in_tile[t - t0], from_tile = vexp(here);
        const int lo = ch->start[t] > 0 ? ch->start[t] : 0;
        for (int u = 0; u < t0; u++)
            out[u] = from_tile * to_tile[u];
        for (int u = 0; u < SSD_TILE; u++) /* all of them: half are thrown away, none is a rest */
            tile[u] = vexp(here - in_tile[u]);
        for (int u = 0; u < t1 - t0; u++)
            out[t0 + u] = t0 + u <= t ? tile[u] : 0;
        for (int u = 0; u < lo; u++)
            out[u] = 0;
    }
}
