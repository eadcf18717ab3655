/* cast: rows copied into other strides and another type. Activations here are f32; narrow types
 * come in where a state moves between devices. */
#include "cpu_ops.h"
#include "local.h"

struct cast_job {
    const struct tensor *y, *x;
};

static void cast_worker(void *arg, int worker, int n_workers)
{
    const struct cast_job *job = arg;
    const struct tensor *y = job->y, *x = job->x;
    const size_t cols = (size_t)tensor_cols(x);
    size_t begin, end;
    pool_share((size_t)tensor_rows(x), 1, worker, n_workers, &begin, &end);
    for (size_t r = begin; r < end; r++)
        dtype_convert((char *)y->data + r * (size_t)y->ld * dtype_size(y->dtype), y->dtype,
                      (const char *)x->data + r * (size_t)x->ld * dtype_size(x->dtype), x->dtype,
                      cols);
}

void cpu_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
    struct cast_job job = {y, x};
    run_sized(dev, (int64_t)tensor_count(x), cast_worker, &job);
}
