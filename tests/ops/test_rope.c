/* Tests of rope: against the reference, far positions, and the inverse as its transpose. */
#include "docs_test.h"

static void check_shape(struct dev *dev, int M, int n_heads, int P, int gap, int far)
{
    const int64_t cols = (int64_t)n_heads * P;
    double *x = t_random((size_t)(M * cols), 1, 1);
    int32_t *pos = keep_block(NULL, malloc(sizeof *pos * (size_t)M));
    for (int m = 0; m < M; m++)
        pos[m] = far + m % 7 * (1 + m);
    struct tensor t = t_tensor(dev, x, M, cols, cols + gap);
    const int32_t *dpos = t_upload(dev, pos, sizeof *pos * (size_t)M);
    double *turned = t_copy(x, (size_t)(M * cols));
    ref_rope(turned, pos, M, n_heads, P, 10000, false);
    dev->ops->rope(dev, &t, dpos, n_heads, 10000, false);
    ok_within(t_error(dev, &t, turned), tol(dev, 2e-7), "%s: M%d heads %d P%d from %d", dev->name,
              M, n_heads, P, far);
    dev->ops->rope(dev, &t, dpos, n_heads, 10000, true);
    ok_within(t_error(dev, &t, x), tol(dev, 3e-7), "%s: and back", dev->name);
}

static void check(struct dev *dev)
{
    check_shape(dev, 1, 1, 16, 0, 0);
    check_shape(dev, 37, 3, 64, 5, 0);
    check_shape(dev, 37, 3, 64, 8, 1 << 20);
    check_shape(dev, 9, 5, 16, 8, 0);
    check_shape(dev, 20, 2, 128, 0, 100000);
    check_shape(dev, 5, 4, 18, 1, 77);
}

/* The inverse is the transpose: x . R y = R^-1 x . y; and angles follow the definition. */
static void check_reference(void)
{
    enum { M = 6, HEADS = 2, P = 8, SIZE = M * HEADS * P };
    const int32_t pos[M] = {0, 1, 5, 2, 900, 31};
    double *x = t_random(SIZE, 1, 1), *y = t_random(SIZE, 1, 2);
    double *rx = t_copy(x, SIZE), *ry = t_copy(y, SIZE);
    ref_rope(ry, pos, M, HEADS, P, 100, false);
    ref_rope(rx, pos, M, HEADS, P, 100, true);
    ok(fabs(dot(x, ry, SIZE) - dot(rx, y, SIZE)) < 1e-12, "reference: inverse is the transpose");
    double one[4] = {1, 0, 0, 0};
    ref_rope(one, pos + 1, 1, 1, 4, 100, false);
    ok(fabs(one[0] - cos(1.0)) < 1e-15 && fabs(one[2] - sin(1.0)) < 1e-15,
       "reference: channel 0 turns towards channel P/2 by one radian a position");
    free_all();
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
