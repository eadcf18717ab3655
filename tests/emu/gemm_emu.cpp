/* gemm_emu: products under emulation, in the place of kernels/gemm.cu: a kernel of plain loops, so
 * that streams, graphs and the sanitizers see it as any other. Sums are in f32 in the order of k,
 * where the tensor cores have an order of their own. */
#include "gemm.cuh"
#include "vec.cuh"

enum : size_t { WORK_BYTES = 32u << 20 }; /* what the library behind gemm.cu is given */
enum { COLS = 16 };

size_t gemm_plan(const struct dev *)
{
    return WORK_BYTES;
}

int gemm_open(struct cuda *, struct err *)
{
    return 0;
}

void gemm_close(struct cuda *)
{
}

/* A thread makes COLS neighbouring elements of a row of c. Element (i, p) of op(a) lies at i*a_row
 * + p*a_col, (p, j) of op(b) at p*b_row + j*b_col. */
template <class T, class C>
__global__ void k_gemm(struct gemm g, const T *a, const T *b, const C *d, C *c, int64_t a_row,
                       int64_t a_col, int64_t b_row, int64_t b_col)
{
    const int64_t i = blockIdx.y * (int64_t)blockDim.x + threadIdx.x,
                  j0 = blockIdx.x * (int64_t)COLS;
    if (i >= g.m)
        return;
    const int n = (int)(g.n - j0 < COLS ? g.n - j0 : COLS);
    float sum[COLS] = {};
    for (int64_t p = 0; p < g.k; p++) {
        const float v = to_f32(a[i * a_row + p * a_col]);
        for (int j = 0; j < n; j++)
            sum[j] += v * to_f32(b[p * b_row + (j0 + j) * b_col]);
    }
    for (int j = 0; j < n; j++) {
        float v = g.alpha * sum[j];
        if (g.beta != 0)
            v += g.beta * to_f32(d[i * g.ldd + j0 + j]);
        c[i * g.ldc + j0 + j] = from_f32<C>(v);
    }
}

/* Writes over the workspace, as the library may: nobody's bytes outlive a product there. */
static void spoil_work(struct dev *dev)
{
    cuda_note(dev, cudaMemsetAsync(dev->work, 0xff, 256, cuda_of(dev)->stream), "gemm");
}

template <class T, class C>
static void gemm_as(struct dev *dev, const char *at, const struct gemm *g)
{
    enum { THREADS = 64 };
    const dim3 grid(blocks_for(g->n, COLS), blocks_for(g->m, THREADS));
    launch(dev, at, k_gemm<T, C>, grid, dim3(THREADS), 0, *g, (const T *)g->a, (const T *)g->b,
           (const C *)g->d, (C *)g->c, g->trans_a ? 1 : g->lda, g->trans_a ? g->lda : 1,
           g->trans_b ? 1 : g->ldb, g->trans_b ? g->ldb : 1);
}

void gemm_run(struct dev *dev, const char *at, const struct gemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    assert(dev->work_bytes >= WORK_BYTES);
    assert(g->c_dtype == g->dtype || g->c_dtype == DT_F32);
    spoil_work(dev);
    with_type(g->dtype, [&](auto zero) {
        using T = decltype(zero);
        if (g->c_dtype == DT_F32)
            gemm_as<T, float>(dev, at, g);
        else
            gemm_as<T, T>(dev, at, g);
    });
}
