/* mamba_step: one token of a Mamba-2 mixer (Dao & Gu 2024, section 6) for each of R rows.
 *
 *   xbc <- silu(conv(xbc));  delta = softplus(dt + dt_bias);
 *   S <- exp(-delta exp(a_log)) S + delta x B^T;  y = S C + skip x;  v = y silu(z);
 *   out = norm_w v / sqrt(mean(v^2) + eps)
 *
 * The state, H P N floats a row, is read and written once, and nothing else is of its size. The
 * channels of a row are spread over blocks, so the norm, which needs a whole row, is a second
 * launch; it also shifts the history of B and C, which every block of the row has to have read
 * before. Where rows are many, mamba_flow.cu takes over.
 *
 * Each sum (over taps, over N, over H P) is taken in an order that depends on its length alone.
 * What the convolution gives is rounded to the type of activations, as it is when it is stored.
 *
 * The state is asked for before grid_wait: k_mamba_join releases what follows only when it has
 * waited for the kernel that advances it, so that no later kernel can find it half written. */
#include "step_plan.cuh"

#include "cuda_ops.cuh"
#include "mamba_step.cuh"

namespace
{
/* PACKS: packs of 4 numbers of state that a thread holds at a time. */
enum { THREADS = MAMBA_THREADS, WARPS = THREADS / 32, PACKS = 8, CONV_THREADS = 256 };
enum { FEWEST = 8, MOST = 32 }; /* blocks of a row, about */

/* One thread a channel, blocks of 256 channels by rows. Reads (2 K + 1) C, writes K C numbers a
 * row. */
template <class T>
__global__ void __launch_bounds__(CONV_THREADS)
    k_conv1d_step(mat<T> y, conv_in<T> in, const int32_t *slots)
{
    const int c = (int)(blockIdx.x * CONV_THREADS + threadIdx.x), r = (int)blockIdx.y;
    if (c >= in.C)
        return;
    const window x = window_of(in, r, slots[r], c);
    y.p[(int64_t)r * y.ld + c] = from_f32<T>(convolve(in, filter_of(in, c), x, slots[r], c));
    shift(in, x, slots[r], c);
}

/* What a lane holds of a state of N = 4 LN NJ numbers a row, LN lanes a row: NJ packs of ROWS
 * neighbouring rows, 4 LN apart. */
template <int LN, int NJ> struct state_rows {
    static constexpr int N = 4 * LN * NJ, ROWS = PACKS / NJ, STEP = THREADS / LN * ROWS;
    float s[ROWS][NJ][4];
};

/* Rows p, p+1 ... of a state as far as they lie before end. */
template <int LN, int NJ>
__device__ __forceinline__ void load_rows(state_rows<LN, NJ> &rows, const float *state, int p,
                                          int end)
{
    const float *from = state + (int64_t)p * rows.N + lane_id() % LN * 4;
#pragma unroll
    for (int i = 0; i < rows.ROWS; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            if (p + i < end)
                load(rows.s[i][j], from + i * rows.N + j * LN * 4);
}

/* Rows [0,end) of state: y = S C, S advanced. bc: B, then C (N each). rows: what load_rows gave for
 * the thread's first rows. */
template <int LN, int NJ>
__device__ __forceinline__ void advance_rows(float *y, float *state, state_rows<LN, NJ> &rows,
                                             const drive *by, const float *bc, int end)
{
    constexpr int N = state_rows<LN, NJ>::N, ROWS = state_rows<LN, NJ>::ROWS;
    const int n = lane_id() % LN * 4, mine = (int)threadIdx.x / LN * ROWS;
    float b[NJ][4], c[NJ][4];
#pragma unroll
    for (int j = 0; j < NJ; j++) {
        load(b[j], bc + j * LN * 4 + n);
        load(c[j], bc + N + j * LN * 4 + n);
    }
    for (int p = mine; p - mine < end; p += rows.STEP) {
        float sum[ROWS], *to = state + (int64_t)p * N + n;
        if (p != mine)
            load_rows<LN, NJ>(rows, state, p, end);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const drive d = p + i < end ? by[p + i] : drive{0, 0};
            sum[i] = 0;
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                sum[i] = advance<4>(rows.s[i][j], d.decay, d.dx, b[j], c[j], sum[i]);
                if (p + i < end)
                    store(to + i * N + j * LN * 4, rows.s[i][j]);
            }
        }
        const float all = lanes_sums<LN, ROWS>(sum);
        const int row = p + lane_id() % LN / (LN / ROWS);
        if (lane_id() % (LN / ROWS) == 0 && row < end)
            y[row] = all;
    }
}

/* The same for rows of any length, a warp a row. */
__device__ __forceinline__ void advance_any(float *y, float *state, const drive *by,
                                            const float *bc, int end, int N)
{
    for (int p = (int)threadIdx.x / 32; p < end; p += WARPS) {
        float sum = 0;
        for (int n = lane_id(); n < N; n += 32) {
            float s[1] = {state[(int64_t)p * N + n]};
            sum = advance<1>(s, by[p].decay, by[p].dx, bc + n, bc + N + n, sum);
            state[(int64_t)p * N + n] = s[0];
        }
        sum = warp_sum(sum);
        if (lane_id() == 0)
            y[p] = sum;
    }
}

/* Which channel of the convolution the block's i-th is: its own first, then B's and C's. */
template <class T>
__device__ __forceinline__ int channel_at(const step_in<T> &in, int e0, int n_e, int i)
{
    const int g = e0 / (in.H / in.G * in.P), j = i - n_e;
    return j < 0 ? e0 + i : in.H * in.P + (j / in.N * in.G + g) * in.N + j % in.N;
}

/* The token of the block's channels into shared memory: x and what drives the state, B and C.
 * FUSED: by way of the convolution, f being the filter of the thread's first channel. */
template <class T, bool FUSED>
__device__ __forceinline__ void fill_token(float *x, drive *by, float *bc, const step_in<T> &in,
                                           const conv_in<T> &conv, const filter &f, int r, int slot,
                                           int e0, int n_e)
{
    const int n_all = n_e + 2 * in.N;
    for (int i = (int)threadIdx.x; i < n_all; i += THREADS) {
        const int c = channel_at(in, e0, n_e, i);
        float value;
        if (FUSED) {
            const window w = window_of(conv, r, slot, c);
            value = convolve(conv, i < THREADS ? f : filter_of(conv, c), w, slot, c);
            if (i < n_e)
                shift(conv, w, slot, c);
        } else {
            const mat<const T> from = i < n_e ? in.x : i < n_e + in.N ? in.bmat : in.cmat;
            const int col = i < n_e ? c : (c - in.H * in.P) % (in.G * in.N);
            value = to_f32(from.p[(int64_t)r * from.ld + col]);
        }
        (i < n_e ? x + i : bc + i - n_e)[0] = value;
        if (i < n_e)
            by[i] = drive_of(in, r, c, value);
    }
}

/* LN lanes hold a state row of 4 LN NJ numbers; LN 0: N is any number, read and written number by
 * number. One block per_block channels (blockIdx.x) of one row (blockIdx.y). FUSED: with the
 * convolution before (B and C by every block; x, whose history shifts at once, by its own) and the
 * gate after, v (R,H*P) f32; else y (R,H*P). Shared memory: 2 N + 4 per_block floats. Reads and
 * writes N floats of state a channel; 5 N FLOPs a channel. */
template <class T, int LN, int NJ, bool FUSED>
__global__ void __launch_bounds__(THREADS)
    k_mamba_step(mat<T> y, step_in<T> in, conv_in<T> conv, gate_in<T> gate)
{
    SHARED_DYN(float, bc);
    constexpr int L = LN ? LN : 32;
    const int N = in.N, E = in.H * in.P, r = (int)blockIdx.y, slot = in.slots[r];
    const int tid = (int)threadIdx.x, e0 = (int)blockIdx.x * in.per_block;
    const int n_e = min(in.per_block, E - e0);
    float *x = bc + 2 * N, *sums = x + in.per_block;
    drive *by = reinterpret_cast<drive *>(sums + in.per_block);
    float *state = in.state + ((int64_t)slot * E + e0) * N;
    state_rows<L, NJ> rows;
    if (FUSED)
        grid_release();
    if (LN)
        load_rows<L, NJ>(rows, state, tid / L * rows.ROWS, n_e);
    filter f = {};
    if (FUSED && tid < n_e + 2 * N)
        f = filter_of(conv, channel_at(in, e0, n_e, tid));
    if (FUSED)
        grid_wait();
    float z = 0;
    if (FUSED && tid < n_e)
        z = to_f32(gate.z.p[(int64_t)r * gate.z.ld + e0 + tid]);
    fill_token<T, FUSED>(x, by, bc, in, conv, f, r, slot, e0, n_e);
    __syncthreads();
    if (LN)
        advance_rows<L, NJ>(sums, state, rows, by, bc, n_e);
    else
        advance_any(sums, state, by, bc, n_e, N);
    __syncthreads();
    for (int i = tid; i < n_e; i += THREADS) {
        const int e = e0 + i;
        const float out = fmaf(in.skip[e / in.P], x[i], sums[i]);
        if (FUSED && i >= THREADS)
            z = to_f32(gate.z.p[(int64_t)r * gate.z.ld + e]);
        if (FUSED)
            gate.v[(int64_t)r * E + e] = __fmul_rn(out, silu(z));
        else
            y.p[(int64_t)r * y.ld + e] = from_f32<T>(out);
    }
}

/* The gated norm's second half, and the history of B and C: channels E to C. One block a row. Reads
 * E floats twice, writes E numbers. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    k_mamba_join(mat<T> out, gate_in<T> gate, int E, conv_in<T> conv, const int32_t *slots)
{
    const int r = (int)blockIdx.x, slot = slots[r];
    grid_wait();
    grid_release();
    for (int c = E + (int)threadIdx.x; c < conv.C; c += THREADS)
        shift(conv, window_of(conv, r, slot, c), slot, c);
    put_norm(out, gate.v + (int64_t)r * E, gate, r, E);
}

/* Channels of a block, all of one group: FEWEST blocks a row, or more; where rows are few, up to
 * MOST, as long as all are at work at once. Which blocks a row is divided into does not enter its
 * bits. */
int per_block_of(const struct dev *dev, int H, int P, int G, int R)
{
    const int room = cuda_of(dev)->n_sm / R, most = room < MOST ? room : MOST;
    int n = H / G * P;
    while (n % 2 == 0 && H * P / n < FEWEST)
        n /= 2;
    while (n % 2 == 0 && 2 * (H * P / n) <= most)
        n /= 2;
    return n;
}

template <class T>
step_in<T> step_of(const struct dev *dev, const struct ssd_in *in, float *state,
                   const struct step_rows *rows)
{
    return step_in<T>{cmat_of<T>(&in->x),
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
                      per_block_of(dev, in->H, in->P, in->G, rows->R)};
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
void run_step(struct dev *dev, const char *at, mat<T> y, const step_in<T> &in,
              const conv_in<T> &conv, const gate_in<T> &gate, int R)
{
    const unsigned blocks = blocks_for(in.H * in.P, in.per_block);
    const bool is_wide = (uintptr_t)in.state % 16 == 0;
    void (*k)(mat<T>, step_in<T>, conv_in<T>, gate_in<T>) = k_mamba_step<T, 0, 1, FUSED>;
    if (is_wide && in.N == 64)
        k = k_mamba_step<T, 16, 1, FUSED>;
    else if (is_wide && in.N == 128)
        k = k_mamba_step<T, 32, 1, FUSED>;
    else if (is_wide && in.N == 256)
        k = k_mamba_step<T, 32, 2, FUSED>;
    launch_as(dev, at, FUSED && cuda_of(dev)->arch >= 90, k, dim3(blocks, (unsigned)R), THREADS,
              sizeof(float) * (size_t)(2 * in.N + 4 * in.per_block), y, in, conv, gate);
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
               dim3(blocks_for(conv.C, CONV_THREADS), (unsigned)rows->R), CONV_THREADS, 0,
               mat_of<T>(y), conv, rows->slot);
    });
}

void cuda_ssd_step(struct dev *dev, struct tensor *y, float *state, const struct ssd_in *in,
                   const struct step_rows *rows)
{
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        run_step<T, false>(dev, "ssd_step", mat_of<T>(y), step_of<T>(dev, in, state, rows),
                           conv_in<T>{}, gate_in<T>{}, rows->R);
    });
}

void cuda_mamba_step(struct dev *dev, struct tensor *out, float *taps, float *state,
                     const struct tensor *xbc, const struct tensor *z, const struct tensor *conv_w,
                     const struct tensor *conv_b, const struct tensor *norm_w, float eps,
                     const struct ssd_in *in, const struct step_rows *rows)
{
    const int E = in->H * in->P;
    assert(dev->work_bytes >= sizeof(float) * (size_t)rows->R * (size_t)E);
    with_type(out->dtype, [&](auto zero) {
        using T = decltype(zero);
        const conv_in<T> conv = conv_of<T>(taps, xbc, conv_w, conv_b);
        const gate_in<T> gate = {cmat_of<T>(z), (const float *)norm_w->data, eps,
                                 (float *)dev->work};
        const step_in<T> step = step_of<T>(dev, in, state, rows);
        const int n_blocks = mamba_flow(dev, mat_of<T>(out), step, conv, gate, rows->R);
        if (n_blocks == 0)
            run_step<T, true>(dev, "mamba_step", mat_of<T>(out), step, conv, gate, rows->R);
        if (n_blocks != 1)
            launch_early(dev, "mamba_step", k_mamba_join<T>, (unsigned)rows->R, THREADS, 0,
                         mat_of<T>(out), gate, E, conv, rows->slot);
    });
}
