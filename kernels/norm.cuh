/* norm: the kernels behind both RMSNorms. Of a row of D columns, with v = y for the plain norm and
 * v = y silu(z) for the gated one:
 *   out = w * v * rstd,  rstd = 1 / sqrt(mean(v^2) + eps)
 *   dv = rstd * (dout * w - v * rstd^2 * mean(dout w v)),  dw = sum over rows of dout * v * rstd
 *   plain: dy += dv;  gated: dy = dv silu(z),  dz = dv y silu'(z)
 *
 * A row stays in the registers of 1 or 8 warps, PACKS packs of N elements a lane, and so is read
 * once. Rows that need more than 32 elements a lane of 8 warps take norm_long.cuh. */
#ifndef HM_NORM_CUH
#define HM_NORM_CUH

#include "rows.cuh"

template <class T> struct norm_fwd_args {
    mat<T> out;
    float *rstd; /* NULL: not kept */
    mat<const T> y, z;
    const float *w;
    int64_t M;
    int D;
    float eps;
};

template <class T> struct norm_bwd_args {
    mat<T> dy, dz;
    mat<const T> dout, y, z;
    const float *rstd, *w;
    float *part; /* (ranges, D): dw of each range of rows */
    int64_t M;
    int D, range; /* rows a range */
};

/* Rows whose part of dw is summed as one: from M alone, 256 ranges at most, which a large GPU runs
 * at once. */
constexpr int NORM_RANGES = 256, NORM_RANGE_MIN = 16;

static inline int norm_range(int64_t M)
{
    const int64_t even = (M + NORM_RANGES - 1) / NORM_RANGES;
    return even <= NORM_RANGE_MIN ? NORM_RANGE_MIN : (int)((even + 7) / 8 * 8);
}

/* The sum over the WARPS warps that share a row, in all of them. With more than one, every thread
 * of the block calls it. */
template <int WARPS> __device__ __forceinline__ float row_sum(float v)
{
    if (WARPS > 1)
        return block_sum<ROWS_THREADS>(v);
    return warp_sum(v);
}

/* A lane's packs of a row: pack p begins at column (p * lanes + lane) * N. */
template <class T, int N, int PACKS, int WARPS> struct row_packs {
    packed<T, N> pk[PACKS];

    static __device__ __forceinline__ int column(int p)
    {
        return (p * 32 * WARPS + (int)threadIdx.x % (32 * WARPS)) * N;
    }
    /* Zeros where there is no row or no column. */
    __device__ __forceinline__ void read(const T *row, int D, bool has_row)
    {
#pragma unroll
        for (int p = 0; p < PACKS; p++)
            if (has_row && column(p) < D)
                pk[p].read(row + column(p));
            else
                pk[p].clear();
    }
};

/* A block of 8 warps takes 8 / WARPS rows. D is a multiple of N, at most N * PACKS * 32 WARPS.
 * Shared memory: 32 bytes. Moves (2 + GATED) sizeof(T) bytes an element, 4 (gated: 10) FLOPs. */
template <class T, int N, int PACKS, int WARPS, bool GATED>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_norm_fwd(norm_fwd_args<T> o)
{
    using row = row_packs<T, N, PACKS, WARPS>;
    const int64_t m = (int64_t)blockIdx.x * (ROWS_WARPS / WARPS) + (int)threadIdx.x / (32 * WARPS);
    const bool has_row = m < o.M;
    row y, z;
    y.read(o.y.p + m * o.y.ld, o.D, has_row);
    if (GATED)
        z.read(o.z.p + m * o.z.ld, o.D, has_row);
    float v[PACKS][N], sum = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        float g[N];
        y.pk[p].get(v[p]);
        if (GATED)
            z.pk[p].get(g);
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (GATED)
                v[p][i] *= g[i] * sigmoid_for<T>(g[i]);
            sum += v[p][i] * v[p][i];
        }
    }
    sum = row_sum<WARPS>(sum);
    const float rstd = 1.0f / sqrtf(sum / (float)o.D + o.eps);
    if (!has_row)
        return;
    if (o.rstd && threadIdx.x % (32 * WARPS) == 0)
        o.rstd[m] = rstd;
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (row::column(p) < o.D) {
            float w[N];
            load_floats<N>(w, o.w + row::column(p));
#pragma unroll
            for (int i = 0; i < N; i++)
                v[p][i] = w[i] * (v[p][i] * rstd);
            store<T, N>(o.out.p + m * o.out.ld + row::column(p), v[p]);
        }
}

/* The lane's dw, summed over the 8 / WARPS rows at a time of the block in order, to part. */
template <int N, int PACKS, int WARPS>
__device__ void write_part(float *part, float (&dw)[PACKS][N], int D)
{
    constexpr int LANES = 32 * WARPS;
    const int group = (int)threadIdx.x / LANES, lane = (int)threadIdx.x % LANES;
    SHARED(float, sums, [WARPS > 1 ? 1 : PACKS * N * 32]);
#pragma unroll 1
    for (int g = 0; g < ROWS_WARPS / WARPS; g++) {
        __syncthreads();
        if (g != group)
            continue;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                if (g > 0)
                    dw[p][i] += sums[(p * N + i) * 32 + lane];
                if (g < ROWS_WARPS / WARPS - 1)
                    sums[(p * N + i) * 32 + lane] = dw[p][i];
            }
            const int c = (p * LANES + lane) * N;
            if (g == ROWS_WARPS / WARPS - 1 && c < D)
                store_floats<N>(part + c, dw[p]);
        }
    }
}

/* Blocks that a multiprocessor should hold at once; more would spill registers. */
template <class T, int N, int PACKS, int WARPS, bool GATED> constexpr int norm_blocks()
{
    if (sizeof(T) == 4 || N == 1 || WARPS > 1)
        return 1;
    return GATED && N * PACKS <= 16 ? 3 : 2;
}

/* A block of 8 warps takes a range of rows, 8 / WARPS at a time, and writes its part of dw; parts
 * are added in order by k_add_parts. D as in k_norm_fwd. Shared memory: N * PACKS * 128 bytes, 32
 * with 8 warps a row. Moves 4 (gated: 5) sizeof(T) bytes an element and 8 D bytes a range; 11
 * (gated: 30) FLOPs an element. */
template <class T, int N, int PACKS, int WARPS, bool GATED>
__global__ void __launch_bounds__(ROWS_THREADS, norm_blocks<T, N, PACKS, WARPS, GATED>())
    k_norm_bwd(norm_bwd_args<T> o)
{
    using row = row_packs<T, N, PACKS, WARPS>;
    constexpr int AT_ONCE = ROWS_WARPS / WARPS;
    const int64_t begin = (int64_t)blockIdx.x * o.range + (int)threadIdx.x / (32 * WARPS);
    const int64_t end = min((int64_t)(blockIdx.x + 1) * o.range, o.M);
    float dw[PACKS][N] = {};
#pragma unroll 1
    for (int step = 0; step < o.range; step += AT_ONCE) {
        const int64_t m = begin + step;
        const bool has_row = m < end;
        row dout, y, z; /* plain: z holds what dy is added to */
        dout.read(o.dout.p + m * o.dout.ld, o.D, has_row);
        y.read(o.y.p + m * o.y.ld, o.D, has_row);
        z.read(GATED ? o.z.p + m * o.z.ld : o.dy.p + m * o.dy.ld, o.D, has_row);
        const float rstd = has_row ? o.rstd[m] : 0.0f;
        float sum = 0;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            float w[N] = {}, v[N], g[N], d[N];
            if (row::column(p) < o.D)
                load_floats<N>(w, o.w + row::column(p));
            y.pk[p].get(v);
            z.pk[p].get(g);
            dout.pk[p].get(d);
#pragma unroll
            for (int i = 0; i < N; i++) {
                if (GATED)
                    v[i] *= g[i] * sigmoid_for<T>(g[i]);
                sum += d[i] * w[i] * v[i];
                dw[p][i] += d[i] * (v[i] * rstd);
            }
        }
        sum = row_sum<WARPS>(sum);
        const float pull = rstd * rstd * rstd * sum / (float)o.D;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            if (!has_row || row::column(p) >= o.D)
                continue;
            float w[N], d[N], dy[N], dz[N];
            load_floats<N>(w, o.w + row::column(p));
            dout.pk[p].forget();
            y.pk[p].forget();
            z.pk[p].forget();
            dout.pk[p].get(d);
            y.pk[p].get(dy);
            z.pk[p].get(dz);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const float h = rstd * (d[i] * w[i]);
                if (GATED) {
                    const float s = sigmoid_for<T>(dz[i]), silu_z = dz[i] * s;
                    const float dv = h - pull * (dy[i] * silu_z);
                    dz[i] = dv * dy[i] * (s + silu_z * (1.0f - s));
                    dy[i] = dv * silu_z;
                } else {
                    dy[i] = dz[i] + (h - pull * dy[i]);
                }
            }
            store<T, N>(o.dy.p + m * o.dy.ld + row::column(p), dy);
            if (GATED)
                store<T, N>(o.dz.p + m * o.dz.ld + row::column(p), dz);
        }
    }
    write_part<N, PACKS, WARPS>(o.part + (int64_t)blockIdx.x * o.D, dw, o.D);
}

/* Calls f.with_row<N, PACKS, WARPS>() for the smallest that holds a row of D columns;
 * false where none does. */
template <class T, class F> static inline bool with_row_size(int D, bool is_wide, F f)
{
    constexpr int N = wide<T>::n;
    if (D > (is_wide ? 8 * 1024 : 8 * 512))
        return false;
    if (!is_wide)
        D <= 512 ? f.template with_row<1, 16, 1>() : f.template with_row<1, 16, 8>();
    else if (D <= 512)
        f.template with_row<N, 16 / N, 1>();
    else if (D <= 1024)
        f.template with_row<N, 32 / N, 1>();
    else if (D <= 4096)
        f.template with_row<N, 16 / N, 8>();
    else
        f.template with_row<N, 32 / N, 8>();
    return true;
}

#include "norm_long.cuh"

template <class T, bool GATED> struct norm_fwd_run {
    struct dev *dev;
    const char *at;
    norm_fwd_args<T> args;

    template <int N, int PACKS, int WARPS> void with_row()
    {
        launch(dev, at, k_norm_fwd<T, N, PACKS, WARPS, GATED>,
               blocks_for(args.M, ROWS_WARPS / WARPS), ROWS_THREADS, 0, args);
    }
};

template <class T, bool GATED> struct norm_bwd_run {
    struct dev *dev;
    const char *at;
    norm_bwd_args<T> args;

    template <int N, int PACKS, int WARPS> void with_row()
    {
        launch(dev, at, k_norm_bwd<T, N, PACKS, WARPS, GATED>, blocks_for(args.M, args.range),
               ROWS_THREADS, 0, args);
    }
};

template <class T, bool GATED>
void run_norm_fwd(struct dev *dev, const char *at, const norm_fwd_args<T> &args, bool is_wide)
{
    const norm_fwd_run<T, GATED> run = {dev, at, args};
    if (!with_row_size<T>(args.D, is_wide, run))
        launch(dev, at, k_norm_fwd_long<T, GATED>, (unsigned)args.M, ROWS_THREADS, 0, args);
}

template <class T, bool GATED>
void run_norm_bwd(struct dev *dev, const char *at, norm_bwd_args<T> args, bool is_wide, float *dw)
{
    args.part = (float *)dev->work;
    args.range = norm_range(args.M);
    const unsigned ranges = blocks_for(args.M, args.range);
    assert((size_t)ranges * (size_t)args.D * sizeof(float) <= dev->work_bytes);
    const norm_bwd_run<T, GATED> run = {dev, at, args};
    if (!with_row_size<T>(args.D, is_wide, run)) {
        launch(dev, at, k_norm_dw_long<T, GATED>, dim3(blocks_for(args.D, ROWS_THREADS), ranges),
               ROWS_THREADS, 0, args);
        launch(dev, at, k_norm_bwd_long<T, GATED>, (unsigned)args.M, ROWS_THREADS, 0, args);
    }
    add_parts(dev, at, {dw, nullptr, args.D}, args.part, (int)ranges, args.D);
}

#endif
