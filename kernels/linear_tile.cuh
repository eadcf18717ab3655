/* linear_tile: what products of many rows share: tiles of octets in shared memory, products of a
 * warp out of them, and where the results go.
 *
 * A tile's row of 64 elements is 8 units of 16 bytes, stored with the halves of odd rows exchanged,
 * so that the 8 lanes of a quarter warp (2 rows, 4 units) meet all banks. */
#ifndef HM_LINEAR_TILE_CUH
#define HM_LINEAR_TILE_CUH

#include "linear_step.cuh"

enum { DEPTH = 64 };

__device__ __forceinline__ int unit_at(int r, int unit)
{
    return r * DEPTH + (unit ^ (r % 2 * 4)) * 8;
}

/* The octet at tile[at]. */
template <class T> __device__ __forceinline__ octet<T> tile_octet(const T *tile, int at)
{
    const uint4 v = load16_shared(tile + at);
    return octet<T>{{v.x, v.y, v.z, v.w}};
}

/* A fragments of 16 rows out of octets of rows g and g+8, for both 16-deep products of a 32-wide
 * block. Their registers have to be neighbours. zero is 0, but the compiler must not know: it would
 * move registers before each product instead. */
template <class T>
__device__ __forceinline__ void make_a(frag_a<T> (&a)[2], const octet<T> (&x)[2], uint32_t zero)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        a[i] = {{x[0].w[2 * i] ^ zero, x[1].w[2 * i] ^ zero, x[0].w[2 * i + 1] ^ zero,
                 x[1].w[2 * i + 1] ^ zero}};
}

/* MR fragments of rows of octets. */
template <class T, int MR>
__device__ __forceinline__ void load_rows(frag_a<T> (&a)[MR][2], const T *xs, int at, uint32_t zero)
{
#pragma unroll
    for (int m = 0; m < MR; m++) {
        octet<T> x[2];
#pragma unroll
        for (int half = 0; half < 2; half++)
            x[half] = tile_octet(xs, (m * 16 + half * 8) * DEPTH + at);
        make_a(a[m], x, zero);
    }
}

/* The same from row m0*16 on, of a tile in which pair_rows has put the fragments. */
template <class T, int MR>
__device__ __forceinline__ void load_pairs(frag_a<T> (&a)[MR][2], const T *xs, int m0, int at)
{
#pragma unroll
    for (int m = 0; m < MR; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const octet<T> x = tile_octet(xs, ((m0 + m) * 16 + i * 8) * DEPTH + at);
            a[m][i] = {{x.w[0], x.w[1], x.w[2], x.w[3]}};
        }
}

/* Of the octets of rows g (lanes 0-15) and g+8 (16 lanes on): the fragments of the block's first
 * and second product, which take the octets' places in the tile. */
template <class T> __device__ __forceinline__ octet<T> pair_rows(const octet<T> &x)
{
    const bool is_second = lane_id() >= 16;
    octet<T> a = x;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t given = is_second ? x.w[i] : x.w[i + 2];
        const uint32_t got = __shfl_xor_sync(0xffffffffu, given, 16);
        const uint32_t kept = is_second ? x.w[i + 2] : x.w[i];
        a.w[2 * i] = is_second ? got : kept;
        a.w[2 * i + 1] = is_second ? kept : got;
    }
    return a;
}

template <class T, int NW>
__device__ __forceinline__ void load_columns(octet<T> (&b)[NW], const T *ws, int at)
{
#pragma unroll
    for (int j = 0; j < NW; j++)
        b[j] = tile_octet(ws, j * 8 * DEPTH + at);
}

/* c += a b. A product waits for the one before it that adds to the same c, so these are far apart.
 */
template <class T, int MR, int NW>
__device__ __forceinline__ void mma_block(frag_c (&c)[MR][NW], const frag_a<T> (&a)[MR][2],
                                          const octet<T> (&b)[NW])
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int m = 0; m < MR; m++)
#pragma unroll
            for (int j = 0; j < NW; j++)
                mma(c[m][j], a[m][i], frag_b<T>{{b[j].w[2 * i], b[j].w[2 * i + 1]}});
}

/* The warp's part of a 64-deep tile: MR x NW fragments of 16x8. */
template <class T, int MR, int NW>
__device__ __forceinline__ void multiply(frag_c (&c)[MR][NW], const T *xs, const T *ws,
                                         uint32_t zero)
{
#pragma unroll
    for (int block = 0; block < 2; block++) {
        const int at = unit_at(lane_id() / 4, lane_id() % 4) ^ block * 32;
        frag_a<T> a[MR][2];
        octet<T> b[NW];
        load_columns<T, NW>(b, ws, at);
        load_rows<T, MR>(a, xs, at, zero);
        mma_block<T, MR, NW>(c, a, b);
    }
}

/* The same where a tile is a segment and xs has passed pair_rows: its sums, two rows of fragments
 * at a time, are added to total. */
template <class T, int MR, int NW>
__device__ __forceinline__ void multiply_segment(frag_c (&total)[MR][NW], const T *xs, const T *ws)
{
    constexpr int M = MR < 2 ? MR : 2;
    const int at = unit_at(lane_id() / 4, lane_id() % 4);
    octet<T> b[2][NW];
    load_columns<T, NW>(b[0], ws, at);
    load_columns<T, NW>(b[1], ws, at ^ 32);
#pragma unroll
    for (int m0 = 0; m0 < MR; m0 += M) {
        frag_c c[M][NW] = {};
        frag_a<T> a[2][M][2];
        load_pairs<T, M>(a[0], xs, m0, at);
        load_pairs<T, M>(a[1], xs, m0, at ^ 32);
        mma_block<T, M, NW>(c, a[0], b[0]);
        mma_block<T, M, NW>(c, a[1], b[1]);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int j = 0; j < NW; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    total[m0 + m][j].r[i] += c[m][j].r[i];
    }
}

/* Columns col and col+1 of row r. */
template <class T>
__device__ __forceinline__ void store_two(const step_y<T> &y, int r, int col, float v0, float v1)
{
    if (!y.is_paired || col + 1 >= y.n) {
        if (col < y.n)
            step_store(y, r, col, v0);
        if (col + 1 < y.n)
            step_store(y, r, col + 1, v1);
        return;
    }
    if (y.resid) {
        float old[2];
        load<T, 2>(old, y.resid + (int64_t)r * y.ld_resid + col);
        v0 = fmaf(y.scale, v0, old[0]);
        v1 = fmaf(y.scale, v1, old[1]);
    }
    const float v[2] = {v0, v1};
    const int64_t at = (int64_t)r * y.ld + col;
    if (y.is_f32)
        store<float, 2>(reinterpret_cast<float *>(y.p) + at, v);
    else
        store<T, 2>(reinterpret_cast<T *>(y.p) + at, v);
}

#endif
