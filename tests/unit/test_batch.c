/* The loader. Every id of the test corpora but </s> is its own position + 4, so that each row can
 * be checked by arithmetic. Documents are empty, of exactly T ids, and of several rows. */
#include "batch.h"
#include "corpus.h"
#include "data_test.h"

#include <fcntl.h>

enum { T = 8, VOCAB = 60000 };

/* Lengths of documents, </s> included: empty, of one row, one more, one less, of several. */
static const int doc_len[] = {1, T, 1, 3 * T + 2, 1, 1, 5, T - 1, T + 1, 2, 4 * T, 10};
enum { N_DOCS = sizeof doc_len / sizeof *doc_len };

static int32_t text[4096]; /* the concatenation, without the virtual </s> */
static int n_text;

static void make_text(int times)
{
    n_text = 0;
    for (int d = 0; d < times * N_DOCS; d++)
        for (int i = 0; i < doc_len[d % N_DOCS]; i++, n_text++)
            text[n_text] = i + 1 == doc_len[d % N_DOCS] ? ID_EOS : 4 + n_text;
}

static struct stream_header header(int width)
{
    return (struct stream_header){.width = width,
                                  .vocab = VOCAB,
                                  .eos = ID_EOS,
                                  .sep = STREAM_LINE,
                                  .sep_bytes = "\n",
                                  .sep_len = 1,
                                  .tok_hash = 99};
}

/* Whether row `row` of `rows` is row r of the text, by the definition: target j is text[j], its
 * input the id before or <s>; a segment a document. r < 0: padding. */
static bool is_row(const struct rows *rows, int row, int64_t r)
{
    int seg = 0, pos = 0, n_bad = 0;
    for (int t = 0; t < T; t++, pos++) {
        const int64_t j = r * T + t;
        const size_t at = (size_t)row * T + (size_t)t;
        const bool is_in = r >= 0 && j < n_text;
        const bool is_start = is_in && (j == 0 || text[j - 1] == ID_EOS);
        if (t > 0 && (is_start || (!is_in && r >= 0 && j == n_text)))
            seg++, pos = 0;
        n_bad += rows->target[at] != (is_in ? text[j] : -1);
        n_bad += rows->ids[at] != (is_start ? ID_BOS : is_in ? text[j - 1] : ID_PAD);
        n_bad += rows->seg[at] != seg || rows->pos[at] != pos;
    }
    return n_bad == 0;
}

/* The row of the text that a row of a batch is, told by any of its targets; -1: padding. */
static int64_t which_row(const struct rows *rows, int row)
{
    for (int t = 0; t < T; t++) {
        const int32_t id = rows->target[(size_t)row * T + (size_t)t];
        if (id >= 4)
            return (id - 4) / T;
    }
    return -1;
}

static struct batch *open_batch(const char *const *paths, int n, struct batch_opts o,
                                struct corpus_info *info)
{
    struct batch *b;
    struct err err;
    if (batch_open(&b, paths, n, &o, info, &err) != 0) {
        printf("# %s: %s\n", err.file, err.what);
        abort();
    }
    return b;
}

/* Unshuffled passes over the paths, or over a stream when they are "-": every row in order, all of
 * each step's micro-batches, then the end. */
static void check_pass(const char *const *paths, int n_paths, int B, int accum, const char *name)
{
    struct corpus_info info;
    struct rows rows;
    struct err err;
    struct batch *b =
        open_batch(paths, n_paths, (struct batch_opts){B, T, accum, 0, 1, 7, false}, &info);
    const int n_rows = (n_text + T - 1) / T, n_steps = (n_rows + B * accum - 1) / (B * accum);
    int n_bad = 0, n_wrong = 0;
    int64_t n_targets = 0;
    for (int m = 0; m < n_steps * accum; m++) {
        if (m % accum == 0) {
            const int left = n_text - m * B * T, most = B * accum * T;
            n_wrong += batch_step_targets(b, &n_targets, &err) != 0;
            n_wrong += n_targets != (left < most ? left : most);
        } else if (m % accum == 1) {
            int64_t again = 0;
            n_wrong += batch_step_targets(b, &again, &err) != 0 || again != n_targets;
        }
        n_bad += batch_next(b, &rows, &err) != 1;
        for (int i = 0; i < B; i++)
            n_bad += !is_row(&rows, i, m * B + i < n_rows ? m * B + i : -1);
    }
    ok(n_bad == 0 && n_wrong == 0, "%s, B %d, %d micro-batches: %d rows in order", name, B, accum,
       n_rows);
    ok(batch_step_targets(b, &n_targets, &err) == 0 && n_targets == 0 &&
           batch_next(b, &rows, &err) == 0 && batch_next(b, &rows, &err) == 0,
       "then it is over, and stays so");
    if (strcmp(paths[0], "-") != 0) {
        ok(info.n_rows == n_rows && info.n_tokens == (uint64_t)n_text && info.vocab == VOCAB,
           "what it holds is told");
        ok(batch_seek(b, 0, 0, &err) == 0 && batch_next(b, &rows, &err) == 1 && is_row(&rows, 0, 0),
           "a second pass begins");
    }
    batch_close(b);
}

static void test_order(const char *path)
{
    check_pass(&path, 1, 1, 1, "a shard");
    check_pass(&path, 1, 3, 1, "a shard");
    check_pass(&path, 1, 2, 3, "a shard");
}

/* The same text in shards that are cut in the middle of documents and of rows. */
static void test_cuts(const struct scratch *x)
{
    const struct stream_header h = header(4);
    const char *paths[4];
    const char *const names[4] = {"c0", "c1", "c2", "c3"};
    const int end[4] = {1, 20, 20, n_text};
    struct shard_writer w = {0};
    struct out out;
    struct err err;
    int at = 0, rc = shard_writer_init(&w, &h, 3, &err);
    for (int i = 0; i < 4; i++) {
        paths[i] = scratch_path(x, names[i]);
        rc = rc ? rc : shard_put(&w, text + at, (size_t)(end[i] - at), &err);
        rc = rc ? rc : out_open(&out, paths[i], &err);
        rc = rc ? rc : shard_write(&w, &out, &err);
        rc = rc ? rc : out_commit(&out, &err);
        at = end[i];
    }
    shard_writer_free(&w);
    if (rc != 0)
        abort();
    check_pass(paths, 4, 2, 1, "four shards, one of them empty");
    for (int i = 0; i < 4; i++)
        unlink(paths[i]);
}

/* A set whose last document has no end, then another set: a virtual </s> between. */
static void test_two_sets(const struct scratch *x)
{
    const struct stream_header h = header(4);
    const char *const paths[2] = {scratch_path(x, "s0"), scratch_path(x, "s1")};
    const int32_t a[3] = {5, 6, 7}, b[2] = {8, ID_EOS};
    make_shard(paths[0], &h, a, 3);
    make_shard(paths[1], &h, b, 2);
    struct corpus_info info;
    struct rows rows;
    struct err err;
    struct batch *batch = open_batch(paths, 2, (struct batch_opts){1, T, 1, 0, 1, 7, false}, &info);
    static const int32_t target[T] = {5, 6, 7, ID_EOS, 8, ID_EOS, -1, -1};
    static const int32_t in[T] = {ID_BOS, 5, 6, 7, ID_BOS, 8, ID_PAD, ID_PAD};
    static const int32_t seg[T] = {0, 0, 0, 0, 1, 1, 2, 2}, pos[T] = {0, 1, 2, 3, 0, 1, 0, 1};
    ok(batch_next(batch, &rows, &err) == 1 && memcmp(rows.target, target, sizeof target) == 0 &&
           memcmp(rows.ids, in, sizeof in) == 0 && memcmp(rows.seg, seg, sizeof seg) == 0 &&
           memcmp(rows.pos, pos, sizeof pos) == 0,
       "an unterminated set and another: documents stay apart");
    batch_close(batch);
    unlink(paths[0]);
    unlink(paths[1]);
}

static void test_epochs(const char *path)
{
    struct corpus_info info;
    struct rows rows;
    struct err err;
    const int B = 4, n_epochs = 3;
    struct batch *b = open_batch(&path, 1, (struct batch_opts){B, T, 1, 0, 1, 7, true}, &info);
    const int n = (int)info.n_rows;
    int *seen = calloc((size_t)n * (size_t)n_epochs, sizeof *seen), n_bad = 0, n_moved = 0;
    int64_t *order = calloc((size_t)(n * n_epochs + B), sizeof *order);
    for (int g = 0; g < n * n_epochs; g += B) {
        n_bad += batch_next(b, &rows, &err) != 1;
        for (int i = 0; i < B && g + i < n * n_epochs; i++) {
            const int64_t r = which_row(&rows, i);
            n_bad += r < 0 || !is_row(&rows, i, r);
            if (r >= 0)
                seen[(g + i) / n * n + r]++;
            order[g + i] = r;
        }
    }
    ok(n_bad == 0, "shuffled rows are rows of the text");
    for (int i = 0; i < n * n_epochs; i++)
        n_bad += seen[i] != 1;
    ok(n_bad == 0 && n % B != 0, "%d rows, each once an epoch, steps running on over its end", n);
    for (int i = 0; i < n; i++)
        n_moved += (order[i] != i) + (order[i] != order[n + i]);
    ok(n_moved > n, "epochs differ from the order of the text and from each other");
    batch_close(b);
    free(seen);
    free(order);
}

/* The rows of n steps, in the order of their numbers, whatever the split into ranks. */
static void collect(const char *path, int B, int accum, int world, int n_steps, int64_t *order,
                    int64_t *targets)
{
    struct corpus_info info;
    struct rows rows;
    struct err err;
    for (int rank = 0; rank < world; rank++) {
        struct batch *b =
            open_batch(&path, 1, (struct batch_opts){B, T, accum, rank, world, 7, true}, &info);
        for (int m = 0; m < n_steps * accum; m++) {
            if (batch_step_targets(b, &targets[m / accum], &err) != 0 ||
                batch_next(b, &rows, &err) != 1)
                abort();
            for (int i = 0; i < B; i++)
                order[(m * world + rank) * B + i] = which_row(&rows, i);
        }
        batch_close(b);
    }
}

static void test_ranks(const char *path)
{
    enum { STEPS = 30, N = STEPS * 12 };
    static const int split[5][3] = {{12, 1, 1}, {4, 3, 1}, {3, 1, 4}, {2, 3, 2}, {1, 2, 6}};
    static int64_t want[N], got[N], targets[STEPS], want_targets[STEPS];
    const int last = (n_text + T - 1) / T - 1, short_by = (last + 1) * T - n_text;
    int n_bad = 0;
    collect(path, 12, 1, 1, STEPS, want, want_targets);
    for (int k = 0; k < STEPS; k++) {
        int64_t n = 12 * T;
        for (int i = 0; i < 12; i++)
            n -= want[k * 12 + i] == last ? short_by : 0;
        n_bad += n != want_targets[k];
    }
    ok(n_bad == 0 && short_by > 0, "targets of a step, the short row %d short", short_by);
    for (int i = 1; i < 5; i++) {
        collect(path, split[i][0], split[i][1], split[i][2], STEPS, got, targets);
        ok(memcmp(want, got, sizeof want) == 0 &&
               memcmp(targets, want_targets, sizeof targets) == 0,
           "the same order by %d rows, %d micro-batches, %d ranks", split[i][0], split[i][1],
           split[i][2]);
    }
}

static void test_seek(const char *path)
{
    enum { STEPS = 40 };
    struct corpus_info info;
    struct rows rows;
    struct err err;
    const struct batch_opts o = {3, T, 2, 0, 1, 11, true};
    struct batch *b = open_batch(&path, 1, o, &info), *other = open_batch(&path, 1, o, &info);
    static int32_t want[STEPS * 2][3 * T];
    int n_bad = 0;
    for (int m = 0; m < STEPS * 2; m++) {
        n_bad += batch_next(b, &rows, &err) != 1;
        memcpy(want[m], rows.target, sizeof want[m]);
    }
    for (int i = 0; i < 200; i++) {
        const int k = i * 37 % STEPS, n = i % 5;
        n_bad += batch_seek(other, k, batch_cursor(b), &err) != 0;
        for (int m = 2 * k; m < 2 * k + n && m < 2 * STEPS; m++)
            n_bad += batch_next(other, &rows, &err) != 1 ||
                     memcmp(want[m], rows.target, sizeof want[m]) != 0;
    }
    ok(n_bad == 0, "seeking to a step equals running to it");
    ok(batch_cursor(b) != 0 && batch_seek(b, 1, batch_cursor(b) + 1, &err) == -1,
       "other shards than before: %s", err.what);
    batch_close(b);
    batch_close(other);
}

/* Puts a stream on stdin. */
static void feed(const struct scratch *x, const struct buf *b, size_t n)
{
    const char *path = scratch_path(x, "stdin");
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b->data, n, 1, f) != 1 || fclose(f) != 0)
        abort();
    const int fd = open(path, O_RDONLY);
    if (fd < 0 || dup2(fd, 0) != 0)
        abort();
    close(fd);
    unlink(path);
}

static void test_stream(const struct scratch *x)
{
    const struct stream_header h = header(4);
    const char *dash = "-";
    struct buf b = make_stream(x, &h, text, (size_t)n_text, 100);
    feed(x, &b, b.size);
    check_pass(&dash, 1, 3, 1, "a stream");
    feed(x, &b, b.size);
    check_pass(&dash, 1, 2, 7, "a stream");

    struct corpus_info info;
    struct rows rows;
    struct err err;
    const struct batch_opts o = {2, T, 2, 0, 1, 7, true};
    feed(x, &b, b.size);
    struct batch *batch = open_batch(&dash, 1, o, &info);
    int n_bad = info.n_rows != -1;
    for (int m = 0; m < 2 * 3; m++)
        n_bad += batch_next(batch, &rows, &err) != 1;
    const uint64_t cursor = batch_cursor(batch);
    ok(batch_seek(batch, 1, 0, &err) == -1, "a stream does not go back: %s", err.what);
    batch_close(batch);
    feed(x, &b, b.size);
    batch = open_batch(&dash, 1, o, &info);
    n_bad += batch_seek(batch, 3, cursor, &err) != 0 || batch_next(batch, &rows, &err) != 1;
    ok(n_bad == 0 && is_row(&rows, 0, 12) && is_row(&rows, 1, 13), "a stream fed again goes on");
    batch_close(batch);
    text[5]++;
    struct buf changed = make_stream(x, &h, text, (size_t)n_text, 100);
    text[5]--;
    feed(x, &changed, changed.size);
    batch = open_batch(&dash, 1, o, &info);
    ok(batch_seek(batch, 3, cursor, &err) == -1, "another stream does not: %s", err.what);
    batch_close(batch);
    feed(x, &b, b.size);
    batch = open_batch(&dash, 1, o, &info);
    ok(batch_seek(batch, 1000, cursor, &err) == -1, "nor a shorter one: %s", err.what);
    batch_close(batch);
    feed(x, &b, b.size - 5);
    batch = open_batch(&dash, 1, o, &info);
    int status;
    while ((status = batch_next(batch, &rows, &err)) == 1)
        ;
    ok(status == -1 && strstr(err.what, "without an end record"), "a killed producer: %s",
       err.what);
    ok(batch_next(batch, &rows, &err) == -1, "which stays an error");
    batch_close(batch);
    buf_free(&b);
    buf_free(&changed);
}

/* Closing must not wait for a producer that is silent. */
static void test_silent_stream(const struct scratch *x)
{
    const struct stream_header h = header(4);
    const char *dash = "-";
    struct corpus_info info;
    struct buf b = make_stream(x, &h, text, (size_t)n_text, 100);
    int fd[2];
    if (pipe(fd) != 0 || write(fd[1], b.data, 88) != 88 || dup2(fd[0], 0) != 0)
        abort();
    struct batch *batch = open_batch(&dash, 1, (struct batch_opts){1, T, 1, 0, 1, 7, true}, &info);
    usleep(20000);
    alarm(10);
    batch_close(batch);
    alarm(0);
    ok(true, "a silent producer does not keep the loader from closing");
    close(fd[0]);
    close(fd[1]);
    buf_free(&b);
}

static void want_error(const char *const *paths, int n, const char *file, const char *what)
{
    const struct batch_opts o = {2, T, 2, 0, 1, 7, true};
    struct corpus_info info;
    struct batch *b;
    struct err err = {0};
    ok(batch_open(&b, paths, n, &o, &info, &err) == -1 && strstr(err.file, file) &&
           strstr(err.what, what),
       "%s: %s", err.file, err.what);
}

static void test_errors(const struct scratch *x, const char *good)
{
    struct stream_header h = header(4);
    const char *bad = scratch_path(x, "bad");
    const char *const pair[2] = {good, bad};
    const int32_t ids[2] = {9, 2};
    h.tok_hash = 100;
    make_shard(bad, &h, ids, 2);
    want_error(pair, 2, "bad", good);
    h.tok_hash = 99;
    h.eos = 9;
    make_shard(bad, &h, ids, 2);
    want_error(&bad, 1, "bad", "id 9");
    h.eos = 2;
    make_shard(bad, &h, ids, 0);
    want_error(&bad, 1, "bad", "no tokens");
    unlink(bad);
    want_error(&bad, 1, "bad", "cannot open");
    make_shard(bad, &h, text, (size_t)n_text);
    struct buf b = file_bytes(bad);
    const int fd = open(bad, O_WRONLY);
    b.data[get_u32(b.data + 4) + 8 + 20] ^= 1;
    if (pwrite(fd, b.data, b.size, 0) != (ssize_t)b.size)
        abort();
    close(fd);
    struct corpus_info info;
    struct rows rows;
    struct err err;
    struct batch *batch = open_batch(&bad, 1, (struct batch_opts){1, T, 1, 0, 1, 7, true}, &info);
    ok(batch_next(batch, &rows, &err) == -1 && strstr(err.file, "bad") && strstr(err.what, "frame"),
       "a damaged frame: %s: %s", err.file, err.what);
    batch_close(batch);
    buf_free(&b);
    unlink(bad);
}

/* More frames than the cache holds, of two widths. */
static void test_cache(const struct scratch *x)
{
    const struct stream_header narrow = header(2), wide = header(4);
    enum { N = 7 * SHARD_FRAME_IDS + 123 };
    const char *const paths[2] = {scratch_path(x, "w0"), scratch_path(x, "w1")};
    int32_t *ids = calloc(N, sizeof *ids), *got = calloc(N, sizeof *got);
    for (int i = 0; i < N; i++)
        ids[i] = 4 + i % (VOCAB - 4);
    make_shard(paths[0], &narrow, ids, N / 3);
    make_shard(paths[1], &wide, ids + N / 3, N - N / 3);
    struct corpus c;
    struct err err;
    int n_bad = corpus_open(&c, paths, 2, 0, &err) != 0;
    ok(n_bad == 0 && c.n_slots == 4 && c.n_ids == N + 2, "a cache of 4 frames for %d",
       (int)c.first[2]);
    uint64_t pos = 1;
    for (int i = 0; i < 400; i++) {
        pos = (pos * 2654435761u + 12345) % (N + 2);
        const size_t n = pos + 1000 < N + 2 ? 1000 : (size_t)(N + 2 - pos);
        n_bad += corpus_read(&c, pos, n, got, &err) != 0;
        for (size_t k = 0; k < n; k++) {
            const uint64_t at = pos + k, gap = N / 3 + 1;
            n_bad += got[k] != (at == 0 || at == gap ? ID_EOS : ids[at - (at < gap ? 1 : 2)]);
        }
    }
    ok(n_bad == 0, "runs of ids anywhere, over frames and shards");
    corpus_close(&c);
    unlink(paths[0]);
    unlink(paths[1]);
    free(ids);
    free(got);
}

static void test_fill_row(void)
{
    int32_t in[4], target[4], seg[4], pos[4];
    const int32_t ids[4] = {9, ID_EOS, ID_EOS, 8};
    batch_fill_row(ids, 4, 7, 4, in, target, seg, pos);
    ok(in[0] == 7 && in[1] == 9 && in[2] == ID_BOS && in[3] == ID_BOS &&
           memcmp(target, ids, sizeof ids) == 0,
       "a row that begins inside a document");
    ok(seg[0] == 0 && seg[1] == 0 && seg[2] == 1 && seg[3] == 2 && pos[0] == 0 && pos[1] == 1 &&
           pos[2] == 0 && pos[3] == 0,
       "its segments and positions");
    batch_fill_row(ids, 0, ID_EOS, 4, in, target, seg, pos);
    ok(in[0] == ID_PAD && in[3] == ID_PAD && target[0] == -1 && target[3] == -1 && seg[3] == 0 &&
           pos[3] == 3,
       "an empty row");
}

int main(void)
{
    const struct scratch x = scratch_open();
    const struct stream_header h = header(4);
    char path[256];
    snprintf(path, sizeof path, "%s", scratch_path(&x, "text.tok.zst"));
    make_text(3);
    make_shard(path, &h, text, (size_t)n_text);
    test_fill_row();
    test_order(path);
    test_cuts(&x);
    test_two_sets(&x);
    test_epochs(path);
    test_ranks(path);
    test_seek(path);
    test_stream(&x);
    test_silent_stream(&x);
    test_errors(&x, path);
    test_cache(&x);
    unlink(path);
    ok(scratch_count(&x) == 0, "nothing is left behind");
    scratch_remove(&x);
    return tap_done();
}
