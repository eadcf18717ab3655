/* Reference of rope: channels i and i+P/2 of a head turn by pos * theta^(-2i/P). */
#include "ref.h"

#include <math.h>

void ref_rope(double *x, const int32_t *pos, int M, int n_heads, int P, double theta, bool inverse)
{
    for (int m = 0; m < M; m++)
        for (int h = 0; h < n_heads; h++)
            for (int i = 0; i < P / 2; i++) {
                double *low = x + (m * n_heads + h) * P + i, *high = low + P / 2;
                const double angle = pos[m] * pow(theta, -2.0 * i / P) * (inverse ? -1 : 1);
                const double a = *low, b = *high;
                *low = a * cos(angle) - b * sin(angle);
                *high = b * cos(angle) + a * sin(angle);
            }
}
