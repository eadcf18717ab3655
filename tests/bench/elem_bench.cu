/* elem_bench: times the kernels that memory bounds on a GPU, without the rest of the program.
 *
 *   nvcc -std=c++17 -O3 -arch=sm_90 -Ilib -Ikernels -o elem_bench \
 *        tests/bench/elem_bench.cu kernels/{embed,rmsnorm,gatenorm,conv1d,conv1d_bwd}.cu \
 *        kernels/{swiglu,rope,resid,cast,xent,gnorm,adamw}.cu lib/dtype.c
 *
 * Sizes are those of the `base` preset, bf16, 32768 rows in 32 sequences. A CSV line a kernel on
 * stdout: time of a call, the least bytes that it has to move a second, and their share of what a
 * plain copy on the device moves, which is the first line. Calls take their tensors by turns from
 * more memory than the L2 cache holds. */
#include "cuda_ops.cuh"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace
{
enum { B = 32, T = 1024, M = B * T, D = 512, E = 1024, C = 1280, PROJ = 2320, F = 2048, K = 4 };
enum { HEADS = 8, V = 32000, TURNS = 4, CALLS = 20 };
constexpr size_t TURN_BYTES = (size_t)1 << 30, WORK_BYTES = (size_t)64 << 20;

struct bench {
    struct cuda cuda;
    struct dev dev;
    char *pool, *next; /* TURNS turns of 16-bit random numbers; from where the next tensor comes */
    float *vectors, *dw;
    int32_t *ids, *same_ids, *seg, *pos;
    float *rstd;
    struct step_ctl *ctl;
    struct adamw_run *runs;
    double copy_gb_s;
};

void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "elem_bench: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

template <class S> S *take(size_t n)
{
    S *p = NULL;
    must(cudaMalloc((void **)&p, n * sizeof(S)), "cudaMalloc");
    must(cudaMemset(p, 0, n * sizeof(S)), "cudaMemset");
    return p;
}

/* bf16 numbers of either sign from 1/2 to 2. */
__global__ void k_fill(uint16_t *p, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t h = (uint32_t)i * 2654435761u;
        p[i] = (uint16_t)(0x3F00u | (h >> 16 & 0x80FFu));
    }
}

int32_t *upload(const std::vector<int32_t> &v)
{
    int32_t *p = take<int32_t>(v.size());
    must(cudaMemcpy(p, v.data(), v.size() * sizeof(int32_t), cudaMemcpyHostToDevice), "ids");
    return p;
}

void open_bench(struct bench *b)
{
    *b = {};
    must(cudaStreamCreate(&b->cuda.stream), "stream");
    b->cuda.arch = 90;
    b->dev.impl = &b->cuda;
    b->dev.act_dtype = DT_BF16;
    b->dev.work = take<char>(WORK_BYTES);
    b->dev.work_bytes = WORK_BYTES;
    b->pool = take<char>(TURNS * TURN_BYTES);
    k_fill<<<1024, 256>>>((uint16_t *)b->pool, TURNS * TURN_BYTES / 2);
    b->vectors = take<float>((size_t)C * 8);
    b->dw = take<float>((size_t)V * D);
    b->rstd = take<float>(M);
    b->ctl = take<struct step_ctl>(1);
    b->runs = take<struct adamw_run>(1);
    std::vector<int32_t> ids(M), same(M), seg(M), pos(M);
    for (int m = 0; m < M; m++) {
        const double u = ((uint32_t)m * 2654435761u >> 8) / 16777216.0;
        ids[m] = (int32_t)(V * u * u * u * u); /* frequent ids are low, as in text */
        same[m] = 7;
        seg[m] = m % T / 300;
        pos[m] = m % T;
    }
    b->ids = upload(ids);
    b->same_ids = upload(same);
    b->seg = upload(seg);
    b->pos = upload(pos);
}

/* The next tensor of the turn, or the columns of a wider one. */
struct tensor act(struct bench *b, int64_t cols, int64_t ld = 0, enum dtype dtype = DT_BF16)
{
    struct tensor t = tensor_of(b->next, dtype, 2, M, cols, 0, 0);
    t.ld = ld ? ld : cols;
    b->next += (size_t)M * (size_t)t.ld * dtype_size(dtype);
    return t;
}
struct tensor vec(float *p, int64_t n)
{
    return tensor_of(p, DT_F32, 1, n, 0, 0, 0);
}

/* bytes: the least that a call moves. */
template <class F> void time_op(struct bench *b, const char *name, double bytes, F op)
{
    cudaEvent_t begin, end;
    must(cudaEventCreate(&begin), "event");
    must(cudaEventCreate(&end), "event");
    for (int i = -3; i < CALLS; i++) {
        if (i == 0)
            must(cudaEventRecord(begin, b->cuda.stream), "event");
        b->next = b->pool + (size_t)((i + 4) % TURNS) * TURN_BYTES;
        op();
    }
    float ms = 0;
    must(cudaEventRecord(end, b->cuda.stream), "event");
    must(cudaEventSynchronize(end), name);
    must(cudaEventElapsedTime(&ms, begin, end), "event");
    must(b->cuda.failed, name);
    const double s = (double)ms / 1000 / CALLS, gb_s = bytes / s / 1e9;
    if (b->copy_gb_s == 0)
        b->copy_gb_s = gb_s;
    printf("%s,%.1f,%.0f,%.2f\n", name, s * 1e6, gb_s, gb_s / b->copy_gb_s);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

void time_norms(struct bench *b)
{
    const struct tensor wd = vec(b->vectors, D), we = vec(b->vectors, E);
    struct tensor dw = vec(b->dw, E);
    struct dev *dev = &b->dev;
    time_op(b, "rmsnorm_fwd", 2.0 * 2 * M * D, [=] {
        struct tensor y = act(b, D), x = act(b, D);
        cuda_rmsnorm_fwd(dev, &y, b->rstd, &x, &wd, 1e-5f);
    });
    time_op(b, "rmsnorm_bwd", 4.0 * 2 * M * D, [=] {
        struct tensor dx = act(b, D), dy = act(b, D), x = act(b, D), to = dw;
        to.dim[0] = to.ld = D;
        cuda_rmsnorm_bwd(dev, &dx, &to, &dy, &x, b->rstd, &wd);
    });
    time_op(b, "gatenorm_fwd", 3.0 * 2 * M * E, [=] {
        struct tensor out = act(b, E), y = act(b, E), z = act(b, E, PROJ);
        cuda_gatenorm_fwd(dev, &out, b->rstd, &y, &z, &we, 1e-5f);
    });
    time_op(b, "gatenorm_bwd", 5.0 * 2 * M * E, [=] {
        struct tensor dy = act(b, E), dz = act(b, E, PROJ), dout = act(b, E), y = act(b, E);
        struct tensor z = act(b, E, PROJ), to = dw;
        cuda_gatenorm_bwd(dev, &dy, &dz, &to, &dout, &y, &z, b->rstd, &we);
    });
}

void time_conv(struct bench *b, const int32_t *seg, const char *fwd, const char *bwd)
{
    const struct tensor w = tensor_of(b->vectors, DT_F32, 2, C, K, 0, 0);
    const struct tensor bias = vec(b->vectors, C);
    struct dev *dev = &b->dev;
    time_op(b, fwd, 2.0 * 2 * M * C, [=] {
        struct tensor y = act(b, C), x = act(b, C, PROJ);
        cuda_conv1d_fwd(dev, &y, &x, &w, &bias, seg, B, T);
    });
    time_op(b, bwd, 3.0 * 2 * M * C, [=] {
        struct tensor dx = act(b, C, PROJ), dy = act(b, C), x = act(b, C, PROJ);
        struct tensor dw = tensor_of(b->dw, DT_F32, 2, C, K, 0, 0), dbias = vec(b->dw + C * K, C);
        cuda_conv1d_bwd(dev, &dx, &dw, &dbias, &dy, &x, &w, &bias, seg, B, T);
    });
}

void time_elements(struct bench *b)
{
    struct dev *dev = &b->dev;
    const struct drop drop = {0.1f, 5};
    time_op(b, "swiglu_fwd", 3.0 * 2 * M * F, [=] {
        struct tensor y = act(b, F), u = act(b, 2 * F);
        cuda_swiglu_fwd(dev, &y, &u);
    });
    time_op(b, "swiglu_bwd", 5.0 * 2 * M * F, [=] {
        struct tensor du = act(b, 2 * F), dy = act(b, F), u = act(b, 2 * F);
        cuda_swiglu_bwd(dev, &du, NULL, &dy, &u);
    });
    time_op(b, "rope", 2.0 * 2 * M * D, [=] {
        struct tensor x = act(b, D);
        cuda_rope(dev, &x, b->pos, HEADS, 10000, false);
    });
    time_op(b, "resid_fwd", 3.0 * 2 * M * D, [=] {
        struct tensor y = act(b, D), x = act(b, D), branch = act(b, D);
        cuda_resid_fwd(dev, &y, &x, &branch, 0.5f, NULL, b->ctl);
    });
    time_op(b, "resid_fwd dropout", 3.0 * 2 * M * D, [=] {
        struct tensor y = act(b, D), x = act(b, D), branch = act(b, D);
        cuda_resid_fwd(dev, &y, &x, &branch, 0.5f, &drop, b->ctl);
    });
    time_op(b, "resid_bwd dropout", 2.0 * 2 * M * D, [=] {
        struct tensor dbranch = act(b, D), dy = act(b, D);
        cuda_resid_bwd(dev, &dbranch, &dy, 0.5f, &drop, b->ctl);
    });
    time_op(b, "cast f32 to bf16", 6.0 * M * E, [=] {
        struct tensor y = act(b, E), x = act(b, E, 0, DT_F32);
        cuda_cast(dev, &y, &x);
    });
}

void time_embed(struct bench *b)
{
    struct dev *dev = &b->dev;
    struct tensor dw = tensor_of(b->dw, DT_F32, 2, V, D, 0, 0);
    time_op(b, "embed_fwd", 2.0 * 2 * M * D, [=] {
        struct tensor y = act(b, D);
        const struct weight w = {V, D, DT_BF16, 0, b->next};
        cuda_embed_fwd(dev, &y, b->ids, &w, 1);
    });
    /* the rows of dw that are touched are not counted */
    time_op(b, "embed_bwd", 2.0 * M * D, [=] {
        struct tensor dy = act(b, D), to = dw;
        cuda_embed_bwd(dev, &to, b->ids, &dy, 1);
    });
    time_op(b, "embed_bwd one id", 2.0 * M * D, [=] {
        struct tensor dy = act(b, D), to = dw;
        cuda_embed_bwd(dev, &to, b->same_ids, &dy, 1);
    });
}
/* Logits of `rows` tokens, and the optimizer over as many parameters as the embedding has. */
void time_ends(struct bench *b)
{
    struct dev *dev = &b->dev;
    const size_t n = (size_t)V * D;
    for (int rows = 2048; rows <= 8192; rows *= 4)
        time_op(b, rows == 2048 ? "xent 2048 rows" : "xent 8192 rows", 2.0 * 2 * rows * V, [=] {
            struct tensor logits = act(b, V, 0, DT_BF16);
            logits.dim[0] = rows;
            cuda_xent(dev, NULL, &logits, b->pos, 1, b->ctl);
        });
    time_op(b, "gnorm", 4.0 * n, [=] { cuda_gnorm(dev, b->ctl, b->dw, n); });
    time_op(b, "adamw", 28.0 * n, [=] {
        float *p = (float *)b->next;
        struct tensor m = vec(p + n, n), v = vec(p + 2 * n, n);
        const struct adamw_runs runs = {b->runs, 1, 0};
        cuda_adamw(dev, p, &m, &v, b->dw, n, &runs, b->ctl);
    });
}
} // namespace

int main()
{
    static struct bench b;
    open_bench(&b);
    printf("kernel,time_us,gb_s,of_copy\n");
    time_op(&b, "copy", 2.0 * 2 * M * E, [&] {
        const struct tensor to = act(&b, E), from = act(&b, E);
        must(cudaMemcpyAsync(to.data, from.data, tensor_bytes(&to), cudaMemcpyDeviceToDevice,
                             b.cuda.stream),
             "copy");
    });
    time_norms(&b);
    time_conv(&b, NULL, "conv1d_fwd", "conv1d_bwd");
    time_conv(&b, b.seg, "conv1d_fwd documents", "conv1d_bwd documents");
    time_elements(&b);
    time_embed(&b);
    time_ends(&b);
    return 0;
}
