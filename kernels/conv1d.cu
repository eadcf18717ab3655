/* conv1d: the convolution of whole rows (conv1d.cuh has the formula), from zeros or from the
 * history that a read continues. The decode step is in mamba_step.cu. */
#include "conv1d.cuh"

#include "cuda_ops.cuh"

using namespace conv1d;

namespace
{
constexpr int RUN = 16; /* tokens a thread */

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
    if (!at.is_in)
        return;
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

template <class T, int KMAX, int N>
void run_fwd(struct dev *dev, struct tensor *y, const conv_in<T> &in)
{
    launch(dev, "conv1d_fwd", k_conv1d_fwd<T, KMAX, N>, run_blocks<N>(in.cut, in.C), ROWS_THREADS,
           0, mat_of<T>(y), in);
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
        conv_in<S> in = make_in<S>(x, w, bias, seg, cut(B, T, RUN));
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
