/* decode_bench: times the kernels of a decode step on a GPU, without the rest of the program.
 *
 *   nvcc -std=c++17 -O3 -arch=sm_90 -Ilib -Ikernels -o decode_bench tests/bench/decode_bench.cu \
 *        kernels/linear_step.cu kernels/linear_tile.cu kernels/linear_split.cu \
 *        kernels/mamba_step.cu kernels/mamba_flow.cu kernels/attn_step.cu kernels/attn_rows.cu \
 *        kernels/sample.cu lib/dtype.c
 *
 * Sizes are those of the `base` preset, bf16. A CSV line a kernel and batch on stdout: time of a
 * call within a CUDA graph of many, whose operands come by turns from more memory than the L2 cache
 * holds, and the bytes that the call has to move a second. Then a whole token (5 mixer layers, 3 of
 * attention, head and greedy choice; the embedding is left out) as one graph. Last, attention and
 * token over a deep cache. First it asks whether a row alone gives the bits that it gives among
 * 256. Exit status: of that. `decode_bench NAME...`: these lines alone, and no question. */
#include "cuda_ops.cuh"
#include "step_plan.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace
{
enum { D = 512, F = 2048, H = 16, P = 64, N = 128, K = 4, E = H * P, C = E + 2 * N, V = 32000 };
enum { PROJ = E + C + H, HEADS = 8, KV = 2, DEPTH = 1024, S = 1152, ROWS = 256, CALLS = 64 };
enum { DEEP = 32768, DEEP_S = DEEP + 1, DEEP_ROWS = ROWS * S / DEEP_S }; /* in the same memory */
enum { MAMBA_LAYERS = 5, ATTN_LAYERS = 3, LAYERS = MAMBA_LAYERS + ATTN_LAYERS };
constexpr size_t POOL = (size_t)512 << 20;

struct bench {
    struct cuda cuda;
    struct dev dev;
    char *pool;       /* weights, 16-bit random numbers of about 0.02 */
    size_t pool_used; /* from where the next weight is taken */
    float *state, *taps;
    bf16 *kcache, *vcache;
    char *x, *u, *wide, *logits; /* activations */
    float *vectors;
    int32_t *slot, *pos, *id;
    struct sample_row *choice;
    float *logp;
    int R, depth, S, n_slots; /* rows; the cache */
    char **names;             /* of the lines that are asked for; NULL: all */
};

void must(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "decode_bench: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

template <class T> T *take(size_t n)
{
    T *p = NULL;
    must(cudaMalloc((void **)&p, n * sizeof(T)), "cudaMalloc");
    must(cudaMemset(p, 0, n * sizeof(T)), "cudaMemset");
    return p;
}

/* Numbers in (-scale, scale). */
template <class T> __global__ void k_fill(T *p, size_t n, float scale, uint32_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + seed;
        h = (h ^ (h >> 15)) * 2246822519u;
        h ^= h >> 13;
        p[i] = (T)(((float)(h & 0xffff) / 32768.0f - 1.0f) * scale);
    }
}

template <class T> T *take_random(size_t n, float scale)
{
    T *p = take<T>(n);
    k_fill<<<1024, 256>>>(p, n, scale, 7);
    return p;
}

struct weight next_weight(struct bench *b, int n, int k)
{
    const size_t bytes = (size_t)n * (size_t)k * 2;
    if (b->pool_used + bytes > POOL)
        b->pool_used = 0;
    struct weight w = {n, k, DT_BF16, 0, b->pool + b->pool_used};
    b->pool_used += bytes;
    return w;
}

struct tensor act(const struct bench *b, void *p, int64_t cols)
{
    return tensor_of(p, DT_BF16, 2, b->R, cols, 0, 0);
}
struct tensor vec(float *p, int64_t n)
{
    return tensor_of(p, DT_F32, 1, n, 0, 0, 0);
}

/* --- the ops of a step; the i-th call uses the i-th layer's memory --- */

enum { PLAIN, NORM, GLU };

void product(struct bench *b, void *to, int n, const void *from, int k, int around, bool resid)
{
    const struct weight w = next_weight(b, around == GLU ? 2 * n : n, k);
    const struct tensor norm = vec(b->vectors, k), x = act(b, (void *)from, k);
    struct tensor y = act(b, to, n);
    if (n == V)
        y.dtype = DT_F32;
    const struct step_fuse f = {around != PLAIN ? &norm : NULL, 1e-5f, around == GLU,
                                resid ? &y : NULL, 0.5f};
    cuda_linear_step_fused(&b->dev, &y, &x, &w, &f);
}

struct step_rows rows_of(const struct bench *b, int i)
{
    return (struct step_rows){b->slot + (size_t)i * (size_t)b->R % ROWS, b->pos, b->R};
}

void mixer(struct bench *b, int i)
{
    const struct tensor proj = act(b, b->wide, PROJ), z = tensor_slice(&proj, 0, E);
    const struct tensor xbc = tensor_slice(&proj, E, C);
    const struct tensor conv_w = tensor_of(b->vectors, DT_F32, 2, C, K, 0, 0);
    const struct tensor bias = vec(b->vectors, C), norm = vec(b->vectors, E);
    struct ssd_in in = {};
    in.dt = tensor_slice(&proj, E + C, H);
    in.dt_bias = in.a_log = in.skip = vec(b->vectors, H);
    in.B = b->R;
    in.T = in.Q = in.G = 1;
    in.H = H;
    in.P = P;
    in.N = N;
    struct tensor out = act(b, b->u, E);
    const struct step_rows rows = rows_of(b, i / MAMBA_LAYERS);
    const size_t layer = (size_t)(i % MAMBA_LAYERS) * ROWS;
    cuda_mamba_step(&b->dev, &out, b->taps + layer * (K - 1) * C, b->state + layer * E * N, &xbc,
                    &z, &conv_w, &bias, &norm, 1e-5f, &in, &rows);
}

void attention(struct bench *b, int i)
{
    const size_t layer = (size_t)(i % ATTN_LAYERS) * ROWS * S * KV * P;
    struct tensor o = act(b, b->u, HEADS * P);
    struct tensor kc = tensor_of(b->kcache + layer, DT_BF16, 3, b->n_slots, b->S, KV * P, 0);
    struct tensor vc = tensor_of(b->vcache + layer, DT_BF16, 3, b->n_slots, b->S, KV * P, 0);
    const struct tensor q = act(b, b->wide, HEADS * P), k = act(b, b->wide, KV * P);
    const struct step_rows rows = rows_of(b, i / ATTN_LAYERS);
    cuda_attn_step(&b->dev, &o, &kc, &vc, &q, &k, &k, 0.125f, HEADS, P, KV, &rows);
}

void in_proj(struct bench *b, int)
{
    product(b, b->wide, PROJ, b->x, D, NORM, false);
}
void out_proj(struct bench *b, int)
{
    product(b, b->x, D, b->u, E, PLAIN, true);
}
void qkv(struct bench *b, int)
{
    product(b, b->wide, (HEADS + 2 * KV) * P, b->x, D, NORM, false);
}
void proj_o(struct bench *b, int)
{
    product(b, b->x, D, b->u, HEADS * P, PLAIN, true);
}
void mlp_in(struct bench *b, int)
{
    product(b, b->wide, F, b->x, D, GLU, false);
}
void mlp_out(struct bench *b, int)
{
    product(b, b->x, D, b->wide, F, PLAIN, true);
}
void head(struct bench *b, int)
{
    product(b, b->logits, V, b->x, D, NORM, false);
}

void choose(struct bench *b, int)
{
    const struct sample_tables none = {};
    const struct tensor logits = tensor_of(b->logits, DT_F32, 2, b->R, V, 0, 0);
    cuda_sample(&b->dev, b->id, b->logp, &logits, b->choice, &none);
}

void token(struct bench *b, int)
{
    static const char pattern[] = "mmtmtmtm";
    for (int i = 0, m = 0, t = 0; i < LAYERS; i++) {
        if (pattern[i] == 'm') {
            in_proj(b, 0);
            mixer(b, m++);
            out_proj(b, 0);
        } else {
            qkv(b, 0);
            attention(b, t++);
            proj_o(b, 0);
        }
        mlp_in(b, 0);
        mlp_out(b, 0);
    }
    head(b, 0);
    choose(b, 0);
}

/* --- timing --- */

/* Seconds a call in a graph of CALLS, best of a few. */
double time_of(struct bench *b, void (*op)(struct bench *, int), int calls)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t from, to;
    float best = 1e30f;
    must(cudaStreamBeginCapture(b->cuda.stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < calls; i++)
        op(b, i);
    must(b->cuda.failed, b->cuda.failed_at);
    must(cudaStreamEndCapture(b->cuda.stream, &graph), "capture");
    must(cudaGraphInstantiate(&exec, graph, 0), "graph");
    must(cudaEventCreate(&from), "event");
    must(cudaEventCreate(&to), "event");
    for (int i = 0; i < 12; i++) {
        float ms;
        must(cudaEventRecord(from, b->cuda.stream), "event");
        must(cudaGraphLaunch(exec, b->cuda.stream), "launch");
        must(cudaEventRecord(to, b->cuda.stream), "event");
        must(cudaEventSynchronize(to), "run");
        must(cudaEventElapsedTime(&ms, from, to), "event");
        if (i > 1 && ms < best)
            best = ms;
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return best * 1e-3 / calls;
}

bool is_asked_for(const struct bench *b, const char *name)
{
    if (!b->names)
        return true;
    for (char **n = b->names; *n; n++)
        if (strcmp(*n, name) == 0)
            return true;
    return false;
}

double product_bytes(const struct bench *b, double n, double k)
{
    return 2 * (n * k + b->R * (n + k));
}

double report(struct bench *b, const char *name, void (*op)(struct bench *, int), double bytes,
              int n_per_token)
{
    if (!is_asked_for(b, name))
        return 0;
    const double s = time_of(b, op, CALLS);
    printf("%s,%d,%.2f,%.0f,%d\n", name, b->R, s * 1e6, bytes / s * 1e-9, n_per_token);
    fflush(stdout);
    return s * n_per_token;
}

void report_token(struct bench *b, const char *name)
{
    if (!is_asked_for(b, name))
        return;
    const double s = time_of(b, token, 4);
    printf("%s,%d,%.2f,%.0f tok/s,\n", name, b->R, s * 1e6, b->R / s);
    fflush(stdout);
}

/* Rows of a cache of n_slots and S positions, all at this depth. */
void set_depth(struct bench *b, int depth, int n_positions, int n_slots)
{
    std::vector<int32_t> slot(2 * ROWS), pos(ROWS, depth);
    for (int i = 0; i < 2 * ROWS; i++)
        slot[(size_t)i] = i * 37 % n_slots;
    must(cudaMemcpy(b->slot, slot.data(), slot.size() * 4, cudaMemcpyHostToDevice), "upload");
    must(cudaMemcpy(b->pos, pos.data(), pos.size() * 4, cudaMemcpyHostToDevice), "upload");
    b->depth = depth;
    b->S = n_positions;
    b->n_slots = n_slots;
}

double attn_bytes(const struct bench *b)
{
    return b->R * (2.0 * b->depth * KV * P * 2);
}

void report_deep(struct bench *b, int R)
{
    set_depth(b, DEEP, DEEP_S, DEEP_ROWS);
    b->R = R;
    report(b, "attn_deep", attention, attn_bytes(b), ATTN_LAYERS);
    report_token(b, "token_deep");
}

void report_all(struct bench *b, int R)
{
    const double state = R * (8.0 * E * N);
    double sum = 0;
    set_depth(b, DEPTH, S, ROWS);
    b->R = R;
    sum += report(b, "in_proj", in_proj, product_bytes(b, PROJ, D), MAMBA_LAYERS);
    sum += report(b, "mamba_step", mixer, state, MAMBA_LAYERS);
    sum += report(b, "out_proj", out_proj, product_bytes(b, D, E), MAMBA_LAYERS);
    sum += report(b, "qkv", qkv, product_bytes(b, (HEADS + 2 * KV) * P, D), ATTN_LAYERS);
    sum += report(b, "attn_step", attention, attn_bytes(b), ATTN_LAYERS);
    sum += report(b, "o", proj_o, product_bytes(b, D, HEADS * P), ATTN_LAYERS);
    sum += report(b, "mlp_in", mlp_in, product_bytes(b, 2 * F, D), LAYERS);
    sum += report(b, "mlp_out", mlp_out, product_bytes(b, D, F), LAYERS);
    sum += report(b, "head", head, product_bytes(b, V, D) + 2.0 * R * V, 1);
    sum += report(b, "sample", choose, 4.0 * R * V, 1);
    if (!b->names)
        printf("sum,%d,%.2f,,\n", R, sum * 1e6);
    report_token(b, "token");
}

/* --- bits --- */

std::vector<char> result(struct bench *b, int n, int k, int around, int first, int R)
{
    b->R = R;
    b->pool_used = 0;
    product(b, b->logits, n, b->wide + (size_t)first * (size_t)k * 2, k, around, false);
    std::vector<char> y((size_t)R * (size_t)n * (n == V ? 4 : 2));
    must(cudaStreamSynchronize(b->cuda.stream), "product");
    must(cudaMemcpy(y.data(), b->logits, y.size(), cudaMemcpyDeviceToHost), "download");
    return y;
}

/* Whether rows come out alike whatever stands beside them. */
bool check_bits(struct bench *b, int n, int k, int around)
{
    static const int counts[] = {1, 2, 8, 9, 16, 17, 32, 33, 64, 100};
    const std::vector<char> all = result(b, n, k, around, 0, ROWS);
    const size_t row = all.size() / ROWS;
    bool is_same = true;
    for (int R : counts) {
        const int first = ROWS - R - 3;
        const std::vector<char> some = result(b, n, k, around, first, R);
        is_same =
            is_same && memcmp(some.data(), all.data() + (size_t)first * row, some.size()) == 0;
    }
    printf("# rows alone have the same bits: n %d k %d around %d: %s\n", n, k, around,
           is_same ? "yes" : "NO");
    return is_same;
}

void open_bench(struct bench *b)
{
    cudaDeviceProp gpu;
    must(cudaGetDeviceProperties(&gpu, 0), "no GPU");
    b->cuda.arch = gpu.major * 10 + gpu.minor;
    b->cuda.n_sm = gpu.multiProcessorCount;
    b->cuda.smem_bytes = gpu.sharedMemPerBlockOptin;
    b->cuda.failed_at = "";
    must(cudaStreamCreateWithFlags(&b->cuda.stream, cudaStreamNonBlocking), "stream");
    b->dev.impl = &b->cuda;
    b->dev.act_dtype = DT_BF16;
    const struct sizes m = {1, 1, D, H, P, N, 1, K, F, V, 64, S, ROWS, DT_BF16};
    const struct sizes t = {1, 1, D, HEADS, P, N, KV, K, F, V, 64, S, ROWS, DT_BF16};
    const struct sizes deep = {1, 1, D, HEADS, P, N, KV, K, F, V, 64, DEEP_S, DEEP_ROWS, DT_BF16};
    b->dev.work_bytes =
        cuda_mamba_step_plan(&m) + cuda_attn_step_plan(&t) + cuda_attn_step_plan(&deep);
    const size_t sampling = cuda_sample_plan(&b->dev, &m);
    b->dev.work_bytes = b->dev.work_bytes > sampling ? b->dev.work_bytes : sampling;
    b->dev.work = take<char>(b->dev.work_bytes);
    b->pool = (char *)take_random<bf16>(POOL / 2, 0.05f);
    b->state = take<float>((size_t)MAMBA_LAYERS * ROWS * E * N);
    b->taps = take<float>((size_t)MAMBA_LAYERS * ROWS * (K - 1) * C);
    b->kcache = take_random<bf16>((size_t)ATTN_LAYERS * ROWS * S * KV * P, 1);
    b->vcache = take_random<bf16>((size_t)ATTN_LAYERS * ROWS * S * KV * P, 1);
    b->x = (char *)take_random<bf16>(ROWS * D, 1);
    b->u = (char *)take_random<bf16>(ROWS * E, 1);
    b->wide = (char *)take_random<bf16>(ROWS * 2 * F, 1);
    b->logits = take<char>((size_t)ROWS * V * 4);
    b->vectors = take_random<float>(C * K, 1);
    b->slot = take<int32_t>(2 * ROWS);
    b->pos = take<int32_t>(ROWS);
    b->id = take<int32_t>(ROWS);
    b->logp = take<float>(ROWS);
    b->choice = take<struct sample_row>(ROWS); /* temperature 0, no penalties */
    must(cudaDeviceSynchronize(), "fill");
    printf("# %s, %d SMs\n", gpu.name, gpu.multiProcessorCount);
}
} /* namespace */

int main(int argc, char **argv)
{
    static struct bench b;
    open_bench(&b);
    b.names = argc > 1 ? argv + 1 : NULL;
    bool is_same = true;
    if (!b.names) {
        is_same = check_bits(&b, PROJ, D, NORM) && is_same;
        is_same = check_bits(&b, F, D, GLU) && is_same;
        is_same = check_bits(&b, D, F, PLAIN) && is_same;
        is_same = check_bits(&b, D, E, PLAIN) && is_same;
        is_same = check_bits(&b, V, D, NORM) && is_same;
    }
    printf("kernel,rows,us,gb_s,calls_a_token\n");
    const int arch = b.cuda.arch;
    for (int is_early = arch >= 90; is_early >= 0; is_early--) {
        b.cuda.arch = is_early ? arch : 80; /* what launch_early looks at */
        printf("# launches %s\n", is_early ? "early" : "one after the other");
        for (int R : {1, 8, 32, 64, 128, 256})
            report_all(&b, R);
        for (int R : {1, (int)DEEP_ROWS})
            report_deep(&b, R);
    }
    return is_same ? 0 : 1;
}
