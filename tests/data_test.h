/* data_test: what the tests of streams, shards and batches share: a scratch folder, files of ids.
 */
#ifndef HM_DATA_TEST_H
#define HM_DATA_TEST_H

#include "shard.h"
#include "tap.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct scratch {
    char folder[200];
};

__attribute__((unused)) static struct scratch scratch_open(void)
{
    struct scratch s;
    const char *tmp = getenv("TMPDIR");
    snprintf(s.folder, sizeof s.folder, "%s/hm-test-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(s.folder))
        abort();
    return s;
}

/* A path in the folder; valid until the fourth call from now. */
__attribute__((unused)) static const char *scratch_path(const struct scratch *s, const char *name)
{
    static char path[4][256];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%.50s", s->folder, name);
    return path[i];
}

__attribute__((unused)) static int scratch_count(const struct scratch *s)
{
    int n = 0;
    DIR *d = opendir(s->folder);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

__attribute__((unused)) static void scratch_remove(const struct scratch *s)
{
    DIR *d = opendir(s->folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlink(scratch_path(s, e->d_name));
    closedir(d);
    rmdir(s->folder);
}

__attribute__((unused)) static struct buf file_bytes(const char *path)
{
    struct buf b = {0};
    struct err err;
    if (io_read_file(path, &b, 1 << 28, &err) != 0)
        abort();
    return b;
}

/* A whole token stream as bytes, put in pieces of `piece` ids. */
__attribute__((unused)) static struct buf make_stream(const struct scratch *s,
                                                      const struct stream_header *h,
                                                      const int32_t *ids, size_t n, size_t piece)
{
    struct stream_writer w = {0};
    struct out out;
    struct err err;
    const char *path = scratch_path(s, "stream");
    int rc = out_open(&out, path, &err);
    rc = rc ? rc : stream_begin(&w, h, &out, &err);
    for (size_t i = 0; rc == 0 && i < n; i += piece)
        rc = stream_put(&w, ids + i, n - i < piece ? n - i : piece, &err);
    rc = rc ? rc : stream_end(&w, &err);
    rc = rc ? rc : out_commit(&out, &err);
    if (rc != 0)
        abort();
    stream_writer_free(&w);
    struct buf b = file_bytes(path);
    unlink(path);
    return b;
}

/* A shard file of ids. */
__attribute__((unused)) static void make_shard(const char *path, const struct stream_header *h,
                                               const int32_t *ids, size_t n)
{
    struct shard_writer w = {0};
    struct out out;
    struct err err;
    int rc = shard_writer_init(&w, h, 3, &err);
    rc = rc ? rc : shard_put(&w, ids, n, &err);
    rc = rc ? rc : out_open(&out, path, &err);
    rc = rc ? rc : shard_write(&w, &out, &err);
    rc = rc ? rc : out_commit(&out, &err);
    if (rc != 0)
        abort();
    shard_writer_free(&w);
}

#endif
