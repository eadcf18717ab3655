/* cast: rows copied into other strides and another type. Activations here are f32; narrow types
 * come in where a state moves between devices. */
#include "cpu_ops.h"
#include "local.h"

struct cast_job {
    const struct tensor *y, *x;
};

static float get(const struct tensor *t, int64_t i)
{
    const uint16_t *half = t->data;
    if (t->dtype == DT_F32)
        return ((const float *)t->data)[i];
    return t->dtype == DT_BF16 ? bf16_to_f32(half[i]) : f16_to_f32(half[i]);
}

static void put(const struct tensor *t, int64_t i, float value)
{
    uint16_t *half = t->data;
    if (t->dtype == DT_F32)
        ((float *)t->data)[i] = value;
    else
        half[i] = t->dtype == DT_BF16 ? bf16_from_f32(value) : f16_from_f32(value);
}

static void cast_worker(void *arg, int worker, int n_workers)
{
    const struct cast_job *job = arg;
    const struct tensor *y = job->y, *x = job->x;
    const int64_t cols = tensor_cols(x);
    const size_t size = dtype_size(x->dtype);
    size_t begin, end;
    pool_share((size_t)tensor_rows(x), 1, worker, n_workers, &begin, &end);
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        const int64_t to = r * y->ld, from = r * x->ld;
        if (y->dtype == x->dtype)
            memcpy((char *)y->data + (size_t)to * size, (const char *)x->data + (size_t)from * size,
                   (size_t)cols * size);
        else
            for (int64_t i = 0; i < cols; i++)
                put(y, to + i, get(x, from + i));
    }
}

void cpu_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
    struct cast_job job = {y, x};
    run_sized(dev, (int64_t)tensor_count(x), cast_worker, &job);
}
