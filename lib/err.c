/* err: fills struct err; see err.h. */
#include "err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void fill(struct err *err, const char *file, const char *mend, const char *fmt, va_list ap)
{
    snprintf(err->file, sizeof err->file, "%s", file ? file : "");
    snprintf(err->mend, sizeof err->mend, "%s", mend ? mend : "");
    vsnprintf(err->what, sizeof err->what, fmt, ap);
}

int err_set(struct err *err, const char *file, const char *mend, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, file, mend, fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno(struct err *err, const char *file, const char *mend, const char *fmt, ...)
{
    const int saved = errno;
    va_list ap;
    va_start(ap, fmt);
    fill(err, file, mend, fmt, ap);
    va_end(ap);
    const size_t n = strlen(err->what);
    snprintf(err->what + n, sizeof err->what - n, ": %s", strerror(saved));
    return -1;
}

int err_oom(struct err *err, unsigned long bytes)
{
    return err_set(err, NULL, "free memory, or ask for smaller sizes", "cannot allocate %.1f MiB",
                   (double)bytes / 1048576.0);
}

int err_file(struct err *err, const char *file)
{
    if (err->file[0] == '\0')
        snprintf(err->file, sizeof err->file, "%s", file);
    return -1;
}
