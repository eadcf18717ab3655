/* Reference of conv1d: y_t = silu(bias + sum_j w[j] x_{t-K+1+j}), channel by channel. */
#include "ref.h"

#include <math.h>
#include <string.h>

/* Input of channel c at time t-back, as the token at t sees it. *at gets its place in x, NULL where
 * it is none of x's. */
static double input(const double *x, const int32_t *seg, const double *taps, int b, int t, int back,
                    int c, int T, int C, int K, const double **at)
{
    const int u = t - back;
    *at = NULL;
    if (seg && seg[b * T + t] != seg[b * T + (u >= 0 ? u : 0)])
        return 0;
    if (u < 0)
        return taps ? taps[(b * (K - 1) + K - 1 + u) * C + c] : 0;
    *at = &x[(b * T + u) * C + c];
    return **at;
}

static double before_silu(const double *x, const double *w, const double *bias, const int32_t *seg,
                          const double *taps, int b, int t, int c, int T, int C, int K)
{
    const double *at;
    double sum = bias[c];
    for (int j = 0; j < K; j++)
        sum += w[c * K + j] * input(x, seg, taps, b, t, K - 1 - j, c, T, C, K, &at);
    return sum;
}

void ref_conv1d_fwd(double *y, const double *x, const double *w, const double *bias,
                    const int32_t *seg, double *taps, int B, int T, int C, int K)
{
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                const double s = before_silu(x, w, bias, seg, taps, b, t, c, T, C, K);
                y[(b * T + t) * C + c] = s / (1 + exp(-s));
            }
    for (int b = 0; taps && b < B; b++)
        for (int j = 0; j < K - 1; j++) {
            const int t = T - (K - 1) + j;
            double *to = taps + (b * (K - 1) + j) * C;
            memcpy(to, t >= 0 ? x + (b * T + t) * C : to + T * C, sizeof(double) * (size_t)C);
        }
}

void ref_conv1d_bwd(double *dx, double *dw, double *dbias, const double *dy, const double *x,
                    const double *w, const double *bias, const int32_t *seg, int B, int T, int C,
                    int K)
{
    memset(dx, 0, sizeof(double) * (size_t)(B * T * C));
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < C; c++) {
                const double s = before_silu(x, w, bias, seg, NULL, b, t, c, T, C, K);
                const double sigmoid = 1 / (1 + exp(-s));
                const double ds = dy[(b * T + t) * C + c] * sigmoid * (1 + s * (1 - sigmoid));
                dbias[c] += ds;
                for (int j = 0; j < K; j++) {
                    const double *at;
                    dw[c * K + j] += ds * input(x, seg, NULL, b, t, K - 1 - j, c, T, C, K, &at);
                    if (at)
                        dx[at - x] += ds * w[c * K + j];
                }
            }
}
