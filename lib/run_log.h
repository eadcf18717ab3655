/* run_log: a run's metrics as CSV (train.csv; columns in hm-train(1)), a row a write. A row that a
 * full disk refuses waits in memory for the next one, so that nothing is lost when room is made. */
#ifndef HM_RUN_LOG_H
#define HM_RUN_LOG_H

#include "buf.h"

#include <stdbool.h>

struct run_row {
    const char *event; /* "run", "resume", "train", "valid", "save", "end" */
    int64_t step, tokens;
    /* NAN where the event has no such value: the cell is empty. A loss that is not a number is
     * written as nan when is_bad. */
    double loss, bits_per_byte, lr, gnorm, tok_s, elapsed_s;
    bool is_skipped, is_bad;
    const char *note; /* free text, quoted as CSV wants it; or NULL */
};

struct run_log {
    int fd; /* -1: no log */
    char path[256];
    struct buf pending; /* rows that are not written yet */
};

/* Opens the file anew with the header line, or, where cut_step >= 0 and the file is there, keeps
 * the rows of steps up to cut_step and goes on after them; *elapsed_s is the last kept row's. */
MUST_USE int run_log_open(struct run_log *l, const char *path, int64_t cut_step, double *elapsed_s,
                          struct err *err);
/* Adds a row and tries to write what is pending. On failure the rows stay pending. */
MUST_USE int run_log_row(struct run_log *l, const struct run_row *row, struct err *err);
/* Puts what was written on the disk: before a checkpoint that lies after these rows. */
MUST_USE int run_log_sync(struct run_log *l, struct err *err);
/* -1: rows are still pending, and lost. Accepts a zeroed struct. */
MUST_USE int run_log_close(struct run_log *l, struct err *err);

/* Pure: bytes of the log text that belong to steps up to cut_step, whole lines only; *elapsed_s is
 * the last such row's elapsed time, 0 without one. */
size_t run_log_cut(const char *text, size_t n, int64_t cut_step, double *elapsed_s);

#endif
