/* Cast: each element rounded to the type's nearest value, ties to even. */
#include "ref.h"

#include <math.h>

/* bits: of the significand, the leading one included; least: the exponent of the smallest normal
 * number. */
static double nearest(double x, int bits, int least, double greatest)
{
    int exponent;
    if (x == 0 || !isfinite(x))
        return x;
    frexp(x, &exponent);
    const int unit = (exponent - 1 < least ? least : exponent - 1) - (bits - 1);
    const double y = ldexp(nearbyint(ldexp(x, -unit)), unit);
    return fabs(y) > greatest ? copysign((double)INFINITY, y) : y;
}

double ref_cast(double x, enum dtype to)
{
    switch (to) {
    case DT_BF16:
        return nearest(x, 8, -126, 0x1.fep127);
    case DT_F16:
        return nearest(x, 11, -14, 65504);
    default:
        return (double)(float)x;
    }
}
