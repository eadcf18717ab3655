/* Cross-entropy: loss = lse(s l) - s l[target]; with the z-loss, the gradient of
 * loss_scale * (loss + z_coef lse^2). */
#include "ref.h"

#include <math.h>

void ref_xent(double *loss, double *dlogits, const double *logits, const int32_t *target,
              double scale, double loss_scale, double z_coef, int M, int V)
{
    for (int m = 0; m < M; m++) {
        const double *l = logits + (size_t)m * (size_t)V;
        double top = -INFINITY, sum = 0;
        for (int v = 0; v < V; v++)
            top = fmax(top, l[v] * scale);
        for (int v = 0; v < V; v++)
            sum += exp(l[v] * scale - top);
        const double lse = top + log(sum);
        const bool is_scored = target[m] >= 0;
        loss[m] = is_scored ? lse - l[target[m]] * scale : 0;
        for (int v = 0; dlogits && v < V; v++) {
            const double p = exp(l[v] * scale - lse);
            dlogits[(size_t)m * (size_t)V + (size_t)v] =
                is_scored ? loss_scale * scale * (p - (v == target[m]) + 2 * z_coef * lse * p) : 0;
        }
    }
}
