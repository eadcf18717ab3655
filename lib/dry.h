/* dry: a device that computes nothing, standing for a GPU that is not there. A pass over it calls
 * the very ops, at the very sizes, that it would call on that GPU; with a trace around it, what the
 * calls have to move and to multiply tells how long the GPU needs at least. Its memory is addresses
 * only: uploads go nowhere, downloads give zeros. */
#ifndef HM_DRY_H
#define HM_DRY_H

#include "roofline.h"

/* What makers publish: memory bandwidth, dense products summed in f32, plain f32 arithmetic. */
struct gpu {
    const char *name; /* as a user types it */
    double byte_s, tensor_flop_s, f32_flop_s;
};

/* The i-th that is known, NULL after the last. Static. */
const struct gpu *gpu_known(int i);
/* NULL: not known. */
const struct gpu *gpu_find(const char *name);
/* The published rates as a roofline; of a call, the time that a kernel takes in a graph at least.
 */
struct roofline gpu_roofline(const struct gpu *gpu);

/* act: what activations and products are in. */
MUST_USE int dry_open(struct dev *dev, const struct gpu *gpu, enum dtype act, struct err *err);

#endif
