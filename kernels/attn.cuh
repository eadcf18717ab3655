/* attn: what the kernels of attention share: arguments, tiles in shared memory, products between
 * tiles and fragments, and where a document begins and ends. lse is natural; scores inside the
 * kernels are in units of log2, so that one multiply-add and an exp2 make a weight. */
#ifndef HM_ATTN_CUH
#define HM_ATTN_CUH

#include "cuda.cuh"
#include "mma.cuh"

static constexpr float attn_log2e = 1.4426950408889634f;

/* W: P rounded up to a tile's width, 32, 64 or 128; columns from P on are zeros. */
template <class T> struct attn_args {
    mat<const T> q, k, v;
    const int32_t *seg; /* (B,n_queries), rising; NULL: one document */
    float scale;
    int H, per_group; /* query heads, and how many share a KV head */
    int P;
    int n_queries; /* of a sequence, which has as many keys */
    bool is_wide;  /* every head of every row starts at a multiple of 16 bytes */
    /* of a read (ops.h), where k and v are caches of S positions; NULL: there are B sequences */
    const int32_t *begin, *slot, *pos;
    int S;
};

template <class T> static inline attn_args<T> attn_args_of(const struct attn_in *in, bool is_wide)
{
    attn_args<T> a = {};
    a.q = cmat_of<T>(&in->q);
    a.k = cmat_of<T>(&in->k);
    a.v = cmat_of<T>(&in->v);
    a.seg = in->seg;
    a.scale = in->scale;
    a.H = in->H;
    a.per_group = in->H / in->G;
    a.P = in->P;
    a.n_queries = in->T;
    a.is_wide = is_wide;
    return a;
}

static inline bool attn_is_wide(const struct tensor *t, int P)
{
    return has_wide_rows(t) && (size_t)P * dtype_size(t->dtype) % 16 == 0;
}

/* f with the tile's width as a type: with_width(P, [&](auto w) { constexpr int W = w(); ... }) */
template <int N> struct attn_width {
    constexpr int operator()() const
    {
        return N;
    }
};
template <class F> static inline void with_width(int P, F f)
{
    assert(P > 0 && P <= 128);
    if (P <= 32)
        f(attn_width<32>{});
    else if (P <= 64)
        f(attn_width<64>{});
    else
        f(attn_width<128>{});
}

/* Rows of head `head` of sequence b, n rows each. */
template <class T>
__device__ __forceinline__ mat<T> attn_head(mat<T> x, int b, int n, int head, int P)
{
    return mat<T>{x.p + (int64_t)b * n * x.ld + (int64_t)head * P, x.ld};
}

/* Starts the copy of rows [row0,row0+ROWS) into a tile; zeros from n_rows on. */
template <class T, int ROWS, int W, int THREADS>
__device__ __forceinline__ void attn_load(T *tile, mat<const T> from, int row0, int n_rows, int P,
                                          bool is_wide, int tid = (int)threadIdx.x)
{
    constexpr int ld = tile_ld<T>(W), n = wide<T>::n, per_row = W / n, rows = THREADS / per_row;
    static_assert(THREADS % per_row == 0 && ROWS % rows == 0, "passes take whole rows");
    if (is_wide) {
        const int r = tid / per_row, c = tid % per_row * n;
        const T *p = from.p + (row0 + r) * from.ld + c;
        const int64_t pass = rows * from.ld;
        tile += r * ld + c;
        if (row0 + ROWS <= n_rows && P == W) {
#pragma unroll
            for (int i = 0; i < ROWS; i += rows, p += pass)
                copy16_async(tile + i * ld, p, true);
            return;
        }
        const int n_full = c < P ? n_rows - row0 - r : 0;
#pragma unroll 1
        for (int i = 0; i < ROWS; i += rows, p += pass)
            copy16_async(tile + i * ld, i < n_full ? p : from.p, i < n_full);
    } else {
#pragma unroll 1
        for (int i = tid; i < ROWS * W; i += THREADS) {
            const int r = i / W, c = i % W;
            const bool ok = row0 + r < n_rows && c < P;
            tile[r * ld + c] = ok ? from.p[(row0 + r) * from.ld + c] : from_f32<T>(0);
        }
    }
}

/* Writes a warp's 16*M rows, the first of them row0, by way of `tile`, which is the warp's own. */
template <class T, int M, int W>
__device__ __forceinline__ void attn_store(mat<T> to, T *tile, const frag_c (&c)[M][W / 8],
                                           int row0, int n_rows, int P, bool is_wide,
                                           int lane = lane_id())
{
    constexpr int ld = tile_ld<T>(W), n = wide<T>::n, per_row = W / n;
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int j = 0; j < W / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float pair[2] = {c[m][j].r[2 * half], c[m][j].r[2 * half + 1]};
                store(tile + (m * 16 + half * 8 + g) * ld + j * 8 + 2 * t, pair);
            }
    __syncwarp();
    if (is_wide) {
        const int r = lane / per_row, col = lane % per_row * n;
        const int n_full = col < P ? n_rows - row0 - r : 0;
        const int64_t pass = 32 / per_row * to.ld;
        T *p = to.p + (row0 + r) * to.ld + col;
        tile += r * ld + col;
#pragma unroll
        for (int i = 0; i < 16 * M; i += 32 / per_row, p += pass)
            if (i < n_full)
                *reinterpret_cast<pack<T, n> *>(p) =
                    *reinterpret_cast<const pack<T, n> *>(tile + i * ld);
    } else {
#pragma unroll 1
        for (int i = lane; i < 16 * M * W; i += 32) {
            const int r = i / W, col = i % W;
            if (row0 + r < n_rows && col < P)
                to.p[(row0 + r) * to.ld + col] = tile[r * ld + col];
        }
    }
    __syncwarp();
}

/* A tile's fragments as A: M*16 rows of W columns. */
template <class T, int M, int W>
__device__ __forceinline__ void attn_load_a(frag_a<T> (&a)[M][W / 16], const T *tile)
{
    constexpr int ld = tile_ld<T>(W);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < W / 16; k++)
            load_a(a[m][k], tile + m * 16 * ld + k * 16, ld);
}

/* One step of c += a b^T: columns k .. k+15 of b's N rows. */
template <class T, int M, int N>
__device__ __forceinline__ void attn_step_abt(frag_c (&c)[M][N / 8], const frag_a<T> (&a)[M],
                                              const T *b, int ld)
{
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        frag_b<T> fb[2];
        load_b2(fb, b + n * 16 * ld, ld);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma(c[m][2 * n], a[m], fb[0]);
            mma(c[m][2 * n + 1], a[m], fb[1]);
        }
    }
}

/* c (16M x N) = a b^T; a in registers when IS_KEPT, else in a_tile (the warp's rows), b a tile of N
 * rows; both W wide. */
template <class T, int M, int N, int W, bool IS_KEPT>
__device__ __forceinline__ void attn_abt(frag_c (&c)[M][N / 8], const frag_a<T> (&a)[M][W / 16],
                                         const T *a_tile, const T *b)
{
    constexpr int ld = tile_ld<T>(W);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
            c[m][n] = frag_c{{0, 0, 0, 0}};
#pragma unroll(IS_KEPT || sizeof(T) == 2 ? W / 16 : 1) /* f32 products are long: code's size */
    for (int k = 0; k < W / 16; k++) {
        frag_a<T> now[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            if constexpr (IS_KEPT)
                now[m] = a[m][k];
            else
                load_a(now[m], a_tile + m * 16 * ld + k * 16, ld);
        }
        attn_step_abt<T, M, N>(c, now, b + k * 16, ld);
    }
}

/* c (16M x W) += p b, p (16M x N) what a product gave, b a tile of N rows. */
template <class T, int M, int N, int W>
__device__ __forceinline__ void attn_pb(frag_c (&c)[M][W / 8], const frag_c (&p)[M][N / 8],
                                        const T *b)
{
    constexpr int ld = tile_ld<T>(W);
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        frag_a<T> a[M];
#pragma unroll
        for (int m = 0; m < M; m++)
            a[m] = a_of_c<T>(p[m][2 * k], p[m][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < W / 16; n++) {
            frag_b<T> fb[2];
            load_b2_t(fb, b + k * 16 * ld + n * 16, ld);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(c[m][2 * n], a[m], fb[0]);
                mma(c[m][2 * n + 1], a[m], fb[1]);
            }
        }
    }
}

template <int M, int N> __device__ __forceinline__ void attn_clear(frag_c (&c)[M][N])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
            c[m][n] = frag_c{{0, 0, 0, 0}};
}

template <int M, int N> __device__ __forceinline__ void attn_scale(frag_c (&c)[M][N], float scale)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n].r[i] *= scale;
}

/* Keys outside [first,last] of their row get no weight. last: of the lane's row 0; j0: the tile's
 * first key. */
template <int M, int N>
__device__ __forceinline__ void attn_mask(frag_c (&s)[M][N], const int (&first)[M][2], int last,
                                          int j0)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = j0 + n * 8 + lane_id() % 4 * 2 + i % 2;
                if (j < first[m][i / 2] || j > last + m * 16 + i / 2 * 8)
                    s[m][n].r[i] = -INFINITY;
            }
}

/* The first of positions [lo,hi) whose id is not below `id`, or hi. Whole warps call it: 32 places
 * are looked at in a round, so that a row of 32768 takes 3. */
__device__ __forceinline__ int attn_find(const int32_t *seg, int lo, int hi, int id)
{
    while (lo < hi) {
        const int step = (hi - lo + 31) / 32, at = lo + lane_id() * step;
        const int n = __popc(__ballot_sync(0xffffffffu, at < hi && seg[at] < id));
        if (n == 0)
            return lo;
        hi = min(hi, lo + n * step);
        lo += (n - 1) * step + 1;
    }
    return lo;
}

/* Where the document of `row` begins, when that of the earlier row `from` begins at `begin`. */
__device__ __forceinline__ int attn_doc_begin(const int32_t *seg, int row, int from, int begin)
{
    const int id = seg[row];
    int lo = from + 1, hi = row;
    if (id == seg[from])
        return begin;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (seg[mid] < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Where the document of `row` ends, when that of the later row `from` ends at `end`. */
__device__ __forceinline__ int attn_doc_end(const int32_t *seg, int row, int from, int end)
{
    const int id = seg[row];
    int lo = row + 1, hi = from;
    if (id == seg[from])
        return end;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (seg[mid] <= id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Over the four lanes that share a row of C. */
__device__ __forceinline__ float attn_row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ __forceinline__ float attn_row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

#endif
