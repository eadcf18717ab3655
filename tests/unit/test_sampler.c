/* sampler: settings by name and their bounds, biases. The choice itself is the op's test. */
#include "sampler.h"
#include "tap.h"

#include <string.h>

int main(void)
{
    struct sample_opts o;
    struct err err;
    sample_defaults(&o);
    ok(sample_set(&o, "temperature", 0.25, &err) == 1 && o.temperature == 0.25f, "temperature");
    ok(sample_set(&o, "top_k", 7, &err) == 1 && o.top_k == 7, "top_k");
    ok(sample_set(&o, "seed", 9007199254740991.0, &err) == 1 && o.seed == 9007199254740991u,
       "a seed of 53 bits");
    ok(sample_set(&o, "temprature", 1, &err) == 0, "a name that is none");
    ok(sample_set(&o, "top_p", 1.5, &err) == -1 && o.top_p == 0.95f, "out of bounds: unchanged");
    ok(sample_set(&o, "top_p", NAN, &err) == -1, "not a number");
    ok(sample_set(&o, "top_k", 1.5, &err) == -1, "top_k of 1.5");
    ok(sample_set(&o, "seed", -1, &err) == -1, "a negative seed");
    int n = 0;
    for (; sample_name(n); n++) {
        double min, max;
        ok(sample_bounds(sample_name(n), &min, &max) && min < max, "%s has bounds", sample_name(n));
        ok(sample_set(&o, sample_name(n), max, &err) == 1 && sample_get(&o, sample_name(n)) == max,
           "%s is read back", sample_name(n));
    }
    ok(n == 10 && isnan(sample_get(&o, "x")), "ten settings");
    sample_defaults(&o);
    ok(sample_add_bias(&o, 5, -1, 10, &err) == 0 && sample_add_bias(&o, 5, 2, 10, &err) == 0 &&
           o.n_bias == 1 && o.bias[0] == 2,
       "the same id again replaces");
    ok(sample_add_bias(&o, 10, 1, 10, &err) == -1 && sample_add_bias(&o, -1, 1, 10, &err) == -1,
       "ids outside the vocabulary");
    ok(sample_add_bias(&o, 1, NAN, 10, &err) == -1, "a bias that is not a number");
    int i = 0;
    while (sample_add_bias(&o, i, 1, 1 << 20, &err) == 0)
        i++;
    ok(i == SAMPLE_BIAS && o.n_bias == SAMPLE_BIAS, "at most %d biases", SAMPLE_BIAS);
    return tap_done();
}
