/* attn_bench: times attention, forward and backward, on a GPU, without the rest of the program.
 *
 *   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Ilib -Ikernels -o attn_bench \
 *        tests/bench/attn_bench.cu kernels/attn.cu kernels/attn_bwd*.cu lib/dtype.c
 *
 * bf16, q k v as slices of one tensor. A CSV line a shape on stdout; TFLOP/s count what a causal
 * row needs: 2 products forward, 5 backward, half of each. `docs`: documents a row. */
#include "cuda_ops.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace
{

struct shape {
    int B, T, H, P, G, docs;
};

void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "attn_bench: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

template <class T> T *take(size_t n)
{
    T *p = NULL;
    must(cudaMalloc((void **)&p, n * sizeof(T)), "cudaMalloc");
    return p;
}

/* Numbers in (-1, 1), a hash of their place. */
__global__ void k_fill(bf16 *p, size_t n, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u ^ seed;
        x = (x ^ x >> 15) * 2246822519u;
        p[i] = __float2bfloat16_rn((float)(int32_t)(x ^ x >> 13) * 0x1p-31f);
    }
}

struct tensor matrix(int64_t rows, int64_t cols, uint32_t seed)
{
    const size_t n = (size_t)(rows * cols);
    struct tensor t = tensor_of(take<bf16>(n), DT_BF16, 2, rows, cols, 0, 0);
    k_fill<<<1024, 256>>>((bf16 *)t.data, n, seed);
    return t;
}

/* Milliseconds of one call of f, the fastest of 5 series. */
template <class F> float time_ms(cudaStream_t stream, F f)
{
    cudaEvent_t a, b;
    float best = INFINITY;
    must(cudaEventCreate(&a), "event");
    must(cudaEventCreate(&b), "event");
    f();
    for (int series = 0; series < 5; series++) {
        float ms;
        must(cudaEventRecord(a, stream), "event");
        for (int i = 0; i < 10; i++)
            f();
        must(cudaEventRecord(b, stream), "event");
        must(cudaEventSynchronize(b), "run");
        must(cudaEventElapsedTime(&ms, a, b), "event");
        best = fminf(best, ms / 10);
    }
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return best;
}

int32_t *documents(const struct shape *s)
{
    if (s->docs <= 1)
        return NULL;
    std::vector<int32_t> seg((size_t)s->B * s->T);
    for (size_t i = 0; i < seg.size(); i++)
        seg[i] = (int32_t)((int64_t)(i % s->T) * s->docs / s->T);
    int32_t *p = take<int32_t>(seg.size());
    must(cudaMemcpy(p, seg.data(), seg.size() * sizeof(int32_t), cudaMemcpyHostToDevice), "copy");
    return p;
}

void run(struct dev *dev, const struct shape *s)
{
    const int64_t M = (int64_t)s->B * s->T, HP = s->H * s->P, GP = s->G * s->P;
    struct tensor qkv = matrix(M, HP + 2 * GP, 1), dqkv = matrix(M, HP + 2 * GP, 2);
    struct tensor o = matrix(M, HP, 3), dout = matrix(M, HP, 4);
    float *lse = take<float>((size_t)(M * s->H));
    struct attn_in in = {};
    in.q = tensor_slice(&qkv, 0, HP);
    in.k = tensor_slice(&qkv, HP, GP);
    in.v = tensor_slice(&qkv, HP + GP, GP);
    in.seg = documents(s);
    in.scale = 1.0f / sqrtf((float)s->P);
    in.B = s->B;
    in.T = s->T;
    in.H = s->H;
    in.P = s->P;
    in.G = s->G;
    struct tensor dq = tensor_slice(&dqkv, 0, HP), dk = tensor_slice(&dqkv, HP, GP);
    struct tensor dv = tensor_slice(&dqkv, HP + GP, GP);
    struct sizes sizes = {};
    sizes.B = s->B;
    sizes.T = s->T;
    sizes.H = s->H;
    sizes.P = s->P;
    sizes.G = s->G;
    dev->work_bytes = cuda_attn_plan(dev, &sizes);
    dev->work = take<char>(dev->work_bytes);
    const cudaStream_t stream = cuda_of(dev)->stream;
    must(cudaDeviceSynchronize(), "fill");
    const float fwd = time_ms(stream, [&] { cuda_attn_fwd(dev, &o, lse, &in); });
    const float bwd =
        time_ms(stream, [&] { cuda_attn_bwd(dev, &dq, &dk, &dv, &dout, &o, lse, &in); });
    must(cuda_of(dev)->failed, cuda_of(dev)->failed_at ? cuda_of(dev)->failed_at : "attention");
    const double product = (double)s->B * s->H * s->T * s->T * s->P * 1e-9 / s->docs; /* causal */
    printf("%d,%d,%d,%d,%d,%d,%.4f,%.1f,%.4f,%.1f\n", s->B, s->T, s->H, s->P, s->G, s->docs, fwd,
           2 * product / fwd, bwd, 5 * product / bwd);
    fflush(stdout);
    for (void *p : {qkv.data, dqkv.data, o.data, dout.data, (void *)lse, dev->work, (void *)in.seg})
        cudaFree(p);
}

} // namespace

int main(void)
{
    static const struct shape shapes[] = {{32, 1024, 8, 64, 2, 1}, {32, 1024, 8, 64, 2, 4},
                                          {8, 4096, 8, 64, 2, 1},  {1, 32768, 8, 64, 2, 1},
                                          {1, 4096, 8, 64, 2, 1},  {8, 4096, 8, 32, 2, 1},
                                          {8, 4096, 8, 128, 2, 1}, {8, 4096, 16, 64, 16, 1}};
    struct cuda cuda = {};
    struct dev dev = {};
    cudaDeviceProp prop;
    must(cudaGetDeviceProperties(&prop, 0), "device");
    must(cudaStreamCreate(&cuda.stream), "stream");
    cuda.arch = prop.major * 10 + prop.minor;
    cuda.n_sm = prop.multiProcessorCount;
    cuda.smem_bytes = prop.sharedMemPerBlockOptin;
    dev.impl = &cuda;
    dev.act_dtype = DT_BF16;
    fprintf(stderr, "attn_bench: %s\n", prop.name);
    printf("B,T,H,P,G,docs,fwd_ms,fwd_tflop_s,bwd_ms,bwd_tflop_s\n");
    for (const struct shape &s : shapes)
        run(&dev, &s);
    return 0;
}
