/* Tests of the emulator itself: what is right passes, what is wrong is seen, and the fragments of
 * kernels/mma.cuh are what plain loops say. */
#include "self.h"
#include "hm_emu.h"
#include "tap.h"

#include <cstdlib>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
static const int this_build = ASAN;
#elif defined(__SANITIZE_THREAD__)
static const int this_build = TSAN;
#else
static const int this_build = PLAIN;
#endif

static float *on_device(const std::vector<float> &v)
{
    float *p = nullptr;
    cudaMalloc(&p, v.size() * sizeof(float));
    cudaMemcpy(p, v.data(), v.size() * sizeof(float), cudaMemcpyHostToDevice);
    return p;
}

static std::vector<float> on_host(const float *p, size_t n)
{
    std::vector<float> v(n);
    cudaMemcpy(v.data(), p, n * sizeof(float), cudaMemcpyDeviceToHost);
    return v;
}

/* --- kernels that are wrong --- */
static uint64_t n_faults()
{
    hm_emu_counts counts;
    hm_emu_count(&counts);
    return counts.n_faults;
}

static std::vector<float> run_probe(const probe &p, int order)
{
    std::vector<float> x(PROBE_THREADS), y(PROBE_THREADS, 0.0f);
    for (int i = 0; i < PROBE_THREADS; i++)
        x[(size_t)i] = (float)(1 + i);
    float *dx = on_device(x), *dy = on_device(y);
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.gridDim = dim3((unsigned)p.n_blocks);
    config.blockDim = dim3(PROBE_THREADS);
    config.dynamicSmemBytes = (size_t)p.smem_bytes;
    config.attrs = &attribute;
    config.numAttrs = p.is_cooperative;
    hm_emu_set_order(order);
    cudaLaunchKernelEx(&config, p.kernel, dy, (const float *)dx);
    y = on_host(dy, y.size());
    cudaFree(dx);
    cudaFree(dy);
    return y;
}

/* In a process of its own, which a sanitizer may end. 0: nothing was seen. */
static int child(const probe &p)
{
    if (!freopen("/dev/null", "w", stderr))
        return 3;
    const std::vector<float> first = run_probe(p, HM_EMU_FORWARD);
    bool is_seen = n_faults() > 0;
    for (float v : first)
        is_seen = is_seen || std::isnan(v);
    for (int order = HM_EMU_REVERSE; order < 5 && !is_seen; order++)
        is_seen = memcmp(run_probe(p, order).data(), first.data(), first.size() * sizeof(float)) ||
                  n_faults() > 0;
    return is_seen;
}

static void check_probe(const probe &p)
{
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0)
        exit(child(p));
    int status = 0;
    waitpid(pid, &status, 0);
    const bool is_seen = status != 0, should = (p.seen & this_build) != 0;
    if (p.seen == NOBODY)
        ok(!is_seen, "%s: nothing to complain about", p.what);
    else if (should)
        ok(is_seen, "%s: seen", p.what);
}

/* --- fragments --- */
static std::vector<float> plain_loops(const std::vector<float> &a, const std::vector<float> &b,
                                      way w)
{
    std::vector<float> c(256), d(256);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++)
                c[(size_t)(i * 16 + j)] += a[(size_t)(w == WAY_AT_B ? k * 16 + i : i * 16 + k)] *
                                           b[(size_t)(w == WAY_A_BT ? k * 16 + j : j * 16 + k)];
    if (w != WAY_CHAIN && w != WAY_CHAIN_T)
        return c;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++)
                d[(size_t)(i * 16 + j)] += w == WAY_CHAIN
                                               ? c[(size_t)(i * 16 + k)] * b[(size_t)(k * 16 + j)]
                                               : a[(size_t)(i * 16 + k)] * c[(size_t)(j * 16 + k)];
    return d;
}

/* Small whole numbers: every product and sum is exact in every type, the first product, too. */
static void check_fragments()
{
    static const char *const names[] = {"f32", "bf16", "f16"};
    std::vector<float> a(256), b(256);
    for (int i = 0; i < 256; i++) {
        a[(size_t)i] = (float)((i * 7 + i / 16) % 5 - 2);
        b[(size_t)i] = (float)((i * 11 + i / 16) % 5 - 2);
    }
    float *da = on_device(a), *db = on_device(b), *dc = on_device(a);
    hm_emu_counts before, after;
    hm_emu_count(&before);
    for (int e = ELEMENT_F32; e <= ELEMENT_F16; e++)
        for (int w = 0; w < N_WAYS; w++) {
            if (w == WAY_SHUFFLES && e != ELEMENT_F32)
                continue;
            run_fragments(dc, da, db, (way)w, (element)e);
            ok(on_host(dc, 256) == plain_loops(a, b, (way)w), "fragments of %s, way %d", names[e],
               w);
        }
    hm_emu_count(&after);
    ok(after.bank_conflicts == before.bank_conflicts && after.ldmatrix > before.ldmatrix,
       "tiles of tile_ld are loaded without bank conflicts");
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
}

/* Products of a warpgroup, of every layout of its operands. */
static void check_products()
{
    static const char *const names[] = {"f32", "bf16", "f16"};
    std::vector<float> a(64 * PRODUCT_K), b(128 * PRODUCT_K);
    for (size_t i = 0; i < a.size(); i++)
        a[i] = (float)((i * 7 + i / 16) % 5) - 2;
    for (size_t i = 0; i < b.size(); i++)
        b[i] = (float)((i * 11 + i / 16) % 7) - 3;
    float *da = on_device(a), *db = on_device(b), *dc = on_device(a);
    hm_emu_set_gpu(90, (size_t)8 << 30);
    for (int e = ELEMENT_BF16; e <= ELEMENT_F16; e++)
        for (int n = 32; n <= 128; n *= 2) {
            std::vector<float> c((size_t)(64 * n));
            for (int i = 0; i < 64; i++)
                for (int j = 0; j < n; j++)
                    for (int k = 0; k < PRODUCT_K; k++)
                        c[(size_t)(i * n + j)] +=
                            a[(size_t)(i * PRODUCT_K + k)] * b[(size_t)(j * PRODUCT_K + k)];
            for (int form = 0; form < 2 * N_A_FORMS; form++) {
                run_products(dc, da, db, n, (element)e, (a_form)(form / 2), form % 2);
                ok(on_host(dc, c.size()) == c, "warpgroup's products of %s, 64x%dx%d, form %d",
                   names[e], n, (int)PRODUCT_K, form);
            }
        }
    hm_emu_set_gpu(89, (size_t)8 << 30);
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
}

/* The two ways to multiply in f32 give the same bits. */
static void check_shuffles()
{
    std::vector<float> a(256), b(256);
    for (int i = 0; i < 256; i++) {
        a[(size_t)i] = sinf((float)i);
        b[(size_t)i] = cosf((float)(3 * i));
    }
    float *da = on_device(a), *db = on_device(b), *dc = on_device(a);
    run_fragments(dc, da, db, WAY_AB, ELEMENT_F32);
    const std::vector<float> fast = on_host(dc, 256);
    run_fragments(dc, da, db, WAY_SHUFFLES, ELEMENT_F32);
    ok(memcmp(on_host(dc, 256).data(), fast.data(), 1024) == 0,
       "f32 products by shuffles have the bits of the emulator's own");
    cudaFree(da);
    cudaFree(db);
    cudaFree(dc);
}

static void check_operations()
{
    int *out = nullptr, got[2];
    cudaMalloc(&out, sizeof got);
    cudaMemset(out, 0, sizeof got);
    run_operations(out, 3);
    cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost);
    ok(got[0] == 0 && got[1] == 3 * PROBE_THREADS, "votes, reductions, shuffles, atomics");
    cudaFree(out);
}

/* --- streams and memory --- */
static void check_streams()
{
    cudaStream_t s;
    cudaGraph_t g;
    cudaGraphExec_t x;
    size_t n = 0;
    int *out = nullptr, *locked = nullptr;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMalloc(&out, sizeof *out);
    cudaMallocHost(&locked, sizeof *locked);
    cudaMemset(out, 0, sizeof *out);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
    cudaMemcpyAsync(locked, out, sizeof *out, cudaMemcpyDeviceToHost, s);
    cudaMemsetAsync(out, 1, sizeof *out, s);
    cudaStreamEndCapture(s, &g);
    cudaGraphGetNodes(g, nullptr, &n);
    cudaGraphInstantiate(&x, g, 0);
    *locked = 7;
    ok(n == 2 && *locked == 7, "what is captured does not run");
    hm_emu_set_deferred(1);
    cudaGraphLaunch(x, s);
    ok(*locked == 7, "deferred work waits");
    cudaStreamSynchronize(s);
    ok(*locked == 0, "until something waits for it");
    cudaGraphLaunch(x, s);
    cudaStreamSynchronize(s);
    ok(*locked == 0x01010101, "a graph runs again");
    hm_emu_set_deferred(0);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(g);
    cudaFreeHost(locked);
    cudaFree(out);
    cudaStreamDestroy(s);
}

static void check_memory()
{
    hm_emu_counts before, after;
    void *p = nullptr, *q = nullptr;
    size_t n_free = 0, total = 0;
    hm_emu_count(&before);
    hm_emu_reset_peak();
    hm_emu_set_gpu(89, 1 << 20);
    ok(cudaMalloc(&p, 600000) == cudaSuccess && cudaMalloc(&q, 600000) == cudaErrorMemoryAllocation,
       "a GPU has so much memory and no more");
    cudaGetLastError();
    cudaMemGetInfo(&n_free, &total);
    ok(total == 1 << 20 && n_free == total - 600000, "and says what is left");
    cudaFree(p);
    hm_emu_count(&after);
    ok(after.now_bytes == before.now_bytes && after.peak_bytes == before.now_bytes + 600000,
       "what was allocated is counted");
    hm_emu_set_gpu(89, (size_t)8 << 30);
    ok(n_faults() == 0, "no fault so far");
    float x = 0;
    ok(cudaMemcpy(&x, &x, sizeof x, cudaMemcpyHostToDevice) != cudaSuccess && n_faults() == 1,
       "a copy to the device that ends on the host is refused");
    hm_emu_reset();
}

/* The probes go first: the race detector forgets what it knows where a program forks that has more
 * than one fiber. */
int main()
{
    for (int i = 0; i < n_probes; i++)
        check_probe(probes[i]);
    check_fragments();
    check_products();
    check_shuffles();
    check_operations();
    check_streams();
    check_memory();
    return tap_done();
}
