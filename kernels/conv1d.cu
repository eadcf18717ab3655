/* conv1d: causal depthwise convolution and SiLU over (B,T,C), tap K-1 on the current token:
 *   pre_t = bias + sum_b w[K-1-b] x_{t-b},  y_t = silu(pre_t)
 * taps in another segment left out. With dpre = dy silu'(pre), pre made again:
 *   dx_t = sum_b w[K-1-b] dpre_{t+b},  dw[K-1-b] = sum_t dpre_t x_{t-b},  dbias = sum_t dpre_t
 *
 * A thread takes N neighbouring channels of a run of tokens and keeps the last K-1 tokens in
 * registers, so that a run reads each input once, and the K-1 before it (backward: also those
 * after). A warp takes 32 N channels of one run. Below, `b` counts tokens back. */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
constexpr int MAX_TAPS = 16;
constexpr int STEP = 4;        /* tokens loaded at once */
constexpr int FWD_RUN = 16;    /* tokens a thread, forward */
constexpr int BWD_RUN = 32;    /* backward, at least */
constexpr int MAX_RUNS = 2048; /* backward: runs grow beyond that many */

/* Runs of `run` tokens cut from each of B rows of T. */
struct runs {
    int B, T, run, per_row;
};

runs cut(int B, int T, int run)
{
    return {B, T, run, (T + run - 1) / run};
}

/* Backward: each block's 8 runs give a part of dw and dbias, so there are not too many of them. */
runs cut_bwd(int B, int T)
{
    int64_t run = BWD_RUN;
    while (B * ((T + run - 1) / run) > MAX_RUNS && run < T)
        run *= 2;
    return cut(B, T, (int)run);
}

/* The weights of N channels by distance, and their bias; zeros beyond K and C. */
template <int KMAX, int N> struct filter {
    float w[KMAX][N], bias[N];

    /* For the block's 32 N channels from `first` on, by way of 128 N (KMAX+1) bytes of shared
     * memory: a thread's own lie too far apart to be read one by one. Every thread calls it. */
    __device__ __forceinline__ void read(const float *weight, const float *biases, int first, int C,
                                         int K)
    {
        SHARED(float, all, [KMAX + 1][32 * N]);
        for (int i = (int)threadIdx.x; i < 32 * N * (KMAX + 1); i += ROWS_THREADS) {
            const int b = i / (32 * N), at = i % (32 * N), c = first + at;
            float v = 0;
            if (c < C && b == KMAX)
                v = biases[c];
            else if (c < C && b < K)
                v = weight[(int64_t)c * K + K - 1 - b];
            all[b][at] = v;
        }
        __syncthreads();
        const int mine = (int)threadIdx.x % 32 * N;
#pragma unroll
        for (int b = 0; b < KMAX; b++)
            load_floats<N>(w[b], &all[b][mine]);
        load_floats<N>(bias, &all[KMAX][mine]);
    }
};

/* Tokens t-KMAX+1 .. t+STEP-1 of N channels with their segments, in the storage type. Before t = 0
 * lie the history taps of the first segment, or zeros. */
template <class T, int KMAX, int N> struct window {
    packed<T, N> x[KMAX - 1 + STEP];
    int seg[KMAX - 1 + STEP];

    __device__ __forceinline__ void shift()
    {
#pragma unroll
        for (int j = 0; j < KMAX - 1; j++) {
            seg[j] = seg[j + STEP];
            x[j] = x[j + STEP];
        }
    }
    __device__ __forceinline__ void put(int j, const packed<T, N> &p, int s)
    {
        seg[j] = s;
        x[j] = p;
    }
    /* Whether token j and the one b before it share a segment. */
    __device__ __forceinline__ bool meets(int j, int b) const
    {
        return seg[j - b] == seg[j];
    }
    /* pre of token j. */
    __device__ __forceinline__ void convolve(float (&pre)[N], const filter<KMAX, N> &f, int j,
                                             int K) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            pre[i] = f.bias[i];
#pragma unroll
        for (int b = KMAX - 1; b >= 0; b--)
            if (b < K && meets(j, b)) {
                float v[N];
                x[j - b].get(v);
#pragma unroll
                for (int i = 0; i < N; i++)
                    pre[i] += f.w[b][i] * v[i];
            }
    }
};

/* What both directions read. */
template <class T> struct conv_in {
    mat<const T> x;
    const float *w, *bias;
    const int32_t *seg; /* NULL: one segment */
    int C, K;
    runs cut;
    /* of a read (ops.h), where the cut is the longest row's; or NULL: zeros before t = 0 */
    const float *taps;
    const int32_t *begin, *slot;
};

/* The thread's place: channel, row and first token. */
struct conv_at {
    bool is_in; /* there are such channels and such a run */
    int first;  /* channel of the block */
    int c, b, t;
    int64_t row; /* of t = 0 */
    int T;       /* tokens of the row */
    int slot;    /* of a read: whose taps */
};

template <int N, class T> __device__ __forceinline__ conv_at find_run(const conv_in<T> &in)
{
    const runs &o = in.cut;
    const int tiles = (in.C + 32 * N - 1) / (32 * N);
    const int unit = (int)(blockIdx.x / (unsigned)tiles) * ROWS_WARPS + (int)threadIdx.x / 32;
    const int b = unit / o.per_row, t = unit % o.per_row * o.run;
    const int first = (int)(blockIdx.x % (unsigned)tiles) * 32 * N;
    const int c = first + (int)threadIdx.x % 32 * N;
    conv_at at = {b < o.B && c < in.C, first, c, b, t, (int64_t)b * o.T, o.T, 0};
    if (in.begin && at.is_in) {
        at.row = in.begin[b];
        at.T = in.begin[b + 1] - in.begin[b];
        at.slot = in.slot[b];
        at.is_in = t < at.T;
    }
    return at;
}

template <int N> unsigned run_blocks(const runs &o, int C)
{
    return blocks_for((int64_t)o.B * o.per_row, ROWS_WARPS) * blocks_for(C, 32 * N);
}

/* The tokens before the run's first. */
template <class T, int KMAX, int N>
__device__ void read_before(window<T, KMAX, N> &win, const conv_in<T> &in, const conv_at &at)
{
    const int first = in.seg ? in.seg[at.row] : 0;
#pragma unroll
    for (int j = 0; j < KMAX - 1; j++) {
        const int t = at.t - (KMAX - 1) + j;
        float history[N] = {};
        packed<T, N> p;
        if (t < 0 && t >= 1 - in.K && in.taps)
#pragma unroll
            for (int i = 0; i < N; i++)
                history[i] =
                    in.taps[((int64_t)at.slot * (in.K - 1) + in.K - 1 + t) * in.C + at.c + i];
        if (t >= 0)
            p.read(in.x.p + (at.row + t) * in.x.ld + at.c);
        else
            p.set(history);
        win.put(j, p, t >= 0 && in.seg ? in.seg[at.row + t] : first);
    }
}

/* STEP tokens from t on, those before `end`, in their storage type. */
template <class T, int N>
__device__ __forceinline__ void read_step(packed<T, N> (&to)[STEP], const mat<const T> &x,
                                          const conv_at &at, int t, int end)
{
#pragma unroll
    for (int k = 0; k < STEP; k++)
        if (t + k < end)
            to[k].read(x.p + (at.row + t + k) * x.ld + at.c);
        else
            to[k].clear();
}

/* A block of 8 warps takes 8 runs of 32 N channels; C is a multiple of N, K at most KMAX (4: K is
 * 4). Moves 2 sizeof(T) bytes an element and reads (K-1) / 16 of x from the cache again; 2 K + 6
 * FLOPs. */
template <class T, int KMAX, int N>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_conv1d_fwd(mat<T> y, conv_in<T> in)
{
    const conv_at at = find_run<N>(in);
    const int K = KMAX == 4 ? 4 : in.K, end = min(at.t + in.cut.run, at.T);
    window<T, KMAX, N> win = {};
    packed<T, N> next[STEP];
    if (at.is_in) {
        read_before<T, KMAX, N>(win, in, at);
        read_step<T, N>(next, in.x, at, at.t, end);
    }
    filter<KMAX, N> f;
    f.read(in.w, in.bias, at.first, in.C, K);
    if (!at.is_in)
        return;
#pragma unroll 1
    for (int t = at.t; t < end; t += STEP) {
#pragma unroll
        for (int k = 0; k < STEP; k++)
            win.put(KMAX - 1 + k, next[k], in.seg && t + k < end ? in.seg[at.row + t + k] : 0);
        read_step<T, N>(next, in.x, at, t + STEP, end);
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float out[N];
            win.x[KMAX - 1 + k].forget();
            win.convolve(out, f, KMAX - 1 + k, K);
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] *= sigmoid_for<T>(out[i]);
            if (t + k < end)
                store<T, N>(y.p + (at.row + t + k) * y.ld + at.c, out);
        }
        win.shift();
    }
}

/* The last K-1 inputs of each row of a read, some of them perhaps from the old history. A thread
 * takes a channel of a row (grid: channels, rows). */
template <class T>
__global__ void __launch_bounds__(ROWS_THREADS) k_conv1d_keep(float *taps, conv_in<T> in)
{
    const int c = (int)(blockIdx.x * ROWS_THREADS + threadIdx.x), b = (int)blockIdx.y, C = in.C;
    if (c >= C)
        return;
    const int64_t row = in.begin[b];
    const int len = in.begin[b + 1] - in.begin[b];
    float *to = taps + (int64_t)in.slot[b] * (in.K - 1) * C + c;
    for (int j = 0; j < in.K - 1; j++) {
        const int t = len - (in.K - 1) + j;
        to[(int64_t)j * C] =
            t >= 0 ? to_f32(in.x.p[(row + t) * in.x.ld + c]) : to[(int64_t)(j + len) * C];
    }
}

/* Sums over a thread's tokens. */
template <int KMAX, int N> struct conv_sums {
    float w[KMAX][N], bias[N];
};

/* The block's sums, its warps' added in order, to a part: dw (C,K), then dbias (C). */
template <int KMAX, int N>
__device__ void write_sums(float *part, conv_sums<KMAX, N> &mine, int c, int C, int K)
{
    SHARED(float, sums, [(KMAX + 1) * N][32]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
#pragma unroll 1
    for (int turn = 0; turn < ROWS_WARPS; turn++) {
        __syncthreads();
        if (turn != warp)
            continue;
        const bool is_last = turn == ROWS_WARPS - 1;
#pragma unroll
        for (int b = 0; b <= KMAX; b++)
#pragma unroll
            for (int i = 0; i < N; i++) {
                float *one = b < KMAX ? &mine.w[b % KMAX][i] : &mine.bias[i];
                if (turn > 0)
                    *one += sums[b * N + i][lane];
                if (!is_last)
                    sums[b * N + i][lane] = *one;
                else if (b == KMAX && c + i < C)
                    part[(int64_t)C * K + c + i] = *one;
                else if (b < K && c + i < C)
                    part[(int64_t)(c + i) * K + K - 1 - b] = *one;
            }
    }
}

/* One token of the backward at place j of the windows: dpre from pre and dy, and its share of the
 * sums where the token is of the run. */
template <class T, int KMAX, int N>
__device__ __forceinline__ void bwd_token(float (&dpre)[KMAX - 1 + STEP][N],
                                          conv_sums<KMAX, N> &sums, const window<T, KMAX, N> &win,
                                          const filter<KMAX, N> &f, const packed<T, N> &dy, int j,
                                          int K, bool is_own)
{
    float pre[N], d[N];
    win.convolve(pre, f, j, K);
    dy.get(d);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float s = sigmoid_for<T>(pre[i]);
        dpre[j][i] = d[i] * (s * (1.0f + pre[i] * (1.0f - s)));
    }
    if (!is_own)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        sums.bias[i] += dpre[j][i];
#pragma unroll
    for (int b = 0; b < KMAX; b++)
        if (b < K && win.meets(j, b)) {
            win.x[j - b].get(d);
#pragma unroll
            for (int i = 0; i < N; i++)
                sums.w[b][i] += dpre[j][i] * d[i];
        }
}

/* dx of the token KMAX-1 before place j, which dpre now reaches KMAX-1 past. */
template <class T, int KMAX, int N>
__device__ __forceinline__ void bwd_dx(float (&dx)[N], const float (&dpre)[KMAX - 1 + STEP][N],
                                       const window<T, KMAX, N> &win, const filter<KMAX, N> &f,
                                       int j, int K)
{
    const int own = j - (KMAX - 1);
#pragma unroll
    for (int i = 0; i < N; i++)
        dx[i] = 0;
#pragma unroll
    for (int b = 0; b < KMAX; b++)
        if (b < K && win.meets(own + b, b))
#pragma unroll
            for (int i = 0; i < N; i++)
                dx[i] += f.w[b][i] * dpre[own + b][i];
}

/* A block of 8 warps takes 8 runs of 32 N channels and writes their part of dw and dbias; parts are
 * added in order by k_add_parts. C is a multiple of N, K at most KMAX (4: K is 4). Shared memory:
 * 128 N (KMAX+1) bytes. Moves 3 sizeof(T) bytes an element and reads 2 (K-1) / run of x and (K-1) /
 * run of dy from the cache again, writes 4 (K+1) C bytes a block row; 6 K + 14 FLOPs an element. */
template <class T, int KMAX, int N>
__global__ void __launch_bounds__(ROWS_THREADS, sizeof(T) == 2 ? 2 : 1)
    k_conv1d_bwd(mat<T> dx, mat<const T> dy, conv_in<T> in, float *part)
{
    const conv_at at = find_run<N>(in);
    const int K = KMAX == 4 ? 4 : in.K, T_ = in.cut.T;
    const int own_end = at.is_in ? min(at.t + in.cut.run, T_) : at.t;
    const int end = at.is_in ? own_end + KMAX - 1 : at.t; /* past T: nothing is read */
    conv_sums<KMAX, N> sums = {};
    filter<KMAX, N> f;
    window<T, KMAX, N> win = {};
    float dpre[KMAX - 1 + STEP][N] = {};
    packed<T, N> next_x[STEP], next_dy[STEP];
    if (at.is_in) {
        read_before<T, KMAX, N>(win, in, at);
        read_step<T, N>(next_x, in.x, at, at.t, T_);
        read_step<T, N>(next_dy, dy, at, at.t, T_);
    }
    f.read(in.w, in.bias, at.first, in.C, K);
#pragma unroll 1
    for (int t = at.t; t < end; t += STEP) {
        packed<T, N> now_dy[STEP];
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            now_dy[k] = next_dy[k];
            win.put(KMAX - 1 + k, next_x[k], in.seg && t + k < T_ ? in.seg[at.row + t + k] : 0);
        }
        read_step<T, N>(next_x, in.x, at, t + STEP, min(end, T_));
        read_step<T, N>(next_dy, dy, at, t + STEP, min(end, T_));
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float out[N];
            win.x[KMAX - 1 + k].forget();
            now_dy[k].forget();
            bwd_token<T, KMAX, N>(dpre, sums, win, f, now_dy[k], KMAX - 1 + k, K, t + k < own_end);
            bwd_dx<T, KMAX, N>(out, dpre, win, f, KMAX - 1 + k, K);
            const int to = t + k - (KMAX - 1);
            if (to >= at.t && to < own_end)
                store<T, N>(dx.p + (at.row + to) * dx.ld + at.c, out);
        }
        win.shift();
#pragma unroll
        for (int j = 0; j < KMAX - 1; j++)
#pragma unroll
            for (int i = 0; i < N; i++)
                dpre[j][i] = dpre[j + STEP][i];
    }
    const unsigned tiles = (unsigned)((in.C + 32 * N - 1) / (32 * N));
    write_sums<KMAX, N>(part + (int64_t)(blockIdx.x / tiles) * in.C * (K + 1), sums, at.c, in.C, K);
}

template <class T, int KMAX, int N>
void run_fwd(struct dev *dev, struct tensor *y, const conv_in<T> &in)
{
    launch(dev, "conv1d_fwd", k_conv1d_fwd<T, KMAX, N>, run_blocks<N>(in.cut, in.C), ROWS_THREADS,
           0, mat_of<T>(y), in);
}

template <class T, int KMAX, int N>
void run_bwd(struct dev *dev, struct tensor *dx, const struct tensor *dy, const conv_in<T> &in)
{
    launch(dev, "conv1d_bwd", k_conv1d_bwd<T, KMAX, N>, run_blocks<N>(in.cut, in.C), ROWS_THREADS,
           0, mat_of<T>(dx), cmat_of<T>(dy), in, (float *)dev->work);
}

template <class T>
conv_in<T> make_in(const struct tensor *x, const struct tensor *w, const struct tensor *bias,
                   const int32_t *seg, const runs &cut)
{
    assert(tensor_cols(w) >= 1 && tensor_cols(w) <= MAX_TAPS && tensor_is_dense(w));
    return {cmat_of<T>(x),
            (const float *)w->data,
            (const float *)bias->data,
            seg,
            (int)tensor_cols(x),
            (int)tensor_cols(w),
            cut,
            nullptr,
            nullptr,
            nullptr};
}

/* Whether rows can be moved n elements at a time. */
bool has_rows_of(const struct tensor *t, int n)
{
    return (uintptr_t)t->data % ((size_t)n * dtype_size(t->dtype)) == 0 && t->ld % n == 0 &&
           tensor_cols(t) % n == 0;
}

size_t n_parts(const runs &o)
{
    return ((size_t)o.B * (size_t)o.per_row + ROWS_WARPS - 1) / ROWS_WARPS;
}

/* Forward of B rows of T, or of the rows of a read, which have taps. */
void forward(struct dev *dev, struct tensor *y, const struct tensor *x, const struct tensor *w,
             const struct tensor *bias, const int32_t *seg, float *taps, int B, int T,
             const struct read_rows *rows)
{
    const int K = (int)tensor_cols(w);
    const bool is_wide = K == 4 && has_wide_rows(x) && has_wide_rows(y);
    with_type(x->dtype, [&](auto zero) {
        using S = decltype(zero);
        conv_in<S> in = make_in<S>(x, w, bias, seg, cut(B, T, FWD_RUN));
        in.taps = taps;
        in.begin = rows ? rows->begin : nullptr;
        in.slot = rows ? rows->slot : nullptr;
        if (is_wide)
            run_fwd<S, 4, wide<S>::n>(dev, y, in);
        else if (K == 4)
            run_fwd<S, 4, 1>(dev, y, in);
        else
            run_fwd<S, MAX_TAPS, 1>(dev, y, in);
        if (taps && K > 1)
            launch(dev, "conv1d_fwd", k_conv1d_keep<S>,
                   dim3(blocks_for(in.C, ROWS_THREADS), (unsigned)B), ROWS_THREADS, 0, taps, in);
    });
}
} // namespace

void cuda_conv1d_fwd(struct dev *dev, struct tensor *y, const struct tensor *x,
                     const struct tensor *w, const struct tensor *bias, const int32_t *seg, int B,
                     int T)
{
    forward(dev, y, x, w, bias, seg, nullptr, B, T, nullptr);
}

void cuda_conv1d_read(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                      const struct tensor *w, const struct tensor *bias,
                      const struct read_rows *rows)
{
    forward(dev, y, x, w, bias, nullptr, taps, rows->R, rows->T, rows);
}

void cuda_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, struct tensor *dbias,
                     const struct tensor *dy, const struct tensor *x, const struct tensor *w,
                     const struct tensor *bias, const int32_t *seg, int B, int T)
{
    const int K = (int)tensor_cols(w), C = (int)tensor_cols(x);
    const bool is_wide = K == 4 && has_rows_of(x, 4) && has_rows_of(dx, 4) && has_rows_of(dy, 4);
    const runs runs = cut_bwd(B, T);
    assert(n_parts(runs) * (size_t)(C * (K + 1)) * sizeof(float) <= dev->work_bytes);
    with_type(x->dtype, [&](auto zero) {
        using S = decltype(zero);
        const conv_in<S> in = make_in<S>(x, w, bias, seg, runs);
        if (is_wide)
            run_bwd<S, 4, 4>(dev, dx, dy, in);
        else if (K == 4)
            run_bwd<S, 4, 1>(dev, dx, dy, in);
        else
            run_bwd<S, MAX_TAPS, 1>(dev, dx, dy, in);
    });
    add_parts(dev, "conv1d_bwd", {(float *)dw->data, (float *)dbias->data, (int64_t)C * K},
              (const float *)dev->work, (int)n_parts(runs), (int64_t)C * (K + 1));
}

size_t cuda_conv1d_plan(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    const size_t runs = (size_t)s->B * (((size_t)s->T + BWD_RUN - 1) / BWD_RUN);
    const size_t most = runs < MAX_RUNS ? runs : MAX_RUNS;
    const size_t C = (size_t)s->H * (size_t)s->P + 2 * (size_t)s->G * (size_t)s->N;
    return (most + ROWS_WARPS - 1) / ROWS_WARPS * C * ((size_t)s->K + 1) * sizeof(float);
}
