/* Tests of cast: every pair of types, rounded as the reference says, with gaps between the rows. */
#include "ops_test.h"

enum { ROWS = 5, COLS = 37, N = ROWS * COLS };

static const enum dtype types[] = {DT_F32, DT_BF16, DT_F16};
static const int64_t lds[] = {COLS, 40, 43};

/* A tensor of any type, the values rounded to it; in the gaps 3. */
static struct tensor typed(struct dev *dev, const double *x, enum dtype dtype, int64_t ld)
{
    char bytes[ROWS * 64 * sizeof(float)] = {0};
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < ld; c++)
            encode(bytes, (size_t)(r * ld + c), c < COLS ? (float)x[r * COLS + c] : 3, dtype);
    struct tensor t = tensor_of(NULL, dtype, 2, ROWS, COLS, 0, 0);
    t.ld = ld;
    t.data = t_upload(dev, bytes, (size_t)(ROWS * ld) * dtype_size(dtype));
    return t;
}

/* Where y differs from x rounded to x's type and then y's, or a gap was written to; -1: nowhere. */
static int first_wrong(struct dev *dev, const struct tensor *y, const double *x, enum dtype from)
{
    char bytes[ROWS * 64 * sizeof(float)];
    dev_download(dev, bytes, y->data, (size_t)(ROWS * y->ld) * dtype_size(y->dtype));
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < y->ld; c++) {
            const double got = (double)decode(bytes, (size_t)(r * y->ld + c), y->dtype);
            const double want =
                c < COLS ? ref_cast(ref_cast(x[r * COLS + c], from), y->dtype) : 3.0;
            if (!(got == want || (isnan(got) && isnan(want))))
                return (int)(r * y->ld + c);
        }
    return -1;
}

static void check(struct dev *dev)
{
    double *x = t_random(N, 1, 1), *other = t_random(N, 1, 2);
    const double hard[] = {0,          -0.0,        INFINITY,    -INFINITY,  NAN,
                           65519,      65520,       -1e30,       0x1p-24,    0x1p-25,
                           0x1.8p-25,  0x1p-14,     0x1.8p-15,   1 + 0x1p-8, 1e-40,
                           1 + 0x3p-9, 1 + 0x1p-11, 1 + 0x3p-11, 3e38,       0x1.ffp127};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++)
        x[i] = (double)(float)hard[i];
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            for (int i = 0; i < 3; i++) {
                const struct tensor tx = typed(dev, x, types[from], lds[i]);
                struct tensor ty = typed(dev, other, types[to], lds[(i + to) % 3]);
                dev->ops->cast(dev, &ty, &tx);
                ok(first_wrong(dev, &ty, x, types[from]) < 0, "%s: %s to %s, rows %d to %d apart",
                   dev->name, dtype_name(types[from]), dtype_name(types[to]), (int)tx.ld,
                   (int)ty.ld);
            }
}

int main(void)
{
    each_device(check);
    return tap_done();
}
