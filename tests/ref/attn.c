/* Reference of attention: one query at a time, all its weights in memory. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Weights p (past+T) of query t of head h over all keys; 0 where it may not look. Returns the
 * log of the sum of exponentials. */
static double weights(double *p, const struct ref_attn *in, int b, int t, int h)
{
    const int n_keys = in->past + in->T, g = h / (in->H / in->G);
    const double *q = in->q + ((b * in->T + t) * in->H + h) * in->P;
    double top = -INFINITY, sum = 0;
    for (int j = 0; j < n_keys; j++) {
        const double *k = in->k + ((b * n_keys + j) * in->G + g) * in->P;
        const bool is_seen =
            j <= in->past + t && (!in->seg || in->seg[b * in->T + j] == in->seg[b * in->T + t]);
        p[j] = is_seen ? 0 : -INFINITY;
        for (int i = 0; is_seen && i < in->P; i++)
            p[j] += in->scale * q[i] * k[i];
        top = fmax(top, p[j]);
    }
    for (int j = 0; j < n_keys; j++)
        sum += exp(p[j] - top);
    for (int j = 0; j < n_keys; j++)
        p[j] = exp(p[j] - top) / sum;
    return top + log(sum);
}

void ref_attn_fwd(double *o, double *lse, const struct ref_attn *in)
{
    const int n_keys = in->past + in->T;
    double *p = malloc(sizeof *p * (size_t)n_keys);
    for (int b = 0; b < in->B; b++)
        for (int t = 0; t < in->T; t++)
            for (int h = 0; h < in->H; h++) {
                const int g = h / (in->H / in->G);
                double *out = o + ((b * in->T + t) * in->H + h) * in->P;
                lse[(b * in->H + h) * in->T + t] = weights(p, in, b, t, h);
                memset(out, 0, sizeof *out * (size_t)in->P);
                for (int j = 0; j < n_keys; j++)
                    for (int i = 0; i < in->P; i++)
                        out[i] += p[j] * in->v[((b * n_keys + j) * in->G + g) * in->P + i];
            }
    free(p);
}

void ref_attn_bwd(double *dq, double *dk, double *dv, const double *dout, const struct ref_attn *in)
{
    const int T = in->T, P = in->P;
    double *p = malloc(sizeof *p * (size_t)T), *dp = malloc(sizeof *dp * (size_t)T);
    memset(dq, 0, sizeof *dq * (size_t)(in->B * T * in->H * P));
    memset(dk, 0, sizeof *dk * (size_t)(in->B * T * in->G * P));
    memset(dv, 0, sizeof *dv * (size_t)(in->B * T * in->G * P));
    for (int b = 0; b < in->B; b++)
        for (int t = 0; t < T; t++)
            for (int h = 0; h < in->H; h++) {
                const int g = h / (in->H / in->G), at_q = ((b * T + t) * in->H + h) * P;
                double mean = 0; /* of dp under p */
                weights(p, in, b, t, h);
                for (int j = 0; j < T; j++) {
                    const int at_k = ((b * T + j) * in->G + g) * P;
                    dp[j] = 0;
                    for (int i = 0; i < P; i++) {
                        dp[j] += dout[at_q + i] * in->v[at_k + i];
                        dv[at_k + i] += p[j] * dout[at_q + i];
                    }
                    mean += p[j] * dp[j];
                }
                for (int j = 0; j < T; j++) {
                    const int at_k = ((b * T + j) * in->G + g) * P;
                    const double ds = p[j] * (dp[j] - mean) * in->scale;
                    for (int i = 0; i < P; i++) {
                        dq[at_q + i] += ds * in->k[at_k + i];
                        dk[at_k + i] += ds * in->q[at_q + i];
                    }
                }
            }
    free(p);
    free(dp);
}
