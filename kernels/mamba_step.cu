/* mamba_step: one token of a Mamba-2 mixer (Dao & Gu 2024, section 6) for each of R rows.
 *
 *   xbc <- silu(conv(xbc));  delta = softplus(dt + dt_bias);
 *   S <- exp(-delta exp(a_log)) S + delta x B^T;  y = S C + skip x;  v = y silu(z);
 *   out = norm_w v / sqrt(mean(v^2) + eps)
 *
 * The state, H P N floats a row, is read and written once, and nothing else is of its size. The
 * channels of a row are spread over blocks, so the norm, which needs a whole row, is a second
 * launch; it also shifts the history of B and C, which every block of the row has to have read
 * before. Where rows are many, each has few blocks or one (k_mamba_flow): the state flows through a
 * ring in shared memory, so that loads are under way all the time, B and C are convolved once or
 * a few times, and a block alone with its row does all of it.
 *
 * Each sum (over taps, over N, over H P) is taken in an order that depends on its length alone.
 * What the convolution gives is rounded to the type of activations, as it is when it is stored.
 *
 * The state is asked for before grid_wait: k_mamba_join releases what follows only when it has
 * waited for the kernel that advances it, so that no later kernel can find it half written. */
#include "step_plan.cuh"

#include "cuda_ops.cuh"
#include "mma.cuh"

namespace
{
/* PACKS: packs of 4 numbers of state that a thread holds at a time; KEPT: the newest inputs of a
 * channel, which have registers; BLOCKS: of a row, or more. */
enum { THREADS = 512, WARPS = THREADS / 32, PACKS = 8, CONV_THREADS = 256, KEPT = 3, BLOCKS = 8 };
/* Of k_mamba_flow. FLOWS: packs of state that a thread copies at a time; INPUTS: channels of the
 * convolution that a thread reads together. */
enum { FLOWS = 4 };

template <class T> struct conv_in {
    mat<const T> x; /* (R,C) */
    float *taps;    /* (slots,K-1,C) */
    const float *w, *bias;
    int C, K;
};

/* Weights of the KEPT inputs and the token, and the bias. */
struct filter {
    float w[KEPT], last_w, bias;
};
/* The inputs of a channel: the KEPT newest of its history, and the token. */
struct window {
    float past[KEPT], token;
};

template <class T> __device__ __forceinline__ filter filter_of(const conv_in<T> &in, int c)
{
    const float *w = in.w + c * in.K + in.K - 1 - KEPT;
    filter f = {{}, w[KEPT], in.bias[c]};
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        f.w[i] = in.K - 1 - KEPT + i >= 0 ? w[i] : 0.0f;
    return f;
}

template <class T>
__device__ __forceinline__ window window_of(const conv_in<T> &in, int r, int slot, int c)
{
    const int old = in.K - 1 - KEPT; /* where the newest begin */
    const float *past = in.taps + ((int64_t)slot * (in.K - 1) + old) * in.C + c;
    window x = {{}, to_f32(in.x.p[(int64_t)r * in.x.ld + c])};
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        x.past[i] = old + i >= 0 ? past[(int64_t)i * in.C] : 0.0f;
    return x;
}

/* silu of channel c's convolution. */
template <class T>
__device__ __forceinline__ float convolve(const conv_in<T> &in, const filter &f, const window &x,
                                          int slot, int c)
{
    float sum = f.bias;
    for (int j = 0; j < in.K - 1 - KEPT; j++)
        sum = fmaf(in.w[c * in.K + j], in.taps[((int64_t)slot * (in.K - 1) + j) * in.C + c], sum);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        sum = fmaf(f.w[i], x.past[i], sum);
    return to_f32(from_f32<T>(silu(fmaf(f.last_w, x.token, sum))));
}

/* The token enters the history of channel c. */
template <class T>
__device__ __forceinline__ void shift(const conv_in<T> &in, const window &x, int slot, int c)
{
    const int old = in.K - 1 - KEPT;
    float *past = in.taps + (int64_t)slot * (in.K - 1) * in.C + c;
    for (int j = 0; j < old; j++)
        past[(int64_t)j * in.C] = past[(int64_t)(j + 1) * in.C];
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (old + i >= 0)
            past[(int64_t)(old + i) * in.C] = i + 1 < KEPT ? x.past[i + 1] : x.token;
}

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

template <class T> struct step_in {
    mat<const T> x, dt, bmat, cmat; /* x, bmat, cmat: not in the fused kernel */
    const float *dt_bias, *a_log, *skip;
    float *state; /* (slots,H,P,N) */
    const int32_t *slots;
    int H, P, N, G, per_block; /* per_block: channels of a block, all of one group */
};

/* What the fused kernel has besides. */
template <class T> struct gate_in {
    mat<const T> z;
    const float *norm_w;
    float eps;
    float *v; /* (R,H*P) */
};

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

/* Sums over LN lanes of N values each, N a power of 2: each N/LN-th part of the lanes gets one, in
 * order. */
template <int LN, int N> __device__ __forceinline__ float lanes_sums(float (&v)[N])
{
#pragma unroll
    for (int n = N, step = LN / 2; step > 0; step /= 2) {
        const bool is_upper = (lane_id() & step) != 0;
        n /= 2;
#pragma unroll
        for (int i = 0; i < (n > 0 ? n : 1); i++) {
            const float kept = n > 0 && is_upper ? v[(i + n) % N] : v[i];
            const float given = n > 0 && !is_upper ? v[(i + n) % N] : v[i];
            v[i] = kept + __shfl_xor_sync(0xffffffffu, given, step);
        }
    }
    return v[0];
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

/* What a channel of the block does to its row of the state. */
struct drive {
    float decay, dx; /* dx: delta x */
};

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

template <class T>
__device__ __forceinline__ drive drive_of(const step_in<T> &in, int r, int e, float x)
{
    const int h = e / in.P;
    const float pre = to_f32(in.dt.p[(int64_t)r * in.dt.ld + h]) + in.dt_bias[h];
    const float delta = pre > 20.0f ? pre : log1pf(expf(pre));
    return {expf(-delta * expf(in.a_log[h])), __fmul_rn(delta, x)};
}

/* out of a row from its v. */
template <class T>
__device__ __forceinline__ void put_norm(mat<T> out, const float *v, const gate_in<T> &gate, int r,
                                         int E)
{
    float sum = 0;
    for (int e = (int)threadIdx.x; e < E; e += THREADS)
        sum = fmaf(v[e], v[e], sum);
    const float rstd = 1.0f / sqrtf(block_sum<THREADS>(sum) / (float)E + gate.eps);
    for (int e = (int)threadIdx.x; e < E; e += THREADS)
        out.p[(int64_t)r * out.ld + e] =
            from_f32<T>(__fmul_rn(__fmul_rn(v[e], rstd), gate.norm_w[e]));
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
#pragma unroll
        for (int k = 0; k < INPUTS; k++) {
            const int c = channel(min(i0 + k * THREADS, n_all - 1));
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

/* Channels of a block, all of one group: BLOCKS blocks a row, or more. Which blocks a row is
 * divided into does not enter its bits. */
int per_block_of(int H, int P, int G)
{
    int n = H / G * P;
    while (n % 2 == 0 && H * P / n < BLOCKS)
        n /= 2;
    return n;
}

template <class T>
step_in<T> step_of(const struct ssd_in *in, float *state, const struct step_rows *rows)
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
                      per_block_of(in->H, in->P, in->G)};
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

/* By k_mamba_flow, a row in n_parts; ALONE: 1. false: it cannot, nothing is done. */
template <class T, int STAGES, bool ALONE>
bool run_flow(struct dev *dev, mat<T> out, step_in<T> in, const conv_in<T> &conv,
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
        return false;
    launch_early(dev, "mamba_step", k, dim3((unsigned)n_parts, (unsigned)R), THREADS, smem, out, in,
                 conv, gate);
    if (!ALONE)
        launch_early(dev, "mamba_step", k_mamba_join<T>, (unsigned)R, THREADS, 0, out, gate,
                     in.H * in.P, conv, in.slots);
    return true;
}

/* In few parts a row, one block a multiprocessor, or two of whole rows where there are more. false:
 * rows are too few for that, nothing is done. */
template <class T>
bool run_many(struct dev *dev, mat<T> out, const step_in<T> &in, const conv_in<T> &conv,
              const gate_in<T> &gate, int R)
{
    const int n_sm = cuda_of(dev)->n_sm;
    if (R > n_sm)
        return run_flow<T, 3, true>(dev, out, in, conv, gate, R, 1);
    if (2 * R > n_sm)
        return run_flow<T, 6, true>(dev, out, in, conv, gate, R, 1);
    if (6 * R < n_sm)
        return false;
    return run_flow<T, 6, false>(dev, out, in, conv, gate, R, 20 * R >= 7 * n_sm ? 2 : 4);
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
        run_step<T, false>(dev, "ssd_step", mat_of<T>(y), step_of<T>(in, state, rows), conv_in<T>{},
                           gate_in<T>{}, rows->R);
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
        if (run_many(dev, mat_of<T>(out), step_of<T>(in, state, rows), conv, gate, rows->R))
            return;
        run_step<T, true>(dev, "mamba_step", mat_of<T>(out), step_of<T>(in, state, rows), conv,
                          gate, rows->R);
        launch_early(dev, "mamba_step", k_mamba_join<T>, (unsigned)rows->R, THREADS, 0,
                     mat_of<T>(out), gate, E, conv, rows->slot);
    });
}
