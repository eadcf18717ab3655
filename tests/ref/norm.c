/* RMSNorm and the gated RMSNorm: y = w x / sqrt(mean(x^2) + eps), where the gated one normalises
 * x = y silu(z). */
#include "ref.h"

#include <math.h>

static double rstd_of(const double *x, double eps, int D)
{
    double sum = 0;
    for (int d = 0; d < D; d++)
        sum += x[d] * x[d];
    return 1 / sqrt(sum / D + eps);
}

void ref_rmsnorm_fwd(double *y, double *rstd, const double *x, const double *w, double eps, int M,
                     int D)
{
    for (int m = 0; m < M; m++) {
        rstd[m] = rstd_of(x + m * D, eps, D);
        for (int d = 0; d < D; d++)
            y[m * D + d] = w[d] * x[m * D + d] * rstd[m];
    }
}

void ref_rmsnorm_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                     double eps, int M, int D)
{
    for (int m = 0; m < M; m++) {
        const double *xm = x + m * D, *g = dy + m * D;
        const double rstd = rstd_of(xm, eps, D);
        /* d rstd = -rstd^3 / D * x dx */
        double drstd = 0;
        for (int d = 0; d < D; d++)
            drstd += g[d] * w[d] * xm[d];
        for (int d = 0; d < D; d++) {
            dw[d] += g[d] * xm[d] * rstd;
            dx[m * D + d] += g[d] * w[d] * rstd - drstd * rstd * rstd * rstd / D * xm[d];
        }
    }
}

static double silu(double z)
{
    return z / (1 + exp(-z));
}

static double silu_grad(double z)
{
    const double s = 1 / (1 + exp(-z));
    return s + z * s * (1 - s);
}

void ref_gatenorm_fwd(double *out, double *rstd, const double *y, const double *z, const double *w,
                      double eps, int M, int E)
{
    for (int i = 0; i < M * E; i++)
        out[i] = y[i] * silu(z[i]);
    for (int m = 0; m < M; m++) {
        rstd[m] = rstd_of(out + m * E, eps, E);
        for (int e = 0; e < E; e++)
            out[m * E + e] *= w[e] * rstd[m];
    }
}

void ref_gatenorm_bwd(double *dy, double *dz, double *dw, const double *dout, const double *y,
                      const double *z, const double *w, double eps, int M, int E)
{
    for (int m = 0; m < M; m++) {
        /* v and its gradient lie in dz and dy until both are known */
        double *v = dz + m * E, *dv = dy + m * E;
        for (int e = 0; e < E; e++) {
            v[e] = y[m * E + e] * silu(z[m * E + e]);
            dv[e] = 0;
        }
        ref_rmsnorm_bwd(dv, dw, dout + m * E, v, w, eps, 1, E);
        for (int e = 0; e < E; e++) {
            const int i = m * E + e;
            dz[i] = dy[i] * y[i] * silu_grad(z[i]);
            dy[i] = dy[i] * silu(z[i]);
        }
    }
}
