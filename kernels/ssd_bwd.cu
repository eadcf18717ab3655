/* ssd_bwd: the gradient of the SSD scan (Dao & Gu 2024, "Transformers are SSMs", section 6), in
 * chunks of QT tokens; see ssd_fwd.cu for the forward. With xs = delta x, S the state before a
 * chunk, D the gradient of the state behind it, decay(t,s) = exp(a_{s+1} + ... + a_t) for s <= t of
 * one document, m(t,s) = (C_t . B_s) decay(t,s):
 *   dxs_s = sum_t m(t,s) dy_t + decay(end,s) D B_s      dx = delta dxs + skip dy
 *   dC_t  = sum_s dCB(t,s) B_s + decay(t,start) dy_t S  dCB(t,s) = decay(t,s) dy_t . xs_s
 *   dB_s  = sum_t dCB(t,s) C_t + decay(end,s) xs_s D
 * A log decay a_t is pulled at by every product above whose decay spans t: a running sum from the
 * chunk's end, in which each product counts + where it ends and - where it begins. Then
 *   ddelta_t = x_t . dxs_t + a pull_t;   ddt = ddelta softplus'.
 *
 * S and D of all chunks come from ssd_states.cu. Then a block takes a chunk of a group,
 * goes through its heads (in slices of PS channels: everything is linear in them) and sums dB, dC
 * in registers and dCB in shared memory, so that nothing of size tokens x QT and no sum over heads
 * goes through memory. */
#include "cuda_ops.cuh"
#include "ssd_grad_sm90.cuh"
#include "ssd_pull.cuh"

/* The sum of dCB over heads, as a T tile (s,t) where x and dy were. */
template <class S>
__device__ __forceinline__ void round_dcb(typename S::T *to, const grad_smem<S> *w, const place &at,
                                          int strips)
{
    using T = typename S::T;
    for (int ts = at.strip + at.wc; ts < strips; ts += S::WC) {
        const int tile = ts * (ts + 1) / 2 + at.strip;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 v = w->dcb[tile * 64 + j * 32 + at.tid % 32];
            T *p = to + (at.strip * 16 + at.g) * S::LDQ + ts * 16 + j * 8 + at.q * 2;
            store<T, 2>(p, {v.x, v.y});
            store<T, 2>(p + 8 * S::LDQ, {v.z, v.w});
        }
    }
}

/* sum += dcb C (TO_B: rows are s, k runs over t) or dcb^T B (rows are t, k runs over s). */
template <class S, bool TO_B>
__device__ __forceinline__ void add_pairs(frag_c (&sum)[S::NB][2], const typename S::T *dcb,
                                          const typename S::T *other, const place &at, int N,
                                          int strips)
{
    using T = typename S::T;
    const int begin = TO_B ? at.strip : 0, end = TO_B || at.strip >= strips ? strips : at.strip + 1;
#pragma unroll 1
    for (int k = begin; k < end; k++) {
        frag_a<T> a;
        if (TO_B)
            load_a<T>(a, dcb + at.strip * 16 * S::LDQ + k * 16, S::LDQ);
        else
            load_a_t<T>(a, dcb + k * 16 * S::LDQ + at.strip * 16, S::LDQ);
#pragma unroll
        for (int block = 0; block < S::NB; block++) {
            const int n0 = (at.wc * S::NB + block) * 16;
            if (ssd_is_pad<T>(n0, N))
                break;
            frag_b<T> b[2];
            load_b2_t<T>(b, other + k * 16 * S::LDN + n0, S::LDN);
            mma<T>(sum[block][0], a, b[0]);
            mma<T>(sum[block][1], a, b[1]);
        }
    }
}

template <class S>
__device__ __forceinline__ void write_sum(mat<typename S::T> to, const frag_c (&sum)[S::NB][2],
                                          const place &at, int n, int N, bool is_wide)
{
    const int row = at.strip * 16;
#pragma unroll
    for (int block = 0; block < S::NB; block++) {
        const int col = (at.wc * S::NB + block) * 16;
        store_c2<typename S::T>(to.p + row * to.ld + col, to.ld, sum[block][0], sum[block][1],
                                n - row, N - col, is_wide);
    }
}

template <class S>
__device__ __forceinline__ const typename S::T *state_at(const grad_smem<S> *w, int place)
{
    return w->state[not_before(place)];
}

/* D . S, the part of this warp. */
template <class S>
__device__ __forceinline__ float dot_states(const typename S::T *d, const typename S::T *s,
                                            const place &at)
{
    using T = typename S::T;
    constexpr int step = S::WARPS / S::PB; /* a warp has a block of rows */
    const int warp = not_before(at.warp);
    const int from = warp % S::PB * 16 * S::LDN + warp / S::PB * 16;
    frag_c dots[2] = {};
    float v[2];
#pragma unroll
    for (int i = 0; i < S::NT / 16; i += step) {
        frag_a<T> a;
        frag_b<T> b[2];
        load_a<T>(a, s + from + i * 16, S::LDN);
        load_b2<T>(b, d + from + i * 16, S::LDN);
        mma<T>(dots[0], a, b[0]);
        mma<T>(dots[1], a, b[1]);
    }
    static_assert(S::WARPS % S::PB == 0 && S::NT / 16 % step == 0, "as many for each warp");
    diagonal(v, dots, at);
    return warp_sum(has_diagonal(at) ? v[0] + v[1] : 0.0f);
}

/* The part of an item that D gives: dxs and dB; by token, x . dxs over the lane's channels. */
template <class S>
__device__ __forceinline__ void
from_behind(frag_c (&dxs)[S::CB][2], frag_c (&db)[S::NB][2], float (&behind)[2],
            const grad_smem<S> *w, const head_tokens_of<S> *head,
            const frag_a<typename S::T> (&x)[S::PB], int d, const place &at, int N)
{
    const int s0 = at.strip * 16 + at.g;
    const float to_end[2] = {head->to_end[s0], head->to_end[s0 + 8]};
    const float scale[2] = {to_end[0] * head->delta[s0], to_end[1] * head->delta[s0 + 8]};
    behind[0] = behind[1] = 0;
    if (at.wc * S::CB < S::PB)
        grad_x_behind<S>(dxs, w, state_at<S>(w, d), at, N);
#pragma unroll
    for (int k = 0; k < S::PB; k++)
#pragma unroll
        for (int c = 0; c < S::CB; c++)
            if (is_own<S>(at, k, c))
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const frag_c v = c_of_a(x[k], j);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        dxs[c][j].r[i] *= to_end[i / 2];
                        behind[i / 2] += v.r[i] * dxs[c][j].r[i];
                    }
                }
    grad_b_behind<S>(db, x, scale, state_at<S>(w, d), at, N);
}

/* From dxs: dx. */
template <class S>
__device__ __forceinline__ void
finish_x(frag_c (&dxs)[S::CB][2], const float (&delta)[2], const frag_a<typename S::T> (&dy)[S::PB],
         mat<typename S::T> dx, float skip, const place &at, int n, int n_cols, bool is_wide)
{
    using T = typename S::T;
    const int s0 = at.strip * 16;
#pragma unroll
    for (int c = 0; c < S::CB; c++) {
        const int col = (at.wc * S::CB + c) * 16;
#pragma unroll
        for (int k = 0; k < S::PB; k++)
            if (is_own<S>(at, k, c)) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const frag_c y = c_of_a(dy[k], j);
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        dxs[c][j].r[i] = delta[i / 2] * dxs[c][j].r[i] + skip * y.r[i];
                }
            }
        store_c2<T>(dx.p + s0 * (int)dx.ld + col, dx.ld, dxs[c][0], dxs[c][1], n - s0, n_cols - col,
                    is_wide);
    }
}

/* Chunk blockIdx.x of all sequences, group blockIdx.y.
 * Block: 32 NS WC threads. Shared memory: struct grad_smem. N is NT at most; G divides H.
 * Memory, a head of a chunk: x, dy, dx (QT,P) once each, S and D (P,N) once, 56 QT bytes of what
 * pulls; a chunk: B, C, dB, dC (QT,N). FLOPs, a head: 6 QT P N + 4 (QT^2 + 16 QT)/2 P. Copies run
 * half a head to a whole one ahead of their products.
 * Deterministic: every sum has one order and one owner.
 *
 * Two phases an item: D gives dxs and dB; S gives dC, and the pairs are walked through. */
template <class S>
__global__ void __launch_bounds__(S::THREADS, 1) k_ssd_grad(grad_args<typename S::T> o)
{
    using T = typename S::T;
    SHARED_DYN(unsigned char, bytes);
    grad_smem<S> *w = reinterpret_cast<grad_smem<S> *>(bytes);
    const place at = place_of<S>();
    const int chunk = (int)blockIdx.x;
    const int z = chunk % o.Z, b = chunk / o.Z, g = (int)blockIdx.y;
    const int t_first = z * S::QT, n = min(S::QT, o.n_tokens - t_first), strips = (n + 15) / 16;
    const int row0 = b * o.n_tokens + t_first;
    const int heads = o.H / o.G, slices = (o.P + S::PS - 1) / S::PS, N = o.N;
    const int end = (g + 1) * heads, s0 = at.strip * 16 + at.g;

    const auto fetch_channels = [&](T *to, mat<const T> from, int head, int slice) {
        const int col = head * o.P + slice * S::PS;
        if (head < end)
            ssd_load<S::QT, S::PS, S::THREADS>(to, from.p + (int64_t)row0 * from.ld + col, from.ld,
                                               n, o.P - slice * S::PS, o.is_wide);
    };
    const auto fetch_state = [&](T *to, const T *from, int head, int slice) {
        const int64_t row = ((int64_t)chunk * o.H + not_before(head)) * o.P + slice * S::PS;
        if (head < end)
            ssd_load<S::PS, S::NT, S::THREADS>(to, from + row * N, N, o.P - slice * S::PS, N,
                                               o.is_wide);
    };
    const auto tokens_of = [&](int head) {
        return reinterpret_cast<head_tokens_of<S> *>(o.tokens) + (int64_t)chunk * o.H + head;
    };
    const auto fetch_tokens = [&](head_tokens_of<S> *to, int head) {
        constexpr int pieces = sizeof(head_tokens_of<S>) / 16;
        if (head < end && at.tid < pieces)
            copy16_async(reinterpret_cast<char *>(to) + 16 * at.tid,
                         reinterpret_cast<const char *>(tokens_of(head)) + 16 * at.tid);
        static_assert(pieces <= S::THREADS, "one each");
    };
    float4 *sums = o.sums + ((int64_t)chunk * o.H + g * heads) * slices * S::QT;

    int head_no = g * heads, slice = 0;
    int d = 0, state = 1, spare = 2; /* places in the ring */
    ssd_load<S::QT, S::NT, S::THREADS>(w->b, o.b.p + (int64_t)row0 * o.b.ld + (int64_t)g * N,
                                       o.b.ld, n, N, o.is_wide);
    ssd_load<S::QT, S::NT, S::THREADS>(w->c, o.c.p + (int64_t)row0 * o.c.ld + (int64_t)g * N,
                                       o.c.ld, n, N, o.is_wide);
    copy_commit();
    fetch_state(w->state[d], o.D, head_no, 0);
    fetch_channels(w->x, o.x, head_no, 0);
    if (S::RING == 3)
        fetch_state(w->state[state], o.S, head_no, 0);
    copy_commit();
    if (at.warp == 0)
        find_documents<S>(w, o.seg ? o.seg + row0 : NULL, t_first, n);
    copy_wait<1>();
    __syncthreads();
    pair_cb<S>(w, at, N, strips);
    for (int h = g * heads + at.warp; h < end; h += S::WARPS)
        head_tokens<S>(tokens_of(h), w, o.delta + (int64_t)row0 * o.H + h, o.H, -expf(o.a_log[h]),
                       n);
    __syncthreads();
    fetch_tokens(&w->head[0], head_no);
    copy_commit();

    frag_c db[S::NB][2] = {}, dc[S::NB][2] = {};
#pragma unroll 1
    for (int i = 0; i < heads * slices; i++) {
        const int parity = i & 1, next_slice = slice + 1 < slices ? slice + 1 : 0;
        const int next = head_no + (next_slice == 0 ? 1 : 0);
        frag_c dxs[S::CB][2] = {};
        frag_a<T> x[S::PB], dy[S::PB];
        float behind[2], pull[2];
        const head_tokens_of<S> *head = &w->head[parity];
        copy_wait<0>();
        __syncthreads(); /* D, x and tokens are there, the last S and dy are free */

        fetch_channels(w->dy, o.dy, head_no, slice);
        copy_commit();
        if (S::RING == 3)
            fetch_state(w->state[spare], o.D, next, next_slice);
        else
            fetch_state(w->state[state], o.S, head_no, slice);
        fetch_tokens(&w->head[parity ^ 1], next);
        copy_commit();
        if (i > 0)
            keep_sums<S>(sums + (i - 1) * S::QT, w, parity ^ 1, n);
#pragma unroll
        for (int k = 0; k < S::PB; k++)
            load_a<T>(x[k], w->x + at.strip * 16 * S::LDP + k * 16, S::LDP);
        from_behind<S>(dxs, db, behind, w, head, x, d, at, N);
        if (S::RING == 2) {
            copy_wait<0>();
            __syncthreads();
        }
        const float through = dot_states<S>(state_at<S>(w, d), state_at<S>(w, state), at);
        if (at.tid % 32 == 0)
            w->through[parity][at.warp] = head->from_start[n - 1] * through;
        copy_wait<1>();
        __syncthreads(); /* dy is there (and S), D and x are free */

        fetch_channels(w->x, o.x, next, next_slice);
        fetch_state(w->state[d], S::RING == 3 ? o.S : o.D, next, next_slice);
        copy_commit();
        pair_rows rows = {
            {head->cum[s0], head->cum[s0 + 8]}, {head->delta[s0], head->delta[s0 + 8]}, {0, 0}};
        if (at.wc * S::CB < S::PB)
            pairs<S>(dxs, rows, w, head, x, at, strips);
#pragma unroll
        for (int k = 0; k < S::PB; k++)
            load_a<T>(dy[k], w->dy + at.strip * 16 * S::LDP + k * 16, S::LDP);
        if (at.wc * S::CB < S::PB)
            finish_x<S>(
                dxs, rows.delta, dy,
                mat<T>{o.dx.p + (int64_t)row0 * o.dx.ld + head_no * o.P + slice * S::PS, o.dx.ld},
                o.skip[head_no], at, n, o.P - slice * S::PS, o.is_wide);
        const float scale[2] = {head->from_start[s0], head->from_start[s0 + 8]};
        grad_c_before<S>(dc, pull, dy, scale, w, state_at<S>(w, state), at, N);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const float later = sum_of_4(rows.later[k]), dot = sum_of_4(behind[k]);
            if (has_diagonal(at)) {
                w->before[at.wc][s0 + 8 * k] = pull[k];
                w->behind[at.wc][s0 + 8 * k] = dot;
                if (at.wc == 0) {
                    w->later[s0 + 8 * k] = later;
                    w->kept_delta[s0 + 8 * k] = rows.delta[k];
                }
            }
        }
        if (S::RING == 3) {
            const int free = state;
            state = d;
            d = spare;
            spare = free;
        }
        head_no = next;
        slice = next_slice;
    }
    copy_wait<0>();
    __syncthreads();
    keep_sums<S>(sums + (heads * slices - 1) * S::QT, w, (heads * slices - 1) & 1, n);
    T *dcb = w->x;
    round_dcb<S>(dcb, w, at, strips);
    __syncthreads();
    for (int h = at.warp; h < heads; h += S::WARPS)
        finish<S>(w, o, sums + h * slices * S::QT, slices, g * heads + h, chunk, row0, n);
    const place own = place_of<S>(not_before((int)threadIdx.x));
    add_pairs<S, true>(db, dcb, w->c, own, N, strips);
    add_pairs<S, false>(dc, dcb, w->b, own, N, strips);
    write_sum<S>(mat<T>{o.db.p + (int64_t)row0 * o.db.ld + (int64_t)g * N, o.db.ld}, db, own, n, N,
                 o.is_wide);
    write_sum<S>(mat<T>{o.dc.p + (int64_t)row0 * o.dc.ld + (int64_t)g * N, o.dc.ld}, dc, own, n, N,
                 o.is_wide);
}

/* Adds the chunks' shares of a head's parameter gradients, in their order. Block: 128 threads, one
 * a head (grid x). Memory: 12 B*Z*H bytes. */
static __global__ void k_ssd_grad_params(float *ddt_bias, float *da_log, float *dskip,
                                         const float *dparam, int64_t n_chunks, int H)
{
    const int h = (int)blockIdx.x;
    float sum[3] = {};
    for (int64_t i = threadIdx.x; i < n_chunks; i += 128)
#pragma unroll
        for (int k = 0; k < 3; k++)
            sum[k] += dparam[(i * H + h) * 3 + k];
#pragma unroll
    for (int k = 0; k < 3; k++)
        sum[k] = block_sum<128>(sum[k]);
    if (threadIdx.x == 0) {
        ddt_bias[h] += sum[0];
        da_log[h] += sum[1];
        dskip[h] += sum[2];
    }
}

/* Calls f with the tiles for T, P and N in so much shared memory. The first is the fast one; the
 * smallest for 16-bit elements fits 64 KB. */
template <class T, class F> static void with_shape(int P, int N, size_t smem_bytes, F f)
{
    using large = grad_shape<T, 128, 128, 64, 1>;
    using middle = grad_shape<T, 64, 128, 32, 2>;
    using small = grad_shape<T, 32, 256, 16, 4>;
    if (N <= 128 && P > 32 && sizeof(grad_smem<large>) <= smem_bytes)
        f(large{});
    else if (N <= 128 && P > 16 && sizeof(grad_smem<middle>) <= smem_bytes)
        f(middle{});
    else
        f(small{});
}
template <class F> static void with_shape_of(enum dtype dtype, int P, int N, size_t smem_bytes, F f)
{
    with_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        if constexpr (sizeof(T) == 2)
            with_shape<T>(P, N, smem_bytes, f);
        else if (N <= 128)
            f(grad_shape<T, 32, 128, 16, 4>{});
        else
            f(grad_shape<T, 16, 256, 16, 4>{});
    });
}

/* Workspace: D, and S where it was not kept; tokens, sums and shares of parameters; what the states
 * want. */
struct bwd_work {
    size_t states, tokens, sums, params, spans, all;
};
template <class S> static bwd_work work_of(int B, int T, int H, int P, int N, bool has_states)
{
    const auto padded = [](size_t n) { return (n + 255) / 256 * 256; };
    const size_t heads = (size_t)B * (size_t)((T + S::QT - 1) / S::QT) * (size_t)H;
    const size_t slices = (size_t)((P + S::PS - 1) / S::PS);
    bwd_work w = {};
    w.states = padded(heads * (size_t)P * (size_t)N * sizeof(typename S::T));
    w.tokens = padded(heads * sizeof(head_tokens_of<S>));
    w.sums = padded(heads * slices * S::QT * sizeof(float4));
    w.params = padded(heads * 3 * sizeof(float));
    w.spans = ssd_spans_bytes(B, T, H, P, N);
    w.all = (has_states ? 1 : 2) * w.states + w.tokens + w.sums + w.params + w.spans;
    return w;
}

size_t cuda_ssd_states_bytes(const struct dev *dev, const struct sizes *s)
{
    const int chunk = ssd_states_chunk(dev, dev->act_dtype, s->P, s->N);
    return (size_t)s->B * (size_t)((s->T + chunk - 1) / chunk) * (size_t)s->H * (size_t)s->P *
           (size_t)s->N * dtype_size(dev->act_dtype);
}

int ssd_states_chunk(const struct dev *dev, enum dtype dtype, int P, int N)
{
    int chunk = 0;
    with_shape_of(dtype, P, N, cuda_of(dev)->smem_bytes,
                  [&](auto shape) { chunk = decltype(shape)::QT; });
    return chunk;
}

size_t cuda_ssd_bwd_plan(const struct dev *dev, const struct sizes *s)
{
    size_t bytes = 0;
    with_shape_of(dev->act_dtype, s->P, s->N, cuda_of(dev)->smem_bytes, [&](auto shape) {
        bytes = work_of<decltype(shape)>(s->B, s->T, s->H, s->P, s->N, s->keeps_states).all;
    });
    return bytes;
}

/* o but for what lies in the workspace. kept: states, or NULL. */
template <class S>
static void grad(struct dev *dev, grad_args<typename S::T> *o, const struct tensor *dy,
                 const void *kept, const struct ssd_in *in)
{
    using T = typename S::T;
    const bwd_work work = work_of<S>(in->B, in->T, in->H, in->P, in->N, kept != nullptr);
    assert(dev->work_bytes >= work.all);
    char *const at = (char *)dev->work, *const behind = at + work.states;
    char *const tokens = behind + (kept ? 0 : work.states);
    T *const dstates = (T *)at, *const states = (T *)behind;
    o->S = kept ? (const T *)kept : states;
    o->D = dstates;
    o->tokens = (float *)tokens;
    o->sums = (float4 *)(tokens + work.tokens);
    o->dparam = (float *)(tokens + work.tokens + work.sums);
    void *spans = tokens + work.tokens + work.sums + work.params;
    o->Z = (in->T + S::QT - 1) / S::QT;
    if (!kept)
        cuda_ssd_states(dev, states, S::QT, spans, in);
    cuda_ssd_dstates(dev, dstates, dy, S::QT, spans, in);
    if constexpr (sizeof(T) == 2 && S::QT == 128)
        if (ssd_grad_sm90<T>(dev, *o, in->B))
            return;
    launch(dev, "ssd_bwd", k_ssd_grad<S>, dim3((unsigned)(in->B * o->Z), (unsigned)in->G),
           S::THREADS, sizeof(grad_smem<S>), *o);
}

void cuda_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                  struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                  struct tensor *dskip, const struct tensor *dy, const float *delta,
                  const void *states, const struct ssd_in *in)
{
    with_shape_of(dx->dtype, in->P, in->N, cuda_of(dev)->smem_bytes, [&](auto shape) {
        using S = decltype(shape);
        using T = typename S::T;
        grad_args<T> o = {};
        o.dx = mat_of<T>(dx);
        o.ddt = mat_of<T>(ddt);
        o.db = mat_of<T>(dbmat);
        o.dc = mat_of<T>(dcmat);
        o.dy = cmat_of<T>(dy);
        o.x = cmat_of<T>(&in->x);
        o.b = cmat_of<T>(&in->bmat);
        o.c = cmat_of<T>(&in->cmat);
        o.delta = delta;
        o.a_log = (const float *)in->a_log.data;
        o.skip = (const float *)in->skip.data;
        o.seg = in->seg;
        o.n_tokens = in->T;
        o.H = in->H;
        o.P = in->P;
        o.N = in->N;
        o.G = in->G;
        o.is_wide = ssd_view_of<T>(in).is_wide && has_wide_rows(dy) && has_wide_rows(dx) &&
                    has_wide_rows(dbmat) && has_wide_rows(dcmat);
        grad<S>(dev, &o, dy, states, in);
        launch(dev, "ssd_bwd", k_ssd_grad_params, (unsigned)in->H, 128, 0, (float *)ddt_bias->data,
               (float *)da_log->data, (float *)dskip->data, o.dparam, (int64_t)in->B * o.Z, in->H);
    });
}
