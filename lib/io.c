/* io: whole reads and writes, files that appear by rename; see io.h. */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IO_HOLD = 1 << 18 };

static int is_stdio(const char *path)
{
    return strcmp(path, "-") == 0;
}

int in_open(struct in *in, const char *path, struct err *err)
{
    *in = (struct in){.fd = -1};
    if (strlen(path) >= sizeof in->path)
        return err_set(err, path, "use a shorter path", "path is too long");
    snprintf(in->path, sizeof in->path, "%s", path);
    in->fd = is_stdio(path) ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (in->fd < 0)
        return err_errno(err, path, errno == ENOENT ? "check the name" : "check who may read it",
                         "cannot open");
    struct stat st;
    if (fstat(in->fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        in_close(in);
        return err_set(err, path, "name a file", "is a folder");
    }
    in->hold = malloc(IO_HOLD);
    if (!in->hold) {
        in_close(in);
        return err_oom(err, IO_HOLD);
    }
    return 0;
}

int in_memory(struct in *in, const char *name, const void *bytes, size_t n, struct err *err)
{
    *in = (struct in){.fd = -1, .end = n};
    snprintf(in->path, sizeof in->path, "%s", name);
    in->hold = malloc(n ? n : 1);
    if (!in->hold)
        return err_oom(err, n);
    if (n)
        memcpy(in->hold, bytes, n);
    return 0;
}

/* Waits until fd has something; -1 with ECANCELED once stop_fd has. */
static int wait_for(int fd, int stop_fd)
{
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
    while (p[0].revents == 0) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (p[1].revents != 0) {
            errno = ECANCELED;
            return -1;
        }
    }
    return 0;
}

static ssize_t read_some(int fd, int stop_fd, void *to, size_t n)
{
    ssize_t r;
    if (stop_fd > 0 && wait_for(fd, stop_fd) != 0)
        return -1;
    do
        r = read(fd, to, n);
    while (r < 0 && errno == EINTR);
    return r;
}

int in_some(struct in *in, void *to, size_t n, size_t *got, struct err *err)
{
    *got = 0;
    if (in->begin == in->end) {
        const ssize_t r = in->fd < 0 ? 0 : read_some(in->fd, in->stop_fd, in->hold, IO_HOLD);
        if (r < 0)
            return err_errno(err, in->path, NULL, "cannot read");
        in->begin = 0;
        in->end = (size_t)r;
    }
    *got = in->end - in->begin < n ? in->end - in->begin : n;
    if (*got)
        memcpy(to, in->hold + in->begin, *got);
    in->begin += *got;
    in->offset += *got;
    return 0;
}

int in_read(struct in *in, void *to, size_t n, size_t *got, struct err *err)
{
    *got = 0;
    for (size_t some; *got < n; *got += some) {
        TRY(in_some(in, (uint8_t *)to + *got, n - *got, &some, err));
        if (some == 0)
            break;
    }
    return 0;
}

int in_exact(struct in *in, void *to, size_t n, const char *what, struct err *err)
{
    size_t got;
    TRY(in_read(in, to, n, &got, err));
    if (got < n)
        return err_set(err, in->path, "make the file again, its writer was cut off",
                       "truncated in the %s, at byte %llu", what, (unsigned long long)in->offset);
    return 0;
}

int in_all(struct in *in, struct buf *to, size_t max_bytes, struct err *err)
{
    const size_t start = to->size;
    for (;;) {
        size_t got;
        TRY(buf_reserve(to, IO_HOLD, err));
        TRY(in_read(in, to->data + to->size, IO_HOLD, &got, err));
        to->size += got;
        if (to->size - start > max_bytes)
            return err_set(err, in->path, NULL,
                           "is larger than the %zu bytes that can be right here", max_bytes);
        if (got < IO_HOLD)
            return 0;
    }
}

void in_close(struct in *in)
{
    if (in->hold || in->path[0]) {
        if (in->fd > STDIN_FILENO)
            close(in->fd);
        free(in->hold);
    }
    *in = (struct in){.fd = -1};
}

int io_read_file(const char *path, struct buf *to, size_t max_bytes, struct err *err)
{
    struct in in;
    TRY(in_open(&in, path, err));
    const int rc = in_all(&in, to, max_bytes, err);
    in_close(&in);
    return rc;
}

int io_write_all(int fd, const void *bytes, size_t n, const char *path, struct err *err)
{
    const uint8_t *p = bytes;
    while (n > 0) {
        const ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return err_errno(err, path, errno == ENOSPC ? "free disk space and run again" : NULL,
                             "cannot write");
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

/* Opens the temporary file beside the target, so that the rename stays within one file system. */
static int open_temp(struct out *out, struct err *err)
{
    snprintf(out->temp, sizeof out->temp, "%s.tmp-XXXXXX", out->path);
    out->fd = mkostemp(out->temp, O_CLOEXEC);
    if (out->fd < 0) {
        out->temp[0] = '\0';
        return err_errno(err, out->path, "check that the folder is there and can be written",
                         "cannot create");
    }
    const mode_t mask = umask(0);
    umask(mask);
    if (fchmod(out->fd, 0666 & ~mask) != 0)
        return err_errno(err, out->path, NULL, "cannot set the mode");
    return 0;
}

int out_open(struct out *out, const char *path, struct err *err)
{
    *out = (struct out){.fd = -1};
    if (strlen(path) >= sizeof out->path)
        return err_set(err, path, "use a shorter path", "path is too long");
    snprintf(out->path, sizeof out->path, "%s", path);
    struct stat st;
    const int is_there = stat(path, &st) == 0;
    int rc = 0;
    if (is_stdio(path))
        out->fd = STDOUT_FILENO;
    else if (is_there && S_ISDIR(st.st_mode))
        rc = err_set(err, path, "name a file", "is a folder");
    else if (is_there && !S_ISREG(st.st_mode))
        out->fd = open(path, O_WRONLY | O_CLOEXEC);
    else
        rc = open_temp(out, err);
    if (rc == 0 && out->fd < 0)
        rc = err_errno(err, path, "check who may write it", "cannot open for writing");
    if (rc == 0 && !(out->hold = malloc(IO_HOLD)))
        rc = err_oom(err, IO_HOLD);
    if (rc != 0)
        out_abort(out);
    return rc;
}

int out_flush(struct out *out, struct err *err)
{
    const size_t n = out->used;
    out->used = 0;
    return io_write_all(out->fd, out->hold, n, out->path, err);
}

int out_write(struct out *out, const void *bytes, size_t n, struct err *err)
{
    out->offset += n;
    if (n > IO_HOLD - out->used)
        TRY(out_flush(out, err));
    if (n >= IO_HOLD)
        return io_write_all(out->fd, bytes, n, out->path, err);
    if (n)
        memcpy(out->hold + out->used, bytes, n);
    out->used += n;
    return 0;
}

/* Makes the rename itself durable: the folder's entry is data of the folder. */
static void sync_folder(const char *path)
{
    char copy[sizeof((struct out *)0)->path];
    snprintf(copy, sizeof copy, "%s", path);
    const int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

int out_seal(struct out *out, struct err *err)
{
    if (out->fd < 0)
        return 0;
    int rc = out_flush(out, err);
    if (rc == 0 && out->temp[0] && fsync(out->fd) != 0)
        rc = err_errno(err, out->path, "free disk space and run again", "cannot write");
    if (out->fd > STDERR_FILENO)
        close(out->fd);
    out->fd = -1;
    free(out->hold);
    out->hold = NULL;
    return rc;
}

int out_commit(struct out *out, struct err *err)
{
    int rc = out_seal(out, err);
    if (rc == 0 && out->temp[0]) {
        if (rename(out->temp, out->path) != 0) {
            rc = err_errno(err, out->path, NULL, "cannot rename into place");
        } else {
            out->temp[0] = '\0';
            sync_folder(out->path);
        }
    }
    out_abort(out);
    return rc;
}

void out_abort(struct out *out)
{
    if (out->path[0] && out->fd > STDERR_FILENO)
        close(out->fd);
    if (out->temp[0])
        unlink(out->temp);
    free(out->hold);
    *out = (struct out){.fd = -1};
}

int io_make_folder(const char *path, struct err *err)
{
    char part[256];
    if (strlen(path) >= sizeof part)
        return err_set(err, path, "use a shorter path", "path is too long");
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return err_errno(err, part, "name another folder, or one that can be written",
                             "cannot make the folder");
        *p = '/';
    }
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
        return err_errno(err, part, "name another folder, or one that can be written",
                         "cannot make the folder");
    struct stat st;
    if (stat(part, &st) != 0 || !S_ISDIR(st.st_mode))
        return err_set(err, path, "name another folder", "is there, but is no folder");
    return 0;
}

int io_join(char *to, size_t n, const char *folder, const char *name, struct err *err)
{
    const int is_here = strcmp(folder, ".") == 0 || folder[0] == '\0';
    const int len = is_here ? snprintf(to, n, "%s", name) : snprintf(to, n, "%s/%s", folder, name);
    if (len < 0 || (size_t)len >= n)
        return err_set(err, folder, "use a shorter path", "path is too long");
    return 0;
}
