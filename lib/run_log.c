/* run_log: see run_log.h. */
#include "run_log.h"
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER                                                                                     \
    "event,step,tokens,loss_nats,bits_per_byte,lr,grad_norm,is_skipped,tok_s,elapsed_s,note\n"
enum { ELAPSED_COLUMN = 9 };
#define LOG_MAX ((size_t)1 << 32)

size_t run_log_cut(const char *text, size_t n, int64_t cut_step, double *elapsed_s)
{
    size_t kept = 0;
    *elapsed_s = 0;
    for (bool is_header = true; kept < n; is_header = false) {
        const char *line = text + kept, *end = memchr(line, '\n', n - kept);
        if (!end)
            break;
        const char *comma = memchr(line, ',', (size_t)(end - line));
        if (!is_header && comma && strtoll(comma + 1, NULL, 10) > cut_step)
            break;
        for (int i = 1; comma && i < ELAPSED_COLUMN; i++)
            comma = memchr(comma + 1, ',', (size_t)(end - comma - 1));
        if (!is_header && comma && comma[1] != ',')
            *elapsed_s = strtod(comma + 1, NULL);
        kept = (size_t)(end - text) + 1;
    }
    return kept;
}

/* Cuts the open log to the rows that the checkpoint has seen. *kept: bytes that stay. */
static int cut_back(struct run_log *l, int64_t cut_step, size_t *kept, double *elapsed_s,
                    struct err *err)
{
    struct stat st;
    struct buf text = {0};
    *kept = 0;
    if (fstat(l->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return 0;
    TRY(io_read_file(l->path, &text, LOG_MAX, err));
    int rc = buf_put(&text, "", 1, err); /* ends strtod */
    if (rc == 0)
        *kept = run_log_cut((const char *)text.data, text.size - 1, cut_step, elapsed_s);
    buf_free(&text);
    if (rc == 0 && ftruncate(l->fd, (off_t)*kept) != 0)
        rc = err_errno(err, l->path, NULL, "cannot cut the log back");
    return rc;
}

static int write_pending(struct run_log *l, struct err *err)
{
    while (l->pending.size) {
        const ssize_t w = write(l->fd, l->pending.data, l->pending.size);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return err_errno(err, l->path, errno == ENOSPC ? "free disk space" : NULL,
                             "cannot write the log");
        l->pending.size -= (size_t)w;
        memmove(l->pending.data, l->pending.data + w, l->pending.size);
    }
    return 0;
}

int run_log_open(struct run_log *l, const char *path, int64_t cut_step, double *elapsed_s,
                 struct err *err)
{
    *l = (struct run_log){.fd = -1};
    *elapsed_s = 0;
    if (strlen(path) >= sizeof l->path)
        return err_set(err, path, "use a shorter path", "path is too long");
    snprintf(l->path, sizeof l->path, "%s", path);
    const int fresh = cut_step < 0 ? O_TRUNC : 0;
    l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | fresh, 0666);
    if (l->fd < 0)
        return err_errno(err, path, "check that the folder is there and can be written",
                         "cannot open the log");
    size_t kept = 0;
    int rc = cut_step < 0 ? 0 : cut_back(l, cut_step, &kept, elapsed_s, err);
    if (rc == 0 && kept == 0)
        rc = buf_put(&l->pending, HEADER, strlen(HEADER), err);
    if (rc == 0)
        rc = write_pending(l, err);
    if (rc != 0) {
        close(l->fd);
        buf_free(&l->pending);
        l->fd = -1;
    }
    return rc;
}

static int put_number(struct buf *b, double v, bool is_shown, struct err *err)
{
    if (is_shown && isnan(v)) /* printf would give some a sign */
        return buf_put(b, ",nan", 4, err);
    return is_shown ? buf_printf(b, err, ",%.7g", v) : buf_put(b, ",", 1, err);
}

static int put_note(struct buf *b, const char *note, struct err *err)
{
    TRY(buf_put(b, ",\"", 2, err));
    for (const char *p = note; *p; p++) {
        const char c = *p == '\n' ? ' ' : *p;
        TRY(buf_put(b, &c, 1, err));
        if (c == '"')
            TRY(buf_put(b, &c, 1, err));
    }
    return buf_put(b, "\"\n", 2, err);
}

int run_log_row(struct run_log *l, const struct run_row *row, struct err *err)
{
    if (l->fd < 0)
        return 0;
    struct buf *b = &l->pending;
    TRY(buf_printf(b, err, "%s,%lld,%lld", row->event, (long long)row->step,
                   (long long)row->tokens));
    TRY(put_number(b, row->loss, row->is_bad || !isnan(row->loss), err));
    TRY(put_number(b, row->bits_per_byte, !isnan(row->bits_per_byte), err));
    TRY(put_number(b, row->lr, !isnan(row->lr), err));
    TRY(put_number(b, row->gnorm, row->is_bad || !isnan(row->gnorm), err));
    TRY(buf_printf(b, err, ",%d", row->is_skipped));
    TRY(put_number(b, row->tok_s, !isnan(row->tok_s), err));
    TRY(put_number(b, row->elapsed_s, !isnan(row->elapsed_s), err));
    if (row->note)
        TRY(put_note(b, row->note, err));
    else
        TRY(buf_put(b, ",\n", 2, err));
    return write_pending(l, err);
}

int run_log_sync(struct run_log *l, struct err *err)
{
    if (l->fd < 0)
        return 0;
    TRY(write_pending(l, err));
    if (fdatasync(l->fd) != 0 && errno != EINVAL && errno != EROFS)
        return err_errno(err, l->path, NULL, "cannot write the log");
    return 0;
}

int run_log_close(struct run_log *l, struct err *err)
{
    if (!l->path[0] || l->fd < 0)
        return 0;
    const int rc = write_pending(l, err);
    close(l->fd);
    buf_free(&l->pending);
    *l = (struct run_log){.fd = -1};
    return rc;
}
