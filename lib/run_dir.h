/* run_dir: the folder of a training run. Only one process at a time trains in it (a lock that the
 * kernel drops when the process dies); files appear whole; what a killed process left half written
 * is swept away when the next one opens the folder. */
#ifndef HM_RUN_DIR_H
#define HM_RUN_DIR_H

#include "io.h"

struct run_dir {
    char path[200];
    int lock; /* descriptor of the folder */
};

/* Makes the folder where missing, locks it, removes our own left-over temporary files. */
MUST_USE int run_dir_open(struct run_dir *r, const char *path, struct err *err);
/* Accepts a zeroed struct. */
void run_dir_close(struct run_dir *r);

/* Path of a file in the folder; of the checkpoint of a step (ckpt-00000100.safetensors). */
MUST_USE int run_dir_file(const struct run_dir *r, const char *name, char *to, size_t n,
                          struct err *err);
MUST_USE int run_dir_ckpt(const struct run_dir *r, int64_t step, char *to, size_t n,
                          struct err *err);
/* Steps of the checkpoints in the folder, ascending; *step is malloc'd, the caller's. */
MUST_USE int run_dir_list(const struct run_dir *r, int64_t **step, int *n, struct err *err);
/* Step of the newest checkpoint, -1: there is none. */
MUST_USE int run_dir_newest(const struct run_dir *r, int64_t *step, struct err *err);
/* Removes all checkpoints but the newest `keep` and that of step `best` (-1: no best). */
MUST_USE int run_dir_prune(const struct run_dir *r, int64_t keep, int64_t best, struct err *err);
/* Puts the bytes into the file `name`. Nothing is written where it has them already; a file with
 * other bytes is an error unless may_replace. */
MUST_USE int run_dir_put(const struct run_dir *r, const char *name, const struct buf *bytes,
                         bool may_replace, struct err *err);

#endif
