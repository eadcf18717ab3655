/* resume: a run that was stopped anywhere and went on ends with the same bytes as one that was not;
 * checkpoints that are damaged, or another run's, are refused. */
#include "train_test.h"

struct stopper {
    const struct train *r;
    int64_t at;
};

static bool is_stopped(void *arg)
{
    const struct stopper *s = arg;
    return s->at >= 0 && s->r->head.state.step >= s->at;
}

/* Runs in the folder until step `at` (-1: to the end), from its newest checkpoint where there is
 * one. Returns the step reached. */
static int64_t run_until(struct train_test *t, const struct train_head *head, const char *folder,
                         int64_t at)
{
    struct train r;
    struct run_dir dir;
    struct run_log log;
    enum train_end end;
    char path[256], csv[256];
    int64_t newest = -1;
    double elapsed;
    int rc = run_dir_open(&dir, folder, &t->err);
    rc = rc ? rc : run_dir_newest(&dir, &newest, &t->err);
    rc = rc ? rc : run_dir_file(&dir, "train.csv", csv, sizeof csv, &t->err);
    rc = rc ? rc : run_dir_ckpt(&dir, newest, path, sizeof path, &t->err);
    if (rc != 0)
        abort();
    test_begin(t, &r, head, newest >= 0 ? path : NULL);
    struct stopper stop = {&r, at};
    struct train_run run = {
        .t = &r, .dir = &dir, .log = &log, .hook = {.is_stopped = is_stopped, .arg = &stop}};
    rc = run_log_open(&log, csv, newest, &elapsed, &t->err);
    rc = rc ? rc : train_run(&run, &end, &t->err);
    rc = rc ? rc : run_log_close(&log, &t->err);
    if (rc != 0) {
        printf("# %s: %s\n", t->err.file, t->err.what);
        abort();
    }
    const int64_t step = r.head.state.step;
    train_close(&r);
    run_dir_close(&dir);
    return step;
}

static struct buf last_bytes(const char *folder, int64_t step)
{
    char path[300];
    snprintf(path, sizeof path, "%s/ckpt-%08lld.safetensors", folder, (long long)step);
    return file_bytes(path);
}

static bool is_same(const struct buf *a, const struct buf *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

/* The log's rows of steps and validations, times left out. */
static struct buf log_rows(const char *folder)
{
    char path[300];
    struct buf rows = {0};
    struct err err;
    snprintf(path, sizeof path, "%s/train.csv", folder);
    struct buf text = file_bytes(path);
    if (buf_put(&text, "", 1, &err) != 0)
        abort();
    char *rest;
    for (char *line = strtok_r((char *)text.data, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        int n = 0, commas = 0;
        for (; line[n] && commas < 8; n++)
            commas += line[n] == ',';
        if ((strncmp(line, "train,", 6) == 0 || strncmp(line, "valid,", 6) == 0) &&
            buf_printf(&rows, &err, "%.*s\n", n, line) != 0)
            abort();
    }
    buf_free(&text);
    return rows;
}

static void remove_folder(const char *folder)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        abort();
}

static struct train_head resume_head(const struct train_test *t)
{
    struct train_head h = t->head;
    h.opts.dropout = 0.1;
    h.opts.valid_every = 3;
    h.opts.valid_tokens = 100;
    h.opts.schedule = SCHEDULE_COSINE;
    h.opts.max_steps = 9;
    h.opts.moments = DT_BF16; /* rounded by numbers that the step keys */
    return h;
}

static void test_stops(struct train_test *t)
{
    const struct train_head h = resume_head(t);
    char whole[256], cut[256];
    snprintf(whole, sizeof whole, "%s", scratch_path(&t->scratch, "whole"));
    snprintf(cut, sizeof cut, "%s", scratch_path(&t->scratch, "cut"));
    ok(run_until(t, &h, whole, -1) == 9, "a run of 9 steps");
    struct buf want = last_bytes(whole, 9), want_log = log_rows(whole);
    static const int64_t stops[][4] = {{1, -1},       {3, -1}, {5, 6, -1},
                                       {2, 4, 8, -1}, {9, -1}, {0, 7, -1}};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        for (int k = 0; k == 0 || stops[i][k - 1] >= 0; k++)
            run_until(t, &h, cut, stops[i][k]);
        struct buf has = last_bytes(cut, 9), has_log = log_rows(cut);
        ok(is_same(&want, &has), "stopped at step %d and resumed: the same checkpoint",
           (int)stops[i][0]);
        ok(is_same(&want_log, &has_log), "and the same log");
        buf_free(&has);
        buf_free(&has_log);
        remove_folder(cut);
    }
    buf_free(&want);
    buf_free(&want_log);
    remove_folder(whole);
}

/* As after a kill: the log is ahead of the newest checkpoint. */
static void test_older(struct train_test *t)
{
    struct train_head h = resume_head(t);
    char whole[256], path[300];
    h.opts.save_every = 2;
    h.opts.keep = 5;
    snprintf(whole, sizeof whole, "%s", scratch_path(&t->scratch, "whole"));
    run_until(t, &h, whole, -1);
    struct buf want = last_bytes(whole, 9), want_log = log_rows(whole);
    for (int step = 6; step <= 9; step++) {
        snprintf(path, sizeof path, "%s/ckpt-%08d.safetensors", whole, step);
        unlink(path);
    }
    run_until(t, &h, whole, -1);
    struct buf has = last_bytes(whole, 9), has_log = log_rows(whole);
    ok(is_same(&want, &has), "from an older checkpoint: the same bytes");
    ok(is_same(&want_log, &has_log), "and a log without rows twice");
    buf_free(&want);
    buf_free(&has);
    buf_free(&want_log);
    buf_free(&has_log);
    remove_folder(whole);
}

/* Loads the first `size` bytes of a checkpoint, with some bits changed. */
static int load_changed(struct train_test *t, const struct train *r, const struct buf *bytes,
                        size_t size, size_t at, uint8_t mask)
{
    const char *path = scratch_path(&t->scratch, "changed");
    struct buf tok = {0};
    struct train_head h;
    FILE *f = fopen(path, "wb");
    bytes->data[at] ^= mask;
    if (!f || fwrite(bytes->data, 1, size, f) != size || fclose(f) != 0)
        abort();
    bytes->data[at] ^= mask;
    int rc = train_ckpt_head(&h, path, &t->err);
    rc = rc ? rc : train_ckpt_load(&r->model.params, &r->io, &tok, path, &t->err);
    buf_free(&tok);
    unlink(path);
    return rc;
}

static void test_damage(struct train_test *t)
{
    const struct train_head h = resume_head(t);
    char folder[256];
    struct train r;
    snprintf(folder, sizeof folder, "%s", scratch_path(&t->scratch, "whole"));
    run_until(t, &h, folder, 2);
    struct buf bytes = last_bytes(folder, 2);
    test_begin(t, &r, &h, NULL);
    ok(load_changed(t, &r, &bytes, bytes.size, 0, 0) == 0, "the file loads");
    int n_accepted = 0;
    for (int i = 0; i < 60; i++) {
        const size_t at = philox(9, 0, (uint64_t)i).v[0] % (i % 2 ? bytes.size : 12000);
        n_accepted += load_changed(t, &r, &bytes, bytes.size, at, (uint8_t)(1 << i % 8)) == 0;
    }
    ok(n_accepted == 0, "with any bit changed it does not (%d did)", n_accepted);
    n_accepted = 0;
    for (int i = 0; i < 20; i++)
        n_accepted +=
            load_changed(t, &r, &bytes, philox(9, 1, (uint64_t)i).v[0] % bytes.size, 0, 0) == 0;
    ok(n_accepted == 0, "nor cut short anywhere (%d did)", n_accepted);
    train_close(&r);
    buf_free(&bytes);
    remove_folder(folder);
}

static void test_other_data(struct train_test *t)
{
    const struct train_head h = resume_head(t);
    char folder[256], path[300], other[256];
    struct train r;
    struct train_head from;
    snprintf(folder, sizeof folder, "%s", scratch_path(&t->scratch, "whole"));
    snprintf(other, sizeof other, "%s", scratch_path(&t->scratch, "b.tok.zst"));
    run_until(t, &h, folder, 2);
    snprintf(path, sizeof path, "%s/ckpt-00000002.safetensors", folder);
    make_rows(other);
    const char *shards[] = {t->shard, other};
    const struct train_data d = {shards, shards, 2, 1}, same = {shards, shards, 1, 1};
    int rc = train_ckpt_head(&from, path, &t->err);
    rc = rc ? rc : train_open(&r, &from, &d, &t->tok, 77, &t->dev, &t->err);
    ok(rc == 0 && train_restore(&r, path, &t->err) == -1 && strstr(t->err.what, "other data"),
       "other shards are refused");
    train_close(&r);
    ok(train_open(&r, &from, &same, &t->tok, 78, &t->dev, &t->err) == -1 &&
           strstr(t->err.what, "tokenizer"),
       "so is another tokenizer");
    unlink(other);
    remove_folder(folder);
}

/* A length that follows from time is measured once. */
static void test_time(struct train_test *t)
{
    struct train_head h = t->head, saved;
    char folder[256], path[300];
    h.opts.max_steps = 0;
    h.opts.max_time = 0.6;
    h.opts.valid_every = 1000;
    snprintf(folder, sizeof folder, "%s", scratch_path(&t->scratch, "whole"));
    const int64_t total = run_until(t, &h, folder, -1);
    snprintf(path, sizeof path, "%s/ckpt-%08lld.safetensors", folder, (long long)total);
    ok(total > 1 && train_ckpt_head(&saved, path, &t->err) == 0 && saved.state.total == total,
       "a run by time has %d steps, and stores that", (int)total);
    ok(saved.state.warmup == 2, "a warm-up that was given stays");
    remove_folder(folder);
    const int64_t stop = run_until(t, &h, folder, 40);
    snprintf(path, sizeof path, "%s/ckpt-%08lld.safetensors", folder, (long long)stop);
    ok(train_ckpt_head(&saved, path, &t->err) == 0, "stopped at step %d", (int)stop);
    const int64_t fixed = saved.state.total;
    ok(fixed == 0 || run_until(t, &h, folder, -1) == fixed, "resumed, it keeps its length %d",
       (int)fixed);
    remove_folder(folder);
}

int main(void)
{
    struct train_test t = train_test_open();
    test_stops(&t);
    test_older(&t);
    test_damage(&t);
    test_other_data(&t);
    test_time(&t);
    train_test_close(&t);
    return tap_done();
}
