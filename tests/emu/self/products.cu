/* products: kernels/wgmma.cuh used as kernels use it, by one warpgroup: C = A B^T of 64 x 128 and
 * N x 128 elements, with operands laid out in every way. */
#include "wgmma.cuh"
#include "self.h"

namespace
{
enum { M = 64, K = PRODUCT_K, THREADS = 128 };

template <class T, int ROWS, int COLS>
__device__ void fill(wg_tile<T, ROWS, COLS> &tile, const float *from, bool is_turned, int n)
{
    for (int i = (int)threadIdx.x; i < n * K; i += THREADS) {
        const int r = i / K, k = i % K;
        *(is_turned ? tile.at(k, r) : tile.at(r, k)) = from_f32<T>(from[i]);
    }
}

template <class T> struct product_smem {
    wg_tile<T, M, K> a, copy;
    wg_tile<T, K, M> a_down;
    wg_tile<T, 128, K> b;
    wg_tile<T, K, 128> b_down;
};

/* 16 columns of A, of the warp's rows, in registers. */
template <class T> __device__ frag_a<T> in_registers(product_smem<T> *w, a_form form, int k)
{
    const int row = (int)threadIdx.x / 32 * 16;
    frag_a<T> a;
    if (form == A_REGS_TURNED)
        wg_load_a_t(a, w->a_down, k, row);
    else
        wg_load_a(a, w->a, row, k);
    return a;
}

/* A once more, through stmatrix. */
template <class T> __device__ void copy_a(product_smem<T> *w, a_form form)
{
    const int row = (int)threadIdx.x / 32 * 16;
    for (int k = 0; k < K; k += 16) {
        frag_a<T> a;
        if (form == A_STORED_TURNED) {
            wg_load_a(a, w->a, row, k); /* the rows of another's columns: turned twice */
            wg_store_a_t(w->a_down, k, row, a);
        } else {
            wg_load_a_t(a, w->a_down, k, row);
            wg_store_a(w->copy, row, k, a);
        }
    }
    wg_publish();
    wg_sync(1);
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS)
    k_products(float *c, const float *a, const float *b, a_form form, bool is_b_down)
{
    SHARED_DYN(unsigned char, all);
    product_smem<T> *w = reinterpret_cast<product_smem<T> *>(all);
    frag_c d[N / 8];
    fill(w->a, a, false, M);
    if (form != A_STORED_TURNED)
        fill(w->a_down, a, true, M);
    fill(w->b, b, false, N);
    fill(w->b_down, b, true, N);
    wg_publish();
    __syncthreads();
    if (form == A_STORED || form == A_STORED_TURNED)
        copy_a(w, form);
    wg_begin();
    for (int k = 0; k < K; k += 16) {
        const bool is_first = k == 0;
        const auto times = [&](const auto &left) {
            if (is_b_down)
                wg_mma(d, left, wg_down(w->b_down, k, 0), is_first);
            else
                wg_mma(d, left, wg_along(w->b, 0, k), is_first);
        };
        if (form == A_ALONG)
            times(wg_along(w->a, 0, k));
        else if (form == A_DOWN || form == A_STORED_TURNED)
            times(wg_down(w->a_down, k, 0));
        else if (form == A_STORED)
            times(wg_along(w->copy, 0, k));
        else
            times(in_registers(w, form, k));
    }
    wg_commit();
    wg_wait<0>();
    wg_pin(d);
    const int row = (int)threadIdx.x / 32 * 16 + lane_id() / 4, col = lane_id() % 4 * 2;
    for (int j = 0; j < N / 8; j++)
        for (int i = 0; i < 4; i++)
            c[(row + i / 2 * 8) * N + j * 8 + col + i % 2] = d[j].r[i];
}

template <class T, int N>
void run(float *c, const float *a, const float *b, a_form form, bool is_b_down)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(1);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = sizeof(product_smem<T>);
    cudaFuncSetAttribute(k_products<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)sizeof(product_smem<T>));
    cudaLaunchKernelEx(&config, k_products<T, N>, c, a, b, form, is_b_down);
}
template <class T>
void run_n(float *c, const float *a, const float *b, int n, a_form form, bool is_b_down)
{
    (n == 32 ? run<T, 32> : n == 64 ? run<T, 64> : run<T, 128>)(c, a, b, form, is_b_down);
}
} // namespace

void run_products(float *c, const float *a, const float *b, int n, element e, a_form form,
                  bool is_b_down)
{
    if (e == ELEMENT_BF16)
        run_n<__nv_bfloat16>(c, a, b, n, form, is_b_down);
    else
        run_n<__half>(c, a, b, n, form, is_b_down);
}
