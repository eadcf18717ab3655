/* ssd_bench: times the SSD scan, forward and backward, on a GPU, without the rest of the program.
 *
 *   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a -Ilib -Ikernels -o ssd_bench \
 *        tests/bench/ssd_bench.cu kernels/ssd_*.cu lib/dtype.c
 *
 * Sizes are those of the `base` preset, bf16, x B C dt as columns of wider rows, as in the model. A
 * CSV line a shape and direction on stdout: time of a call, the bytes that inputs and outputs have,
 * that a second, and the share of the floor: those bytes at the bandwidth of a copy, measured
 * first. kept 1: the forward keeps the states. ssd_grad: what the backward takes besides its passes
 * over states. */
#include "cuda_ops.cuh"
#include "ssd.cuh"

#include <cstdio>
#include <cstdlib>

namespace
{
enum { H = 16, P = 64, N = 128, G = 1, E = H * P, C = E + 2 * G * N, CALLS = 50 };

void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "ssd_bench: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* Numbers in shift + (-scale, scale). */
template <class T> __global__ void k_fill(T *p, size_t n, float scale, float shift, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + seed;
        h = (h ^ (h >> 15)) * 2246822519u;
        h ^= h >> 13;
        p[i] = (T)(((float)(h & 0xffff) / 32768.0f - 1.0f) * scale + shift);
    }
}

template <class T> T *take(size_t n, float scale, float shift)
{
    T *p = NULL;
    must(cudaMalloc((void **)&p, n * sizeof(T)), "cudaMalloc");
    k_fill<<<1024, 256>>>(p, n, scale, shift, 7);
    return p;
}

/* Seconds of a call of f, after a first one. */
template <class F> double time_of(cudaStream_t stream, F f)
{
    cudaEvent_t begin, end;
    float ms = 0;
    must(cudaEventCreate(&begin), "cudaEventCreate");
    must(cudaEventCreate(&end), "cudaEventCreate");
    f();
    must(cudaEventRecord(begin, stream), "cudaEventRecord");
    for (int i = 0; i < CALLS; i++)
        f();
    must(cudaEventRecord(end, stream), "cudaEventRecord");
    must(cudaEventSynchronize(end), "a kernel");
    must(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    return (double)ms / 1e3 / CALLS;
}

/* Bytes a second, read and written. */
double copy_rate(cudaStream_t stream)
{
    const size_t bytes = (size_t)1 << 30;
    char *from = take<char>(bytes, 0, 0), *to = take<char>(bytes, 0, 0);
    const double s = time_of(
        stream, [&] { cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream); });
    cudaFree(from);
    cudaFree(to);
    return 2.0 * (double)bytes / s;
}

struct shape {
    int B, T;
    bool keeps; /* states */
};

void report(const char *what, const struct shape &s, double time_s, double bytes, double rate)
{
    printf("%s,%d,%d,%d,%.4f,%.1f,%.0f,%.1f\n", what, s.B, s.T, s.keeps, time_s * 1e3, bytes / 1e6,
           bytes / time_s / 1e9, 100 * bytes / rate / time_s);
    fflush(stdout);
}

struct tensor columns(bf16 *p, int64_t rows, int64_t ld, int64_t begin, int64_t n)
{
    const struct tensor all = tensor_of(p, DT_BF16, 2, rows, ld, 0, 0);
    return tensor_slice(&all, begin, n);
}
struct tensor vec(float *p)
{
    return tensor_of(p, DT_F32, 1, H, 0, 0, 0);
}

void run_shape(struct dev *dev, const struct shape &s, double rate)
{
    const int B = s.B, T = s.T;
    const int64_t M = (int64_t)B * T;
    const size_t n = (size_t)M;
    bf16 *xbc = take<bf16>(n * C, 1, 0), *dt = take<bf16>(n * H, 1, -3);
    bf16 *out = take<bf16>(n * E, 1, 0), *dxbc = take<bf16>(n * C, 1, 0);
    bf16 *ddt = take<bf16>(n * H, 1, 0);
    float *delta = take<float>(n * H, 1, 0), *vectors = take<float>(6 * H, 0.5f, 0.5f);
    struct sizes sizes = {};
    sizes.keeps_states = s.keeps;
    struct ssd_in in = {};
    struct tensor y = columns(out, M, E, 0, E);
    in.x = columns(xbc, M, C, 0, E);
    in.bmat = columns(xbc, M, C, E, G * N);
    in.cmat = columns(xbc, M, C, E + G * N, G * N);
    in.dt = columns(dt, M, H, 0, H);
    in.dt_bias = vec(vectors);
    in.a_log = vec(vectors + H);
    in.skip = vec(vectors + 2 * H);
    in.B = sizes.B = B;
    in.T = sizes.T = T;
    in.H = sizes.H = H;
    in.P = sizes.P = P;
    in.N = sizes.N = N;
    in.G = sizes.G = G;
    in.Q = sizes.Q = 64;
    dev->work_bytes = cuda_ssd_fwd_plan(dev, &sizes);
    const size_t bwd_work = cuda_ssd_bwd_plan(dev, &sizes);
    dev->work_bytes = bwd_work > dev->work_bytes ? bwd_work : dev->work_bytes;
    dev->work = take<char>(dev->work_bytes + 1, 0, 0);
    void *const kept = s.keeps ? take<char>(cuda_ssd_states_bytes(dev, &sizes), 0, 0) : NULL;
    const cudaStream_t stream = cuda_of(dev)->stream;
    const double fwd = time_of(stream, [&] { cuda_ssd_fwd(dev, &y, delta, kept, NULL, &in); });
    const double fwd_bytes = (double)M * (2.0 * (2 * E + 2 * G * N + H) + 4.0 * H);
    report("ssd_fwd", s, fwd, fwd_bytes, rate);
    struct tensor dx = columns(dxbc, M, C, 0, E), db = columns(dxbc, M, C, E, G * N);
    struct tensor dc = columns(dxbc, M, C, E + G * N, G * N), dd = columns(ddt, M, H, 0, H);
    struct tensor dbias = vec(vectors + 3 * H), da = vec(vectors + 4 * H);
    struct tensor dskip = vec(vectors + 5 * H);
    const double bwd = time_of(stream, [&] {
        cuda_ssd_bwd(dev, &dx, &dd, &db, &dc, &dbias, &da, &dskip, &y, delta, kept, &in);
    });
    const double bwd_bytes = (double)M * (2.0 * (3 * E + 4 * G * N + H) + 4.0 * H);
    report("ssd_bwd", s, bwd, bwd_bytes, rate);
    report("ssd_both", s, fwd + bwd, fwd_bytes + bwd_bytes, rate);
    void *const states = dev->work;
    void *const spans = (char *)states + (dev->work_bytes - ssd_spans_bytes(B, T, H, P, N));
    const double passes[] = {
        s.keeps ? 0 : time_of(stream, [&] { cuda_ssd_states(dev, states, 128, spans, &in); }),
        time_of(stream, [&] { cuda_ssd_dstates(dev, states, &y, 128, spans, &in); })};
    const double states_bytes = (double)M * (2.0 * (E + G * N + H) + 2.0 * H * P * N / 128);
    if (!s.keeps)
        report("ssd_states", s, passes[0], states_bytes, rate);
    report("ssd_dstates", s, passes[1], states_bytes, rate);
    report("ssd_grad", s, bwd - passes[0] - passes[1],
           bwd_bytes + (double)M * 4.0 * H * P * N / 128, rate);
    must(cudaDeviceSynchronize(), "a kernel");
    for (void *p : {(void *)xbc, (void *)dt, (void *)out, (void *)dxbc, (void *)ddt, (void *)delta,
                    (void *)vectors, dev->work, kept})
        cudaFree(p);
}
} // namespace

int main()
{
    struct cuda cuda = {};
    struct dev dev = {};
    cudaDeviceProp prop;
    must(cudaGetDeviceProperties(&prop, 0), "cudaGetDeviceProperties");
    cuda.arch = prop.major * 10 + prop.minor;
    cuda.n_sm = prop.multiProcessorCount;
    cuda.smem_bytes = prop.sharedMemPerBlockOptin;
    dev.impl = &cuda;
    dev.act_dtype = DT_BF16;
    const double rate = copy_rate(cuda.stream);
    printf("# %s, copy %.0f GB/s\nkernel,B,T,kept,time_ms,mbytes,gb_s,percent_of_floor\n",
           prop.name, rate / 1e9);
    const struct shape shapes[] = {{32, 1024, false}, {32, 1024, true},  {8, 4096, false},
                                   {8, 4096, true},   {1, 32768, false}, {1, 32768, true}};
    for (const struct shape &s : shapes)
        run_shape(&dev, s, rate);
    if (cuda.failed != cudaSuccess)
        fprintf(stderr, "ssd_bench: %s: %s\n", cuda.failed_at, cudaGetErrorString(cuda.failed));
    return cuda.failed != cudaSuccess;
}
