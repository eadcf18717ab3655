/* run: the run folder, the log and its cut, options and counters as JSON. */
#include "run_dir.h"
#include "run_log.h"
#include "tap.h"
#include "train_ckpt.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[128];

static const char *in_folder(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void touch(const char *name)
{
    FILE *f = fopen(in_folder(name), "w");
    if (f)
        fclose(f);
}

static bool is_there(const char *name)
{
    return access(in_folder(name), F_OK) == 0;
}

static void test_dir(void)
{
    struct run_dir r, second;
    struct err err = {0};
    int64_t step = 7;
    touch("ckpt-00000100.safetensors.tmp-AbCdEf");
    touch("ckpt-5.safetensors");
    touch("notes.tmp-AbCdEf");
    ok(run_dir_open(&r, folder, &err) == 0, "a folder opens");
    ok(!is_there("ckpt-00000100.safetensors.tmp-AbCdEf") && is_there("notes.tmp-AbCdEf"),
       "our left-over temporary files are swept, others stay");
    ok(run_dir_open(&second, folder, &err) == -1 && strstr(err.what, "another training"),
       "a second run in the folder is refused");
    ok(run_dir_newest(&r, &step, &err) == 0 && step == -1, "no checkpoint yet");
    const char *const names[] = {"ckpt-00000002.safetensors", "ckpt-00000010.safetensors",
                                 "ckpt-00000030.safetensors", "ckpt-123456789.safetensors"};
    for (int i = 0; i < 4; i++)
        touch(names[i]);
    ok(run_dir_newest(&r, &step, &err) == 0 && step == 123456789, "the newest by number");
    ok(run_dir_prune(&r, 1, 2, &err) == 0 && is_there(names[0]) && !is_there(names[1]) &&
           !is_there(names[2]) && is_there(names[3]) && is_there("ckpt-5.safetensors"),
       "pruning keeps the newest and the best, and files that are none of ours");
    run_dir_close(&r);
    ok(run_dir_open(&second, folder, &err) == 0, "the lock ends with the run");
    run_dir_close(&second);
    ok(run_dir_open(&r, in_folder("notes.tmp-AbCdEf"), &err) == -1, "a file is no folder");
}

static void test_put(void)
{
    struct run_dir r;
    struct err err = {0};
    struct buf a = {0}, b = {0};
    if (run_dir_open(&r, folder, &err) != 0 || buf_printf(&a, &err, "one") != 0 ||
        buf_printf(&b, &err, "two") != 0)
        ok(false, "set up");
    ok(run_dir_put(&r, "tok.model", &a, false, &err) == 0, "a new file is put");
    struct stat before, after;
    stat(in_folder("tok.model"), &before);
    ok(run_dir_put(&r, "tok.model", &a, false, &err) == 0, "the same bytes again are fine");
    stat(in_folder("tok.model"), &after);
    ok(before.st_ino == after.st_ino, "and are not written again");
    ok(run_dir_put(&r, "tok.model", &b, false, &err) == -1, "other bytes are refused");
    ok(run_dir_put(&r, "tok.model", &b, true, &err) == 0, "or replaced where that is allowed");
    run_dir_close(&r);
    buf_free(&a);
    buf_free(&b);
}

static void test_cut(void)
{
    static const char log[] = "event,step,tokens\n"
                              "run,0,0,,,,,0,,0.5,\"a,b\"\n"
                              "train,9,1,1,,1,1,0,5,1.5,\n"
                              "train,10,1,1,,1,1,0,5,2.5,\n"
                              "valid,10,1,1,2,,,0,,,\n"
                              "train,11,1,1,,1,1,0,5,3.5,\n"
                              "trai";
    const size_t n = sizeof log - 1;
    double elapsed;
    ok(run_log_cut(log, n, 10, &elapsed) == (size_t)(strstr(log, "train,11") - log) &&
           elapsed == 2.5,
       "rows after the step go, the last time is found");
    ok(run_log_cut(log, n, 99, &elapsed) == n - 4 && elapsed == 3.5, "half a line goes always");
    ok(run_log_cut(log, 10, 99, &elapsed) == 0, "a log without a whole header is begun anew");
    ok(run_log_cut(log, n, 0, &elapsed) == (size_t)(strstr(log, "train,9") - log) && elapsed == 0.5,
       "the run's own row stays");
}

static long size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (long)st.st_size : -1;
}

static void test_log(void)
{
    struct run_log l;
    struct err err = {0};
    double elapsed;
    const char *path = in_folder("train.csv");
    struct run_row row = {.event = "train",
                          .step = 1,
                          .tokens = 5,
                          .loss = 2.5,
                          .bits_per_byte = NAN,
                          .lr = 0.001,
                          .gnorm = 1,
                          .tok_s = 100,
                          .elapsed_s = 1,
                          .note = "say \"x\""};
    ok(run_log_open(&l, path, -1, &elapsed, &err) == 0, "a new log opens");
    bool is_good = run_log_row(&l, &row, &err) == 0;
    const long one = size_of(path);
    row.step = 2;
    row.note = NULL;
    is_good = is_good && run_log_row(&l, &row, &err) == 0 && run_log_close(&l, &err) == 0;
    ok(is_good && size_of(path) > one, "rows are written at once");
    ok(run_log_open(&l, path, 1, &elapsed, &err) == 0 && size_of(path) == one && elapsed == 1,
       "opening again at step 1 cuts the row of step 2");
    ok(run_log_close(&l, &err) == 0, "closes");
    struct buf text = {0};
    ok(io_read_file(path, &text, 4096, &err) == 0 && buf_put(&text, "", 1, &err) == 0 &&
           strstr((char *)text.data, "\ntrain,1,5,2.5,,0.001,1,0,100,1,\"say \"\"x\"\"\"\n") !=
               NULL,
       "a row is CSV, with quotes doubled and empty cells");
    buf_free(&text);
    ok(run_log_open(&l, "/dev/full", -1, &elapsed, &err) == -1 && strstr(err.what, "No space"),
       "a full disk is an error");
    ok(run_log_open(&l, in_folder("no/such.csv"), -1, &elapsed, &err) == -1, "so is no folder");
}

static void test_opts(void)
{
    struct train_opts o, back;
    struct err err = {0};
    struct buf text = {0};
    train_opts_default(&o);
    o.lr = 0.1 + 0.2; /* no short decimal */
    o.seed = INT64_C(9007199254740991);
    o.schedule = SCHEDULE_COSINE;
    o.min_lr = 1e-300;
    ok(train_opts_print(&o, &text, &err) == 0 &&
           train_opts_parse(&back, (char *)text.data, text.size, &err) == 0,
       "options go through JSON");
    bool is_same = true;
    for (const struct train_field *f = train_fields(); f->name; f++)
        is_same = is_same && train_field_equal(f, &o, &back);
    ok(is_same, "and come back to the bit");
    ok(train_opts_parse(&back, (char *)text.data, text.size - 1, &err) == -1,
       "cut JSON is refused");
    ok(train_opts_parse(&back, "{}", 2, &err) == -1 && strstr(err.what, "seed"),
       "a missing field is named");
    o.lr = NAN;
    ok(train_opts_check(&o, &err) == -1 && strstr(err.what, "--lr"), "NaN is out of bounds");
    o.lr = 1e-3;
    o.min_lr = 1;
    ok(train_opts_check(&o, &err) == -1, "min-lr above lr is refused");
    buf_free(&text);
}

static void test_total(void)
{
    struct train_opts o;
    struct config c = {.max_positions = 10};
    train_opts_default(&o);
    o.batch = 3;
    o.accum = 2;
    ok(train_step_tokens(&o, &c) == 60, "tokens of a step");
    ok(train_total(&o, &c, 100) == 0, "no limit");
    o.max_tokens = 121;
    ok(train_total(&o, &c, 100) == 3, "tokens round up to steps");
    o.max_steps = 2;
    ok(train_total(&o, &c, 100) == 2, "the least limit counts");
    o.max_steps = o.max_tokens = 0;
    o.epochs = 1.5;
    ok(train_total(&o, &c, 100) == 25 && train_total(&o, &c, -1) == 0,
       "epochs of shards; none of a stream");
    ok(train_warmup(&o, 0) == 100 && train_warmup(&o, 50) == 5 && train_warmup(&o, 5000) == 100,
       "warm-up is 100 steps, or a tenth");
    o.warmup = 0;
    ok(train_warmup(&o, 5000) == 0, "or what was said");
}

static void test_meta(void)
{
    struct train_head h = {0}, back = {0};
    struct err err = {0};
    struct buf text = {0};
    train_opts_default(&h.opts);
    h.state = (struct train_state){.step = 7,
                                   .total = 9,
                                   .warmup = 3,
                                   .tokens = 1000,
                                   .cursor = UINT64_C(0xFEDCBA9876543210),
                                   .world = 1,
                                   .tok_hash = 5,
                                   .best_loss = 1.0 / 3,
                                   .best_step = 6,
                                   .valid_step = 6,
                                   .skipped = 2,
                                   .skipped_in_row = 1,
                                   .applied = 5,
                                   .loss_mean = M_PI,
                                   .gnorm_var = 1e-30};
    ok(train_meta_print(&h, &text, &err) == 0 &&
           train_meta_parse(&back, (char *)text.data, text.size, &err) == 0,
       "counters go through JSON");
    ok(memcmp(&h.state, &back.state, sizeof h.state) == 0, "and come back to the bit");
    static const char *const lies[][2] = {
        {"\"step\":7", "\"step\":8"},    {"\"step\":7", "\"step\":-7"},
        {"\"world\":1", "\"world\":2"},  {"\"version\":1", "\"version\":9"},
        {"\"step\":7", "\"step\":\"\""}, {"fedcba98", "fedcba9g"},
        {"\"batch\":8", "\"batch\":0"}};
    if (buf_put(&text, "", 1, &err) != 0)
        ok(false, "memory");
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char *lie = strdup((char *)text.data), *at = strstr(lie, lies[i][0]);
        char changed[4096] = "";
        if (at)
            snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - lie), lie, lies[i][1],
                     at + strlen(lies[i][0]));
        ok(at && train_meta_parse(&back, changed, strlen(changed), &err) == -1, "refused: %s",
           lies[i][1]);
        free(lie);
    }
    buf_free(&text);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/hm-run-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return 1;
    test_dir();
    test_put();
    test_cut();
    test_log();
    test_opts();
    test_total();
    test_meta();
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0)
        return 1;
    return tap_done();
}
