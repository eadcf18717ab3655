/* err: errors are values. A function that can fail returns int: 0 done, -1 failed with *err filled;
 * a `next` function returns 1 for an item, 0 at the end, -1 on failure. lib never prints or exits:
 * bin turns a struct err into the line `tool: file: what: how to mend`. */
#ifndef HM_ERR_H
#define HM_ERR_H

#define MUST_USE     __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Hands a failure on to the caller; the callee has already filled its struct err. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        if ((expr) != 0)                                                                           \
            return -1;                                                                             \
    } while (0)

struct err {
    char file[256]; /* what it is about: a path, `path:line`, `-` (stdin), or "" for none */
    char what[512]; /* what is wrong: lower case, no full stop */
    char mend[512]; /* what the user can do about it, "" when nothing helps */
};

/* Each fills *err and returns -1, so that `return err_set(...)` is the idiom. file and mend may be
 * NULL. err_errno appends ": " and strerror(errno) to what. err_oom is for a failed allocation of
 * `bytes`. */
int err_set(struct err *err, const char *file, const char *mend, const char *fmt, ...) PRINTF(4, 5);
int err_errno(struct err *err, const char *file, const char *mend, const char *fmt, ...)
    PRINTF(4, 5);
int err_oom(struct err *err, unsigned long bytes);

/* Names the file of an error that was raised below the level that knows paths. Keeps one already
 * set. Returns -1, so it can end a chain: return err_file(err, path). */
int err_file(struct err *err, const char *file);

#endif
