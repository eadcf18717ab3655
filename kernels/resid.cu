/* resid: y = x + scale * drop(branch) and its gradient. The dropout mask is a pure function of
 * (seed, site, step, element), made again wherever it is needed; one Philox call makes four. */
#include "cuda_ops.cuh"
#include "rows.cuh"

extern "C" {
#include "rng.h"
}

namespace
{
constexpr int EACH = 4; /* rows a thread */

/* What becomes of element i of the tensor (M,D): its factor is `kept` or 0. */
struct mask {
    uint64_t seed, stream, first;
    float p, kept;
};

__device__ mask make_mask(const struct step_ctl *ctl, struct drop drop, float scale, int64_t count)
{
    return {ctl->seed, rng_stream(RNG_DROPOUT, drop.site, (uint32_t)ctl->step),
            (uint64_t)ctl->micro * (uint64_t)count, drop.p, scale / (1.0f - drop.p)};
}

/* Factors of N elements from `at` on; N is 1, or at and the mask's first are multiples of 4. */
template <int N>
__device__ __forceinline__ void make_factors(float (&factor)[N], const mask &o, int64_t at)
{
    const uint64_t i = o.first + (uint64_t)at;
    if constexpr (N == 1) {
        factor[0] = rng_unit(philox(o.seed, o.stream, i / 4).v[i % 4]) >= o.p ? o.kept : 0.0f;
    } else {
#pragma unroll
        for (int q = 0; q < N / 4; q++) {
            const struct philox r = philox(o.seed, o.stream, i / 4 + (uint64_t)q);
#pragma unroll
            for (int j = 0; j < 4; j++)
                factor[4 * q + j] = rng_unit(r.v[j]) >= o.p ? o.kept : 0.0f;
        }
    }
}

/* y = x + factor * branch, or factor * branch where there is no x; y may be x. A thread takes N
 * neighbouring columns of 4 rows; columns are a multiple of N. Moves 3 sizeof(T) bytes an element
 * (2 without x), 2 FLOPs and, with dropout, 20 integer operations. */
template <class T, int N, bool HAS_X, bool HAS_DROP>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_resid(mat<T> y, mat<const T> x, mat<const T> branch, float scale, struct drop drop,
            const struct step_ctl *ctl, int D, row_tiles tiles)
{
    const tile_at at = find_tile<EACH>(tiles);
    if (at.pack >= tiles.packs)
        return;
    const unsigned d = at.pack * N;
    pack<T, N> px[EACH], pb[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            pb[k] = load_pack<T, N>(branch.p + (at.row + k) * branch.ld + d);
            if (HAS_X)
                px[k] = load_pack<T, N>(x.p + (at.row + k) * x.ld + d);
        }
    mask o = {};
    if (HAS_DROP)
        o = make_mask(ctl, drop, scale, tiles.rows * D);
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            float out[N];
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] = scale;
            if (HAS_DROP)
                make_factors<N>(out, o, (at.row + k) * D + d);
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] = (HAS_X ? to_f32(px[k].v[i]) : 0.0f) + out[i] * to_f32(pb[k].v[i]);
            store<T, N>(y.p + (at.row + k) * y.ld + d, out);
        }
}

template <class T, int N, bool HAS_X>
void run_resid(struct dev *dev, struct tensor *y, const struct tensor *x,
               const struct tensor *branch, float scale, const struct drop *drop,
               const struct step_ctl *ctl)
{
    const int64_t D = tensor_cols(y);
    const row_tiles tiles = tiles_of(tensor_rows(y), D, N);
    const struct drop no_drop = {};
    const bool has_drop = drop && drop->p > 0;
    launch(dev, "resid", has_drop ? k_resid<T, N, HAS_X, true> : k_resid<T, N, HAS_X, false>,
           tile_blocks(tiles, EACH), ROWS_THREADS, 0, mat_of<T>(y), cmat_of<T>(x),
           cmat_of<T>(branch), scale, has_drop ? *drop : no_drop, ctl, (int)D, tiles);
}
} // namespace

void cuda_resid_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                    const struct tensor *branch, float scale, const struct drop *drop,
                    const struct step_ctl *ctl)
{
    assert(tensor_cols(y) == tensor_cols(x) && tensor_cols(y) == tensor_cols(branch));
    const bool is_wide = has_wide_rows(y) && has_wide_rows(x) && has_wide_rows(branch);
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        is_wide ? run_resid<T, wide<T>::n, true>(dev, y, x, branch, scale, drop, ctl)
                : run_resid<T, 1, true>(dev, y, x, branch, scale, drop, ctl);
    });
}

void cuda_resid_bwd(struct dev *dev, struct tensor *dbranch, const struct tensor *dy, float scale,
                    const struct drop *drop, const struct step_ctl *ctl)
{
    assert(tensor_cols(dbranch) == tensor_cols(dy));
    const bool is_wide = has_wide_rows(dbranch) && has_wide_rows(dy);
    with_type(dy->dtype, [&](auto zero) {
        using T = decltype(zero);
        is_wide ? run_resid<T, wide<T>::n, false>(dev, dbranch, dy, dy, scale, drop, ctl)
                : run_resid<T, 1, false>(dev, dbranch, dy, dy, scale, drop, ctl);
    });
}
