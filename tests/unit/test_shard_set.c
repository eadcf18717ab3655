/* Sets of shards: where they are cut, which documents go to a split, and that nothing appears
 * before the commit. */
#include "shard_set.h"
#include "data_test.h"

enum { V = 50000, N_DOCS = 4000 };

static const struct stream_header head = {
    .width = 2, .vocab = V, .eos = ID_EOS, .sep = STREAM_LINE, .sep_len = 1, .tok_hash = 5};

/* Documents of 1 to 40 ids, each with an own first id; document 100 is long. */
static struct ids make_docs(void)
{
    struct ids a = {0};
    struct err err;
    int rc = 0;
    for (int d = 0; d < N_DOCS; d++) {
        const int n = d == 100 ? 5000 : 1 + d * 7 % 40;
        for (int i = 0; i < n; i++)
            rc |= ids_put(&a, i + 1 == n ? ID_EOS : i == 0 ? 100 + d : 4 + i % 90, &err);
    }
    if (rc != 0)
        abort();
    return a;
}

/* Runs a set over the ids, put in pieces. */
static int run(struct shard_set *s, const struct scratch *x, char *splits, uint64_t size,
               const struct ids *ids, size_t piece, struct err *err)
{
    struct shard_set_opts o = {
        .folder = x->folder, .name = {"train"}, .size_tokens = size, .level = 3};
    if (shard_set_splits(&o, splits, err) != 0 || shard_set_open(s, &head, &o, err) != 0)
        return -1;
    for (size_t i = 0; i < ids->n; i += piece)
        if (shard_set_put(s, ids->data + i, ids->n - i < piece ? ids->n - i : piece, err) != 0)
            return -1;
    return 0;
}

static int keep(void *arg, const int32_t *ids, size_t n, struct err *err)
{
    return ids_append(arg, ids, n, err);
}

/* All ids of the set of that name; each shard's size into size (or NULL). */
static struct ids read_set(const struct scratch *x, const char *name, uint64_t *size, int *n_files)
{
    struct ids all = {0};
    struct err err;
    struct shard_scratch scratch;
    struct shard s;
    char file[64];
    if (shard_scratch_init(&scratch, &err) != 0)
        abort();
    for (*n_files = 0;; (*n_files)++) {
        snprintf(file, sizeof file, "%s-%05d.tok.zst", name, *n_files);
        if (access(scratch_path(x, file), F_OK) != 0)
            break;
        if (shard_open(&s, scratch_path(x, file), &err) != 0 ||
            shard_scan(&s, &scratch, keep, &all, &err) != 0)
            abort();
        if (size)
            size[*n_files] = s.s.n_tokens;
        shard_close(&s);
    }
    shard_scratch_free(&scratch);
    return all;
}

static bool same(const struct ids *a, const struct ids *b)
{
    return a->n == b->n && memcmp(a->data, b->data, a->n * sizeof *a->data) == 0;
}

static void clear(const struct scratch *x)
{
    scratch_remove(x);
    if (mkdir(x->folder, 0700) != 0)
        abort();
}

static void test_cuts(const struct scratch *x, const struct ids *docs)
{
    struct shard_set s;
    struct err err = {0};
    static uint64_t size[1000];
    int n_files, n_bad = 0;
    ok(run(&s, x, NULL, 1000, docs, 777, &err) == 0 && s.part[0].n_files > 50,
       "shards are written %s", err.what);
    struct ids none = read_set(x, "train", NULL, &n_files);
    ok(n_files == 0 && scratch_count(x) > 50, "under temporary names");
    ok(shard_set_commit(&s, &err) == 0 && s.part[0].n_files == scratch_count(x),
       "the commit renames them all %s", err.what);
    shard_set_close(&s);
    struct ids all = read_set(x, "train", size, &n_files);
    ok(same(&all, docs), "%d shards hold every id in order", n_files);
    uint64_t at = 0;
    int n_cut = 0;
    for (int i = 0; i + 1 < n_files; i++) {
        at += size[i];
        const bool is_end = docs->data[at - 1] == ID_EOS;
        n_cut += !is_end;
        n_bad += is_end ? size[i] < 1000 || size[i] >= 1040 : size[i] != 2000;
    }
    ok(n_bad == 0 && n_cut == 2, "cut at the first end past 1000, the long document at 2000");
    ids_free(&none);
    ids_free(&all);

    ok(run(&s, x, NULL, 100000, docs, 777, &err) == 0 && shard_set_commit(&s, &err) == 0 &&
           scratch_count(x) == s.part[0].n_files && s.part[0].n_files < 3,
       "a shorter set leaves nothing of the longer one before");
    shard_set_close(&s);
    clear(x);
}

static void test_splits(const struct scratch *x, const struct ids *docs)
{
    struct shard_set s;
    struct err err = {0};
    static bool is_in[3][N_DOCS];
    int n_files, n_wrong = 0, n_of[3] = {0};
    ok(run(&s, x, (char[]){"valid=10%,test=2.5%"}, 4000, docs, 777, &err) == 0 &&
           shard_set_commit(&s, &err) == 0,
       "two splits %s", err.what);
    shard_set_close(&s);
    static const char *const names[3] = {"train", "valid", "test"};
    struct ids set[3];
    for (int k = 0; k < 3; k++) {
        set[k] = read_set(x, names[k], NULL, &n_files);
        bool is_start = true;
        int last = -1;
        for (size_t i = 0; i < set[k].n; i++) {
            const int d = set[k].data[i] - 100;
            if (is_start && d >= 0) {
                n_wrong += d <= last || d >= N_DOCS;
                is_in[k][d] = true;
                last = d;
                n_of[k]++;
            }
            is_start = set[k].data[i] == ID_EOS;
        }
    }
    for (int d = 0; d < N_DOCS; d++)
        n_wrong += is_in[0][d] + is_in[1][d] + is_in[2][d] != (d * 7 % 40 > 0 || d == 100);
    ok(n_wrong == 0, "each document in one of them, in order");
    ok(set[0].n + set[1].n + set[2].n == docs->n, "no id is lost");
    /* Of 3900 documents: 390 +- 19 and 98 +- 10. */
    ok(abs(n_of[1] - 390) < 76 && abs(n_of[2] - 98) < 40, "%d in 10 %%, %d in 2.5 %%", n_of[1],
       n_of[2]);
    clear(x);

    /* The same documents with others between them, in pieces of one id: the same choice. */
    ok(run(&s, x, (char[]){"valid=10%,test=2.5%"}, 100000, docs, 1, &err) == 0 &&
           shard_set_commit(&s, &err) == 0,
       "in pieces of one id %s", err.what);
    shard_set_close(&s);
    for (int k = 0; k < 3; k++) {
        struct ids again = read_set(x, names[k], NULL, &n_files);
        ok(same(&again, &set[k]), "%s is the same", names[k]);
        ids_free(&again);
        ids_free(&set[k]);
    }
    clear(x);
}

/* The choice is by the format's hash: computed here from its definition. */
static void test_hash(const struct scratch *x)
{
    int n_wrong = 0;
    for (int i = 0; i < 64; i++) {
        const int32_t ids[2] = {1000 + i, ID_EOS};
        const struct ids doc = {(int32_t *)ids, 2, 2};
        uint8_t bytes[4];
        struct shard_set s;
        struct err err;
        set_u32(bytes, (uint32_t)ids[0]);
        const bool want = (double)XXH64(bytes, 4, 0) / 0x1p64 < 0.5;
        if (run(&s, x, (char[]){"half=50%"}, 10, &doc, 2, &err) != 0)
            abort();
        n_wrong += s.part[1].counts.n_tokens != (want ? 2 : 0);
        shard_set_close(&s);
    }
    ok(n_wrong == 0, "the share is the hash of the ids without </s>, over 2^64");
    ok(scratch_count(x) == 0, "a set that is not committed leaves nothing");
}

static void want_refusal(char *text, const char *what)
{
    struct shard_set_opts o = {.name = {"train"}};
    struct err err = {0};
    char copy[64];
    snprintf(copy, sizeof copy, "%s", text);
    ok(shard_set_splits(&o, text, &err) == -1 && strstr(err.what, what), "%s: %s", copy, err.what);
}

int main(void)
{
    const struct scratch x = scratch_open();
    struct ids docs = make_docs(), none = {0};
    struct shard_set s;
    struct err err = {0};
    test_cuts(&x, &docs);
    test_splits(&x, &docs);
    test_hash(&x);
    ok(run(&s, &x, NULL, 10, &none, 1, &err) == 0 && shard_set_commit(&s, &err) == -1,
       "no ids at all: %s", err.what);
    shard_set_close(&s);
    want_refusal((char[]){"valid"}, "no share");
    want_refusal((char[]){"valid=2"}, "no percentage");
    want_refusal((char[]){"valid=0%"}, "no percentage");
    want_refusal((char[]){"valid=nan%"}, "no percentage");
    want_refusal((char[]){"valid=101%"}, "no percentage");
    want_refusal((char[]){"a=60%,b=60%"}, "120%");
    want_refusal((char[]){"a=1%,a=1%"}, "two sets");
    want_refusal((char[]){"train=1%"}, "two sets");
    want_refusal((char[]){"a/b=1%"}, "name");
    want_refusal((char[]){"a=1%,"}, "no share");
    ids_free(&docs);
    ok(scratch_count(&x) == 0, "nothing is left behind");
    scratch_remove(&x);
    return tap_done();
}
