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
#include "ssd_grad.cuh"

/* The sums of a head over its slices, and after the last one ddt and the chunk's share of the
 * parameter gradients. One warp; t rises with lanes. */
template <class S>
__device__ __forceinline__ void finish(grad_smem<S> *w, const grad_args<typename S::T> &o,
                                       int parity, int slice, int n_slices, int h, int chunk,
                                       int row0, int n)
{
    using T = typename S::T;
    const head_tokens_of<S> *head = &w->head[parity];
    const int lane = lane_id();
    const float a = -expf(o.a_log[h]);
    float pull[S::PER], direct[S::PER], dyx[S::PER], at_end = 0;
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        pull[i] = direct[i] = dyx[i] = 0;
        if (t >= S::QT)
            continue;
        float begins = 0;
#pragma unroll
        for (int c = 0; c < S::WC; c++) {
            begins += w->begins[c][t];
            pull[i] += w->ends[c][t];
            direct[i] += w->direct[c][t];
        }
        at_end += begins;
        pull[i] += w->pull[t] - begins;
        dyx[i] = w->dyx[t];
        if (slice > 0) {
            pull[i] += w->sum_pull[t];
            direct[i] += w->sum_direct[t];
            dyx[i] += w->sum_dyx[t];
        }
    }
    at_end = warp_sum(at_end);
#pragma unroll
    for (int i = 0; i < S::WARPS; i++)
        at_end += head->from_start[n - 1] * w->through[i];
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        if (t == n - 1)
            pull[i] += at_end;
        if (slice + 1 < n_slices && t < S::QT) {
            w->sum_pull[t] = pull[i];
            w->sum_direct[t] = direct[i];
            w->sum_dyx[t] = dyx[i];
        }
    }
    if (slice + 1 < n_slices)
        return;

    /* A running sum from the right that a document's first token ends. */
    float run = 0;
    bool has_first = false;
#pragma unroll
    for (int i = S::PER - 1; i >= 0; i--) {
        const int t = lane * S::PER + i;
        const bool is_first = t < S::QT && w->start[t] == t;
        run = is_first ? 0.0f : run + pull[i];
        has_first = has_first || is_first;
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const float right = __shfl_down_sync(0xffffffffu, run, step);
        const bool right_first = __shfl_down_sync(0xffffffffu, (int)has_first, step) != 0;
        if (lane + step < 32) {
            run += has_first ? 0.0f : right;
            has_first = has_first || right_first;
        }
    }
    run = __shfl_down_sync(0xffffffffu, run, 1);
    if (lane == 31)
        run = 0;
    float share[3] = {};
#pragma unroll
    for (int i = S::PER - 1; i >= 0; i--) {
        const int t = lane * S::PER + i;
        if (t >= n)
            continue;
        const bool is_first = w->start[t] == t;
        const float delta = head->delta[t];
        run = is_first ? 0.0f : run + pull[i];
        /* softplus'(v) = 1 - exp(-softplus(v)) */
        const float ddt = (direct[i] + a * run) * -expm1f(-delta);
        o.ddt.p[(int64_t)(row0 + t) * o.ddt.ld + h] = from_f32<T>(ddt);
        share[0] += ddt;
        share[1] += a * delta * run;
        share[2] += dyx[i];
    }
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const float sum = warp_sum(share[i]);
        if (lane == 0)
            o.dparam[((int64_t)chunk * o.H + h) * 3 + i] = sum;
    }
}

/* The sum of dCB over heads, as a T tile (s,t) where x and dy were. */
template <class S>
__device__ __forceinline__ void round_dcb(typename S::T *to, const grad_smem<S> *w, const place &at,
                                          int strips)
{
    using T = typename S::T;
    for_tiles<S>(at.warp, strips, [&](int tile, int ts, int ss) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 v = w->dcb[tile * 64 + j * 32 + at.tid % 32];
            T *p = to + (ss * 16 + at.g) * S::LDQ + ts * 16 + j * 8 + at.q * 2;
            store<T, 2>(p, {v.x, v.y});
            store<T, 2>(p + 8 * S::LDQ, {v.z, v.w});
        }
    });
}

/* sum += dcb C (TO_B: rows are s, k runs over t) or dcb^T B (rows are t, k runs over s). */
template <class S, bool TO_B>
__device__ __forceinline__ void add_pairs(frag_c (&sum)[S::RT][S::NB][2], const typename S::T *dcb,
                                          const typename S::T *other, const place &at, int N,
                                          int strips)
{
    using T = typename S::T;
    for (int k = 0; k < strips; k++) {
        frag_a<T> a[S::RT];
        bool has[S::RT];
#pragma unroll
        for (int r = 0; r < S::RT; r++) {
            const int strip = strip_of<S>(at, r);
            has[r] = TO_B ? k >= strip : k <= strip && strip < strips;
            if (has[r] && TO_B)
                load_a<T>(a[r], dcb + strip * 16 * S::LDQ + k * 16, S::LDQ);
            else if (has[r])
                load_a_t<T>(a[r], dcb + k * 16 * S::LDQ + strip * 16, S::LDQ);
        }
#pragma unroll
        for (int block = 0; block < S::NB; block++) {
            const int n0 = (at.wc * S::NB + block) * 16;
            if (n0 >= N)
                continue;
            frag_b<T> b[2];
            load_b2_t<T>(b, other + k * 16 * S::LDN + n0, S::LDN);
#pragma unroll
            for (int r = 0; r < S::RT; r++)
                if (has[r]) {
                    mma<T>(sum[r][block][0], a[r], b[0]);
                    mma<T>(sum[r][block][1], a[r], b[1]);
                }
        }
    }
}

template <class S>
__device__ __forceinline__ void write_sum(mat<typename S::T> to,
                                          const frag_c (&sum)[S::RT][S::NB][2], const place &at,
                                          int n, int N, bool is_wide)
{
#pragma unroll
    for (int r = 0; r < S::RT; r++)
#pragma unroll
        for (int block = 0; block < S::NB; block++) {
            const int row = strip_of<S>(at, r) * 16, col = (at.wc * S::NB + block) * 16;
            store_c2<typename S::T>(to.p + row * to.ld + col, to.ld, sum[r][block][0],
                                    sum[r][block][1], n - row, N - col, is_wide);
        }
}

/* D . S, by warp. */
template <class S> __device__ __forceinline__ void dot_states(grad_smem<S> *w, const place &at)
{
    using T = typename S::T;
    constexpr int V = wide<T>::n, ROW = S::NT / V;
    float dot = 0;
#pragma unroll
    for (int i = at.tid; i < S::PS * ROW; i += S::THREADS) {
        const int from = i / ROW * S::LDN + i % ROW * V;
        float s[V], d[V];
        load<T, V>(s, w->s + from);
        load<T, V>(d, w->d + from);
#pragma unroll
        for (int e = 0; e < V; e++)
            dot += s[e] * d[e];
    }
    dot = warp_sum(dot);
    if (at.tid % 32 == 0)
        w->through[at.warp] = dot;
}

/* Chunk blockIdx.x of all sequences, group blockIdx.y.
 * Block: 32 WR WC threads. Shared memory: struct grad_smem. N is NT at most; G divides H.
 * Memory, a head of a chunk: x, dy, dx (QT,P) once each, S and D (P,N) once; a chunk: B, C, dB, dC
 * (QT,N). FLOPs, a head: 6 QT P N + 4 (QT^2 + 16 QT)/2 P. Loads of the next head run under the
 * products of this one: dy through all of it, D and x under dC, S under dB.
 * Deterministic: every sum has one order and one owner. */
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

    /* Item i is slice i % slices of head i / slices of the group. */
    const auto head_of = [&](int i) { return g * heads + i / slices; };
    const auto tokens_of = [&](mat<const T> m, int i) {
        const int64_t col = (int64_t)head_of(i) * o.P + i % slices * S::PS;
        return m.p + (int64_t)row0 * m.ld + col;
    };
    const auto state_of = [&](const T *p, int i) {
        return p + (((int64_t)chunk * o.H + head_of(i)) * o.P + i % slices * S::PS) * N;
    };
    const auto channels_of = [&](int i) { return min(S::PS, o.P - i % slices * S::PS); };
    const auto fetch_tokens = [&](T *to, mat<const T> from, int i) {
        if (i < heads * slices)
            ssd_load<S::QT, S::PS, S::THREADS>(to, tokens_of(from, i), from.ld, n, channels_of(i),
                                               o.is_wide);
        copy_commit();
    };
    const auto fetch_state = [&](T *to, const T *from, int i) {
        if (i < heads * slices)
            ssd_load<S::PS, S::NT, S::THREADS>(to, state_of(from, i), N, channels_of(i), N,
                                               o.is_wide);
        copy_commit();
    };
    const auto load_head =
        [&](int i) { /* by the last warp */
                     if (i % slices == 0 && i < heads * slices && at.warp == S::WARPS - 1)
                         head_tokens<S>(w, i / slices & 1,
                                        o.delta + (int64_t)row0 * o.H + head_of(i), o.H,
                                        -expf(o.a_log[head_of(i)]), n);
        };

    ssd_load<S::QT, S::NT, S::THREADS>(w->b, o.b.p + (int64_t)row0 * o.b.ld + (int64_t)g * N,
                                       o.b.ld, n, N, o.is_wide);
    ssd_load<S::QT, S::NT, S::THREADS>(w->c, o.c.p + (int64_t)row0 * o.c.ld + (int64_t)g * N,
                                       o.c.ld, n, N, o.is_wide);
    copy_commit();
    fetch_tokens(w->dy[0], o.dy, 0);
    fetch_tokens(w->x, o.x, 0);
    fetch_state(w->d, o.D, 0);
    if (at.warp == 0)
        find_documents<S>(w, o.seg ? o.seg + row0 : NULL, t_first, n);
    copy_wait<3>();
    __syncthreads();
    load_head(0);
    pair_cb<S>(w, at, N, strips);
    copy_wait<1>();
    __syncthreads();

    frag_c db[S::RT][S::NB][2] = {}, dc[S::RT][S::NB][2] = {};
    for (int i = 0; i < heads * slices; i++) {
        const int parity = i / slices & 1, h = head_of(i);
        const head_tokens_of<S> *head = &w->head[parity];
        const T *dy = w->dy[i & 1];
        fetch_tokens(w->dy[(i + 1) & 1], o.dy, i + 1);
        pairs<S>(w, dy, parity, at, strips);
        if (i > 0 && at.warp == S::WARPS - 1)
            finish<S>(w, o, (i - 1) / slices & 1, (i - 1) % slices, slices, head_of(i - 1), chunk,
                      row0, n);
        copy_wait<1>(); /* D */
        __syncthreads();

        const mat<T> dx = {o.dx.p + (int64_t)row0 * o.dx.ld + (int64_t)h * o.P + i % slices * S::PS,
                           o.dx.ld};
        grad_x<S>(w, dy, parity, dx, o.skip[h], at, n, channels_of(i), N, strips, o.is_wide);
        __syncthreads(); /* m is free: S takes its place */

        fetch_state(w->s, o.S, i);
        float scale[S::RT][2];
#pragma unroll
        for (int r = 0; r < S::RT; r++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int s = strip_of<S>(at, r) * 16 + at.g + 8 * k;
                scale[r][k] = head->to_end[s] * head->delta[s];
            }
        through_state<S>(db, w->begins[at.wc], w->x, w->d, w->b, scale, at, N);
        copy_wait<0>();
        __syncthreads(); /* x is free, S is there */

        fetch_tokens(w->x, o.x, i + 1);
        dot_states<S>(w, at);
        for (int t = at.tid; t < S::QT; t += S::THREADS) {
            float sum = 0;
            for (int k = 0; k < strips && t < strips * 16; k++)
                sum += w->slot[k][t];
            w->pull[t] = sum;
            w->dyx[t] = t < n ? w->diag[t] : 0.0f;
        }
        load_head(i + 1);
        __syncthreads(); /* D is free */

        fetch_state(w->d, o.D, i + 1);
#pragma unroll
        for (int r = 0; r < S::RT; r++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                scale[r][k] = head->from_start[strip_of<S>(at, r) * 16 + at.g + 8 * k];
        through_state<S>(dc, w->ends[at.wc], dy, w->s, w->c, scale, at, N);
        copy_wait<1>(); /* x */
        __syncthreads();
    }
    const int last = heads * slices - 1;
    if (at.warp == S::WARPS - 1)
        finish<S>(w, o, last / slices & 1, last % slices, slices, head_of(last), chunk, row0, n);
    T *dcb = w->x;
    round_dcb<S>(dcb, w, at, strips);
    __syncthreads();
    add_pairs<S, true>(db, dcb, w->c, at, N, strips);
    add_pairs<S, false>(dc, dcb, w->b, at, N, strips);
    write_sum<S>(mat<T>{o.db.p + (int64_t)row0 * o.db.ld + (int64_t)g * N, o.db.ld}, db, at, n, N,
                 o.is_wide);
    write_sum<S>(mat<T>{o.dc.p + (int64_t)row0 * o.dc.ld + (int64_t)g * N, o.dc.ld}, dc, at, n, N,
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
    using large = grad_shape<T, 128, 128, 64, 2>;
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

/* Workspace: S, D, shares of parameters, what the states want. */
struct bwd_work {
    size_t states, params, spans;
};
static bwd_work work_of(int B, int T, int H, int P, int N, int QT, size_t element)
{
    const size_t BZ = (size_t)B * (size_t)((T + QT - 1) / QT), bytes = BZ * (size_t)H;
    const auto padded = [](size_t n) { return (n + 255) / 256 * 256; };
    return bwd_work{padded(bytes * (size_t)P * (size_t)N * element),
                    padded(bytes * 3 * sizeof(float)), ssd_spans_bytes(B, T, H, P, N)};
}

size_t cuda_ssd_bwd_plan(const struct dev *dev, const struct sizes *s)
{
    size_t bytes = 0;
    with_shape_of(dev->act_dtype, s->P, s->N, cuda_of(dev)->smem_bytes, [&](auto shape) {
        using S = decltype(shape);
        const bwd_work w = work_of(s->B, s->T, s->H, s->P, s->N, S::QT, sizeof(typename S::T));
        bytes = 2 * w.states + w.params + w.spans;
    });
    return bytes;
}

/* o but for what lies in the workspace. */
template <class S>
static void grad(struct dev *dev, grad_args<typename S::T> *o, const struct tensor *dy,
                 const struct ssd_in *in)
{
    using T = typename S::T;
    const bwd_work work = work_of(in->B, in->T, in->H, in->P, in->N, S::QT, sizeof(T));
    assert(dev->work_bytes >= 2 * work.states + work.params + work.spans);
    char *at = (char *)dev->work;
    T *states = (T *)at, *dstates = (T *)(at + work.states);
    void *spans = at + 2 * work.states + work.params;
    o->S = states;
    o->D = dstates;
    o->dparam = (float *)(at + 2 * work.states);
    o->Z = (in->T + S::QT - 1) / S::QT;
    cuda_ssd_states(dev, states, S::QT, spans, in);
    cuda_ssd_dstates(dev, dstates, dy, S::QT, spans, in);
    launch(dev, "ssd_bwd", k_ssd_grad<S>, dim3((unsigned)(in->B * o->Z), (unsigned)in->G),
           S::THREADS, sizeof(grad_smem<S>), *o);
}

void cuda_ssd_bwd(struct dev *dev, struct tensor *dx, struct tensor *ddt, struct tensor *dbmat,
                  struct tensor *dcmat, struct tensor *ddt_bias, struct tensor *da_log,
                  struct tensor *dskip, const struct tensor *dy, const float *delta,
                  const float *states, const struct ssd_in *in)
{
    (void)states; /* of ops.h's chunks; this one has its own */
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
        grad<S>(dev, &o, dy, in);
        launch(dev, "ssd_bwd", k_ssd_grad_params, (unsigned)in->H, 128, 0, (float *)ddt_bias->data,
               (float *)da_log->data, (float *)dskip->data, o.dparam, (int64_t)in->B * o.Z, in->H);
    });
}
