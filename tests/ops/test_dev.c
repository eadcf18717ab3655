/* The device itself: bytes there and back, work that is recorded and replayed, and what is said
 * when memory is out. */
#include "ops_test.h"

enum { BYTES = 300 << 10, COPIES = 40, KEYS = 150 };

/* Small and large ones, through more page-locked memory than there is, from bytes that change at
 * once. */
static void check_bytes(struct dev *dev)
{
    uint8_t *host = keep_block(NULL, malloc(BYTES)), *back = keep_block(NULL, malloc(BYTES));
    void *on_dev[COPIES];
    size_t size[COPIES];
    bool is_right = true;
    for (int i = 0; i < COPIES; i++) {
        size[i] = i % 13 == 12 ? BYTES : 1 + (size_t)i * 7919 % (200 << 10);
        memset(host, 100 + i, size[i]);
        on_dev[i] = t_upload(dev, host, size[i]);
        memset(host, 0, size[i]);
    }
    dev_copy(dev, on_dev[12], on_dev[25], BYTES);
    dev_zero(dev, on_dev[25], BYTES);
    for (int i = 0; i < COPIES; i++) {
        const int value = i == 12 ? 125 : i == 25 ? 0 : 100 + i;
        dev_download(dev, back, on_dev[i], size[i]);
        hash_bytes(back, size[i]);
        for (size_t k = 0; k < size[i]; k++)
            is_right = is_right && back[k] == value;
    }
    ok(is_right, "%s: uploads, copies and downloads", dev->name);
}

/* to = from, and the mark behind it 0. */
struct work {
    struct dev *dev;
    int32_t *from, *to;
    int n_calls;
};

static void copy_and_clear(void *arg)
{
    struct work *w = arg;
    w->n_calls++;
    dev_copy(w->dev, w->to, w->from, sizeof *w->to);
    dev_zero(w->dev, w->to + 1, sizeof *w->to);
}

/* Whether a run under the key moves the value. */
static bool moves(struct work *w, uint64_t key, int32_t value)
{
    const int32_t mark[2] = {-1, -1};
    int32_t got[2];
    dev_upload(w->dev, w->to, mark, sizeof mark);
    dev_upload(w->dev, w->from, &value, sizeof value);
    dev_run(w->dev, key, copy_and_clear, w);
    dev_download(w->dev, got, w->to, sizeof got);
    return got[0] == value && got[1] == 0;
}

static void check_run(struct dev *dev)
{
    const int32_t zeros[2] = {0};
    struct work w = {dev, t_upload(dev, zeros, sizeof zeros), t_upload(dev, zeros, sizeof zeros),
                     0};
    struct work other = {dev, t_upload(dev, zeros, sizeof zeros),
                         t_upload(dev, zeros, sizeof zeros), 0};
    bool is_right = true;
    for (int i = 0; i < 6; i++)
        is_right = moves(&w, 1, 10 + i) && moves(&other, 2, 20 + i) && is_right;
    ok(is_right && w.n_calls == (is_cuda(dev) ? 2 : 6), "%s: work is called twice, then replayed",
       dev->name);
    dev_forget(dev);
    is_right = true;
    for (int i = 0; i < 3; i++) /* key 1 is the other's now */
        is_right = moves(&other, 1, 30 + i) && is_right;
    ok(is_right, "%s: what was forgotten may be another's", dev->name);
    is_right = true;
    for (int round = 0; round < 2; round++)
        for (uint64_t key = 100; key < 100 + KEYS; key++)
            for (int i = 0; i < 3; i++)
                is_right = moves(key % 2 ? &w : &other, key, (int32_t)(key * 8) + i) && is_right;
    ok(is_right && moves(&w, 101, 7) && moves(&other, 102, 8), "%s: more keys than are kept",
       dev->name);
}

static void check_errors(struct dev *dev)
{
    struct err err = {0};
    void *p;
    if (!is_cuda(dev))
        return;
    ok(dev_alloc(dev, &p, (size_t)1 << 44, &err) != 0 && strstr(err.what, "16777216 MiB") &&
           !strchr(err.what, '\n') && err.mend[0],
       "%s: out of memory says how much was wanted: %s", dev->name, err.what);
    ok(dev_status(dev, &err) == 0, "%s: and breaks nothing", dev->name);
    ok(dev->total_bytes >= dev->free_bytes && dev->free_bytes > 0, "%s: its memory is known",
       dev->name);
}

/* The table of a GPU has no gaps. */
static void check_table(const struct dev *dev)
{
    void (*const *slot)(void) = (void (*const *)(void))dev->ops;
    size_t n_missing = 0;
    for (size_t i = 0; i < sizeof *dev->ops / sizeof *slot; i++)
        n_missing += !slot[i];
    ok(!is_cuda(dev) || n_missing == 0, "%s: %zu of the table's ops are missing", dev->name,
       n_missing);
}

static void check(struct dev *dev)
{
    check_table(dev);
    check_bytes(dev);
    check_run(dev);
    check_errors(dev);
}

int main(void)
{
    each_device(check);
    return tap_done();
}
