/* gemm: products by cuBLASLt; see gemm.cuh. The library is opened at run time, so that ours opens
 * where it is missing and can say so.
 *
 * cuBLASLt is column-major: our row-major c = op(a) op(b) is its c^T = op(b)^T op(a)^T, with the
 * operands swapped and each matrix seen as its transpose, which costs nothing.
 *
 * Which algorithm a product runs follows from the library's guesses for its shape, strides and
 * alignments, never from a timing: a run that is resumed on the same GPU keeps its bits. Sums that
 * are split over k are put together in f32 and in one order. The guesses are kept in a small table;
 * one that was pushed out is guessed again, with the same answer.
 *
 * Products whose rows must not depend on how many there are run the guess for one number of rows,
 * whatever theirs is, and sums over k are not split: a tile of the result belongs to one block,
 * which treats all its rows alike. */
#include "gemm.cuh"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

enum : size_t { WORK_BYTES = 32u << 20 };
enum { TABLE = 512, PROBES = 8, KEY = 16, MAX_ALIGN = 256, CANDIDATES = 8 };
enum { BY_ROWS_M = 8192 }; /* rows that such products are guessed for */

/* The functions of cublasLt.h, looked up by name. */
struct lt {
    decltype(&cublasLtCreate) create;
    decltype(&cublasLtDestroy) destroy;
    decltype(&cublasLtMatmul) matmul;
    decltype(&cublasLtMatmulAlgoGetHeuristic) guess;
    decltype(&cublasLtMatmulDescCreate) desc_create;
    decltype(&cublasLtMatmulDescDestroy) desc_destroy;
    decltype(&cublasLtMatmulDescSetAttribute) desc_set;
    decltype(&cublasLtMatrixLayoutCreate) layout_create;
    decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
    decltype(&cublasLtMatmulPreferenceCreate) pref_create;
    decltype(&cublasLtMatmulPreferenceDestroy) pref_destroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) pref_set;
};

/* A product whose algorithm is known. b comes first, as the library's left operand. */
struct known {
    bool is_used;
    int64_t key[KEY];
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t b, a, d, c;
    cublasLtMatmulAlgo_t algo;
};

struct cuda_gemm {
    void *library;
    struct lt lt;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t pref;
    struct known table[TABLE];
};

size_t gemm_plan(const struct dev *)
{
    return WORK_BYTES;
}

/* --- opening --- */

static void *open_library(void)
{
    char path[512];
    snprintf(path, sizeof path, "libcublasLt.so.%d", CUDART_VERSION / 1000);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
#ifdef HM_CUDA_LIB /* where the toolkit that built this keeps it */
    if (!library) {
        snprintf(path, sizeof path, "%s/libcublasLt.so.%d", HM_CUDA_LIB, CUDART_VERSION / 1000);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
#endif
    return library;
}

template <class F> static bool look_up(void *library, const char *name, F *f)
{
    *f = (F)dlsym(library, name);
    return *f != NULL;
}

static bool look_up_all(void *l, struct lt *lt)
{
    return look_up(l, "cublasLtCreate", &lt->create) &&
           look_up(l, "cublasLtDestroy", &lt->destroy) &&
           look_up(l, "cublasLtMatmul", &lt->matmul) &&
           look_up(l, "cublasLtMatmulAlgoGetHeuristic", &lt->guess) &&
           look_up(l, "cublasLtMatmulDescCreate", &lt->desc_create) &&
           look_up(l, "cublasLtMatmulDescDestroy", &lt->desc_destroy) &&
           look_up(l, "cublasLtMatmulDescSetAttribute", &lt->desc_set) &&
           look_up(l, "cublasLtMatrixLayoutCreate", &lt->layout_create) &&
           look_up(l, "cublasLtMatrixLayoutDestroy", &lt->layout_destroy) &&
           look_up(l, "cublasLtMatmulPreferenceCreate", &lt->pref_create) &&
           look_up(l, "cublasLtMatmulPreferenceDestroy", &lt->pref_destroy) &&
           look_up(l, "cublasLtMatmulPreferenceSetAttribute", &lt->pref_set);
}

int gemm_open(struct cuda *c, struct err *err)
{
    struct cuda_gemm *g = (struct cuda_gemm *)calloc(1, sizeof *g);
    c->gemm = g;
    if (!g)
        return err_oom(err, sizeof *g);
    g->library = open_library();
    if (!g->library || !look_up_all(g->library, &g->lt))
        return err_set(err, NULL, "install CUDA's cuBLAS, or use --device cpu",
                       "cuda: libcublasLt.so.%d is not to be found", CUDART_VERSION / 1000);
    const size_t bytes = WORK_BYTES;
    if (g->lt.create(&g->handle) != CUBLAS_STATUS_SUCCESS ||
        g->lt.pref_create(&g->pref) != CUBLAS_STATUS_SUCCESS ||
        g->lt.pref_set(g->pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes) !=
            CUBLAS_STATUS_SUCCESS)
        return err_set(err, NULL, "look at nvidia-smi: is there memory left?",
                       "cuda: cuBLASLt does not start");
    return 0;
}

static void drop(const struct lt *lt, struct known *k)
{
    if (k->a)
        lt->layout_destroy(k->a);
    if (k->b)
        lt->layout_destroy(k->b);
    if (k->c)
        lt->layout_destroy(k->c);
    if (k->d)
        lt->layout_destroy(k->d);
    if (k->desc)
        lt->desc_destroy(k->desc);
    *k = known{};
}

void gemm_close(struct cuda *c)
{
    struct cuda_gemm *g = c->gemm;
    if (!g)
        return;
    for (int i = 0; i < TABLE; i++)
        drop(&g->lt, &g->table[i]);
    if (g->pref)
        g->lt.pref_destroy(g->pref);
    if (g->handle)
        g->lt.destroy(g->handle);
    if (g->library)
        dlclose(g->library);
    free(g);
}

/* --- one product --- */

static cudaDataType type_of(enum dtype dtype)
{
    return dtype == DT_F32 ? CUDA_R_32F : dtype == DT_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static uint32_t align_of(const void *p)
{
    const uintptr_t at = (uintptr_t)p, low = at & (~at + 1);
    return at == 0 || low > MAX_ALIGN ? (uint32_t)MAX_ALIGN : (uint32_t)low;
}

/* The addend; where there is none, c stands in and is not read. */
static const void *addend(const struct gemm *g)
{
    return g->beta != 0 ? g->d : g->c;
}
static int64_t addend_ld(const struct gemm *g)
{
    return g->beta != 0 ? g->ldd : g->ldc;
}

static void make_key(int64_t *key, const struct gemm *g)
{
    const int64_t all[KEY] = {g->m,
                              g->n,
                              g->k,
                              g->lda,
                              g->ldb,
                              g->ldc,
                              addend_ld(g),
                              g->trans_a * 2 + g->trans_b,
                              g->dtype * DT_COUNT + g->c_dtype,
                              align_of(g->a),
                              align_of(g->b),
                              align_of(g->c),
                              align_of(addend(g)),
                              g->beta != 0,
                              addend(g) == g->c,
                              g->is_by_rows ? 1 : 0};
    memcpy(key, all, sizeof all);
}

/* FNV-1a over the key's words. */
static size_t hash_of(const int64_t *key)
{
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < KEY; i++)
        h = (h ^ (uint64_t)key[i]) * 1099511628211u;
    return (size_t)(h >> 20);
}

static cublasStatus_t layout(const struct lt *lt, cublasLtMatrixLayout_t *to, enum dtype dtype,
                             int64_t rows, int64_t cols, int64_t ld)
{
    return lt->layout_create(to, type_of(dtype), (uint64_t)cols, (uint64_t)rows, ld);
}

static cublasStatus_t describe(const struct lt *lt, struct known *k, const struct gemm *g)
{
    const cublasOperation_t flip = CUBLAS_OP_T;
    cublasStatus_t s = lt->desc_create(&k->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS && g->trans_b)
        s = lt->desc_set(k->desc, CUBLASLT_MATMUL_DESC_TRANSA, &flip, sizeof flip);
    if (s == CUBLAS_STATUS_SUCCESS && g->trans_a)
        s = lt->desc_set(k->desc, CUBLASLT_MATMUL_DESC_TRANSB, &flip, sizeof flip);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(lt, &k->b, g->dtype, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n, g->ldb);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(lt, &k->a, g->dtype, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k, g->lda);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(lt, &k->d, g->c_dtype, g->m, g->n, addend_ld(g));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout(lt, &k->c, g->c_dtype, g->m, g->n, g->ldc);
    return s;
}

/* Which of the library's candidates runs: its first. But where sums are short, a tile of c takes as
 * long to write as to make, and on Hopper those kernels are faster whose two groups of warps take
 * turns at tiles, one writing while the other multiplies: the candidates with small tiles, which
 * the waves they take tell (measured on an H100: products of k 512 and 768 take 0.77 to 0.99 of the
 * first candidate's time). */
static int choose(const struct cuda *c, const struct gemm *g,
                  const cublasLtMatmulHeuristicResult_t *found, int n)
{
    const double most = 183 * 128, least_waves = 4; /* elements a tile */
    if (c->arch != 90 || g->k > 768 || g->c_dtype == DT_F32)
        return 0;
    for (int i = 0; i < n; i++) {
        const double waves = found[i].wavesCount;
        if (found[i].state == CUBLAS_STATUS_SUCCESS && waves >= least_waves &&
            (double)g->m * (double)g->n <= most * waves * c->n_sm)
            return i;
    }
    return 0;
}

static cublasStatus_t guess(const struct cuda *c, struct known *k, const struct gemm *g)
{
    const struct cuda_gemm *gemm = c->gemm;
    const struct lt *lt = &gemm->lt;
    const int split = g->is_by_rows ? 0 : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t value;
    } wants[] = {{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                  (uint32_t)(CUBLASLT_REDUCTION_SCHEME_NONE | split)},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_of(g->b)},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_of(g->a)},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_of(addend(g))},
                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_of(g->c)}};
    cublasLtMatmulHeuristicResult_t found[CANDIDATES] = {};
    int n = 0;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0; i < sizeof wants / sizeof *wants && s == CUBLAS_STATUS_SUCCESS; i++)
        s = lt->pref_set(gemm->pref, wants[i].what, &wants[i].value, sizeof wants[i].value);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt->guess(gemm->handle, k->desc, k->b, k->a, k->d, k->c, gemm->pref, CANDIDATES, found,
                      &n);
    if (s != CUBLAS_STATUS_SUCCESS || n == 0)
        return s != CUBLAS_STATUS_SUCCESS ? s : CUBLAS_STATUS_NOT_SUPPORTED;
    const cublasLtMatmulHeuristicResult_t *best = &found[choose(c, g, found, n)];
    k->algo = best->algo;
    return best->state;
}

/* Everything about the product that is kept. */
static cublasStatus_t prepare(const struct cuda *c, struct known *k, const struct gemm *g)
{
    const struct cuda_gemm *gemm = c->gemm;
    cublasStatus_t s = describe(&gemm->lt, k, g);
    if (s == CUBLAS_STATUS_SUCCESS && !g->is_by_rows)
        return guess(c, k, g);
    if (s != CUBLAS_STATUS_SUCCESS)
        return s;
    struct known other = {};
    struct gemm usual = *g;
    usual.m = BY_ROWS_M;
    s = describe(&gemm->lt, &other, &usual);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = guess(c, &other, &usual);
    k->algo = other.algo;
    drop(&gemm->lt, &other);
    return s;
}

/* The product's place in the table, filled if it was not there. */
static cublasStatus_t find(const struct cuda *c, const struct gemm *g, struct known **to)
{
    struct cuda_gemm *gemm = c->gemm;
    int64_t key[KEY];
    make_key(key, g);
    const size_t first = hash_of(key);
    struct known *k = &gemm->table[first % TABLE];
    for (size_t i = 0; i < PROBES; i++) {
        struct known *at = &gemm->table[(first + i) % TABLE];
        if (at->is_used && memcmp(at->key, key, sizeof key) == 0) {
            *to = at;
            return CUBLAS_STATUS_SUCCESS;
        }
        if (!at->is_used) {
            k = at;
            break;
        }
    }
    drop(&gemm->lt, k);
    const cublasStatus_t s = prepare(c, k, g);
    if (s != CUBLAS_STATUS_SUCCESS) {
        drop(&gemm->lt, k);
        return s;
    }
    memcpy(k->key, key, sizeof key);
    k->is_used = true;
    *to = k;
    return s;
}

static cudaError_t error_of(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:
        return cudaSuccess;
    case CUBLAS_STATUS_NOT_SUPPORTED:
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return cudaErrorNotSupported;
    case CUBLAS_STATUS_ALLOC_FAILED:
        return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return cudaErrorLaunchFailure;
    case CUBLAS_STATUS_INVALID_VALUE:
        return cudaErrorInvalidValue;
    default:
        return cudaErrorUnknown;
    }
}

void gemm_run(struct dev *dev, const char *at, const struct gemm *g)
{
    struct cuda_gemm *gemm = cuda_of(dev)->gemm;
    struct known *k;
    if (g->m == 0 || g->n == 0)
        return;
    assert(dev->work_bytes >= WORK_BYTES);
    cublasStatus_t s = find(cuda_of(dev), g, &k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = gemm->lt.matmul(gemm->handle, k->desc, &g->alpha, g->b, k->b, g->a, k->a, &g->beta,
                            addend(g), k->d, g->c, k->c, &k->algo, dev->work, WORK_BYTES,
                            cuda_of(dev)->stream);
    cuda_note(dev, error_of(s), at);
}
