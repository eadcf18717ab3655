/* shard_set: documents dealt out to sets of shards; see shard_set.h. */
#include "shard_set.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- options --- */

/* A set's name is the beginning of a file name. */
static bool is_name(const char *name)
{
    return name[0] && name[0] != '.' && name[0] != '-' && strlen(name) < 100 && !strchr(name, '/');
}

static int add_split(struct shard_set_opts *o, char *text, struct err *err)
{
    static const char mend[] = "write it as NAME=PERCENT%, such as valid=2%";
    char *equals = strchr(text, '='), *end;
    if (!equals)
        return err_set(err, NULL, mend, "split '%s' has no share", text);
    *equals = '\0';
    const double percent = strtod(equals + 1, &end);
    if (end == equals + 1 || strcmp(end, "%") != 0 || !(percent > 0 && percent <= 100))
        return err_set(err, NULL, mend, "share '%s' of split '%s' is no percentage above 0",
                       equals + 1, text);
    if (!is_name(text))
        return err_set(err, NULL, mend, "'%s' cannot be a set's name", text);
    for (int i = 0; i < o->n; i++)
        if (strcmp(o->name[i], text) == 0)
            return err_set(err, NULL, "give each set a name of its own", "two sets named '%s'",
                           text);
    if (o->n == SHARD_SET_MAX)
        return err_set(err, NULL, NULL, "more than %d splits", SHARD_SET_MAX - 1);
    o->name[o->n] = text;
    o->share[o->n++] = percent / 100;
    return 0;
}

int shard_set_splits(struct shard_set_opts *o, char *text, struct err *err)
{
    double sum = 0;
    o->n = 1;
    if (!is_name(o->name[0]))
        return err_set(err, NULL, "choose a name without '/'", "'%s' cannot be a set's name",
                       o->name[0]);
    for (char *item = text; item;) {
        char *comma = strchr(item, ',');
        if (comma)
            *comma = '\0';
        TRY(add_split(o, item, err));
        sum += o->share[o->n - 1];
        item = comma ? comma + 1 : NULL;
    }
    return sum <= 1 + 1e-9 ? 0
                           : err_set(err, NULL, "take shares that sum to 100% at most",
                                     "splits take %g%% of the documents", sum * 100);
}

int shard_set_open(struct shard_set *s, const struct stream_header *h,
                   const struct shard_set_opts *opts, struct err *err)
{
    *s = (struct shard_set){.opts = *opts};
    if (!(s->hash = XXH64_createState()))
        return err_oom(err, sizeof(uint64_t) * 11);
    for (int i = 0; i < opts->n; i++)
        TRY(shard_writer_init(&s->part[i].writer, h, opts->level, err));
    return 0;
}

void shard_set_close(struct shard_set *s)
{
    for (int i = 0; i < s->opts.n; i++) {
        struct shard_part *p = &s->part[i];
        for (int k = 0; k < p->n_files; k++)
            out_abort(&p->file[k]);
        free(p->file);
        shard_writer_free(&p->writer);
    }
    ids_free(&s->doc);
    if (s->hash)
        XXH64_freeState(s->hash);
    *s = (struct shard_set){0};
}

/* --- shards of one set --- */

static int shard_path(const struct shard_set *s, int part, int i, char *path, size_t n,
                      struct err *err)
{
    char name[128];
    snprintf(name, sizeof name, "%s-%05d.tok.zst", s->opts.name[part], i);
    return io_join(path, n, s->opts.folder, name, err);
}

static int finish_shard(struct shard_set *s, int part, struct err *err)
{
    struct shard_part *p = &s->part[part];
    char path[256];
    struct out *file = realloc(p->file, ((size_t)p->n_files + 1) * sizeof *file);
    if (!file)
        return err_oom(err, sizeof *file);
    p->file = file;
    TRY(shard_path(s, part, p->n_files, path, sizeof path, err));
    struct out *out = &p->file[p->n_files];
    TRY(out_open(out, path, err));
    p->n_files++;
    TRY(shard_write(&p->writer, out, err));
    TRY(out_seal(out, err));
    p->size_bytes += out->offset;
    p->n_held = 0;
    return 0;
}

/* Ids of whole or partial documents; cuts shards at document ends, or at twice their size. */
static int put_part(struct shard_set *s, int part, const int32_t *ids, size_t n, struct err *err)
{
    struct shard_part *p = &s->part[part];
    const int eos = p->writer.h.eos;
    const uint64_t size = s->opts.size_tokens;
    TRY(stream_count(&p->counts, &p->writer.h, ids, n, err));
    size_t begin = 0;
    for (size_t i = 0; i < n; i++) {
        p->n_held++;
        if ((p->n_held < size || ids[i] != eos) && p->n_held < 2 * size)
            continue;
        TRY(shard_put(&p->writer, ids + begin, i + 1 - begin, err));
        TRY(finish_shard(s, part, err));
        begin = i + 1;
    }
    return shard_put(&p->writer, ids + begin, n - begin, err);
}

/* --- documents --- */

/* The set that a document goes to. */
static int choose_part(const struct shard_set *s, const int32_t *ids, size_t n)
{
    enum { STEP = 1024 };
    uint8_t bytes[STEP * 4];
    XXH64_reset(s->hash, 0);
    for (size_t i = 0; i < n; i += STEP) {
        const size_t k = n - i < STEP ? n - i : STEP;
        stream_narrow(bytes, ids + i, 4, k);
        XXH64_update(s->hash, bytes, k * 4);
    }
    const double at = ldexp((double)(XXH64_digest(s->hash) >> 11), -53);
    double sum = 0;
    for (int i = 1; i < s->opts.n; i++) {
        sum += s->opts.share[i];
        if (at < sum)
            return i;
    }
    return 0;
}

/* The document in s->doc goes where it belongs. */
static int put_document(struct shard_set *s, bool has_end, struct err *err)
{
    const size_t n = s->doc.n;
    s->doc.n = 0;
    return put_part(s, choose_part(s, s->doc.data, n - has_end), s->doc.data, n, err);
}

int shard_set_put(struct shard_set *s, const int32_t *ids, size_t n, struct err *err)
{
    if (s->opts.n == 1)
        return put_part(s, 0, ids, n, err);
    const int eos = s->part[0].writer.h.eos;
    size_t begin = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] != eos)
            continue;
        TRY(ids_append(&s->doc, ids + begin, i + 1 - begin, err));
        TRY(put_document(s, true, err));
        begin = i + 1;
    }
    return ids_append(&s->doc, ids + begin, n - begin, err);
}

/* --- the end --- */

/* Shards of an older run beyond the new set's last would be taken for its own. */
static int remove_older(const struct shard_set *s, int part, struct err *err)
{
    char path[256];
    for (int i = s->part[part].n_files;; i++) {
        TRY(shard_path(s, part, i, path, sizeof path, err));
        if (access(path, F_OK) != 0)
            return 0;
        if (unlink(path) != 0)
            return err_errno(err, path, "remove it, it belongs to an older set",
                             "cannot remove an older shard");
    }
}

int shard_set_commit(struct shard_set *s, struct err *err)
{
    if (s->doc.n > 0)
        TRY(put_document(s, false, err));
    uint64_t n_tokens = 0;
    for (int i = 0; i < s->opts.n; i++) {
        n_tokens += s->part[i].counts.n_tokens;
        if (s->part[i].n_held > 0)
            TRY(finish_shard(s, i, err));
    }
    if (n_tokens == 0)
        return err_set(err, NULL, "check what its producer was given",
                       "token stream holds no tokens");
    for (int i = 0; i < s->opts.n; i++)
        for (int k = 0; k < s->part[i].n_files; k++)
            TRY(out_commit(&s->part[i].file[k], err));
    for (int i = 0; i < s->opts.n; i++)
        TRY(remove_older(s, i, err));
    return 0;
}
