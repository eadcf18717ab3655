/* mamba_step: one token of a Mamba-2 mixer (Dao & Gu 2024, section 6) for each of R rows.
 *
 *   xbc <- silu(conv(xbc));  delta = softplus(dt + dt_bias);
 *   S <- exp(-delta exp(a_log)) S + delta x B^T;  y = S C + skip x;  v = y silu(z);
 *   out = norm_w v / sqrt(mean(v^2) + eps)
 *
 * The state, H P N floats a row, is read and written once, and nothing else is of its size. Heads
 * are spread over blocks, so the norm, which needs a whole row, is a second launch; it also shifts
 * the history of B and C, which every block of the row has to have read before.
 *
 * Each sum (over taps, over N, over H P) is taken in an order that depends on its length alone.
 * What the convolution gives is rounded to the type of activations, as it is when it is stored.
 *
 * The state is asked for before grid_wait: k_mamba_norm releases what follows only when it has
 * waited for the kernel that advances it, so that no later kernel can find it half written. */
#include "step_plan.cuh"

#include "cuda_ops.cuh"
#include "mma.cuh"

namespace
{
enum { THREADS = 256, WARPS = THREADS / 32 };

template <class T> struct conv_in {
    mat<const T> x; /* (R,C) */
    float *taps;    /* (slots,K-1,C) */
    const float *w, *bias;
    int C, K;
};

/* silu of channel c's convolution. */
template <class T>
__device__ __forceinline__ float convolve(const conv_in<T> &in, int r, int slot, int c)
{
    const float *past = in.taps + (int64_t)slot * (in.K - 1) * in.C + c, *w = in.w + c * in.K;
    float sum = in.bias[c];
    for (int j = 0; j < in.K - 1; j++)
        sum = fmaf(w[j], past[(int64_t)j * in.C], sum);
    sum = fmaf(w[in.K - 1], to_f32(in.x.p[(int64_t)r * in.x.ld + c]), sum);
    return to_f32(from_f32<T>(silu(sum)));
}

/* The row's token enters the history of channel c. */
template <class T>
__device__ __forceinline__ void shift(const conv_in<T> &in, int r, int slot, int c)
{
    float *past = in.taps + (int64_t)slot * (in.K - 1) * in.C + c;
    for (int j = 0; j < in.K - 2; j++)
        past[(int64_t)j * in.C] = past[(int64_t)(j + 1) * in.C];
    if (in.K > 1)
        past[(int64_t)(in.K - 2) * in.C] = to_f32(in.x.p[(int64_t)r * in.x.ld + c]);
}

/* One thread a channel, blocks of 256 channels by rows. Reads (2 K + 1) C, writes K C numbers a
 * row. */
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    k_conv1d_step(mat<T> y, conv_in<T> in, const int32_t *slots)
{
    const int c = (int)(blockIdx.x * THREADS + threadIdx.x), r = (int)blockIdx.y;
    if (c >= in.C)
        return;
    y.p[(int64_t)r * y.ld + c] = from_f32<T>(convolve(in, r, slots[r], c));
    shift(in, r, slots[r], c);
}

template <class T> struct state_in {
    mat<const T> x, dt, bmat, cmat; /* x, bmat, cmat: not in the fused kernel */
    const float *dt_bias, *a_log, *skip;
    float *state; /* (slots,H,P,N) */
    const int32_t *slots;
    int H, P, N, G, per_block; /* per_block: rows of P that a block advances */
};

/* What a lane holds of ROWS rows of the state, LN lanes a row: NJ packs of 4 numbers each, 4 LN
 * apart. */
template <int LN, int NJ> struct state_rows {
    static constexpr int ROWS = NJ == 1 ? 8 : 4;
    float s[ROWS][NJ][4];
};

/* Reads rows p, p+step ... of the head's state, as far as they lie before end. */
template <int LN, int NJ>
__device__ __forceinline__ void load_rows(state_rows<LN, NJ> &rows, const float *state, int p,
                                          int step, int end)
{
    const int n = lane_id() % LN * 4;
#pragma unroll
    for (int i = 0; i < state_rows<LN, NJ>::ROWS; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            if (p + i * step < end)
                load(rows.s[i][j], state + (p + i * step) * LN * NJ * 4 + j * LN * 4 + n);
}

/* Sum over LN lanes. */
template <int LN> __device__ __forceinline__ float lanes_sum(float v)
{
#pragma unroll
    for (int step = LN / 2; step > 0; step /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

/* S <- decay S + dx B for a pack, and its product with C added to sum. */
template <int V>
__device__ __forceinline__ float advance(float (&s)[V], float decay, float dx, const float *b,
                                         const float *c, float sum)
{
#pragma unroll
    for (int i = 0; i < V; i++) {
        s[i] = fmaf(decay, s[i], __fmul_rn(dx, b[i]));
        sum = fmaf(s[i], c[i], sum);
    }
    return sum;
}

/* Rows [p0,end) of a head: y[p - p0] = S C, S advanced. bc: B, then C (N each); dx (end - p0):
 * delta x. first: the rows that load_rows(p0 + the warp's first) gave. */
template <int LN, int NJ>
__device__ __forceinline__ void advance_rows(float *y, float *state, state_rows<LN, NJ> &first,
                                             const float *dx, const float *bc, float decay, int p0,
                                             int end, int N)
{
    constexpr int ROWS = state_rows<LN, NJ>::ROWS, STEP = WARPS * (32 / LN);
    const int n = lane_id() % LN * 4, mine = p0 + (int)threadIdx.x / LN;
    float b[NJ][4], c[NJ][4];
#pragma unroll
    for (int j = 0; j < NJ; j++) {
        load(b[j], bc + j * LN * 4 + n);
        load(c[j], bc + N + j * LN * 4 + n);
    }
    for (int p = mine; p - mine < end - p0; p += ROWS * STEP) {
        if (p != mine)
            load_rows<LN, NJ>(first, state, p, STEP, end);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int row = p + i * STEP;
            const bool is_in = row < end;
            float sum = 0;
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                sum =
                    advance<4>(first.s[i][j], decay, is_in ? dx[row - p0] : 0.0f, b[j], c[j], sum);
                if (is_in)
                    store(state + row * N + j * LN * 4 + n, first.s[i][j]);
            }
            sum = lanes_sum<LN>(sum);
            if (is_in && lane_id() % LN == 0)
                y[row - p0] = sum;
        }
    }
}

/* The same for rows of any length, a warp a row. */
__device__ __forceinline__ void advance_any(float *y, float *state, const float *dx,
                                            const float *bc, float decay, int p0, int end, int N)
{
    for (int p = p0 + (int)threadIdx.x / 32; p < end; p += WARPS) {
        float sum = 0;
        for (int n = lane_id(); n < N; n += 32) {
            float s[1] = {state[p * N + n]};
            sum = advance<1>(s, decay, dx[p - p0], bc + n, bc + N + n, sum);
            state[p * N + n] = s[0];
        }
        sum = warp_sum(sum);
        if (lane_id() == 0)
            y[p - p0] = sum;
    }
}

/* B, C and x of the block's rows into shared memory. */
template <class T, bool FUSED>
__device__ __forceinline__ void fill_token(float *bc, float *x, const state_in<T> &in,
                                           const conv_in<T> &conv, int r, int slot, int h, int p0,
                                           int n_p)
{
    const int N = in.N, E = in.H * in.P, g = h / (in.H / in.G);
    for (int i = (int)threadIdx.x; i < 2 * N + n_p; i += THREADS) {
        const bool is_bc = i < 2 * N;
        const int n = i % N, at = h * in.P + p0 + i - 2 * N; /* of x's channels */
        float v;
        if (FUSED) {
            const int c = is_bc ? E + (i / N * in.G + g) * N + n : at;
            v = convolve(conv, r, slot, c);
            if (!is_bc)
                shift(conv, r, slot, c);
        } else {
            const mat<const T> from = !is_bc ? in.x : i < N ? in.bmat : in.cmat;
            v = to_f32(from.p[(int64_t)r * from.ld + (is_bc ? g * N + n : at)]);
        }
        (is_bc ? bc + i : x + i - 2 * N)[0] = v;
    }
}

/* LN lanes hold a state row of 4 LN NJ numbers; LN 0: N is any number, read and written number by
 * number. One block per_block rows of P of one head of one row: blockIdx.x = head * (blocks a head)
 * + which, blockIdx.y the row. FUSED: with the convolution before (B and C by every block; x, whose
 * history shifts at once, by its own) and the gate after, v (R,E) f32; else y (R,E). Shared memory:
 * 2 N + 3 per_block floats. Reads and writes H P N floats of state a row, which are asked for
 * before all else; (2 + 3) P N FLOPs a head. */
template <class T, int LN, int NJ, bool FUSED>
__global__ void __launch_bounds__(THREADS, 2)
    k_state_step(mat<T> y, float *v, state_in<T> in, conv_in<T> conv, mat<const T> z)
{
    SHARED_DYN(float, bc);
    if (FUSED)
        grid_release();
    const int N = in.N, P = in.P, blocks = (P + in.per_block - 1) / in.per_block;
    const int h = (int)blockIdx.x / blocks, r = (int)blockIdx.y, slot = in.slots[r];
    const int p0 = (int)blockIdx.x % blocks * in.per_block, end = min(p0 + in.per_block, P);
    float *x = bc + 2 * N, *dx = x + in.per_block, *sums = dx + in.per_block;
    float *state = in.state + ((int64_t)slot * in.H + h) * P * N;
    state_rows<LN ? LN : 32, NJ> first;
    if (LN)
        load_rows<LN ? LN : 32, NJ>(first, state, p0 + (int)threadIdx.x / (LN ? LN : 32),
                                    WARPS * (32 / (LN ? LN : 32)), end);
    if (FUSED)
        grid_wait();
    const float pre = to_f32(in.dt.p[(int64_t)r * in.dt.ld + h]) + in.dt_bias[h];
    const float delta = pre > 20.0f ? pre : log1pf(expf(pre));
    const float decay = expf(-delta * expf(in.a_log[h]));
    fill_token<T, FUSED>(bc, x, in, conv, r, slot, h, p0, end - p0);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < end - p0; i += THREADS)
        dx[i] = __fmul_rn(delta, x[i]);
    __syncthreads();
    if (LN)
        advance_rows<LN ? LN : 32, NJ>(sums, state, first, dx, bc, decay, p0, end, N);
    else
        advance_any(sums, state, dx, bc, decay, p0, end, N);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < end - p0; i += THREADS) {
        const int e = h * P + p0 + i;
        const float out = fmaf(in.skip[h], x[i], sums[i]);
        if (FUSED)
            v[(int64_t)r * in.H * P + e] = __fmul_rn(out, silu(to_f32(z.p[(int64_t)r * z.ld + e])));
        else
            y.p[(int64_t)r * y.ld + e] = from_f32<T>(out);
    }
}

/* The gated norm's second half, and the history of B and C: channels E to C. One block a row. Reads
 * E floats twice, writes E numbers. */
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    k_mamba_norm(mat<T> out, const float *v, const float *norm_w, float eps, int E, conv_in<T> conv,
                 const int32_t *slots)
{
    const int r = (int)blockIdx.x, slot = slots[r];
    grid_wait();
    grid_release();
    const float *row = v + (int64_t)r * E;
    float sum = 0;
    for (int e = (int)threadIdx.x; e < E; e += THREADS)
        sum = fmaf(row[e], row[e], sum);
    for (int c = E + (int)threadIdx.x; c < conv.C; c += THREADS)
        shift(conv, r, slot, c);
    const float rstd = 1.0f / sqrtf(block_sum<THREADS>(sum) / (float)E + eps);
    for (int e = (int)threadIdx.x; e < E; e += THREADS)
        out.p[(int64_t)r * out.ld + e] = from_f32<T>(__fmul_rn(__fmul_rn(row[e], rstd), norm_w[e]));
}

/* Whole heads where rows alone fill the GPU, parts of 16 rows of P where they do not. Which part a
 * number lies in does not enter its bits. */
int rows_per_block(int R, int H, int P)
{
    return R * H >= 256 || P % 16 != 0 ? P : 16;
}

template <class T>
state_in<T> state_of(const struct ssd_in *in, float *state, const struct step_rows *rows)
{
    return state_in<T>{cmat_of<T>(&in->x),
                       cmat_of<T>(&in->dt),
                       cmat_of<T>(&in->bmat),
                       cmat_of<T>(&in->cmat),
                       (const float *)in->dt_bias.data,
                       (const float *)in->a_log.data,
                       (const float *)in->skip.data,
                       state,
                       rows->slot,
                       in->H,
                       in->P,
                       in->N,
                       in->G,
                       rows_per_block(rows->R, in->H, in->P)};
}

template <class T>
conv_in<T> conv_of(float *taps, const struct tensor *x, const struct tensor *w,
                   const struct tensor *bias)
{
    return conv_in<T>{cmat_of<T>(x),          taps,
                      (const float *)w->data, (const float *)bias->data,
                      (int)tensor_cols(x),    (int)tensor_cols(w)};
}

template <class T, bool FUSED>
void run_state(struct dev *dev, const char *at, mat<T> y, float *v, const state_in<T> &in,
               const conv_in<T> &conv, mat<const T> z, int R)
{
    const dim3 grid((unsigned)in.H * blocks_for(in.P, in.per_block), (unsigned)R);
    const size_t smem = sizeof(float) * (size_t)(2 * in.N + 3 * in.per_block);
    const bool is_wide = (uintptr_t)in.state % 16 == 0;
    void (*k)(mat<T>, float *, state_in<T>, conv_in<T>, mat<const T>) =
        k_state_step<T, 0, 1, FUSED>;
    if (is_wide && in.N == 64)
        k = k_state_step<T, 16, 1, FUSED>;
    else if (is_wide && in.N == 128)
        k = k_state_step<T, 32, 1, FUSED>;
    else if (is_wide && in.N == 256)
        k = k_state_step<T, 32, 2, FUSED>;
    launch_as(dev, at, FUSED && cuda_of(dev)->arch >= 90, k, grid, THREADS, smem, y, v, in, conv,
              z);
}
} /* namespace */

size_t cuda_mamba_step_plan(const struct sizes *s)
{
    return sizeof(float) * (size_t)s->R * (size_t)s->H * (size_t)s->P;
}

void cuda_conv1d_step(struct dev *dev, struct tensor *y, float *taps, const struct tensor *x,
                      const struct tensor *w, const struct tensor *bias,
                      const struct step_rows *rows)
{
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        const conv_in<T> conv = conv_of<T>(taps, x, w, bias);
        launch(dev, "conv1d_step", k_conv1d_step<T>,
               dim3(blocks_for(conv.C, THREADS), (unsigned)rows->R), THREADS, 0, mat_of<T>(y), conv,
               rows->slot);
    });
}

void cuda_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                   const struct step_rows *rows)
{
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        run_state<T, false>(dev, "ssd_step", mat_of<T>(y), NULL, state_of<T>(in, state, rows),
                            conv_in<T>{}, mat<const T>{}, rows->R);
    });
}

void cuda_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                     const struct tensor *xbc, const struct tensor *z, const struct tensor *conv_w,
                     const struct tensor *conv_b, const struct tensor *norm_w, float eps,
                     const struct ssd_in *in, const struct step_rows *rows)
{
    const int E = in->H * in->P;
    float *v = (float *)dev->work;
    assert(dev->work_bytes >= sizeof(float) * (size_t)rows->R * (size_t)E);
    with_type(out->dtype, [&](auto zero) {
        using T = decltype(zero);
        const conv_in<T> conv = conv_of<T>(taps, xbc, conv_w, conv_b);
        run_state<T, true>(dev, "mamba_step", mat<T>{}, v, state_of<T>(in, state, rows), conv,
                           cmat_of<T>(z), rows->R);
        launch_early(dev, "mamba_step", k_mamba_norm<T>, (unsigned)rows->R, THREADS, 0,
                     mat_of<T>(out), (const float *)v, (const float *)norm_w->data, eps, E, conv,
                     rows->slot);
    });
}
