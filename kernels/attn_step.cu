/* attn_step: attention of one new token a row over the keys and values in its slot of the cache,
 * o = softmax(scale q K^T) V, split over the cache (Dao et al. 2023, "Flash-Decoding").
 *
 * A row's positions are spread over blocks, as many as the size of the cache asks for, and within a
 * block over warps, tile by tile; so neither the rows beside a row nor their number enter its bits.
 * What warps and blocks leave, the greatest score m, the sum l of 2^(score - m) and the values' sum
 * under these weights, is added in order, over the blocks by a second launch.
 *
 * The query heads of a KV head are the rows of one tensor-core product, up to 16 of them, so each
 * key and value is read once for all. Where rows are many, one block has all positions of a KV head
 * (k_attn_rows): the same sums, without the second launch.
 *
 * The cache is asked for before grid_wait. No later kernel finds it half written: the second launch
 * calls grid_release only when it has waited for the first. */
#include "cuda_ops.cuh"
#include "mma.cuh"
#include "step_plan.cuh"

namespace
{
/* TILE: positions of a tile, and heads of a product. A row has FEWEST to MOST_BLOCKS blocks, one
 * for SHARE positions of the cache. */
enum { TILE = 16, FEWEST = 8, MOST_BLOCKS = 64, SHARE = 512, JOIN_THREADS = 128 };
constexpr float LOWEST = -3e38f;

template <class T> struct attn_step {
    mat<const T> q, k, v; /* (R,H*P) (R,G*P) */
    mat<T> kcache, vcache, o;
    const int32_t *slot, *pos;
    float *parts; /* (R,H,n_blocks,P+2): sums, then m and l */
    float scale;  /* with log2 e */
    int S, H, P, G, n_blocks;
    bool is_wide;
};

/* How a block is laid out for rows of PT elements, P rounded up: long rows take few warps and few
 * STAGES of a warp's ring of tiles. The ring holds the warp's sums in the end. */
template <class T, int PT> struct layout {
    static constexpr int row = PT * (int)sizeof(T);
    static constexpr int WARPS = row <= 128 ? 4 : row <= 256 ? 2 : 1, THREADS = 32 * WARPS;
    static constexpr int STAGES = row <= 512 ? 2 : 1;
    static constexpr int LD = tile_ld<T>(PT), TILES = 2 * TILE * LD, ring = STAGES * TILES;
    static constexpr int SUM = PT + 2, WARP_LD = ring * (int)sizeof(T) / (int)sizeof(float);
    static constexpr int smem = (TILE * LD + WARPS * ring) * (int)sizeof(T);
    static_assert(WARP_LD >= TILE * SUM, "the sums fit");
    static_assert(smem <= 64 * 1024, "all GPUs have as much");
};

/* Which positions a block has: a run of tiles. */
struct share {
    int begin, end;
};
__device__ __forceinline__ share share_of(int pos, int n_blocks, int which)
{
    const int tiles = pos / TILE + 1, each = (tiles + n_blocks - 1) / n_blocks * TILE;
    return {which * each, min((which + 1) * each, pos + 1)};
}

/* A row of P elements, `chunk` of 16 bytes of it, to shared memory; zeros where !ok. */
template <class T>
__device__ __forceinline__ void copy_chunk(T *to, const T *from, int chunk, int P, bool is_wide,
                                           bool ok)
{
    constexpr int E = wide<T>::n;
    const int at = chunk * E;
    if (is_wide) {
        copy16_async(to + at, from + at, ok && at < P);
        return;
    }
#pragma unroll
    for (int e = 0; e < E; e++)
        to[at + e] = ok && at + e < P ? from[at + e] : from_f32<T>(0.0f);
}

/* A KV head of a row: where its keys and values are. */
template <class T> struct head_at {
    const T *keys, *values, *new_key, *new_value;
    int64_t ld_k, ld_v;
};

/* A warp copies the tile of positions j0, j0+1 ... before end: keys, then values. The new token's
 * is not in the cache yet; has_new: it may be read. */
template <class T, int PT>
__device__ __forceinline__ void copy_tile(T *to, const head_at<T> &head, int j0, int end, int pos,
                                          int P, bool is_wide, bool has_new)
{
    constexpr int LD = layout<T, PT>::LD, CHUNKS = PT / wide<T>::n;
#pragma unroll
    for (int i = lane_id(); i < TILE * CHUNKS; i += 32) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, j = j0 + row;
        const bool is_new = j == pos;
        if (is_new && !has_new)
            continue;
        copy_chunk(to + row * LD, is_new ? head.new_key : head.keys + j * head.ld_k, chunk, P,
                   is_wide, j < end);
        copy_chunk(to + (TILE + row) * LD, is_new ? head.new_value : head.values + j * head.ld_v,
                   chunk, P, is_wide, j < end);
    }
}

/* Heads g and g+8 of a lane: what the warp has summed. */
template <int PT> struct warp_sums {
    float m[2], l[2];
    frag_c o[PT / 8];
};

/* Takes a tile in. */
template <class T, int PT>
__device__ __forceinline__ void take_tile(warp_sums<PT> &sum, const T *q, const T *tile, int j0,
                                          int end, float scale)
{
    constexpr int LD = layout<T, PT>::LD;
    frag_c s[2] = {};
#pragma unroll
    for (int k = 0; k < PT; k += 16) {
        frag_a<T> a;
        frag_b<T> b[2];
        load_a(a, q + k, LD);
        load_b2(b, tile + k, LD);
        mma(s[0], a, b[0]);
        mma(s[1], a, b[1]);
    }
    const int first = j0 + lane_id() % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = sum.m[h];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &x = s[i / 2].r[2 * h + i % 2];
            x = first + i / 2 * 8 + i % 2 < end ? x * scale : LOWEST;
            m = fmaxf(m, x);
        }
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        const float left = exp2_fast(sum.m[h] - m);
        sum.m[h] = m;
        sum.l[h] *= left;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &x = s[i / 2].r[2 * h + i % 2];
            x = exp2_fast(x - m);
            sum.l[h] += x;
        }
#pragma unroll
        for (int n = 0; n < PT / 8; n++) {
            sum.o[n].r[2 * h] *= left;
            sum.o[n].r[2 * h + 1] *= left;
        }
    }
    const frag_a<T> a = a_of_c<T>(s[0], s[1]);
#pragma unroll
    for (int n = 0; n < PT / 16; n++) {
        frag_b<T> b[2];
        load_b2_t(b, tile + TILE * LD + n * 16, LD);
        mma(sum.o[2 * n], a, b[0]);
        mma(sum.o[2 * n + 1], a, b[1]);
    }
}

/* The warp's sums to shared memory, (16,PT+2): m, l, values. */
template <int PT>
__device__ __forceinline__ void leave_sums(float *to, warp_sums<PT> &sum, int n_heads)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float l = sum.l[h];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        if (g + 8 * h >= n_heads)
            continue;
        float *row = to + (g + 8 * h) * (PT + 2);
        if (t == 0) {
            row[0] = sum.m[h];
            row[1] = l;
        }
#pragma unroll
        for (int n = 0; n < PT / 8; n++) {
            row[2 + n * 8 + 2 * t] = sum.o[n].r[2 * h];
            row[2 + n * 8 + 2 * t + 1] = sum.o[n].r[2 * h + 1];
        }
    }
}

/* Sums of some positions for an element of a head. */
struct part {
    float m, l, acc;
};
/* Of n parts, read by get(i), in order. */
template <int N, class F> __device__ __forceinline__ part join(int n, F get)
{
    part sum = {LOWEST, 0, 0};
    for (int i0 = 0; i0 < n; i0 += N) {
        part p[N];
        float m = sum.m;
#pragma unroll
        for (int i = 0; i < N; i++) {
            p[i] = i0 + i < n ? get(i0 + i) : part{LOWEST, 0, 0};
            m = fmaxf(m, p[i].m);
        }
        const float left = exp2_fast(sum.m - m);
        sum = {m, __fmul_rn(sum.l, left), __fmul_rn(sum.acc, left)};
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float w = exp2_fast(p[i].m - m);
            sum.l = fmaf(p[i].l, w, sum.l);
            sum.acc = fmaf(p[i].acc, w, sum.acc);
        }
    }
    return sum;
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
    const head_at<T> head = {in.kcache.p + row0 * in.kcache.ld + g * P,
                             in.vcache.p + row0 * in.vcache.ld + g * P,
                             in.k.p + (int64_t)r * in.k.ld + g * P,
                             in.v.p + (int64_t)r * in.v.ld + g * P,
                             in.kcache.ld,
                             in.vcache.ld};
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
    for (int i = tid; i < TILE * PT; i += THREADS) {
        const int h = i / PT, p = i % PT;
        q[h * L::LD + p] = h < n_heads && p < P ? in.q.p[(int64_t)r * in.q.ld + (h0 + h) * P + p]
                                                : from_f32<T>(0.0f);
    }
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
    for (int i = tid; i < n_heads * P; i += THREADS) {
        const int h = i / P, p = i % P;
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

/* o of one head of one row from its parts. One block a head (blockIdx.x) and row, a thread an
 * element. Reads (P + 2) floats a part. */
template <class T> __global__ void __launch_bounds__(JOIN_THREADS) k_attn_join(attn_step<T> in)
{
    const int h = (int)blockIdx.x, r = (int)blockIdx.y, P = in.P;
    const float *parts = in.parts + ((int64_t)r * in.H + h) * in.n_blocks * (P + 2);
    grid_wait();
    grid_release();
    for (int p = (int)threadIdx.x; p < P; p += JOIN_THREADS) {
        const part all = join<8>(in.n_blocks, [&](int i) {
            const float *f = parts + (int64_t)i * (P + 2);
            return part{f[P], f[P + 1], f[p]};
        });
        in.o.p[(int64_t)r * in.o.ld + h * P + p] = from_f32<T>(all.acc / all.l);
    }
}

/* MOST_SHARES: of a block of k_attn_rows. */
enum { MOST_SHARES = 8 };

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
    const head_at<T> head = {in.kcache.p + row0 * in.kcache.ld + g * P,
                             in.vcache.p + row0 * in.vcache.ld + g * P,
                             in.k.p + (int64_t)r * in.k.ld + g * P,
                             in.v.p + (int64_t)r * in.v.ld + g * P,
                             in.kcache.ld,
                             in.vcache.ld};
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
    for (int i = tid; i < TILE * PT; i += THREADS) {
        const int h = i / PT, p = i % PT;
        q[h * L::LD + p] = h < n_heads && p < P ? in.q.p[(int64_t)r * in.q.ld + (h0 + h) * P + p]
                                                : from_f32<T>(0.0f);
    }
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
        const part all = join<MOST_SHARES>(n_shares, [&](int s) {
            const float *f = parts + (s * n_heads + h) * L::SUM;
            return part{f[0], f[1], f[2 + p]};
        });
        in.o.p[(int64_t)r * in.o.ld + (h0 + h) * P + p] = from_f32<T>(all.acc / all.l);
    }
}

/* Blocks of a row's KV head, by the cache's size alone. */
int blocks_of(int S)
{
    const int n = (S + SHARE - 1) / SHARE;
    return n < FEWEST ? FEWEST : n < MOST_BLOCKS ? n : MOST_BLOCKS;
}

size_t parts_bytes(int R, int H, int n_blocks, int P)
{
    return sizeof(float) * (size_t)R * (size_t)H * (size_t)n_blocks * (size_t)(P + 2);
}

/* In blocks of all shares, of which there should be some for each multiprocessor. */
template <class T, int PT> bool run_rows(struct dev *dev, const attn_step<T> &in, int R)
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

template <class T, int PT> void run(struct dev *dev, const attn_step<T> &in, int R)
{
    if (run_rows<T, PT>(dev, in, R))
        return;
    const int chunks = (in.H / in.G + TILE - 1) / TILE;
    launch_early(dev, "attn_step", k_attn_step<T, PT>,
                 dim3((unsigned)in.n_blocks, (unsigned)(in.G * chunks), (unsigned)R),
                 layout<T, PT>::THREADS, layout<T, PT>::smem, in);
    launch_early(dev, "attn_step", k_attn_join<T>, dim3((unsigned)in.H, (unsigned)R), JOIN_THREADS,
                 0, in);
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
    const bool is_wide = P % 8 == 0 && has_wide_rows(k) && has_wide_rows(v) &&
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
