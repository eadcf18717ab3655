/* vmath: exp and its kin against libm in double, over the whole range of floats that matter. */
#include "vmath.h"

#include "tap.h"

static double worst(float (*f)(float), double (*ref)(double), double lo, double hi, double floor)
{
    double most = 0;
    for (int i = 0; i <= 400000; i++) {
        const float x = (float)(lo + (hi - lo) * i / 400000);
        const double want = ref((double)x), off = fabs((double)f(x) - want);
        const double rel = off / fmax(fabs(want), floor);
        if (!(rel <= most))
            most = rel;
    }
    return most;
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}
static double silu(double x)
{
    return x * sigmoid(x);
}
static double silu_grad(double x)
{
    const double s = sigmoid(x);
    return s + x * s * (1 - s);
}
static double log1p_exp(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

int main(void)
{
    const double ulp = 0x1p-23;
    ok_within(worst(vexp, exp, -87.3, 88.0, 0), 2 * ulp, "vexp over its range");
    ok_within(worst(vexp, exp, -1e-3, 1e-3, 0), ulp, "vexp near 0");
    ok(vexp(0) == 1, "vexp(0) is 1");
    ok(vexp(-88) == 0 && vexp(-1e30f) == 0 && vexp(-INFINITY) == 0, "vexp underflows to 0");
    ok(vexp(89) > 1.6e38f && isfinite(vexp(1e30f)) && isfinite(vexp(INFINITY)), "vexp saturates");
    ok(isnan(vexp(NAN)), "vexp of NaN is NaN");
    ok_within(worst(vsigmoid, sigmoid, -87, 87, 0), 4 * ulp, "vsigmoid");
    ok(vsigmoid(-200) >= 0 && vsigmoid(-200) < 1e-37f && vsigmoid(200) == 1, "vsigmoid's tails");
    ok_within(worst(vsilu, silu, -80, 80, 0), 5 * ulp, "vsilu");
    /* the gradient passes through 0 near -1.28, so its error is measured against 0.1 there */
    ok_within(worst(vsilu_grad, silu_grad, -20, 80, 0.1), 5 * ulp, "vsilu_grad");
    ok(isnan(vsilu(NAN)) && isnan(vsilu_grad(NAN)) && isnan(vsigmoid(NAN)), "NaN stays NaN");
    ok_within(worst(softplus, log1p_exp, -80, 100, 0), 3 * ulp, "softplus");
    ok(softplus(-200) >= 0 && softplus(1e30f) == 1e30f && isnan(softplus(NAN)), "softplus's tails");
    return tap_done();
}
