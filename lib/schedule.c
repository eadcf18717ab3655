/* schedule: see schedule.h. */
#include "schedule.h"

#include <math.h>

/* Share of the way from least up to peak, once the warm-up is over. */
static double wsd_height(const struct schedule *s, int64_t step)
{
    const int64_t after = s->total - s->warmup;
    int64_t n = (int64_t)ceil(s->decay * (double)s->total);
    n = n < after ? n : after;
    if (n < 1 || step < s->total - n)
        return 1;
    return (double)(s->total - step) / (double)n;
}

static double cosine_height(const struct schedule *s, int64_t step)
{
    const double way = (double)(step - s->warmup) / (double)(s->total - s->warmup);
    return 0.5 * (1 + cos(M_PI * way));
}

double schedule_rate(const struct schedule *s, int64_t step)
{
    if (step < s->warmup)
        return s->peak * (double)(step + 1) / (double)s->warmup;
    if (s->total == 0 || s->kind == SCHEDULE_CONSTANT)
        return s->peak;
    if (step >= s->total)
        return s->least;
    const double height = s->kind == SCHEDULE_WSD ? wsd_height(s, step) : cosine_height(s, step);
    return s->least + (s->peak - s->least) * height;
}
