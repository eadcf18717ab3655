/* dev: a device that runs ops. bin opens one (cpu_open of lib/cpu/cpu.h, later a CUDA backend
 * loaded at run time) and hands it to lib, which names no backend. All memory that ops touch is the
 * device's own: made by alloc, filled by upload, read by download. Work is ordered as on one
 * stream. */
#ifndef HM_DEV_H
#define HM_DEV_H

#include "err.h"
#include "tensor.h"

struct ops;

struct dev {
    const struct ops *ops;
    char name[64];        /* for people: "cpu avx2, 2 threads" */
    enum dtype act_dtype; /* what activations are stored in between ops: F32 on the CPU */
    bool is_host; /* its memory is the host's: readable and writable in place after dev_sync */
    void *work;   /* workspace of the op that runs now; dev_reserve sizes it */
    size_t work_bytes;
    void *impl; /* the backend's own, freed by ops->close */
};

/* Device memory of at least 1 byte, aligned to ARENA_ALIGN, not cleared. Owned by the caller. */
MUST_USE int dev_alloc(struct dev *dev, void **p, size_t bytes, struct err *err);
void dev_free(struct dev *dev, void *p);
void dev_zero(struct dev *dev, void *p, size_t bytes);
void dev_upload(struct dev *dev, void *to, const void *host, size_t bytes);
/* Waits for the work before it; the host sees the bytes when it returns. */
void dev_download(struct dev *dev, void *host, const void *from, size_t bytes);
void dev_copy(struct dev *dev, void *to, const void *from, size_t bytes); /* device to device */
void dev_sync(struct dev *dev);
/* Makes the workspace at least `bytes` large (the greatest of the ops' plans), before the first
 * step. */
MUST_USE int dev_reserve(struct dev *dev, size_t bytes, struct err *err);
/* Frees workspace and backend. Accepts a zeroed struct. */
void dev_close(struct dev *dev);

#endif
