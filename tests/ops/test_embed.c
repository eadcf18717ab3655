/* Embedding: rows by id from f32 and bf16 handles; its gradient with ids that come back. */
#include "ops_test.h"

/* Rows lie multiples of gap columns further apart than they are long. */
static void check_sizes(struct dev *dev, int M, int V, int D, enum dtype dtype, int gap)
{
    const size_t n_w = (size_t)(V * D), n_y = (size_t)(M * D);
    double *w = t_random_f32(n_w, 1, 1), *dy = t_random(n_y, 1, 2), *dw_ref = t_random(n_w, 1, 3);
    double *y_ref = t_zeros(n_y);
    const double *dw_0 = t_copy(dw_ref, n_w);
    int32_t *ids = (int32_t *)t_zeros((size_t)M);
    for (int m = 0; m < M; m++)
        ids[m] = (int32_t)(philox(1, 2, (uint64_t)m).v[0] % (uint32_t)V);
    struct tensor tw = t_f32(dev, w, V, D, 0);
    struct weight h = {.rows = V, .cols = D, .dtype = dtype, .data = tw.data};
    const size_t bytes = dev->ops->weight_bytes(dev, V, D, dtype);
    if (bytes)
        h.data = t_upload(dev, t_zeros(bytes), bytes);
    dev->ops->weight_fill(dev, &h, &tw);
    for (size_t i = 0; i < n_w; i++)
        w[i] = ref_cast(w[i], dtype);
    ref_embed_fwd(y_ref, ids, w, 1.5, M, D);
    ref_embed_bwd(dw_ref, ids, dy, 1.5, M, D);

    const struct sizes sizes = {.B = 1, .T = M, .D = D, .V = V, .dtype = dtype};
    reserve(dev, OP_EMBED, &sizes);
    const int32_t *dev_ids = t_upload(dev, ids, (size_t)M * sizeof *ids);
    struct tensor y = t_garbage(dev, M, D, D + 2 * gap), tdy = t_tensor(dev, dy, M, D, D + gap);
    struct tensor dw = t_f32(dev, dw_0, V, D, 0);
    dev->ops->embed_fwd(dev, &y, dev_ids, &h, 1.5F);
    dev->ops->embed_bwd(dev, &dw, dev_ids, &tdy, 1.5F);
    ok_within(t_error(dev, &y, y_ref), tol(dev, f32_tol(1)), "%s %s M %d V %d D %d: y", dev->name,
              dtype_name(dtype), M, V, D);
    ok_within(t_error(dev, &dw, dw_ref), tol(dev, f32_tol(M)),
              "%s M %d V %d D %d: dw +=", dev->name, M, V, D);
    ok(guard_ok(dev), "%s M %d V %d D %d: within the workspace", dev->name, M, V, D);
}

static void check(struct dev *dev)
{
    enum dtype types[2];
    const int n_types = product_types(dev, types);
    check_sizes(dev, 1, 1, 1, types[0], 1);
    for (int i = 0; i < n_types; i++)
        check_sizes(dev, 23, 7, 37, types[i], 1);
    check_sizes(dev, 300, 50, 80, types[0], 8);
    /* ids with about 64 tokens, some more, some less; with many; with nearly all of a long text */
    check_sizes(dev, 600, 9, 264, types[0], 8);
    check_sizes(dev, 1500, 3, 33, types[0], 1);
    check_sizes(dev, 70000, 2, 1, types[0], 1);
}

static void check_reference(void)
{
    /* y is linear in w: <r, E w> = <E^T r, w> */
    enum { M = 9, V = 4, D = 5 };
    const int32_t ids[M] = {0, 3, 3, 1, 0, 0, 2, 3, 1};
    double *w = t_random(V * D, 1, 1), *r = t_random(M * D, 1, 2), *y = t_zeros(M * D);
    double *dw = t_zeros(V * D);
    ref_embed_fwd(y, ids, w, 0.7, M, D);
    ref_embed_bwd(dw, ids, r, 0.7, M, D);
    const double a = dot(r, y, M * D), b = dot(dw, w, V * D);
    ok_within(fabs(a - b) / fabs(a), 1e-12, "reference: gradient is the transpose");
}

int main(void)
{
    check_reference();
    each_device(check);
    return tap_done();
}
