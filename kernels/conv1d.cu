/* conv1d: causal depthwise convolution and SiLU over (B,T,C), tap K-1 on the current token:
 *   pre_t = bias + sum_b w[K-1-b] x_{t-b},  y_t = silu(pre_t)
 * taps in another segment left out. With dpre = dy silu'(pre), pre made again:
 *   dx_t = sum_b w[K-1-b] dpre_{t+b},  dw[K-1-b] = sum_t dpre_t x_{t-b},  dbias = sum_t dpre_t
 *
 * A thread takes N neighbouring channels of a run of tokens and keeps the last K-1 tokens in
 * registers, so that a run reads each input once, and the K-1 before it (backward: also those
 * after). A warp takes 32 N channels of one run. Below, `b` counts tokens back.
 *
 * A segment is a stretch of tokens of one number. Where one begins, the window of past tokens is
 * emptied, so that taps need not be asked which segment they are of. */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
constexpr int MAX_TAPS = 16;
constexpr int STEP = 4;        /* tokens loaded at once */
constexpr int FWD_RUN = 16;    /* tokens a thread, forward */
constexpr int BWD_RUN = 64;    /* backward, at least */
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

/* The KMAX-1 tokens before the one at hand, of N channels: x[b-1] lies b back. Zeros where they are
 * of another segment. */
template <int KMAX, int N> struct window {
    float x[KMAX - 1][N];

    __device__ __forceinline__ void clear()
    {
        keep_branch(); /* segments are rare */
#pragma unroll
        for (int b = 0; b < KMAX - 1; b++)
#pragma unroll
            for (int i = 0; i < N; i++)
                x[b][i] = 0;
    }
    __device__ __forceinline__ void push(const float (&now)[N])
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
#pragma unroll
            for (int b = KMAX - 2; b > 0; b--)
                x[b][i] = x[b - 1][i];
            x[0][i] = now[i];
        }
    }
    /* pre of the token at hand. */
    __device__ __forceinline__ void convolve(float (&pre)[N], const filter<KMAX, N> &f,
                                             const float (&now)[N], int K) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            pre[i] = f.bias[i];
#pragma unroll
        for (int b = KMAX - 1; b > 0; b--)
            if (b < K)
#pragma unroll
                for (int i = 0; i < N; i++)
                    pre[i] += f.w[b][i] * x[b - 1][i];
#pragma unroll
        for (int i = 0; i < N; i++)
            pre[i] += f.w[0][i] * now[i];
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

/* The run's first token in m. */
template <class T> __device__ __forceinline__ T *run_in(const mat<T> &m, const conv_at &at)
{
    return m.p + (at.row + at.t) * m.ld + at.c;
}

template <int N> unsigned run_blocks(const runs &o, int C)
{
    return blocks_for((int64_t)o.B * o.per_row, ROWS_WARPS) * blocks_for(C, 32 * N);
}

/* Whether a segment begins at token t of the row, which follows another one. */
template <class T>
__device__ __forceinline__ bool begins_at(const conv_in<T> &in, const conv_at &at, int t)
{
    const int32_t *seg = in.seg + at.row + t;
    return seg[0] != seg[-1];
}

/* The tokens before the run's first; before t = 0 lie the history taps of a read, or zeros. */
template <class T, int KMAX, int N>
__device__ void read_before(window<KMAX, N> &win, const conv_in<T> &in, const conv_at &at)
{
    win.clear();
#pragma unroll
    for (int b = KMAX - 1; b > 0; b--) {
        const int t = at.t - b;
        float past[N] = {};
        if (t < 0 && t >= 1 - in.K && in.taps) {
#pragma unroll
            for (int i = 0; i < N; i++)
                past[i] = in.taps[((int64_t)at.slot * (in.K - 1) + in.K - 1 + t) * in.C + at.c + i];
        } else if (t >= 0) {
            packed<T, N> p;
            p.read(in.x.p + (at.row + t) * in.x.ld + at.c);
            p.get(past);
        }
        if (in.seg && t > 0 && begins_at(in, at, t))
            win.clear();
        win.push(past);
    }
}

/* A pack from where there is one, in its storage type, else zeros. */
template <class T, int N>
__device__ __forceinline__ void read_if(bool is_there, packed<T, N> &to, const T *from)
{
    if (is_there)
        to.read(from);
    else
        to.clear();
}

/* At which of STEP tokens a segment begins, bit k for token t + k of the run, of which n are there.
 * That of a row does not count. */
template <class T>
__device__ __forceinline__ uint32_t begins_from(const conv_in<T> &in, const conv_at &at, int t,
                                                int n)
{
    uint32_t bits = 0;
    if (in.seg)
#pragma unroll
        for (int k = 0; k < STEP; k++)
            if (t + k < n && at.t + t + k > 0)
                bits |= (uint32_t)begins_at(in, at, at.t + t + k) << k;
    return bits;
}

/* A block of 8 warps takes 8 runs of 32 N channels; C is a multiple of N, K at most KMAX (4: K is
 * 4). Moves 2 sizeof(T) bytes an element and reads (K-1) / 16 of x from the cache again; 2 K + 6
 * FLOPs. */
template <class T, int KMAX, int N>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_conv1d_fwd(mat<T> y, conv_in<T> in)
{
    const conv_at at = find_run<N>(in);
    const int K = KMAX == 4 ? 4 : in.K, n = at.is_in ? min(in.cut.run, at.T - at.t) : 0;
    window<KMAX, N> win;
    packed<T, N> x[STEP]; /* a token is asked for STEP before it is used */
    const int ld = (int)in.x.ld, to_ld = (int)y.ld;
    const T *from = run_in(in.x, at);
    T *to = run_in(y, at);
    if (at.is_in) {
        read_before<T, KMAX, N>(win, in, at);
#pragma unroll
        for (int k = 0; k < STEP; k++)
            read_if<T, N>(k < n, x[k], from + k * ld);
    }
    filter<KMAX, N> f;
    f.read(in.w, in.bias, at.first, in.C, K);
#pragma unroll 1
    for (int t = 0; t < n; t += STEP) {
        const uint32_t begins = begins_from(in, at, t, n);
        from += STEP * ld;
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float now[N], out[N];
            if (begins >> k & 1)
                win.clear();
            x[k].get(now);
            read_if<T, N>(t + k + STEP < n, x[k], from + k * ld);
            win.convolve(out, f, now, K);
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] *= sigmoid_for<T>(out[i]);
            if (t + k < n)
                store<T, N>(to + k * to_ld, out);
            win.push(now);
        }
        to += STEP * to_ld;
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

/* dpre of the token at hand, from pre and dy, and its share of the sums where the token is of the
 * run. A token behind T has dy = 0, and so no share. */
template <class T, int KMAX, int N>
__device__ __forceinline__ void
bwd_token(float (&dpre)[N], conv_sums<KMAX, N> &sums, const window<KMAX, N> &win,
          const filter<KMAX, N> &f, const float (&now)[N], const float (&dy)[N], int K, bool is_own)
{
    float pre[N];
    win.convolve(pre, f, now, K);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float s = sigmoid_for<T>(pre[i]);
        dpre[i] = dy[i] * (s * (1.0f + pre[i] * (1.0f - s)));
    }
    if (!is_own)
        return;
#pragma unroll
    for (int i = 0; i < N; i++) {
        sums.bias[i] += dpre[i];
        sums.w[0][i] += dpre[i] * now[i];
    }
#pragma unroll
    for (int b = 1; b < KMAX; b++)
        if (b < K)
#pragma unroll
            for (int i = 0; i < N; i++)
                sums.w[b][i] += dpre[i] * win.x[b - 1][i];
}

/* dx of the token KMAX-1 before the one at hand, as far as its segment goes; dpre[b]: that of the
 * token b behind it. begins: bit b for a segment that begins b tokens back from the one at hand. */
template <int KMAX, int N>
__device__ __forceinline__ void bwd_dx(float (&dx)[N], const float (&dpre)[KMAX][N],
                                       uint32_t begins, const filter<KMAX, N> &f, int K)
{
    constexpr uint32_t all = (1u << (KMAX - 1)) - 1; /* the places behind it */
#pragma unroll
    for (int i = 0; i < N; i++)
        dx[i] = f.w[0][i] * dpre[0][i];
#pragma unroll
    for (int b = 1; b < KMAX; b++)
        if (b < K && (begins & all & ~(all >> b)) == 0)
#pragma unroll
            for (int i = 0; i < N; i++)
                dx[i] += f.w[b][i] * dpre[b][i];
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
    const int K = KMAX == 4 ? 4 : in.K;
    /* tokens of the run: its own, those that dpre is wanted of, those of them that there are */
    const int n = at.is_in ? min(in.cut.run, at.T - at.t) : 0;
    const int n_pre = at.is_in ? n + KMAX - 1 : 0, n_read = min(n_pre, at.T - at.t);
    conv_sums<KMAX, N> sums = {};
    filter<KMAX, N> f;
    window<KMAX, N> win;
    float dpre[KMAX][N] = {};
    uint32_t begins = 0;
    packed<T, N> x[STEP], d[STEP]; /* a token is asked for STEP before it is used */
    const int x_ld = (int)in.x.ld, dy_ld = (int)dy.ld, dx_ld = (int)dx.ld;
    const T *x_from = run_in(in.x, at), *dy_from = run_in(dy, at);
    T *to = run_in(dx, at) - (KMAX - 1) * dx_ld; /* dx lies so far behind */
    if (at.is_in) {
        read_before<T, KMAX, N>(win, in, at);
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            read_if<T, N>(k < n_read, x[k], x_from + k * x_ld);
            read_if<T, N>(k < n_read, d[k], dy_from + k * dy_ld);
        }
    }
    f.read(in.w, in.bias, at.first, in.C, K);
#pragma unroll 1
    for (int t = 0; t < n_pre; t += STEP) {
        const uint32_t here = begins_from(in, at, t, n_read);
        x_from += STEP * x_ld;
        dy_from += STEP * dy_ld;
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            const int own = t + k - (KMAX - 1);
            float now[N], now_dy[N], out[N];
            begins = begins << 1 | (here >> k & 1);
            if (begins & 1)
                win.clear();
            x[k].get(now);
            d[k].get(now_dy);
            read_if<T, N>(t + k + STEP < n_read, x[k], x_from + k * x_ld);
            read_if<T, N>(t + k + STEP < n_read, d[k], dy_from + k * dy_ld);
            bwd_token<T, KMAX, N>(dpre[KMAX - 1], sums, win, f, now, now_dy, K, t < n);
            bwd_dx<KMAX, N>(out, dpre, begins, f, K);
            if (own >= 0 && own < n)
                store<T, N>(to + k * dx_ld, out);
            win.push(now);
#pragma unroll
            for (int b = 0; b < KMAX - 1; b++)
#pragma unroll
                for (int i = 0; i < N; i++)
                    dpre[b][i] = dpre[b + 1][i];
        }
        to += STEP * dx_ld;
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
