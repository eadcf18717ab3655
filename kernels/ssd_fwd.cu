/* ssd_fwd: the state-space scan forward (ops.h, struct ssd_in; ssd.cuh has the letters), fused: a
 * block walks a span of tokens of a few heads of a group in chunks of Q:
 *   y_t = sum_{u<=t} (C_t . B_u) exp(cum_t - cum_u) delta_u x_u + into_t S C_t + skip x_t
 *   S  <- through S + sum_u tail_u x_u B_u^T
 * and the states never leave registers, but for those before the chunks of the gradient where they
 * are kept: rounded to x's type, as ssd_states.cu would make them again. */
#include "cuda_ops.cuh"
#include "ssd_sm90.cuh"

/* Shared memory: S::stages of (x, B), C, M, 2 S::batch of steps. */
template <class S> struct fwd_smem {
    using T = typename S::T;
    static constexpr int x_size = S::heads * S::Q * S::ldx, b_size = S::Q * S::ldb;
    static constexpr int m_size = S::heads * S::Q * S::ldm;
    static constexpr size_t bytes =
        sizeof(T) * (size_t)(S::stages * (x_size + b_size) + b_size + m_size) +
        2 * S::batch * sizeof(ssd_steps<S>);
    static_assert(bytes <= 64 * 1024, "fits any GPU");
    ssd_steps<S> *steps;
    T *c, *m, *x_b; /* x, then B */
    __device__ __forceinline__ explicit fwd_smem(unsigned char *all)
    {
        steps = reinterpret_cast<ssd_steps<S> *>(all);
        c = reinterpret_cast<T *>(steps + 2 * S::batch);
        m = c + b_size;
        x_b = m + m_size;
    }
    __device__ __forceinline__ T *x_at(int stage) const
    {
        return x_b + stage * (x_size + b_size);
    }
    __device__ __forceinline__ T *b_at(int stage) const
    {
        return x_at(stage) + x_size;
    }
};

/* M of each head: the lower triangle, by tiles of 16x16 dealt out to the warps, of
 * M_tu = (C_t . B_u) exp(cum_t - cum_u) delta_u. C B^T serves all heads. */
template <class S, class T>
__device__ __forceinline__ void make_m(T *m, const T *c, const T *b, const ssd_steps<S> *steps,
                                       int N)
{
    constexpr int tiles = S::Q / 16 * (S::Q / 16 + 1) / 2;
    const int g = lane_id() / 4, t = lane_id() % 4;
    for (int i = (int)threadIdx.x / 32; i < tiles * S::heads; i += S::warps) {
        const int tile = i % tiles, head = i / tiles;
        const int row = tile == 0 ? 0 : 16, col = tile == 2 ? 16 : 0;
        static_assert(tiles <= 3, "tiles (0,0) (1,0) (1,1)");
        frag_c cb[2] = {};
#pragma unroll
        for (int n = 0; n < S::NP; n += 16) {
            if (ssd_is_pad<T>(n, N))
                break;
            frag_a<T> a;
            frag_b<T> to[2];
            load_a<T>(a, c + row * S::ldb + n, S::ldb);
            load_b2<T>(to, b + col * S::ldb + n, S::ldb);
            mma<T>(cb[0], a, to[0]);
            mma<T>(cb[1], a, to[1]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) { /* pairs: row g, g + 8; columns 2t, 8 + 2t */
            const int tt = row + g + j % 2 * 8, u = col + j / 2 * 8 + 2 * t;
            float v[2];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const bool ok = u + k <= tt && steps->doc[u + k] == steps->doc[tt];
                const float far = steps->cum[head][tt] - steps->cum[head][u + k];
                const float w = ok ? ssd_exp(far, T{}) * steps->delta[head][u + k] : 0.0f;
                v[k] = w * cb[j / 2].r[j % 2 * 2 + k];
            }
            store<T, 2>(m + (head * S::Q + tt) * S::ldm + u, v);
        }
    }
}

/* y of a warp's slices: rows by 16 tokens, columns 16 p. */
template <class S> struct fwd_acc {
    frag_c r[S::Q / 16][S::slices][2];
};

/* y = C S^T */
template <class S, class T>
__device__ __forceinline__ void before_chunk(fwd_acc<S> &y, const ssd_state<S> &s, const T *c,
                                             int N)
{
#pragma unroll
    for (int n = 0; n < S::NP; n += 16) {
        if (ssd_is_pad<T>(n, N))
            break;
        frag_b<T> to[S::slices][2];
#pragma unroll
        for (int i = 0; i < S::slices; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                to[i][j] = b_of_ct<T>(s.r[i][n / 8], s.r[i][n / 8 + 1], j);
#pragma unroll
        for (int r = 0; r < S::Q / 16; r++) {
            frag_a<T> a;
            load_a<T>(a, c + r * 16 * S::ldb + n, S::ldb);
#pragma unroll
            for (int i = 0; i < S::slices; i++) {
                mma<T>(y.r[r][i][0], a, to[i][0]);
                mma<T>(y.r[r][i][1], a, to[i][1]);
            }
        }
    }
}

/* y = into y + skip x, row by row */
template <class S, class T>
__device__ __forceinline__ void scale_and_skip(fwd_acc<S> &y, const T *x, const float *skip,
                                               const ssd_steps<S> *steps, const ssd_heads &at)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < S::slices; i++) {
        const int head = ssd_slice_head<S>(i);
        const float d = head < at.n_heads ? skip[at.h0 + head] : 0.0f;
#pragma unroll
        for (int r = 0; r < S::Q / 16; r++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int tt = r * 16 + g + j % 2 * 8;
                const int p = ssd_slice_row<S>(i) + j / 2 * 8 + 2 * t;
                const float into = steps->into[head][tt];
                float v[2];
                load<T, 2>(v, x + (head * S::Q + tt) * S::ldx + p);
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    float &to = y.r[r][i][j / 2].r[j % 2 * 2 + k];
                    to = into * to + d * v[k];
                }
            }
    }
}

/* y += M x */
template <class S, class T>
__device__ __forceinline__ void within_chunk(fwd_acc<S> &y, const T *m, const T *x)
{
#pragma unroll
    for (int u = 0; u < S::Q; u += 16)
#pragma unroll
        for (int i = 0; i < S::slices; i++) {
            const int head = ssd_slice_head<S>(i);
            frag_b<T> to[2];
            load_b2_t<T>(to, x + (head * S::Q + u) * S::ldx + ssd_slice_row<S>(i), S::ldx);
#pragma unroll
            for (int r = u / 16; r < S::Q / 16; r++) {
                frag_a<T> a;
                load_a<T>(a, m + (head * S::Q + r * 16) * S::ldm + u, S::ldm);
                mma<T>(y.r[r][i][0], a, to[0]);
                mma<T>(y.r[r][i][1], a, to[1]);
            }
        }
}

template <class S, class T>
__device__ __forceinline__ void store_y(const ssd_fwd_out<T> &out, const fwd_acc<S> &y,
                                        const ssd_view<T> &in, const ssd_heads &at, int t0)
{
#pragma unroll
    for (int i = 0; i < S::slices; i++) {
        const int head = ssd_slice_head<S>(i), p = ssd_slice_row<S>(i);
        if (head >= at.n_heads)
            continue;
#pragma unroll
        for (int r = 0; r < S::Q / 16; r++) {
            const int64_t row = at.row0 + t0 + r * 16;
            store_c2<T>(out.y.p + row * out.y.ld + (at.h0 + head) * in.P + p, out.y.ld,
                        y.r[r][i][0], y.r[r][i][1], at.len - t0 - r * 16, in.P - p, out.is_wide);
        }
    }
}

/* One block S::heads heads of one group (x), one span (y), one sequence (z); shared memory
 * fwd_smem. Any P <= PP, N <= NP, any T. A head and token: (2 N P + Q P / 2 + Q N / 2 / heads)
 * multiply-adds and, in memory, x and y (P elements each) and 1/H of B and C (2 G N).
 * Deterministic: each sum has one owner and a fixed order.
 *
 * A chunk: C B^T and M, C S^T | barrier | M x, y leaves, the state moves on. Copies of the next x
 * and B run all the while, that of C from the barrier on. */
template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks)
    k_ssd_fwd(ssd_fwd_out<typename S::T> out, ssd_view<typename S::T> in)
{
    using T = typename S::T;
    SHARED_DYN(unsigned char, all);
    const fwd_smem<S> sm(all);
    const ssd_heads at = ssd_heads_of<S>(in);
    const int begin = (int)blockIdx.y * in.span, end = min(begin + in.span, at.len);
    if (begin >= end)
        return;
    const int64_t PN = (int64_t)in.P * in.N, n_before = at.n_span + (int)blockIdx.y;
    float *const last = out.last ? out.last + ((int64_t)at.slot * in.H + at.h0) * PN : nullptr;
    ssd_state<S> s;
    ssd_load_state<S>(s, out.before ? out.before + (n_before * in.H + at.h0) * PN : last, in.P,
                      in.N, at.n_heads);
    ssd_load_rows<S, S::NP>(sm.c, in.c, in, at, begin, at.g * in.N, in.N);
    ssd_load_rows<S, S::NP>(sm.b_at(0), in.b, in, at, begin, at.g * in.N, in.N);
    ssd_load_x<S>(sm.x_at(0), in.x, in, at, begin);
    copy_commit();
    const int n = (end - begin + S::Q - 1) / S::Q, own = ssd_step_chunk<S>();
    const auto token_of = [&](int i) { return i < n ? begin + i * S::Q : at.len; };
    ssd_scan<S>(sm.steps + own, ssd_read_token<S>(in, at, token_of(own)), in, at, token_of(own),
                out.delta);
    ssd_token<T> next = {};
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        const int t0 = token_of(i), t1 = token_of(i + 1), now = i % 2;
        const int after = i - i % S::batch + S::batch + own; /* its chunk of the next batch */
        const bool has_next = i + 1 < n;
        if (out.states && (t0 & (out.chunk - 1)) == 0) {
            const int Z = (at.len + out.chunk - 1) / out.chunk;
            const int64_t n_head = ((int64_t)at.b * Z + t0 / out.chunk) * in.H + at.h0;
            ssd_store_state<S>(out.states + n_head * PN, s, in.P, in.N, at.n_heads,
                               out.has_wide_states);
        }
        copy_wait<0>();
        __syncthreads();
        if (has_next && S::stages == 2) {
            ssd_load_rows<S, S::NP>(sm.b_at(now ^ 1), in.b, in, at, t1, at.g * in.N, in.N);
            ssd_load_x<S>(sm.x_at(now ^ 1), in.x, in, at, t1);
            copy_commit();
        }
        if (i % S::batch == S::batch - 2)
            next = ssd_read_token<S>(in, at, token_of(after));
        const ssd_steps<S> *steps = sm.steps + i % (2 * S::batch);
        const int stage = S::stages == 2 ? now : 0;
        const T *x = sm.x_at(stage), *b = sm.b_at(stage);
        make_m<S>(sm.m, sm.c, b, steps, in.N);
        fwd_acc<S> y = {};
        before_chunk<S>(y, s, sm.c, in.N);
        __syncthreads();
        if (has_next) {
            ssd_load_rows<S, S::NP>(sm.c, in.c, in, at, t1, at.g * in.N, in.N);
            copy_commit();
        }
        scale_and_skip<S>(y, x, in.skip, steps, at);
        within_chunk<S>(y, sm.m, x);
        store_y<S>(out, y, in, at, t0);
        ssd_advance<S>(s, x, b, steps->tail, steps->through, in.N);
        if (!has_next)
            break;
        if (i % S::batch == S::batch - 1)
            ssd_scan<S>(sm.steps + after % (2 * S::batch), next, in, at, token_of(after),
                        out.delta);
        if (S::stages == 1) {
            __syncthreads();
            ssd_load_rows<S, S::NP>(sm.b_at(0), in.b, in, at, t1, at.g * in.N, in.N);
            ssd_load_x<S>(sm.x_at(0), in.x, in, at, t1);
            copy_commit();
        }
    }
    if (last && end == at.len)
        ssd_store_state<S>(last, s, in.P, in.N, at.n_heads, false);
}

size_t cuda_ssd_fwd_plan(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    if (s->R > 0 && s->T > 1)
        return ssd_read_spans_bytes(s->R, s->T, s->H, s->P, s->N);
    return ssd_spans_bytes(s->B, s->T, s->H, s->P, s->N);
}

static void forward(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                    const struct ssd_in *in, const struct read_rows *rows)
{
    const float *before = cuda_ssd_spans(dev, dev->work, last, in, rows);
    with_type(y->dtype, [&](auto zero) {
        using T = decltype(zero);
        with_ssd_tile<T>(in->P, in->N, [&](auto tile) {
            using S = decltype(tile);
            const ssd_view<T> view = ssd_view_of<T>(in, rows);
            ssd_fwd_out<T> out = {};
            out.y = mat_of<T>(y);
            out.delta = delta;
            out.last = last;
            out.before = before;
            out.states = (T *)states;
            out.chunk = ssd_states_chunk(dev, y->dtype, in->P, in->N);
            out.has_wide_states = (size_t)in->N * sizeof(T) % 16 == 0;
            out.is_wide = view.is_wide && has_wide_rows(y);
            if constexpr (sizeof(T) == 2)
                if (ssd_has_sm90(dev, view, out.is_wide, out.chunk)) {
                    ssd_fwd_sm90<T>(dev, out, view);
                    return;
                }
            launch(dev, "ssd_fwd", k_ssd_fwd<S>,
                   dim3(ssd_blocks<S>(view.H, view.G), (unsigned)view.n_spans, (unsigned)view.B),
                   dim3(S::threads), fwd_smem<S>::bytes, out, view);
        });
    });
}

void cuda_ssd_fwd(struct dev *dev, struct tensor *y, float *delta, void *states, float *last,
                  const struct ssd_in *in)
{
    forward(dev, y, delta, states, last, in, nullptr);
}

void cuda_ssd_read(struct dev *dev, struct tensor *y, float *delta, float *state,
                   const struct ssd_in *in, const struct read_rows *rows)
{
    (void)delta;
    forward(dev, y, nullptr, nullptr, state, in, rows);
}
