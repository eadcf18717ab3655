/* cast: y = x, element by element, between f32, bf16 and f16 and between row distances. */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
constexpr int EACH = 4; /* rows a thread */

/* A thread takes N neighbouring columns of 4 rows; columns are a multiple of N. Moves sizeof(TO) +
 * sizeof(FROM) bytes an element, no FLOPs. */
template <class TO, class FROM, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_cast(mat<TO> y, mat<const FROM> x, row_tiles tiles)
{
    const tile_at at = find_tile<EACH>(tiles);
    if (at.pack >= tiles.packs)
        return;
    const unsigned c = at.pack * N;
    pack<FROM, N> in[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows)
            in[k] = load_pack<FROM, N>(x.p + (at.row + k) * x.ld + c);
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            float out[N];
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] = to_f32(in[k].v[i]);
            store<TO, N>(y.p + (at.row + k) * y.ld + c, out);
        }
}

/* Whether rows can be moved 4 elements at a time. */
bool has_rows_of_4(const struct tensor *t)
{
    return (uintptr_t)t->data % (4 * dtype_size(t->dtype)) == 0 && t->ld % 4 == 0 &&
           tensor_cols(t) % 4 == 0;
}

template <class TO, class FROM, int N>
void run_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
    const row_tiles tiles = tiles_of(tensor_rows(y), tensor_cols(y), N);
    launch(dev, "cast", k_cast<TO, FROM, N>, tile_blocks(tiles, EACH), ROWS_THREADS, 0,
           mat_of<TO>(y), cmat_of<FROM>(x), tiles);
}
} // namespace

void cuda_cast(struct dev *dev, struct tensor *y, const struct tensor *x)
{
    assert(tensor_cols(y) == tensor_cols(x) && tensor_rows(y) == tensor_rows(x));
    const bool is_wide = has_rows_of_4(y) && has_rows_of_4(x);
    with_type(y->dtype, [&](auto to) {
        with_type(x->dtype, [&](auto from) {
            using TO = decltype(to);
            using FROM = decltype(from);
            is_wide ? run_cast<TO, FROM, 4>(dev, y, x) : run_cast<TO, FROM, 1>(dev, y, x);
        });
    });
}
