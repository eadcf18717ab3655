/* ssd_pull: what pulls at the log decays of a chunk, and what follows from it: the gradients of dt
 * and of the parameters a head has. ssd_bwd.cu has the formula; ssd_grad.cuh the letters. */
#ifndef HM_SSD_PULL_CUH
#define HM_SSD_PULL_CUH

#include "ssd_grad.cuh"

/* What pulls at an item's tokens, for finish: pull of products that end or begin at the token, x .
 * dxs, dy . x, and what pulls at the chunk's end. A thread a token, of the warps with few pairs. */
template <class S>
__device__ __forceinline__ void keep_sums(float4 *sums, const grad_smem<S> *w, int parity, int n)
{
    const int t = (int)threadIdx.x - S::THREADS / 2;
    if (t < 0 || t >= n)
        return;
    const float delta = w->kept_delta[t];
    float pull = 0, behind = 0;
#pragma unroll
    for (int k = 0; k < S::NS; k++)
        pull += k <= t / 16 ? w->slot[k][t] : 0.0f;
#pragma unroll
    for (int c = 0; c < S::WC; c++) {
        pull += w->before[c][t];
        behind += w->behind[c][t];
    }
    const float all = behind + w->later[t];
    float4 v = {pull - delta * all, all + w->same[t], w->diag[t], delta * behind};
    if (t == n - 1)
#pragma unroll
        for (int i = 0; i < S::WARPS; i++)
            v.w += w->through[parity][i];
    sums[t] = v;
}

/* ddt and the chunk's share of the parameter gradients of head h, from its slices' sums. One warp;
 * t rises with lanes. */
template <class S, class W>
__device__ void finish(const W *w, const grad_args<typename S::T> &o, const float4 *sums,
                       int slices, int h, int chunk, int row0, int n)
{
    using T = typename S::T;
    const int lane = lane_id();
    const float a = -expf(o.a_log[h]);
    float4 v[S::PER];
    float delta[S::PER], at_end = 0;
#pragma unroll
    for (int i = 0; i < S::PER; i++) {
        const int t = lane * S::PER + i;
        delta[i] = t < n ? o.delta[(int64_t)(row0 + t) * o.H + h] : 0.0f;
        v[i] = float4{0, 0, 0, 0};
    }
    for (int slice = 0; slice < slices; slice++)
#pragma unroll
        for (int i = 0; i < S::PER; i++) {
            const int t = lane * S::PER + i;
            const float4 s = t < n ? sums[slice * S::QT + t] : float4{0, 0, 0, 0};
            v[i] = float4{v[i].x + s.x, v[i].y + s.y, v[i].z + s.z, v[i].w + s.w};
            at_end += s.w;
        }
    at_end = warp_sum(at_end);

    /* A running sum from the right that a document's first token ends. */
    float run = 0;
    bool has_first = false;
#pragma unroll
    for (int i = S::PER - 1; i >= 0; i--) {
        const int t = lane * S::PER + i;
        const bool is_first = t < S::QT && w->start[t] == t;
        v[i].x += t == n - 1 ? at_end : 0.0f;
        run = is_first ? 0.0f : run + v[i].x;
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
        run = w->start[t] == t ? 0.0f : run + v[i].x;
        /* softplus'(v) = 1 - exp(-softplus(v)) */
        const float ddt = (v[i].y + a * run) * -expm1f(-delta[i]);
        o.ddt.p[(int64_t)(row0 + t) * o.ddt.ld + h] = from_f32<T>(ddt);
        share[0] += ddt;
        share[1] += a * delta[i] * run;
        share[2] += v[i].z;
    }
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const float sum = warp_sum(share[i]);
        if (lane == 0)
            o.dparam[((int64_t)chunk * o.H + h) * 3 + i] = sum;
    }
}

#endif
