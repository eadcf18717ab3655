/* docs_test: rows of packed documents for the tests of ops that look at segment ids. */
#ifndef HM_DOCS_TEST_H
#define HM_DOCS_TEST_H

#include "ops_test.h"
#include "threads.h"

/* How the documents of a row lie; the second row of a batch is cut elsewhere. */
enum docs {
    DOCS_NONE,  /* seg is NULL */
    DOCS_WHOLE, /* one document of exactly T */
    DOCS_SHORT, /* of 1, 1, 2, 3, 5, 8 ... tokens */
    DOCS_MIXED, /* some long, some of 1 token; ids rise by more than 1 */
    DOCS_ONES   /* each of 1 token */
};

/* Segment ids (B,T) in host memory, freed by free_all; NULL for DOCS_NONE. */
__attribute__((unused)) static int32_t *docs_seg(enum docs docs, int B, int T)
{
    static const int mixed[] = {1, 29, 1, 1, 70, 7, 64, 1, 40};
    if (docs == DOCS_NONE)
        return NULL;
    int32_t *seg = keep_block(NULL, malloc(sizeof *seg * (size_t)(B * T + 1)));
    for (int b = 0; b < B; b++) {
        int id = 3 * b, left = docs == DOCS_WHOLE ? T : 1 + b, last = 1, i = b;
        for (int t = 0; t < T; t++, left--) {
            if (left == 0 && docs == DOCS_MIXED) {
                left = mixed[i++ % 9];
                id += 2;
            } else if (left == 0 && docs == DOCS_SHORT) {
                const int next = left + last + i++ % 3;
                left = last = next > 40 ? 1 : next;
                id++;
            } else if (left == 0) {
                left = 1;
                id++;
            }
            seg[b * T + t] = id;
        }
    }
    return seg;
}

/* A device copy, or NULL. */
__attribute__((unused)) static const int32_t *docs_upload(struct dev *dev, const int32_t *seg,
                                                          int B, int T)
{
    return seg ? t_upload(dev, seg, sizeof *seg * (size_t)(B * T)) : NULL;
}

/* The first position after the document that begins at t of row b. */
__attribute__((unused)) static int docs_end(const int32_t *seg, int b, int t, int T)
{
    int end = t + 1;
    while (end < T && (!seg || seg[b * T + end] == seg[b * T + t]))
        end++;
    return end;
}

/* Token t of each of R sequences that lie in t_all (R*T rows) one after the other, as R rows. */
__attribute__((unused)) static struct tensor t_token(const struct tensor *t_all, int t, int R,
                                                     int T)
{
    struct tensor rows = tensor_row_range(t_all, t, R);
    rows.ld *= T;
    return rows;
}

/* Whether bytes of device memory equal those that the same instruction set gave with another
 * number of threads; the devices come as each_device has them. which (0 to 3) tells results apart.
 */
__attribute__((unused)) static bool same_as_with_1_thread(struct dev *dev, int which, const void *p,
                                                          size_t bytes)
{
    static void *kept[4];
    void *now = malloc(bytes);
    dev_download(dev, now, p, bytes);
    hash_bytes(now, bytes);
    if (is_cuda(dev)) {
        free(now);
        return true;
    }
    if (pool_size(cpu_pool(dev)) == 1) {
        free(kept[which]);
        kept[which] = now;
        return true;
    }
    const bool is_same = memcmp(kept[which], now, bytes) == 0;
    free(now);
    free(kept[which]);
    kept[which] = NULL;
    return is_same;
}

#endif
