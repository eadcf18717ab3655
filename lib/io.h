/* io: whole reads and writes, and output files that appear only when complete.
 *
 * A path of "-" is stdin or stdout; every reader works without seeking. An output file is written
 * under a temporary name in the folder of its target, then fsynced and renamed by out_commit, so
 * that neither a crash nor a full disk leaves a half file under the real name or takes away the one
 * that stood there. */
#ifndef HM_IO_H
#define HM_IO_H

#include "buf.h"

#include <stdbool.h>

struct in {
    char path[256];  /* for messages: the path, or "-" */
    int fd;          /* -1: all there is lies in hold */
    uint64_t offset; /* bytes handed out so far */
    uint8_t *hold;   /* owned read-ahead of IO_HOLD bytes */
    size_t begin, end;
    int stop_fd; /* 0: none; else a read that waits ends in an error once this can be read */
};

MUST_USE int in_open(struct in *in, const char *path, struct err *err);
/* An input of n bytes of memory, which are copied; name is for messages. */
MUST_USE int in_memory(struct in *in, const char *name, const void *bytes, size_t n,
                       struct err *err);
/* Reads up to n bytes; *got < n only at the end of the input. */
MUST_USE int in_read(struct in *in, void *to, size_t n, size_t *got, struct err *err);
/* Reads what is there, at least a byte and at most n, without waiting for more; *got is 0 only at
 * the end of the input. For talk: a line that a person or a pipe has just sent. */
MUST_USE int in_some(struct in *in, void *to, size_t n, size_t *got, struct err *err);
/* Reads exactly n bytes; an early end is an error that calls `what` truncated. */
MUST_USE int in_exact(struct in *in, void *to, size_t n, const char *what, struct err *err);
/* Reads everything that is left, refusing more than max_bytes. Appends to *to. */
MUST_USE int in_all(struct in *in, struct buf *to, size_t max_bytes, struct err *err);
void in_close(struct in *in);

/* in_open + in_all + in_close. */
MUST_USE int io_read_file(const char *path, struct buf *to, size_t max_bytes, struct err *err);

struct out {
    char path[256];
    char temp[288]; /* "" for stdout, and for what is no regular file (a device, a named pipe) */
    int fd;
    uint64_t offset; /* bytes written so far */
    uint8_t *hold;   /* owned write-behind of IO_HOLD bytes */
    size_t used;
};

MUST_USE int out_open(struct out *out, const char *path, struct err *err);
MUST_USE int out_write(struct out *out, const void *bytes, size_t n, struct err *err);
MUST_USE int out_flush(struct out *out, struct err *err);
/* Flushes, fsyncs and closes, but leaves the file under its temporary name: for sets of files that
 * are to appear together. Ends with out_commit or out_abort. */
MUST_USE int out_seal(struct out *out, struct err *err);
/* Flushes, fsyncs, closes and renames; on failure the temporary file is gone and the old file
 * stands. */
MUST_USE int out_commit(struct out *out, struct err *err);
/* Drops what was written. Accepts a zeroed or a committed struct. */
void out_abort(struct out *out);

/* Writes n bytes to fd, going on after short writes and EINTR; path is for the message. */
MUST_USE int io_write_all(int fd, const void *bytes, size_t n, const char *path, struct err *err);
/* Makes the folder, and those above it, where missing. */
MUST_USE int io_make_folder(const char *path, struct err *err);
/* Joins folder and name into to[n]; "." is left out. */
MUST_USE int io_join(char *to, size_t n, const char *folder, const char *name, struct err *err);

/* Little-endian integers in byte buffers. */
static inline uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t get_u64(const uint8_t *p)
{
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}
static inline void set_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}
static inline void set_u64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

#endif
