/* conv1d: one token of the convolution, for steps that are fused with it. */
#ifndef HM_CONV1D_H
#define HM_CONV1D_H

#include "tensor.h"

enum { CONV1D_MAX_TAPS = 16 };

/* y (n) = silu(conv) of channels [c0,c0+n) of one token: history taps (K-1,C), input x (C). */
void conv1d_channels(float *y, const float *taps, const float *x, const struct tensor *w,
                     const struct tensor *bias, int c0, int n);
/* The token x (n) enters the history of n channels and the oldest leaves; rows lie C apart. */
void conv1d_shift(float *taps, const float *x, int n, int K, int64_t C);

#endif
