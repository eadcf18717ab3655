/* attn_step: attention of one new token a row over the keys and values in its slot of the cache,
 * o = softmax(scale q K^T) V, split over the cache (Dao et al. 2023, "Flash-Decoding").
 *
 * A row's positions are spread over blocks, as many as the size of the cache asks for, and within a
 * block over warps, tile by tile; so neither the rows beside a row nor their number enter its bits.
 * What warps and blocks leave, the greatest score m, the sum l of 2^(score - m) and the values' sum
 * under these weights, is added in order, over the blocks by a second launch.
 *
 * The query heads of a KV head are the rows of one tensor-core product, up to 16 of them, so each
 * key and value is read once for all. Where rows are many, attn_rows.cu takes over.
 *
 * The cache is asked for before grid_wait. No later kernel finds it half written: the second launch
 * calls grid_release only when it has waited for the first. */
#include "attn_step.cuh"
#include "cuda_ops.cuh"
#include "step_plan.cuh"

namespace
{
/* A row has FEWEST blocks, which attn_rows.cu can take as well, where that makes shares of UNSPLIT
 * positions at most; else one for SHARE positions of the cache, or two, while these are no more
 * than ENOUGH, but no more than MOST_BLOCKS. */
enum { FEWEST = 9, UNSPLIT = 256, MOST_BLOCKS = 144, SHARE = 256, ENOUGH = 64 };

/* Warps that join the parts of n blocks. */
__host__ __device__ constexpr int join_warps(int n)
{
    return (n + JOINED - 1) / JOINED;
}

/* One block a share of the positions (blockIdx.x) of one row (blockIdx.z), up to 16 query heads of
 * one KV head (blockIdx.y = KV head * (blocks a KV head) + which). Warp w has every WARPS-th tile
 * of 16 positions, in a ring of STAGES tiles under way. Shared memory: 16 rows of q, then the
 * rings. Reads 2 (pos+1) P elements a KV head, 4 (pos+1) P FLOPs a query head (of 16, whatever
 * their number). */
template <class T, int PT>
__global__ void __launch_bounds__(layout<T, PT>::THREADS) k_attn_step(attn_step<T> in)
{
    using L = layout<T, PT>;
    constexpr int WARPS = L::WARPS, THREADS = L::THREADS, WARP_LD = L::WARP_LD;
    SHARED_DYN(T, q);
    const int per_group = in.H / in.G, chunks = (per_group + TILE - 1) / TILE, P = in.P;
    const int g = (int)blockIdx.y / chunks, r = (int)blockIdx.z;
    const int h0 = g * per_group + (int)blockIdx.y % chunks * TILE;
    const int n_heads = min((int)TILE, (g + 1) * per_group - h0);
    const int pos = in.pos[r], tid = (int)threadIdx.x, warp = tid / 32;
    const share mine = share_of(pos, (int)gridDim.x, (int)blockIdx.x);
    T *ring = q + TILE * L::LD + warp * L::ring;
    const int64_t row0 = (int64_t)in.slot[r] * in.S;
    const head_at<T> head = head_of(in, row0, r, g);
    const int first = mine.begin + warp * TILE;
    grid_release();
    if (!in.is_wide) /* its copies are loads and stores */
        grid_wait();
#pragma unroll
    for (int i = 0; i < L::STAGES; i++) {
        const int j0 = first + i * WARPS * TILE;
        if (j0 < mine.end)
            copy_tile<T, PT>(ring + i * L::TILES, head, j0, mine.end, pos, P, in.is_wide, false);
        copy_commit();
    }
    grid_wait();
    load_queries<T, PT>(q, in, r, h0, n_heads);
    if (mine.begin <= pos && mine.end == pos + 1) {
        const int t = (pos - mine.begin) / TILE, i = t / WARPS; /* of warp t % WARPS */
        const int row = (pos - mine.begin) % TILE;
        for (int p = tid; p < PT; p += THREADS) {
            const bool is_in = p < P;
            const T key = is_in ? head.new_key[p] : from_f32<T>(0.0f);
            const T value = is_in ? head.new_value[p] : from_f32<T>(0.0f);
            if (i < L::STAGES) {
                T *to = q + TILE * L::LD + t % WARPS * L::ring + i * L::TILES + row * L::LD + p;
                to[0] = key;
                to[TILE * L::LD] = value;
            }
            if (is_in && (int)blockIdx.y % chunks == 0) {
                in.kcache.p[(row0 + pos) * in.kcache.ld + g * P + p] = key;
                in.vcache.p[(row0 + pos) * in.vcache.ld + g * P + p] = value;
            }
        }
    }
    __syncthreads();
    warp_sums<PT> sum = {};
    sum.m[0] = sum.m[1] = LOWEST;
    for (int i = 0, j0 = first; j0 < mine.end; i = i + 1 < L::STAGES ? i + 1 : 0) {
        copy_wait<L::STAGES - 1>();
        __syncwarp();
        take_tile<T, PT>(sum, q, ring + i * L::TILES, j0, mine.end, in.scale);
        __syncwarp();
        const int next = j0 + L::STAGES * WARPS * TILE;
        if (next < mine.end)
            copy_tile<T, PT>(ring + i * L::TILES, head, next, mine.end, pos, P, in.is_wide, true);
        copy_commit();
        j0 += WARPS * TILE;
    }
    copy_wait<0>();
    __syncwarp();
    float *sums = reinterpret_cast<float *>(q + TILE * L::LD);
    leave_sums<PT>(sums + warp * WARP_LD, sum, n_heads);
    __syncthreads();
    for (int i = tid; i < n_heads * PT; i += THREADS) {
        const int h = i / PT, p = i % PT;
        if (p >= P)
            continue;
        const part all = join<WARPS>(WARPS, [&](int w) {
            const float *f = sums + w * WARP_LD + h * L::SUM;
            return part{f[0], f[1], f[2 + p]};
        });
        float *to = in.parts + (((int64_t)r * in.H + h0 + h) * in.n_blocks + blockIdx.x) * (P + 2);
        to[p] = all.acc;
        if (p == 0) {
            to[P] = all.m;
            to[P + 1] = all.l;
        }
    }
}

/* o of one head (blockIdx.x) of one row (blockIdx.y) from its parts, 32 elements a block
 * (blockIdx.z), a thread one. A warp has JOINED parts and reads them all at once; what the warps
 * have is joined in the same way. Reads (P + 2) floats a part. */
template <class T>
__global__ void __launch_bounds__(32 * join_warps(MOST_BLOCKS)) k_attn_join(attn_step<T> in)
{
    SHARED(part, sums, [join_warps(MOST_BLOCKS)][32]);
    const int h = (int)blockIdx.x, r = (int)blockIdx.y, P = in.P;
    const int warp = (int)threadIdx.x / 32, n_warps = (int)blockDim.x / 32, lane = lane_id();
    const int p = (int)blockIdx.z * 32 + lane, first = warp * JOINED;
    const float *parts = in.parts + (((int64_t)r * in.H + h) * in.n_blocks + first) * (P + 2);
    part all = {};
    grid_wait();
    grid_release();
    if (p < P)
        all = join<JOINED>(min((int)JOINED, in.n_blocks - first), [&](int i) {
            const float *f = parts + (int64_t)i * (P + 2);
            return part{f[P], f[P + 1], f[p]};
        });
    if (n_warps > 1) {
        sums[warp][lane] = all;
        __syncthreads();
        if (warp == 0)
            all = join<JOINED>(n_warps, [&](int i) { return sums[i][lane]; });
    }
    if (warp == 0 && p < P)
        in.o.p[(int64_t)r * in.o.ld + h * P + p] = from_f32<T>(all.acc / all.l);
}

/* Blocks of a row's KV head, by the cache's size alone. */
int blocks_of(int S)
{
    const int n = (S + SHARE - 1) / SHARE;
    if (S <= FEWEST * UNSPLIT)
        return FEWEST;
    if (n < ENOUGH)
        return 2 * n < ENOUGH ? 2 * n : ENOUGH;
    return n < MOST_BLOCKS ? n : MOST_BLOCKS;
}

size_t parts_bytes(int R, int H, int n_blocks, int P)
{
    return sizeof(float) * (size_t)R * (size_t)H * (size_t)n_blocks * (size_t)(P + 2);
}

template <class T, int PT> void run(struct dev *dev, const attn_step<T> &in, int R)
{
    if (attn_rows<T, PT>(dev, in, R))
        return;
    const int chunks = (in.H / in.G + TILE - 1) / TILE;
    launch_early(dev, "attn_step", k_attn_step<T, PT>,
                 dim3((unsigned)in.n_blocks, (unsigned)(in.G * chunks), (unsigned)R),
                 layout<T, PT>::THREADS, layout<T, PT>::smem, in);
    launch_early(dev, "attn_step", k_attn_join<T>,
                 dim3((unsigned)in.H, (unsigned)R, blocks_for(in.P, 32)),
                 32 * join_warps(in.n_blocks), 0, in);
}
} /* namespace */

size_t cuda_attn_step_plan(const struct sizes *s)
{
    return parts_bytes(s->R, s->H, blocks_of(s->S), s->P);
}

void cuda_attn_step(struct dev *dev, struct tensor *o, struct tensor *kcache, struct tensor *vcache,
                    const struct tensor *q, const struct tensor *k, const struct tensor *v,
                    float scale, int H, int P, int G, const struct step_rows *rows)
{
    const int S = (int)kcache->dim[1], n_blocks = blocks_of(S);
    const bool is_wide = P % 8 == 0 && has_wide_rows(q) && has_wide_rows(k) && has_wide_rows(v) &&
                         has_wide_rows(kcache) && has_wide_rows(vcache);
    assert(dev->work_bytes >= parts_bytes(rows->R, H, n_blocks, P));
    with_type(o->dtype, [&](auto zero) {
        using T = decltype(zero);
        const attn_step<T> in = {cmat_of<T>(q),
                                 cmat_of<T>(k),
                                 cmat_of<T>(v),
                                 mat_of<T>(kcache),
                                 mat_of<T>(vcache),
                                 mat_of<T>(o),
                                 rows->slot,
                                 rows->pos,
                                 (float *)dev->work,
                                 scale * 1.4426950408889634f,
                                 S,
                                 H,
                                 P,
                                 G,
                                 n_blocks,
                                 is_wide};
        if (P <= 64)
            run<T, 64>(dev, in, rows->R);
        else if (P <= 128)
            run<T, 128>(dev, in, rows->R);
        else
            run<T, 256>(dev, in, rows->R);
    });
}
