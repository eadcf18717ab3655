/* rows: how the kernels bound by memory walk a matrix: packs of one access, several rows to a
 * thread so that many accesses are under way, and sums over rows in a fixed order. */
#ifndef HM_ROWS_CUH
#define HM_ROWS_CUH

#include "cuda.cuh"
#include "vec.cuh"

constexpr int ROWS_THREADS = 256, ROWS_WARPS = ROWS_THREADS / 32;

/* N elements as one access; a plain copy, so that it stays in its storage type until it is used. */
template <class T, int N> __device__ __forceinline__ pack<T, N> load_pack(const T *from)
{
    return *reinterpret_cast<const pack<T, N> *>(from);
}

template <class T, int N> __device__ __forceinline__ pack<T, N> zero_pack()
{
    pack<T, N> p;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.v[i] = from_f32<T>(0.0f);
    return p;
}

/* N elements in as few registers as they fit, converted only where they are used: of 16-bit types,
 * two share one, which the compiler would take apart too early. */
template <class T, int N> struct packed {
    static constexpr bool IS_PAIRS = sizeof(T) == 2 && N % 2 == 0;
    pack<uint32_t, IS_PAIRS ? N / 2 : 1> pairs;
    pack<T, IS_PAIRS ? 1 : N> singles;

    __device__ __forceinline__ void read(const T *from)
    {
        if constexpr (IS_PAIRS)
            pairs = *reinterpret_cast<const pack<uint32_t, N / 2> *>(from);
        else
            singles = load_pack<T, N>(from);
    }
    __device__ __forceinline__ void clear()
    {
        if constexpr (IS_PAIRS)
            pairs = {};
        else
            singles = zero_pack<T, N>();
    }
    __device__ __forceinline__ void set(const float (&from)[N])
    {
        if constexpr (IS_PAIRS) {
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                pairs.v[i] = pack2(from[2 * i], from[2 * i + 1], T{});
        } else {
#pragma unroll
            for (int i = 0; i < N; i++)
                singles.v[i] = from_f32<T>(from[i]);
        }
    }
    __device__ __forceinline__ void get(float (&to)[N]) const
    {
        if constexpr (IS_PAIRS) {
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                unpack2(to[2 * i], to[2 * i + 1], pairs.v[i], T{});
        } else {
#pragma unroll
            for (int i = 0; i < N; i++)
                to[i] = to_f32(singles.v[i]);
        }
    }
    /* What was converted before this point is converted again after it. */
    __device__ __forceinline__ void forget()
    {
        if constexpr (IS_PAIRS) {
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                forget_register(pairs.v[i]);
        }
    }
};

/* n floats from an address that is 16-byte aligned where N is a pack. */
template <int N> __device__ __forceinline__ void load_floats(float (&to)[N], const float *from)
{
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int q = 0; q < N / 4; q++) {
            float four[4];
            load<float, 4>(four, from + 4 * q);
#pragma unroll
            for (int j = 0; j < 4; j++)
                to[4 * q + j] = four[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = from[i];
    }
}
template <int N> __device__ __forceinline__ void store_floats(float *to, const float (&from)[N])
{
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int q = 0; q < N / 4; q++) {
            const float four[4] = {from[4 * q], from[4 * q + 1], from[4 * q + 2], from[4 * q + 3]};
            store<float, 4>(to + 4 * q, four);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = from[i];
    }
}

/* A warp takes 32 packs of each of some neighbouring rows; tiles of 32 packs lie side by side. */
struct row_tiles {
    int64_t rows;
    unsigned packs, tiles; /* a row */
};

static inline row_tiles tiles_of(int64_t rows, int64_t cols, int n)
{
    return {rows, (unsigned)(cols / n), (unsigned)((cols / n + 31) / 32)};
}

/* Blocks of ROWS_THREADS threads for them, each taking `each` rows. */
static inline unsigned tile_blocks(const row_tiles &t, int each)
{
    return blocks_for((t.rows + each - 1) / each * t.tiles, ROWS_WARPS);
}

/* The thread's pack and its first row; the pack lies outside where the row has fewer. */
struct tile_at {
    int64_t row;
    unsigned pack;
};

template <int EACH> __device__ __forceinline__ tile_at find_tile(const row_tiles &t)
{
    const unsigned unit = blockIdx.x * ROWS_WARPS + threadIdx.x / 32;
    return {(int64_t)(unit / t.tiles) * EACH, unit % t.tiles * 32 + threadIdx.x % 32};
}

/* 1 / (1 + exp(-x)) for a result that is stored as T: 16-bit types can do with the fast functions,
 * whose error is some 2^-21. */
template <class T> __device__ __forceinline__ float sigmoid_for(float x)
{
    return sizeof(T) == 4 ? sigmoid(x) : __fdividef(1.0f, 1.0f + __expf(-x));
}

/* Where sums over rows go: columns below `split` to `to`, the others to `rest`. */
struct sum_target {
    float *to, *rest;
    int64_t split;
};

/* to (cols) += the n_parts rows of part (n_parts,cols). A block takes 32 columns; each of its 32
 * warps sums every 32nd part in rising order, warp 0 adds the warps' sums in order. 4 KB of shared
 * memory; moves 4 n_parts + 8 bytes a column, n_parts + 1 FLOPs; deterministic. */
template <class T>
__global__ void __launch_bounds__(1024)
    k_add_parts(sum_target target, const T *__restrict__ part, int n_parts, int64_t cols)
{
    SHARED(float, sums, [32][33]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < cols)
#pragma unroll 4
        for (int i = warp; i < n_parts; i += 32)
            sum += part[i * cols + c];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= cols)
        return;
    sum = 0;
#pragma unroll
    for (int i = 0; i < 32; i++)
        sum += sums[i][lane];
    float *to = c < target.split ? target.to + c : target.rest + (c - target.split);
    *to += sum;
}

static inline void add_parts(struct dev *dev, const char *at, sum_target target, const float *part,
                             int n_parts, int64_t cols)
{
    launch(dev, at, k_add_parts<float>, blocks_for(cols, 32), 1024, 0, target, part, n_parts, cols);
}

#endif
