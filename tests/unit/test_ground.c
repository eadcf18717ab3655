/* test_ground: errors, buffers, and files that appear whole: lib/err.h buf.h io.h. */
#include "tap.h"

#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static const char *at(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static bool has_text(const char *path, const char *text)
{
    struct buf b = {0};
    struct err err;
    const bool is_read = io_read_file(path, &b, 1 << 20, &err) == 0;
    const bool is_same =
        is_read && b.size == strlen(text) && (b.size == 0 || memcmp(b.data, text, b.size) == 0);
    buf_free(&b);
    return is_same;
}

/* How many entries the scratch folder has: temporary files that stay behind show here. */
static int n_entries(void)
{
    char command[128];
    int n = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    FILE *f = popen(command, "r");
    if (f && fscanf(f, "%d", &n) != 1)
        n = -1;
    if (f)
        pclose(f);
    return n;
}

static void test_err(void)
{
    struct err err = {0};
    char longer[1000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ok(err_set(&err, NULL, NULL, "%d of %s", 3, "them") == -1 && !strcmp(err.what, "3 of them") &&
           !err.file[0] && !err.mend[0],
       "err_set fills what, and leaves file and mend empty");
    ok(err_file(&err, "a") == -1 && err_file(&err, "b") == -1 && !strcmp(err.file, "a"),
       "err_file keeps the first file");
    errno = ENOENT;
    ok(err_errno(&err, "f", "m", "cannot open") == -1 &&
           !strcmp(err.what, "cannot open: No such file or directory") && !strcmp(err.mend, "m"),
       "err_errno appends the system's reason");
    err_set(&err, longer, longer, "%s", longer);
    ok(strlen(err.file) == sizeof err.file - 1 && strlen(err.what) == sizeof err.what - 1,
       "texts that are too long are cut");
    errno = ENOENT;
    err_errno(&err, longer, longer, "%s", longer);
    ok(strlen(err.what) == sizeof err.what - 1, "and so with the system's reason");
}

static void test_buf(void)
{
    struct buf b = {0};
    struct ids a = {0};
    struct err err;
    bool is_fine = true;
    for (int i = 0; i < 1000; i++)
        is_fine = is_fine && buf_printf(&b, &err, "%d,", i) == 0 && ids_put(&a, i, &err) == 0;
    ok(is_fine && b.size == 3890 && memcmp(b.data + b.size - 8, "998,999,", 8) == 0 && a.n == 1000,
       "buf_printf appends, without the final NUL");
    int sum = 0;
    for (size_t i = 0; i < a.n; i++)
        sum += a.data[i];
    ok(sum == 499500, "ids keep what was put");
    ok(buf_reserve(&b, SIZE_MAX, &err) == -1 && strstr(err.what, "cannot allocate") &&
           b.size == 3890,
       "a size that overflows is an error, and the buffer stands");
    ok(ids_append(&a, NULL, SIZE_MAX / 2, &err) == -1 && a.n == 1000, "the same for ids");
    buf_free(&b);
    ids_free(&a);
    ok(!b.data && !a.data, "free leaves a zeroed struct");
    buf_free(&b);
    ok(buf_put(&b, NULL, 0, &err) == 0 && b.size == 0, "putting nothing is fine");
    buf_free(&b);
}

static void test_commit(void)
{
    struct out out;
    struct err err;
    struct stat st;
    char path[128];
    snprintf(path, sizeof path, "%s", at("file"));
    ok(out_open(&out, path, &err) == 0 && out_write(&out, "old", 3, &err) == 0 &&
           stat(path, &st) != 0 && n_entries() == 1,
       "before out_commit the name is not there, only a temporary one");
    ok(out_commit(&out, &err) == 0 && has_text(path, "old") && n_entries() == 1,
       "out_commit makes the file, and nothing else stays");
    const mode_t mask = umask(0);
    umask(mask);
    ok(stat(path, &st) == 0 && (st.st_mode & 0777) == (0666 & ~mask),
       "the mode is what the umask leaves");
    ok(out_open(&out, path, &err) == 0 && out_write(&out, "new", 3, &err) == 0 &&
           has_text(path, "old"),
       "while a new one is written the old one stands");
    out_abort(&out);
    ok(has_text(path, "old") && n_entries() == 1, "out_abort leaves it standing");
    out_abort(&out);
    ok(1, "out_abort accepts an aborted struct");

    /* More than the write-behind holds, in uneven pieces. */
    char piece[1000];
    memset(piece, 'a', sizeof piece);
    bool is_fine = out_open(&out, path, &err) == 0;
    for (int i = 0; i < 1000; i++)
        is_fine = is_fine && out_write(&out, piece, (size_t)i, &err) == 0;
    is_fine = is_fine && out.offset == 499500 && out_commit(&out, &err) == 0;
    ok(is_fine && stat(path, &st) == 0 && st.st_size == 499500, "all pieces arrive");
    char *large = malloc(1 << 20);
    memset(large, 'b', 1 << 20);
    ok(out_open(&out, path, &err) == 0 && out_write(&out, "a", 1, &err) == 0 &&
           out_write(&out, large, 1 << 20, &err) == 0 && out_write(&out, "c", 1, &err) == 0 &&
           out_commit(&out, &err) == 0,
       "a piece larger than the hold is written");
    struct buf b = {0};
    ok(io_read_file(path, &b, 2 << 20, &err) == 0 && b.size == (1 << 20) + 2 && b.data[0] == 'a' &&
           b.data[1] == 'b' && b.data[b.size - 1] == 'c',
       "in order");
    b.size = 0;
    ok(io_read_file(path, &b, 1 << 20, &err) == -1 && strstr(err.what, "larger"),
       "in_all refuses more than it was allowed");
    buf_free(&b);
    free(large);
    unlink(path);
}

static void test_refusals(void)
{
    struct out out;
    struct in in;
    struct err err;
    ok(out_open(&out, at("none/file"), &err) == -1 && strstr(err.what, "cannot create") &&
           strstr(err.file, "none/file") && err.mend[0],
       "a missing folder: an error that names the file");
    ok(out_open(&out, folder, &err) == -1 && strstr(err.what, "is a folder"),
       "a folder is no output");
    ok(in_open(&in, folder, &err) == -1 && strstr(err.what, "is a folder"), "nor an input");
    ok(in_open(&in, at("none"), &err) == -1 && strstr(err.what, "No such file"),
       "a missing input: the system's reason");
    char longer[400];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ok(in_open(&in, longer, &err) == -1 && out_open(&out, longer, &err) == -1 &&
           strstr(err.what, "too long"),
       "a path that is too long is refused, not cut");
    in_close(&in);

    /* A full disk, by the device that is always full. */
    char block[4096] = {0};
    bool is_fine = out_open(&out, "/dev/full", &err) == 0;
    for (int i = 0; i < 10; i++)
        is_fine = is_fine && out_write(&out, block, sizeof block, &err) == 0;
    ok(is_fine && out_commit(&out, &err) == -1 && strstr(err.what, "No space left") && err.mend[0],
       "a full disk is told at the latest by out_commit");
    ok(access("/dev/full", F_OK) == 0, "and the device is still there");
}

struct feeder {
    int fd;
    size_t n;
};

/* Writes n bytes 0 1 2 ... in pieces of 1, 2, 3 ... bytes. */
static void *feed(void *arg)
{
    const struct feeder *f = arg;
    uint8_t bytes[600];
    size_t done = 0;
    for (size_t piece = 1; done < f->n; piece = piece % 500 + 1) {
        const size_t n = piece < f->n - done ? piece : f->n - done;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(done + i);
        if (write(f->fd, bytes, n) != (ssize_t)n)
            break;
        done += n;
    }
    close(f->fd);
    return NULL;
}

static void test_pipe(void)
{
    int fds[2];
    struct err err;
    struct in in;
    pthread_t thread;
    char path[64];
    uint8_t bytes[300];
    if (!ok(pipe(fds) == 0, "a pipe"))
        return;
    struct feeder feeder = {fds[1], 100000};
    pthread_create(&thread, NULL, feed, &feeder);
    snprintf(path, sizeof path, "/dev/fd/%d", fds[0]);
    bool is_fine = in_open(&in, path, &err) == 0;
    size_t done = 0;
    while (is_fine && done + sizeof bytes <= feeder.n) {
        is_fine = in_exact(&in, bytes, sizeof bytes, "test", &err) == 0;
        for (size_t i = 0; i < sizeof bytes; i++)
            is_fine = is_fine && bytes[i] == (uint8_t)(done + i);
        done += sizeof bytes;
    }
    ok(is_fine && in.offset == done, "short reads are joined");
    ok(in_exact(&in, bytes, sizeof bytes, "tail", &err) == -1 &&
           strstr(err.what, "truncated in the tail") && err.mend[0],
       "an early end is an error that says where");
    size_t got = 1;
    ok(in_read(&in, bytes, sizeof bytes, &got, &err) == 0 && got == 0, "then comes the end");
    in_close(&in);
    close(fds[0]);
    pthread_join(thread, NULL);
}

static void test_folders(void)
{
    struct err err;
    struct stat st;
    char to[16];
    ok(io_make_folder(at("a/b/c"), &err) == 0 && stat(at("a/b/c"), &st) == 0 && S_ISDIR(st.st_mode),
       "io_make_folder makes those above it too");
    ok(io_make_folder(at("a/b/c"), &err) == 0, "and is content where it is there");
    close(open(at("plain"), O_CREAT | O_WRONLY, 0600));
    ok(io_make_folder(at("plain"), &err) == -1 && strstr(err.what, "no folder"),
       "a file in its place is an error");
    ok(io_join(to, sizeof to, ".", "x", &err) == 0 && !strcmp(to, "x") &&
           io_join(to, sizeof to, "d", "x", &err) == 0 && !strcmp(to, "d/x"),
       "io_join");
    ok(io_join(to, sizeof to, "0123456789", "0123456789", &err) == -1,
       "io_join refuses what does not fit");
    unlink(at("plain"));
    rmdir(at("a/b/c"));
    rmdir(at("a/b"));
    rmdir(at("a"));
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.40s/hm-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    test_err();
    test_buf();
    test_commit();
    test_refusals();
    test_pipe();
    test_folders();
    ok(rmdir(folder) == 0, "nothing stays behind");
    return tap_done();
}
