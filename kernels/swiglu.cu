/* swiglu: y = silu(gate) * up (Shazeer 2020), where u holds gate and up side by side;
 * dgate = dy up silu'(gate), dup = dy silu(gate). */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
/* A thread takes N neighbouring columns of 4 rows; columns are a multiple of N. Moves 3 sizeof(T)
 * bytes an element of y, 6 FLOPs. */
template <class T, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_swiglu_fwd(mat<T> y, mat<const T> u, int F, row_tiles tiles)
{
    constexpr int EACH = 4;
    const tile_at at = find_tile<EACH>(tiles);
    if (at.pack >= tiles.packs)
        return;
    const unsigned f = at.pack * N;
    pack<T, N> gate[EACH], up[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            const T *from = u.p + (at.row + k) * u.ld + f;
            gate[k] = load_pack<T, N>(from);
            up[k] = load_pack<T, N>(from + F);
        }
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            float out[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float g = to_f32(gate[k].v[i]);
                out[i] = g * sigmoid_for<T>(g) * to_f32(up[k].v[i]);
            }
            store<T, N>(y.p + (at.row + k) * y.ld + f, out);
        }
}

/* A thread takes N neighbouring columns of 2 rows; du may be u. y.p NULL: it is not wanted. Moves 5
 * sizeof(T) bytes an element of dy, with y 6, 13 FLOPs. */
template <class T, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_swiglu_bwd(mat<T> du, mat<T> y, mat<const T> dy, mat<const T> u, int F, row_tiles tiles)
{
    constexpr int EACH = 2;
    const tile_at at = find_tile<EACH>(tiles);
    if (at.pack >= tiles.packs)
        return;
    const unsigned f = at.pack * N;
    pack<T, N> gate[EACH], up[EACH], dout[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            const T *from = u.p + (at.row + k) * u.ld + f;
            gate[k] = load_pack<T, N>(from);
            up[k] = load_pack<T, N>(from + F);
            dout[k] = load_pack<T, N>(dy.p + (at.row + k) * dy.ld + f);
        }
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            float dgate[N], dup[N], out[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float g = to_f32(gate[k].v[i]), d = to_f32(dout[k].v[i]);
                const float s = sigmoid_for<T>(g), silu_g = g * s;
                out[i] = silu_g * to_f32(up[k].v[i]);
                dup[i] = d * silu_g;
                dgate[i] = d * to_f32(up[k].v[i]) * (s + silu_g * (1.0f - s));
            }
            T *to = du.p + (at.row + k) * du.ld + f;
            store<T, N>(to, dgate);
            store<T, N>(to + F, dup);
            if (y.p)
                store<T, N>(y.p + (at.row + k) * y.ld + f, out);
        }
}

template <class T, int N> void run_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
    const int64_t F = tensor_cols(y);
    const row_tiles tiles = tiles_of(tensor_rows(y), F, N);
    launch(dev, "swiglu_fwd", k_swiglu_fwd<T, N>, tile_blocks(tiles, 4), ROWS_THREADS, 0,
           mat_of<T>(y), cmat_of<T>(u), (int)F, tiles);
}

template <class T, int N>
void run_bwd(struct dev *dev, struct tensor *du, struct tensor *y, const struct tensor *dy,
             const struct tensor *u)
{
    const int64_t F = tensor_cols(dy);
    const row_tiles tiles = tiles_of(tensor_rows(dy), F, N);
    launch(dev, "swiglu_bwd", k_swiglu_bwd<T, N>, tile_blocks(tiles, 2), ROWS_THREADS, 0,
           mat_of<T>(du), y ? mat_of<T>(y) : mat<T>{}, cmat_of<T>(dy), cmat_of<T>(u), (int)F,
           tiles);
}
} // namespace

void cuda_swiglu_fwd(struct dev *dev, struct tensor *y, const struct tensor *u)
{
    assert(tensor_cols(u) == 2 * tensor_cols(y) && tensor_rows(u) == tensor_rows(y));
    const bool is_wide = has_wide_rows(y) && has_wide_rows(u);
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        is_wide ? run_fwd<T, wide<T>::n>(dev, y, u) : run_fwd<T, 1>(dev, y, u);
    });
}

void cuda_swiglu_bwd(struct dev *dev, struct tensor *du, struct tensor *y, const struct tensor *dy,
                     const struct tensor *u)
{
    assert(tensor_cols(u) == 2 * tensor_cols(dy) && tensor_cols(du) == tensor_cols(u));
    assert(!y || tensor_cols(y) == tensor_cols(dy));
    const bool is_wide =
        has_wide_rows(du) && has_wide_rows(dy) && has_wide_rows(u) && (!y || has_wide_rows(y));
    with_type(dy->dtype, [&](auto zero) {
        using T = decltype(zero);
        is_wide ? run_bwd<T, wide<T>::n>(dev, du, y, dy, u) : run_bwd<T, 1>(dev, du, y, dy, u);
    });
}
