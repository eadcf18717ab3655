/* ssd_grad_sm90: the gradient of the scan on Hopper, as ssd_bwd.cu calls it. */
#ifndef HM_SSD_GRAD_SM90_CUH
#define HM_SSD_GRAD_SM90_CUH

#include "ssd_grad.cuh"

/* The gradients of B sequences from states of chunks of 128 tokens. false: it is for another
 * device, or for other heads; nothing is done. bf16 and f16. */
template <class T> bool ssd_grad_sm90(struct dev *dev, const grad_args<T> &o, int B);

#endif
