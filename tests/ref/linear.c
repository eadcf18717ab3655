/* Linear: y = x w^T; dx = dy w; dw += dy^T x. */
#include "ref.h"

void ref_linear_fwd(double *y, const double *x, const double *w, int M, int n, int k)
{
    for (int m = 0; m < M; m++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int i = 0; i < k; i++)
                sum += x[m * k + i] * w[j * k + i];
            y[m * n + j] = sum;
        }
}

void ref_linear_bwd(double *dx, double *dw, const double *dy, const double *x, const double *w,
                    int M, int n, int k)
{
    for (int m = 0; m < M; m++)
        for (int i = 0; i < k; i++) {
            double sum = 0;
            for (int j = 0; j < n; j++)
                sum += dy[m * n + j] * w[j * k + i];
            dx[m * k + i] = sum;
        }
    for (int m = 0; m < M; m++)
        for (int j = 0; j < n; j++)
            for (int i = 0; i < k; i++)
                dw[j * k + i] += dy[m * n + j] * x[m * k + i];
}
