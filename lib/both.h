/* both: marks what runs on the host and in CUDA kernels alike. */
#ifndef HM_BOTH_H
#define HM_BOTH_H

#ifdef __CUDACC__
#define BOTH __host__ __device__
#else
#define BOTH
#endif

#endif
