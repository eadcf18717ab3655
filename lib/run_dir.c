/* run_dir: see run_dir.h. */
#include "run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define CKPT_PREFIX "ckpt-"
#define CKPT_SUFFIX ".safetensors"

/* Whether a name is one of out_open's temporary names for a file that a run writes. */
static bool is_leftover(const char *name)
{
    static const char *const ours[] = {CKPT_PREFIX, "model.safetensors.", "config.json.",
                                       "tok.model.", NULL};
    const char *mark = strstr(name, ".tmp-");
    if (!mark || strlen(mark) != strlen(".tmp-XXXXXX"))
        return false;
    for (int i = 0; ours[i]; i++)
        if (strncmp(name, ours[i], strlen(ours[i])) == 0)
            return true;
    return false;
}

static int sweep(const struct run_dir *r, struct err *err)
{
    DIR *d = opendir(r->path);
    if (!d)
        return err_errno(err, r->path, NULL, "cannot list the folder");
    const struct dirent *entry;
    while ((entry = readdir(d)))
        if (is_leftover(entry->d_name))
            unlinkat(r->lock, entry->d_name, 0);
    closedir(d);
    return 0;
}

int run_dir_open(struct run_dir *r, const char *path, struct err *err)
{
    *r = (struct run_dir){.lock = -1};
    if (path[0] == '\0' || strlen(path) >= sizeof r->path)
        return err_set(err, path, "use another path", "path is empty or too long");
    snprintf(r->path, sizeof r->path, "%s", path);
    TRY(io_make_folder(path, err));
    r->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->lock < 0)
        return err_errno(err, path, NULL, "cannot open the folder");
    int rc = 0;
    if (flock(r->lock, LOCK_EX | LOCK_NB) != 0)
        rc = errno == EWOULDBLOCK ? err_set(err, path, "wait for it, or name another folder",
                                            "another training runs in this folder")
                                  : err_errno(err, path, NULL, "cannot lock the folder");
    if (rc == 0)
        rc = sweep(r, err);
    if (rc != 0)
        run_dir_close(r);
    return rc;
}

void run_dir_close(struct run_dir *r)
{
    if (r->path[0] && r->lock >= 0)
        close(r->lock);
    *r = (struct run_dir){.lock = -1};
}

int run_dir_file(const struct run_dir *r, const char *name, char *to, size_t n, struct err *err)
{
    return io_join(to, n, r->path, name, err);
}

int run_dir_ckpt(const struct run_dir *r, int64_t step, char *to, size_t n, struct err *err)
{
    char name[64];
    snprintf(name, sizeof name, CKPT_PREFIX "%08lld" CKPT_SUFFIX, (long long)step);
    return run_dir_file(r, name, to, n, err);
}

/* The step in a checkpoint's name, -1 for any other name. */
static int64_t step_of(const char *name)
{
    if (strncmp(name, CKPT_PREFIX, strlen(CKPT_PREFIX)) != 0)
        return -1;
    int64_t step = 0;
    const char *p = name + strlen(CKPT_PREFIX);
    int n_digits = 0;
    for (; *p >= '0' && *p <= '9' && n_digits < 12; p++, n_digits++)
        step = step * 10 + (*p - '0');
    return n_digits >= 8 && strcmp(p, CKPT_SUFFIX) == 0 ? step : -1;
}

static int compare_steps(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int run_dir_list(const struct run_dir *r, int64_t **step, int *n, struct err *err)
{
    struct buf found = {0};
    DIR *d = opendir(r->path);
    if (!d)
        return err_errno(err, r->path, NULL, "cannot list the folder");
    int rc = 0;
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(d))) {
        const int64_t s = step_of(entry->d_name);
        if (s >= 0)
            rc = buf_put(&found, &s, sizeof s, err);
    }
    closedir(d);
    if (rc != 0) {
        buf_free(&found);
        return -1;
    }
    *n = (int)(found.size / sizeof(int64_t));
    *step = (int64_t *)(void *)found.data;
    if (*n)
        qsort(*step, (size_t)*n, sizeof **step, compare_steps);
    return 0;
}

int run_dir_newest(const struct run_dir *r, int64_t *step, struct err *err)
{
    int64_t *list;
    int n;
    TRY(run_dir_list(r, &list, &n, err));
    *step = n ? list[n - 1] : -1;
    free(list);
    return 0;
}

int run_dir_prune(const struct run_dir *r, int64_t keep, int64_t best, struct err *err)
{
    int64_t *list;
    int n;
    TRY(run_dir_list(r, &list, &n, err));
    int rc = 0;
    for (int i = 0; list && i < n - keep && rc == 0; i++) {
        char path[256];
        if (list[i] == best)
            continue;
        rc = run_dir_ckpt(r, list[i], path, sizeof path, err);
        if (rc == 0 && unlink(path) != 0 && errno != ENOENT)
            rc = err_errno(err, path, NULL, "cannot remove the old checkpoint");
    }
    free(list);
    return rc;
}

int run_dir_put(const struct run_dir *r, const char *name, const struct buf *bytes,
                bool may_replace, struct err *err)
{
    char path[256];
    TRY(run_dir_file(r, name, path, sizeof path, err));
    if (access(path, F_OK) == 0) {
        struct buf old = {0};
        struct err ignored = {0};
        const bool is_same = io_read_file(path, &old, bytes->size, &ignored) == 0 &&
                             old.size == bytes->size &&
                             (bytes->size == 0 || memcmp(old.data, bytes->data, old.size) == 0);
        buf_free(&old);
        if (is_same)
            return 0;
        if (!may_replace)
            return err_set(err, path, "move it away, or name another run folder with -o",
                           "is there already, with other content than this run's");
    }
    struct out out;
    TRY(out_open(&out, path, err));
    if (out_write(&out, bytes->data, bytes->size, err) != 0) {
        out_abort(&out);
        return -1;
    }
    return out_commit(&out, err);
}
