/* Reference of SSD: the recurrence, token by token, and its reverse. A head's state S (P,N):
 *   S <- exp(delta a) S + delta x B^T, from zero at a document's first token;  y = S C + skip x. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one token of one head reads. */
struct token {
    const double *x, *bmat, *cmat;
    double v, delta, a, decay; /* v: delta before softplus */
    bool is_first;             /* of its document, with another one before it */
};

static struct token token_of(const struct ref_ssd *in, int b, int t, int h)
{
    const int r = b * in->T + t, g = h / (in->H / in->G);
    struct token k = {.x = in->x + (r * in->H + h) * in->P,
                      .bmat = in->bmat + (r * in->G + g) * in->N,
                      .cmat = in->cmat + (r * in->G + g) * in->N};
    k.v = in->dt[r * in->H + h] + in->dt_bias[h];
    k.delta = k.v > 20 ? k.v : log1p(exp(k.v));
    k.a = -exp(in->a_log[h]);
    k.is_first = t > 0 && in->seg && in->seg[r] != in->seg[r - 1];
    k.decay = k.is_first ? 0 : exp(k.delta * k.a);
    return k;
}

static void advance(double *S, const struct token *k, int P, int N)
{
    for (int p = 0; p < P; p++)
        for (int n = 0; n < N; n++)
            S[p * N + n] = k->decay * S[p * N + n] + k->delta * k->x[p] * k->bmat[n];
}

void ref_ssd_fwd(double *y, double *last, const struct ref_ssd *in)
{
    const int P = in->P, N = in->N;
    double *S = malloc(sizeof *S * (size_t)(P * N));
    for (int b = 0; b < in->B; b++)
        for (int h = 0; h < in->H; h++) {
            double *carried = last ? last + (b * in->H + h) * P * N : NULL;
            for (int i = 0; i < P * N; i++)
                S[i] = carried ? carried[i] : 0;
            for (int t = 0; t < in->T; t++) {
                const struct token k = token_of(in, b, t, h);
                double *out = y + ((b * in->T + t) * in->H + h) * P;
                advance(S, &k, P, N);
                for (int p = 0; p < P; p++) {
                    out[p] = in->skip[h] * k.x[p];
                    for (int n = 0; n < N; n++)
                        out[p] += S[p * N + n] * k.cmat[n];
                }
            }
            for (int i = 0; carried && i < P * N; i++)
                carried[i] = S[i];
        }
    free(S);
}

void ref_ssd_bwd(double *dx, double *ddt, double *dbmat, double *dcmat, double *ddt_bias,
                 double *da_log, double *dskip, const double *dy, const struct ref_ssd *in)
{
    const int P = in->P, N = in->N, PN = P * N;
    double *all = malloc(sizeof *all * (size_t)((in->T + 1) * PN)); /* S before each token */
    double *dS = malloc(sizeof *dS * (size_t)PN);
    memset(dbmat, 0, sizeof *dbmat * (size_t)(in->B * in->T * in->G * N));
    memset(dcmat, 0, sizeof *dcmat * (size_t)(in->B * in->T * in->G * N));
    for (int b = 0; b < in->B; b++)
        for (int h = 0; h < in->H; h++) {
            memset(all, 0, sizeof *all * (size_t)PN);
            for (int t = 0; t < in->T; t++) {
                const struct token k = token_of(in, b, t, h);
                memcpy(all + (t + 1) * PN, all + t * PN, sizeof *all * (size_t)PN);
                advance(all + (t + 1) * PN, &k, P, N);
            }
            memset(dS, 0, sizeof *dS * (size_t)PN);
            for (int t = in->T - 1; t >= 0; t--) {
                const struct token k = token_of(in, b, t, h);
                const double *before = all + t * PN, *S = before + PN;
                const int r = b * in->T + t, at = (r * in->H + h) * P;
                double *db = dbmat + (k.bmat - in->bmat), *dc = dcmat + (k.cmat - in->cmat);
                double ddecay = 0, ddelta = 0;
                for (int p = 0; p < P; p++) {
                    double dxs = 0; /* of delta x */
                    for (int n = 0; n < N; n++) {
                        const int i = p * N + n;
                        dS[i] += dy[at + p] * k.cmat[n];
                        dc[n] += dy[at + p] * S[i];
                        db[n] += dS[i] * k.delta * k.x[p];
                        dxs += dS[i] * k.bmat[n];
                        ddecay += dS[i] * before[i];
                        dS[i] *= k.decay;
                    }
                    dx[at + p] = k.delta * dxs + in->skip[h] * dy[at + p];
                    ddelta += k.x[p] * dxs;
                    dskip[h] += k.x[p] * dy[at + p];
                }
                ddelta += ddecay * k.decay * k.a;
                da_log[h] += ddecay * k.decay * k.delta * k.a; /* da / da_log = a */
                const double dv = ddelta * (k.v > 20 ? 1 : 1 / (1 + exp(-k.v)));
                ddt[r * in->H + h] = dv;
                ddt_bias[h] += dv;
            }
        }
    free(all);
    free(dS);
}
