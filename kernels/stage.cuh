/* stage: page-locked memory that bytes pass through between host and device. */
#ifndef HM_STAGE_CUH
#define HM_STAGE_CUH

#include "cuda.cuh"

cudaError_t stage_open(struct cuda_stage **stage);
void stage_close(struct cuda_stage *stage); /* accepts NULL; the stream must be idle */
/* Small ones return before the device has the bytes, which are the stage's by then. */
void stage_upload(struct dev *dev, void *to, const void *host, size_t bytes);
/* Waits for all work before it. After a failure the host's bytes are zeros. */
void stage_download(struct dev *dev, void *host, const void *from, size_t bytes);
/* See dev_download_begin. */
void stage_download_begin(struct dev *dev, void *host, const void *from, size_t bytes);
void stage_download_end(struct dev *dev);

#endif
