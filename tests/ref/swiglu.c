/* SwiGLU: y = silu(u[:, :F]) * u[:, F:]. */
#include "ref.h"

#include <math.h>

void ref_swiglu_fwd(double *y, const double *u, int M, int F)
{
    for (int m = 0; m < M; m++)
        for (int f = 0; f < F; f++) {
            const double gate = u[m * 2 * F + f], up = u[m * 2 * F + F + f];
            y[m * F + f] = gate / (1 + exp(-gate)) * up;
        }
}

void ref_swiglu_bwd(double *du, const double *dy, const double *u, int M, int F)
{
    for (int m = 0; m < M; m++)
        for (int f = 0; f < F; f++) {
            const double gate = u[m * 2 * F + f], up = u[m * 2 * F + F + f];
            const double s = 1 / (1 + exp(-gate)), g = dy[m * F + f];
            du[m * 2 * F + f] = g * up * (s + gate * s * (1 - s));
            du[m * 2 * F + F + f] = g * gate * s;
        }
}
