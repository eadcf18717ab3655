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
    bool reads_states; /* its ssd_bwd gains from states that ssd_fwd kept; else they are not kept */
    int read_unit;     /* tokens of a read, its M, come in multiples of this */
    int read_T;        /* tokens of a pass that reads which keep it busy */
    int head_rows;     /* rows of logits that a training pass makes at once */
    size_t total_bytes, free_bytes; /* the device's own memory when it was opened; 0: the host's */
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
/* The same in two halves. begin returns at once where the device works by itself (dev_is_async);
 * the host has the bytes, as they were after the work before begin, when end returns. end ends the
 * oldest that was begun; at most DEV_DOWNLOADS are under way. */
enum { DEV_DOWNLOADS = 2 };
void dev_download_begin(struct dev *dev, void *host, const void *from, size_t bytes);
void dev_download_end(struct dev *dev);
bool dev_is_async(const struct dev *dev);
void dev_copy(struct dev *dev, void *to, const void *from, size_t bytes); /* device to device */
void dev_sync(struct dev *dev);
/* -1 where something asked of the device has failed; see ops->status. */
MUST_USE int dev_status(struct dev *dev, struct err *err);
/* Runs work(arg) now. A device that can records it under the key the first time and replays that
 * from then on, so work must be the same calls with the same arguments whenever the key is the
 * same (memory, shapes, rows), and only call ops, dev_zero and dev_copy. */
void dev_run(struct dev *dev, uint64_t key, void (*work)(void *), void *arg);
/* Forgets all keys, before memory that they refer to is freed or moved. */
void dev_forget(struct dev *dev);
/* Makes the workspace at least `bytes` large (the greatest of the ops' plans), before the first
 * step. */
MUST_USE int dev_reserve(struct dev *dev, size_t bytes, struct err *err);
/* Frees workspace and backend. Accepts a zeroed struct. */
void dev_close(struct dev *dev);

#endif
