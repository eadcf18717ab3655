/* attn_rows: attn_step.cu's attention where rows are many: one block has all positions of a KV
 * head, so that nothing is left for a second launch. The same sums in the same order. */
#include "attn_step.cuh"

namespace
{
/* MOST_SHARES: of a block of k_attn_rows. */
enum { MOST_SHARES = 9 };

/* Where a warp stands in the positions of all shares, tile by tile. */
struct cursor {
    int which, j0, pos, n_shares, step;
    share at;

    __device__ __forceinline__ cursor(int warp, int warps, int pos_, int n)
        : which(0), j0(warp * TILE), pos(pos_), n_shares(n), step(warps * TILE),
          at(share_of(pos_, n, 0))
    {
        settle(warp);
    }
    __device__ __forceinline__ void settle(int warp)
    {
        while (which < n_shares && j0 >= at.end) {
            at = share_of(pos, n_shares, ++which);
            j0 = at.begin + warp * TILE;
        }
    }
    __device__ __forceinline__ bool has_tile() const
    {
        return which < n_shares;
    }
    __device__ __forceinline__ void next(int warp)
    {
        j0 += step;
        settle(warp);
    }
};

/* For many rows: one block all shares of one KV head (blockIdx.x) of one row (blockIdx.y), one
 * after the other, whose tiles follow each other in the warps' rings; the sums of k_attn_step and
 * k_attn_join without a way through memory. Rows of the cache are wide, a KV head has 16 query
 * heads at most. Shared memory: as k_attn_step, and (WARPS + shares) * heads * (PT+2) floats. Reads
 * 2 (pos+1) P elements a KV head, 4 (pos+1) P FLOPs a query head (of 16, whatever their number). */
template <class T, int PT>
__global__ void __launch_bounds__(layout<T, PT>::THREADS) k_attn_rows(attn_step<T> in)
{
    using L = layout<T, PT>;
    constexpr int WARPS = L::WARPS, THREADS = L::THREADS;
    SHARED_DYN(T, q);
    const int n_heads = in.H / in.G, P = in.P, n_shares = in.n_blocks;
    const int g = (int)blockIdx.x, r = (int)blockIdx.y, h0 = g * n_heads;
    const int pos = in.pos[r], tid = (int)threadIdx.x, warp = tid / 32;
    T *rings = q + TILE * L::LD, *ring = rings + warp * L::ring;
    float *sums = reinterpret_cast<float *>(rings + WARPS * L::ring); /* (WARPS,heads,SUM) */
    float *parts = sums + WARPS * n_heads * L::SUM;                   /* (shares,heads,SUM) */
    const int64_t row0 = (int64_t)in.slot[r] * in.S;
    const head_at<T> head = head_of(in, row0, r, g);
    cursor copied(warp, WARPS, pos, n_shares);
    const auto copy_next = [&](T *to) {
        if (copied.has_tile()) {
            copy_tile<T, PT>(to, head, copied.j0, copied.at.end, pos, P, true, true);
            copied.next(warp);
        }
        copy_commit();
    };
    bool has_waited = false;
#pragma unroll
    for (int i = 0; i < L::STAGES; i++) {
        if (!has_waited && copied.has_tile() && copied.j0 / TILE == pos / TILE) {
            grid_wait(); /* the tile has the new token */
            has_waited = true;
        }
        copy_next(ring + i * L::TILES);
    }
    grid_wait();
    grid_release();
    load_queries<T, PT>(q, in, r, h0, n_heads);
    for (int p = tid; p < P; p += THREADS) {
        in.kcache.p[(row0 + pos) * in.kcache.ld + g * P + p] = head.new_key[p];
        in.vcache.p[(row0 + pos) * in.vcache.ld + g * P + p] = head.new_value[p];
    }
    __syncthreads();
    int stage = 0;
    for (int s = 0; s < n_shares; s++) {
        const share mine = share_of(pos, n_shares, s);
        warp_sums<PT> sum = {};
        sum.m[0] = sum.m[1] = LOWEST;
        for (int j0 = mine.begin + warp * TILE; j0 < mine.end; j0 += WARPS * TILE) {
            copy_wait<L::STAGES - 1>();
            __syncwarp();
            take_tile<T, PT>(sum, q, ring + stage * L::TILES, j0, mine.end, in.scale);
            __syncwarp();
            copy_next(ring + stage * L::TILES);
            stage = stage + 1 < L::STAGES ? stage + 1 : 0;
        }
        leave_sums<PT>(sums + warp * n_heads * L::SUM, sum, n_heads);
        __syncthreads();
        for (int i = tid; i < n_heads * P; i += THREADS) {
            const int h = i / P, p = i % P;
            const part all = join<WARPS>(WARPS, [&](int w) {
                const float *f = sums + (w * n_heads + h) * L::SUM;
                return part{f[0], f[1], f[2 + p]};
            });
            float *to = parts + (s * n_heads + h) * L::SUM;
            to[2 + p] = all.acc;
            if (p == 0) {
                to[0] = all.m;
                to[1] = all.l;
            }
        }
        __syncthreads();
    }
    for (int i = tid; i < n_heads * P; i += THREADS) {
        const int h = i / P, p = i % P;
        const part all = join<JOINED>(n_shares, [&](int s) {
            const float *f = parts + (s * n_heads + h) * L::SUM;
            return part{f[0], f[1], f[2 + p]};
        });
        in.o.p[(int64_t)r * in.o.ld + (h0 + h) * P + p] = from_f32<T>(all.acc / all.l);
    }
}
} /* namespace */

/* There should be some blocks for each multiprocessor. */
template <class T, int PT> bool attn_rows(struct dev *dev, const attn_step<T> &in, int R)
{
    using L = layout<T, PT>;
    const int n_heads = in.H / in.G;
    const size_t smem =
        L::smem + sizeof(float) * (size_t)((L::WARPS + in.n_blocks) * n_heads * L::SUM);
    if (!in.is_wide || n_heads > TILE || in.n_blocks > MOST_SHARES ||
        2 * R * in.G < 5 * cuda_of(dev)->n_sm || smem > cuda_of(dev)->smem_bytes)
        return false;
    launch_early(dev, "attn_step", k_attn_rows<T, PT>, dim3((unsigned)in.G, (unsigned)R),
                 L::THREADS, smem, in);
    return true;
}

template bool attn_rows<float, 64>(struct dev *, const attn_step<float> &, int);
template bool attn_rows<float, 128>(struct dev *, const attn_step<float> &, int);
template bool attn_rows<float, 256>(struct dev *, const attn_step<float> &, int);
template bool attn_rows<f16, 64>(struct dev *, const attn_step<f16> &, int);
template bool attn_rows<f16, 128>(struct dev *, const attn_step<f16> &, int);
template bool attn_rows<f16, 256>(struct dev *, const attn_step<f16> &, int);
template bool attn_rows<bf16, 64>(struct dev *, const attn_step<bf16> &, int);
template bool attn_rows<bf16, 128>(struct dev *, const attn_step<bf16> &, int);
template bool attn_rows<bf16, 256>(struct dev *, const attn_step<bf16> &, int);
