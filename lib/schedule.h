/* schedule: the learning rate as a pure function of the step, so that a resumed run follows the
 * same curve. */
#ifndef HM_SCHEDULE_H
#define HM_SCHEDULE_H

#include <stdint.h>

enum schedule_kind { SCHEDULE_WSD, SCHEDULE_COSINE, SCHEDULE_CONSTANT };

struct schedule {
    enum schedule_kind kind;
    double peak, least; /* rates: after the warm-up, and where the decay ends */
    int64_t warmup;     /* steps of linear rise: step s < warmup gets peak (s+1)/warmup */
    int64_t total;      /* steps of the run; 0: not known yet, warm-up and then peak */
    double decay;       /* WSD: the share of the run, at its end, that decays linearly */
};

/* Rate of the step after `step` finished ones. WSD (MiniCPM; Hu et al. 2024): peak until the last
 * decay*total steps, which fall in equal parts from peak towards least; step total, which is never
 * run, would get least. COSINE: half a cosine from the end of the warm-up to total. At and beyond
 * total: least (CONSTANT: peak). */
double schedule_rate(const struct schedule *s, int64_t step);

#endif
