/* device: the choice of a device, the same in every tool that has a model: the rows of --device and
 * --dtype, and what opens what they say. The CPU is built in; GPUs come with libhm-cuda.so, which
 * is looked for beside the tools and in ../lib/hm. */
#ifndef HM_DEVICE_H
#define HM_DEVICE_H

#include "cli.h"

/* What --dtype says: an index into device_dtypes, and enum dtype at once, save DTYPE_AUTO. */
enum { DTYPE_AUTO = 3 };
extern const char *const device_dtypes[]; /* "f32", "bf16", "f16", "auto" */

/* The rows of --device and --dtype; *to holds the default: "auto", DTYPE_AUTO. */
struct cli_opt device_opt(const char **to);
struct cli_opt device_dtype_opt(int *to);

/* Opens "auto", "cpu", "cpu:avx2"..., "cuda", "cuda:1"; n_threads < 1: one a core. auto is cuda
 * where that opens; with -v the tool says why it is not. is_plan: only plans are made, for which
 * cuda needs no GPU. */
MUST_USE int device_open(struct dev *dev, const struct cli_tool *tool, const char *spec,
                         int n_threads, int dtype, bool is_plan, struct err *err);
/* The type of products on that device: what --dtype says, or what activations are stored in. */
enum dtype device_product(const struct dev *dev, int dtype);
/* Whether libhm-cuda.so is there; it need not open. */
bool device_has_cuda(void);

#endif
