/* mamba_flow: mamba_step.cu's token where rows are many: each has few blocks or one. The state
 * flows through a ring in shared memory, so that loads are under way all the time, B and C are
 * convolved once or a few times, and a block alone with its row does all of it. The same sums in
 * the same order. */
#include "mamba_step.cuh"

namespace
{
/* FLOWS: packs of 4 numbers of state that a thread copies at a time. */
enum { THREADS = MAMBA_THREADS, FLOWS = 4 };

/* A thread's part of a state whose rows of N = 4 LN NJ numbers take LN lanes: ROWS neighbouring
 * rows, NJ packs of each, at every STEP-th row. It reads of the ring what it has copied itself. */
template <int LN, int NJ> struct flow {
    static constexpr int N = 4 * LN * NJ, ROWS = FLOWS / NJ, GROUPS = THREADS / LN;
    static constexpr int STEP = GROUPS * ROWS, STAGE = STEP * N;

    static __device__ __forceinline__ int first_row()
    {
        return (int)threadIdx.x / LN * ROWS;
    }
    static __device__ __forceinline__ float *own(float *ring, int stage)
    {
        return ring + stage * STAGE + first_row() * N + (int)threadIdx.x % LN * 4;
    }
    static __device__ __forceinline__ void copy(float *ring, int stage, const float *state, int row,
                                                int E)
    {
        float *to = own(ring, stage);
        const float *from = state + (int64_t)row * N + (int)threadIdx.x % LN * 4;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < NJ; j++)
                if (row + i < E)
                    copy16_async(to + i * N + j * LN * 4, from + i * N + j * LN * 4);
        copy_commit();
    }
};

/* What the block keeps besides of its n_e channels: x after the convolution, delta x, y; of all
 * groups B and C, of all heads what drives them. */
struct row_at {
    float *x, *dx, *y, *bc; /* (n_e) (n_e) (n_e) (2,G,N) */
    drive *heads;           /* (H), of x = 1 */
};

size_t row_bytes(int n_e, int GN, int H)
{
    return sizeof(float) * (size_t)(3 * n_e + 2 * GN) + sizeof(drive) * (size_t)H;
}

/* The token of row r; its channels of B and C enter their history only if the block is alone. */
template <class T, bool ALONE>
__device__ __forceinline__ void fill_row(const row_at &at, const step_in<T> &in,
                                         const conv_in<T> &conv, int r, int slot, int e0, int n_e)
{
    constexpr int INPUTS = ALONE ? 3 : 1;
    const int E = in.H * in.P, tid = (int)threadIdx.x, n_all = n_e + conv.C - E;
    for (int i0 = tid; i0 < n_all; i0 += INPUTS * THREADS) {
        window w[INPUTS];
        filter f[INPUTS];
        const auto channel = [&](int i) { return i < n_e ? e0 + i : E + i - n_e; };
        const int last = i0 + (n_all - 1 - i0) / THREADS * THREADS; /* of this thread */
#pragma unroll
        for (int k = 0; k < INPUTS; k++) {
            const int c = channel(min(i0 + k * THREADS, last));
            w[k] = window_of(conv, r, slot, c);
            f[k] = filter_of(conv, c);
        }
#pragma unroll
        for (int k = 0; k < INPUTS; k++) {
            const int i = i0 + k * THREADS;
            if (i >= n_all)
                continue;
            (i < n_e ? at.x + i : at.bc + i - n_e)[0] =
                convolve(conv, f[k], w[k], slot, channel(i));
            if (ALONE || i < n_e)
                shift(conv, w[k], slot, channel(i));
        }
    }
    for (int h = tid; h < in.H; h += THREADS)
        at.heads[h] = drive_of(in, r, h * in.P, 1.0f);
    __syncthreads();
    for (int e = tid; e < n_e; e += THREADS)
        at.dx[e] = __fmul_rn(at.heads[(e0 + e) / in.P].dx, at.x[e]);
    __syncthreads();
}

/* One block per_block channels (blockIdx.x) of one row (blockIdx.y). Shared memory: STAGES * 32 KB
 * for the ring, row_bytes. P and per_block multiples of ROWS, rows of state aligned to 16 bytes.
 * Reads and writes N floats of state a channel; 5 N FLOPs a channel. Where the block is alone with
 * its row, it does all of it: then the next kernel may start when the state is written, for later
 * ones ask for theirs before grid_wait. Else k_mamba_join comes after it. */
template <class T, int LN, int NJ, int STAGES, bool ALONE>
__global__ void __launch_bounds__(THREADS, STAGES > 3 ? 1 : 2)
    k_mamba_flow(mat<T> out, step_in<T> in, conv_in<T> conv, gate_in<T> gate)
{
    using S = flow<LN, NJ>;
    constexpr int N = S::N, ROWS = S::ROWS;
    SHARED_DYN(float, ring);
    const int E = in.H * in.P, GN = in.G * N, r = (int)blockIdx.y, slot = in.slots[r];
    const int e0 = ALONE ? 0 : (int)blockIdx.x * in.per_block, n_e = ALONE ? E : in.per_block;
    const int tid = (int)threadIdx.x, n = tid % LN * 4;
    float *x = ring + STAGES * S::STAGE, *bc = x + 3 * n_e;
    const row_at at = {x, x + n_e, x + 2 * n_e, bc, reinterpret_cast<drive *>(bc + 2 * GN)};
    float *state = in.state + ((int64_t)slot * E + e0) * N;
    if (!ALONE)
        grid_release();
#pragma unroll
    for (int s = 0; s < STAGES; s++)
        S::copy(ring, s, state, S::first_row() + s * S::STEP, n_e);
    grid_wait();
    fill_row<T, ALONE>(at, in, conv, r, slot, e0, n_e);
    for (int p = S::first_row(), stage = 0; p - S::first_row() < n_e; p += S::STEP) {
        const int h = (e0 + min(p, n_e - 1)) / in.P;
        const float decay = at.heads[h].decay, *from = S::own(ring, stage);
        const float *b_at = at.bc + h / (in.H / in.G) * N + n;
        float sum[ROWS], b[NJ][4], c[NJ][4];
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            load(b[j], b_at + j * LN * 4);
            load(c[j], b_at + GN + j * LN * 4);
        }
        copy_wait<STAGES - 1>();
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const bool is_in = p + i < n_e;
            const float dx = is_in ? at.dx[p + i] : 0.0f;
            float *to = state + (int64_t)(p + i) * N + n;
            sum[i] = 0;
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                float s[4] = {};
                if (is_in)
                    load(s, from + i * N + j * LN * 4);
                sum[i] = advance<4>(s, decay, dx, b[j], c[j], sum[i]);
                if (is_in)
                    __stcs(reinterpret_cast<float4 *>(to + j * LN * 4),
                           float4{s[0], s[1], s[2], s[3]});
            }
        }
        S::copy(ring, stage, state, p + STAGES * S::STEP, n_e);
        stage = stage + 1 < STAGES ? stage + 1 : 0;
        const float all = lanes_sums<LN, ROWS>(sum);
        const int row = p + tid % LN / (LN / ROWS);
        if (tid % (LN / ROWS) == 0 && row < n_e)
            at.y[row] = all;
    }
    if (ALONE) {
        __threadfence();
        grid_release();
    }
    __syncthreads();
    float *v = ALONE ? at.y : gate.v + (int64_t)r * E + e0;
    for (int i = tid; i < n_e; i += THREADS) {
        const int e = e0 + i;
        const float y = fmaf(in.skip[e / in.P], at.x[i], at.y[i]);
        v[i] = __fmul_rn(y, silu(to_f32(gate.z.p[(int64_t)r * gate.z.ld + e])));
    }
    if (ALONE)
        put_norm(out, v, gate, r, E); /* reads what the thread has written */
}

/* A row in n_parts (ALONE: 1), which is returned; 0: it cannot, nothing is done. */
template <class T, int STAGES, bool ALONE>
int run_flow(struct dev *dev, mat<T> out, step_in<T> in, const conv_in<T> &conv,
             const gate_in<T> &gate, int R, int n_parts)
{
    void (*k)(mat<T>, step_in<T>, conv_in<T>, gate_in<T>) =
        in.N == 64    ? k_mamba_flow<T, 16, 1, STAGES, ALONE>
        : in.N == 128 ? k_mamba_flow<T, 32, 1, STAGES, ALONE>
        : in.N == 256 ? k_mamba_flow<T, 32, 2, STAGES, ALONE>
                      : NULL;
    in.per_block = in.H * in.P / n_parts;
    const size_t smem =
        sizeof(float) * STAGES * THREADS * FLOWS * 4 + row_bytes(in.per_block, in.G * in.N, in.H);
    if (!k || smem > cuda_of(dev)->smem_bytes || (uintptr_t)in.state % 16 != 0 ||
        in.P % FLOWS != 0 || in.H * in.P % n_parts != 0 || in.per_block % FLOWS != 0)
        return 0;
    launch_early(dev, "mamba_step", k, dim3((unsigned)n_parts, (unsigned)R), THREADS, smem, out, in,
                 conv, gate);
    return n_parts;
}
} /* namespace */

template <class T>
int mamba_flow(struct dev *dev, mat<T> out, const step_in<T> &in, const conv_in<T> &conv,
               const gate_in<T> &gate, int R)
{
    const int n_sm = cuda_of(dev)->n_sm;
    if (R > n_sm)
        return run_flow<T, 3, true>(dev, out, in, conv, gate, R, 1);
    if (2 * R > n_sm)
        return run_flow<T, 6, true>(dev, out, in, conv, gate, R, 1);
    if (6 * R < n_sm)
        return 0;
    return run_flow<T, 6, false>(dev, out, in, conv, gate, R, 20 * R >= 7 * n_sm ? 2 : 4);
}

template int mamba_flow(struct dev *, mat<float>, const step_in<float> &, const conv_in<float> &,
                        const gate_in<float> &, int);
template int mamba_flow(struct dev *, mat<f16>, const step_in<f16> &, const conv_in<f16> &,
                        const gate_in<f16> &, int);
template int mamba_flow(struct dev *, mat<bf16>, const step_in<bf16> &, const conv_in<bf16> &,
                        const gate_in<bf16> &, int);
