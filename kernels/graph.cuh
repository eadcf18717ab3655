/* graph: what ops->run has recorded, by key. */
#ifndef HM_GRAPH_CUH
#define HM_GRAPH_CUH

#include "cuda.cuh"

struct cuda_graphs *graph_open(void);         /* NULL: no memory */
void graph_close(struct cuda_graphs *graphs); /* accepts NULL */
void graph_run(struct dev *dev, uint64_t key, void (*work)(void *), void *arg);
void graph_forget(struct dev *dev);

#endif
