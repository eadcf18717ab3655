/* conv1d_bwd: the gradient of the convolution (conv1d.cuh). With dpre = dy silu'(pre), pre made
 * again:
 *   dx_t = sum_b w[K-1-b] dpre_{t+b},  dw[K-1-b] = sum_t dpre_t x_{t-b},  dbias = sum_t dpre_t */
#include "conv1d.cuh"

#include "cuda_ops.cuh"

using namespace conv1d;

namespace
{
constexpr int RUN = 64;        /* tokens a thread, at least */
constexpr int MAX_RUNS = 2048; /* runs grow beyond that many */

/* Each block's 8 runs give a part of dw and dbias, so there are not too many of them. */
runs cut_rows(int B, int T)
{
    int64_t run = RUN;
    while (B * ((T + run - 1) / run) > MAX_RUNS && run < T)
        run *= 2;
    return cut(B, T, (int)run);
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
void run_bwd(struct dev *dev, struct tensor *dx, const struct tensor *dy, const conv_in<T> &in)
{
    launch(dev, "conv1d_bwd", k_conv1d_bwd<T, KMAX, N>, run_blocks<N>(in.cut, in.C), ROWS_THREADS,
           0, mat_of<T>(dx), cmat_of<T>(dy), in, (float *)dev->work);
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
} // namespace

void cuda_conv1d_bwd(struct dev *dev, struct tensor *dx, struct tensor *dw, struct tensor *dbias,
                     const struct tensor *dy, const struct tensor *x, const struct tensor *w,
                     const struct tensor *bias, const int32_t *seg, int B, int T)
{
    const int K = (int)tensor_cols(w), C = (int)tensor_cols(x);
    const bool is_wide = K == 4 && has_rows_of(x, 4) && has_rows_of(dx, 4) && has_rows_of(dy, 4);
    const runs runs = cut_rows(B, T);
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
    const size_t runs = (size_t)s->B * (((size_t)s->T + RUN - 1) / RUN);
    const size_t most = runs < MAX_RUNS ? runs : MAX_RUNS;
    const size_t C = (size_t)s->H * (size_t)s->P + 2 * (size_t)s->G * (size_t)s->N;
    return (most + ROWS_WARPS - 1) / ROWS_WARPS * C * ((size_t)s->K + 1) * sizeof(float);
}
