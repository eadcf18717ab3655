/* schedule: values at the corners, and the shapes between them. */
#include "schedule.h"
#include "tap.h"

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 1e-12 * (fabs(b) + 1e-3);
}

static void test_warmup(void)
{
    const struct schedule s = {SCHEDULE_WSD, 2.0, 0.5, 4, 100, 0.2};
    ok(is_near(schedule_rate(&s, 0), 0.5) && is_near(schedule_rate(&s, 3), 2.0),
       "warm-up rises to peak");
    ok(is_near(schedule_rate(&s, 4), 2.0), "the step after the warm-up has the peak");
    const struct schedule none = {SCHEDULE_WSD, 2.0, 0.5, 0, 100, 0.2};
    ok(is_near(schedule_rate(&none, 0), 2.0), "no warm-up starts at the peak");
}

static void test_wsd(void)
{
    const struct schedule s = {SCHEDULE_WSD, 2.0, 0.0, 4, 100, 0.2};
    ok(is_near(schedule_rate(&s, 80), 2.0), "wsd is stable up to the decay");
    ok(is_near(schedule_rate(&s, 81), 1.9), "the decay falls by a twentieth of the peak a step");
    ok(is_near(schedule_rate(&s, 99), 0.1), "the last step is not lost at rate 0");
    ok(is_near(schedule_rate(&s, 100), 0.0), "the end is the least rate");
    const struct schedule least = {SCHEDULE_WSD, 2.0, 1.0, 0, 10, 0.5};
    ok(is_near(schedule_rate(&least, 9), 1.2), "the decay ends at the least rate");
    const struct schedule all = {SCHEDULE_WSD, 2.0, 0.0, 4, 8, 1.0};
    ok(is_near(schedule_rate(&all, 3), 2.0) && is_near(schedule_rate(&all, 6), 1.0),
       "the decay begins after the warm-up");
    const struct schedule off = {SCHEDULE_WSD, 2.0, 0.0, 0, 8, 0.0};
    ok(is_near(schedule_rate(&off, 7), 2.0), "decay 0 never falls");
}

static void test_cosine(void)
{
    const struct schedule s = {SCHEDULE_COSINE, 2.0, 1.0, 10, 110, 0};
    ok(is_near(schedule_rate(&s, 10), 2.0), "cosine starts at the peak");
    ok(is_near(schedule_rate(&s, 60), 1.5), "half way it is in the middle");
    ok(is_near(schedule_rate(&s, 35), 1.0 + 0.5 * (1 + sqrt(0.5))), "a quarter on it is cos(45)");
    ok(is_near(schedule_rate(&s, 110), 1.0) && is_near(schedule_rate(&s, 1000), 1.0),
       "at and after the end it is the least");
}

static void test_open_end(void)
{
    const struct schedule s = {SCHEDULE_COSINE, 2.0, 1.0, 10, 0, 0};
    ok(is_near(schedule_rate(&s, 4), 1.0) && is_near(schedule_rate(&s, 1000000), 2.0),
       "while the total is not known: warm-up, then peak");
    const struct schedule flat = {SCHEDULE_CONSTANT, 2.0, 1.0, 0, 10, 0.5};
    ok(is_near(schedule_rate(&flat, 9), 2.0) && is_near(schedule_rate(&flat, 20), 2.0),
       "constant stays at the peak");
}

static void test_monotone(void)
{
    for (int kind = SCHEDULE_WSD; kind <= SCHEDULE_COSINE; kind++) {
        const struct schedule s = {(enum schedule_kind)kind, 3e-3, 1e-5, 7, 93, 0.37};
        bool falls = true;
        for (int64_t i = 7; i < 100; i++)
            falls = falls && schedule_rate(&s, i + 1) <= schedule_rate(&s, i) &&
                    schedule_rate(&s, i) >= 1e-5;
        ok(falls, "schedule %d never rises after the warm-up", kind);
    }
}

int main(void)
{
    test_warmup();
    test_wsd();
    test_cosine();
    test_open_end();
    test_monotone();
    return tap_done();
}
