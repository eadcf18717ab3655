/* backend: opens a GPU as struct dev, and the table of ops. The library that this folder becomes
 * shows hm_cuda_open alone. */
#include "cuda_ops.cuh"
#include "gemm.cuh"
#include "graph.cuh"
#include "ssd.cuh"
#include "stage.cuh"
#include "step_plan.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>

enum { READ_T = 8192, OLDEST_ARCH = 75, BF16_ARCH = 80 };

/* Rows of logits at once: a large GPU needs more of them to be busy, and has the memory. */
enum { HEAD_ROWS = 2048, HEAD_ROWS_LARGE = 4096, LARGE_SM = 64 };

/* What a plan without a GPU is made for: RTX 4060. */
enum { PLAN_ARCH = 89, PLAN_SM = 24, PLAN_SMEM = 99 << 10 };

static const double MIB = 1024.0 * 1024.0;

/* Asked for at the start: whether there is code for this GPU at all. */
__global__ void k_probe()
{
}

/* --- memory and order --- */

static int no_memory(size_t bytes, struct err *err)
{
    size_t n_free = 0, total = 0;
    cudaGetLastError(); /* it is told here, and nothing is broken */
    if (cudaMemGetInfo(&n_free, &total) != cudaSuccess)
        n_free = total = 0;
    return err_set(err, NULL,
                   "use a smaller batch or context, recompute more, or end what else uses the GPU",
                   "the GPU has no %.0f MiB left: %.0f of its %.0f MiB are free",
                   (double)bytes / MIB, (double)n_free / MIB, (double)total / MIB);
}

static int cuda_status(struct dev *dev, struct err *err)
{
    const struct cuda *c = cuda_of(dev);
    cuda_note(dev, cudaPeekAtLastError(), "a kernel");
    if (c->failed == cudaSuccess)
        return 0;
    return err_set(err, NULL, NULL, "%s: %s: %s", dev->name, c->failed_at,
                   cudaGetErrorString(c->failed));
}

static int cuda_alloc(struct dev *dev, void **p, size_t bytes, struct err *err)
{
    *p = NULL;
    const cudaError_t e = cudaMalloc(p, bytes);
    if (e == cudaErrorMemoryAllocation)
        return no_memory(bytes, err);
    cuda_note(dev, e, "alloc");
    return e == cudaSuccess ? 0 : cuda_status(dev, err);
}

static void cuda_free(struct dev *dev, void *p)
{
    cuda_note(dev, cudaFree(p), "free");
}

static void cuda_zero(struct dev *dev, void *p, size_t bytes)
{
    if (bytes)
        cuda_note(dev, cudaMemsetAsync(p, 0, bytes, cuda_of(dev)->stream), "zero");
}

static void cuda_copy(struct dev *dev, void *to, const void *from, size_t bytes)
{
    if (bytes && to != from)
        cuda_note(dev,
                  cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_of(dev)->stream),
                  "copy");
}

static void cuda_sync(struct dev *dev)
{
    cuda_note(dev, cudaStreamSynchronize(cuda_of(dev)->stream), "sync");
}

static void close_cuda(struct cuda *c)
{
    if (c->stream)
        cudaStreamSynchronize(c->stream);
    graph_close(c->graphs);
    gemm_close(c);
    stage_close(c->stage);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    free(c);
}

static void cuda_close(struct dev *dev)
{
    close_cuda(cuda_of(dev));
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t cuda_plan(const struct dev *dev, enum op op, const struct sizes *s)
{
    switch (op) {
    case OP_EMBED:
        return cuda_embed_plan(dev, s);
    case OP_LINEAR:
        return cuda_linear_plan(dev, s);
    case OP_SSD:
        return larger(larger(cuda_ssd_fwd_plan(dev, s), cuda_ssd_bwd_plan(dev, s)),
                      cuda_mamba_step_plan(s));
    case OP_ATTN:
        return larger(cuda_attn_plan(dev, s), cuda_attn_step_plan(s));
    case OP_RMSNORM:
    case OP_GATENORM:
        return cuda_norm_plan(dev, s);
    case OP_CONV1D:
        return cuda_conv1d_plan(dev, s);
    case OP_XENT:
        return cuda_xent_plan(dev, s);
    case OP_SAMPLE:
        return cuda_sample_plan(dev, s);
    case OP_GNORM:
        return cuda_gnorm_plan(dev, s);
    default:
        return 0;
    }
}

static constexpr struct ops make_table()
{
    struct ops t = {};
    t.alloc = cuda_alloc;
    t.free = cuda_free;
    t.zero = cuda_zero;
    t.upload = stage_upload;
    t.download = stage_download;
    t.download_begin = stage_download_begin;
    t.download_end = stage_download_end;
    t.copy = cuda_copy;
    t.sync = cuda_sync;
    t.close = cuda_close;
    t.status = cuda_status;
    t.run = graph_run;
    t.forget = graph_forget;
    t.plan = cuda_plan;

    t.weight_bytes = cuda_weight_bytes;
    t.weight_fill = cuda_weight_fill;
    t.embed_fwd = cuda_embed_fwd;
    t.embed_bwd = cuda_embed_bwd;
    t.linear_fwd = cuda_linear_fwd;
    t.linear_bwd_x = cuda_linear_bwd_x;
    t.linear_bwd_w = cuda_linear_bwd_w;
    t.linear_resid_fwd = cuda_linear_resid_fwd;
    t.linear_read = cuda_linear_read;
    t.linear_resid_read = cuda_linear_resid_read;
    t.rmsnorm_fwd = cuda_rmsnorm_fwd;
    t.rmsnorm_bwd = cuda_rmsnorm_bwd;
    t.gatenorm_fwd = cuda_gatenorm_fwd;
    t.gatenorm_bwd = cuda_gatenorm_bwd;
    t.conv1d_fwd = cuda_conv1d_fwd;
    t.conv1d_bwd = cuda_conv1d_bwd;
    t.conv1d_read = cuda_conv1d_read;
    t.rope = cuda_rope;
    t.swiglu_fwd = cuda_swiglu_fwd;
    t.swiglu_bwd = cuda_swiglu_bwd;
    t.resid_fwd = cuda_resid_fwd;
    t.resid_bwd = cuda_resid_bwd;
    t.cast = cuda_cast;
    t.linear_step = cuda_linear_step;
    t.linear_step_fused = cuda_linear_step_fused;
    t.conv1d_step = cuda_conv1d_step;
    t.ssd_states_bytes = cuda_ssd_states_bytes;
    t.ssd_fwd = cuda_ssd_fwd;
    t.ssd_bwd = cuda_ssd_bwd;
    t.ssd_read = cuda_ssd_read;
    t.ssd_step = cuda_ssd_step;
    t.mamba_step = cuda_mamba_step;
    t.attn_fwd = cuda_attn_fwd;
    t.attn_bwd = cuda_attn_bwd;
    t.attn_read = cuda_attn_read;
    t.attn_step = cuda_attn_step;
    t.xent = cuda_xent;
    t.gnorm = cuda_gnorm;
    t.adamw = cuda_adamw;
    t.sample = cuda_sample;
    return t;
}
static const struct ops table = make_table();

/* --- opening --- */

static int check_driver(struct err *err)
{
    int driver = 0, runtime = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return err_set(err, NULL, "install NVIDIA's, or use --device cpu",
                       "cuda: no driver is loaded");
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || driver / 1000 < runtime / 1000)
        return err_set(err, NULL, "install a newer one, or use --device cpu",
                       "cuda: the driver is made for CUDA %d.%d, this program needs %d.0",
                       driver / 1000, driver % 1000 / 10, runtime / 1000);
    return 0;
}

static int check_ordinal(int ordinal, struct err *err)
{
    int n = 0;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0))
        return err_set(err, NULL, "look at nvidia-smi and CUDA_VISIBLE_DEVICES",
                       "cuda: there is no GPU");
    if (e != cudaSuccess)
        return err_set(err, NULL, "look at nvidia-smi", "cuda: %s", cudaGetErrorString(e));
    if (ordinal >= n)
        return err_set(err, NULL, "count them from cuda:0", "cuda: there is no GPU %d: %d %s here",
                       ordinal, n, n == 1 ? "is" : "are");
    return 0;
}

/* The type of activations that was asked for, or the one that suits the GPU. */
static int choose_act(struct dev *dev, const struct cuda *c, enum dtype act, struct err *err)
{
    const bool has_bf16 = c->arch >= BF16_ARCH;
    if (act == DT_COUNT)
        act = has_bf16 ? DT_BF16 : DT_F16;
    if (act != DT_F32 && act != DT_BF16 && act != DT_F16)
        return err_set(err, NULL, "use f32, bf16 or f16", "cuda: nothing is computed in %s",
                       dtype_name(act));
    if (act == DT_BF16 && !has_bf16)
        return err_set(err, NULL, "use --dtype f16", "cuda: this GPU, sm_%d, has no bf16", c->arch);
    dev->act_dtype = act;
    return 0;
}

static void name_dev(struct dev *dev, const char *gpu, int ordinal)
{
    static const char *const types[DT_COUNT] = {"f32", "bf16", "f16"};
    if (ordinal < 0)
        snprintf(dev->name, sizeof dev->name, "cuda, %s", types[dev->act_dtype]);
    else
        snprintf(dev->name, sizeof dev->name, "cuda:%d %.36s, sm_%d, %s", ordinal, gpu,
                 cuda_of(dev)->arch, types[dev->act_dtype]);
}

/* Reads what the GPU is, and refuses those that no code is made for. */
static int read_gpu(struct cuda *c, cudaDeviceProp *gpu, int ordinal, struct err *err)
{
    cudaError_t e = cudaSetDevice(ordinal);
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(gpu, ordinal);
    if (e != cudaSuccess)
        return err_set(err, NULL, "look at nvidia-smi", "cuda:%d: %s", ordinal,
                       cudaGetErrorString(e));
    c->arch = gpu->major * 10 + gpu->minor;
    c->n_sm = gpu->multiProcessorCount;
    c->smem_bytes = gpu->sharedMemPerBlockOptin;
    if (c->arch < OLDEST_ARCH)
        return err_set(err, NULL, "use --device cpu", "cuda:%d: %.60s is sm_%d, older than sm_%d",
                       ordinal, gpu->name, c->arch, (int)OLDEST_ARCH);
    return 0;
}

/* Everything that lives on the GPU: stream, page-locked memory, the products' library. */
static int open_gpu(struct dev *dev, int ordinal, struct err *err)
{
    struct cuda *c = cuda_of(dev);
    cudaError_t e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = stage_open(&c->stage);
    if (e == cudaSuccess) {
        launch(dev, "open", k_probe, dim3(1), dim3(32), 0);
        e = c->failed;
    }
    if (e == cudaErrorNoKernelImageForDevice)
        return err_set(err, NULL, "build it for this GPU: make CUDA_ARCH=NN",
                       "cuda:%d: the library has no code for sm_%d", ordinal, c->arch);
    if (e != cudaSuccess)
        return err_set(err, NULL, "look at nvidia-smi: is another program using the GPU?",
                       "cuda:%d: %s", ordinal, cudaGetErrorString(e));
    c->graphs = graph_open();
    if (!c->graphs)
        return err_oom(err, 0);
    TRY(gemm_open(c, err));
    e = cudaMemGetInfo(&dev->free_bytes, &dev->total_bytes);
    if (e != cudaSuccess)
        return err_set(err, NULL, NULL, "cuda:%d: %s", ordinal, cudaGetErrorString(e));
    return 0;
}

static int open_dev(struct dev *dev, int ordinal, enum dtype act, struct err *err)
{
    struct cuda *c = cuda_of(dev);
    cudaDeviceProp gpu;
    if (ordinal < 0) {
        *c = cuda{};
        c->arch = PLAN_ARCH;
        c->n_sm = PLAN_SM;
        c->smem_bytes = PLAN_SMEM;
        c->is_plan_only = true;
        TRY(choose_act(dev, c, act, err));
        name_dev(dev, NULL, ordinal);
        return 0;
    }
    TRY(check_driver(err));
    TRY(check_ordinal(ordinal, err));
    TRY(read_gpu(c, &gpu, ordinal, err));
    TRY(choose_act(dev, c, act, err));
    name_dev(dev, gpu.name, ordinal);
    return open_gpu(dev, ordinal, err);
}

/* ordinal: which GPU; -1: none, for plans only. act: what activations and products are stored in;
 * DT_COUNT: bf16 where the GPU has it, else f16. */
extern "C" __attribute__((visibility("default"))) int hm_cuda_open(struct dev *dev, int ordinal,
                                                                   enum dtype act, struct err *err)
{
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    *dev = (struct dev){};
    if (!c)
        return err_oom(err, sizeof *c);
    dev->impl = c;
    dev->read_unit = GEMM_UNIT;
    dev->read_T = READ_T;
    if (open_dev(dev, ordinal, act, err) != 0) {
        close_cuda(c);
        *dev = (struct dev){};
        return -1;
    }
    dev->head_rows = c->n_sm >= LARGE_SM ? HEAD_ROWS_LARGE : HEAD_ROWS;
    dev->reads_states = c->n_sm >= LARGE_SM; /* where memory is less scarce than time */
    dev->ops = &table;
    return 0;
}
