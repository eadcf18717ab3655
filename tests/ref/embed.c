/* Embedding: y[m] = scale * w[ids[m]]. */
#include "ref.h"

void ref_embed_fwd(double *y, const int32_t *ids, const double *w, double scale, int M, int D)
{
    for (int m = 0; m < M; m++)
        for (int d = 0; d < D; d++)
            y[m * D + d] = scale * w[ids[m] * D + d];
}

void ref_embed_bwd(double *dw, const int32_t *ids, const double *dy, double scale, int M, int D)
{
    for (int m = 0; m < M; m++)
        for (int d = 0; d < D; d++)
            dw[ids[m] * D + d] += scale * dy[m * D + d];
}
