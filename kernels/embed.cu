/* embed: rows of the embedding by id, y = scale * w[ids], and the gradient dw[v] += scale * sum of
 * dy over the tokens with id v, in rising order of tokens.
 *
 * The gradient first sorts the tokens by id: a histogram, its prefix sums, a scatter, whose atomic
 * integer counters leave the tokens of one id in any order, and a sort of each id's tokens. Then a
 * warp sums a piece of at most 64 tokens of one id; an id of one piece goes straight to dw, the
 * pieces of others to the workspace, where they are added in order, so that an id that fills the
 * batch is spread over the whole GPU.
 *
 * A piece is known by the sorted position where it begins. Only two pieces of ids with more than 64
 * tokens can begin within 64 positions (a rest of one id, then the first of the next), so slot
 * 2 (position / 64) + (1 for an id's first) is its own. */
#include "cuda_ops.cuh"
#include "rows.cuh"

namespace
{
constexpr int PIECE = 64;
constexpr int SCAN_THREADS = 1024;
constexpr int BITS = 1 << 16; /* tokens that the sort of a long list marks at once */

/* The workspace, one part after the other. */
struct embed_work {
    int32_t *count;  /* (V) tokens of an id; the scatter takes them down to 0 */
    int32_t *start;  /* (V+1) where an id's tokens begin */
    int32_t *loose;  /* (M) tokens by id, unsorted within */
    int32_t *sorted; /* (M) */
    float *part;     /* (slots, D) sums of pieces */
};

int64_t n_slots(int64_t M)
{
    return 2 * ((M + PIECE - 1) / PIECE);
}

/* Ints before the sums, a multiple of 4. */
int64_t n_ints(int64_t M, int64_t V)
{
    return (V + (V + 1) + 2 * M + 3) / 4 * 4;
}

embed_work lay_out(void *work, int64_t M, int64_t V)
{
    int32_t *const ints = (int32_t *)work;
    return {ints, ints + V, ints + V + V + 1, ints + V + V + 1 + M, (float *)work + n_ints(M, V)};
}

size_t work_bytes(int64_t M, int64_t V, int64_t D)
{
    return ((size_t)n_ints(M, V) + (size_t)(n_slots(M) * D)) * 4;
}

/* A thread takes N neighbouring columns of 4 rows; D is a multiple of N. Moves sizeof(T) +
 * sizeof(W) bytes an element and the ids, 1 FLOP. */
template <class T, class W, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_fwd(mat<T> y, const int32_t *__restrict__ ids, const W *__restrict__ w, int D,
                float scale, row_tiles tiles)
{
    constexpr int EACH = 4;
    const tile_at at = find_tile<EACH>(tiles);
    if (at.pack >= tiles.packs)
        return;
    const unsigned d = at.pack * N;
    pack<W, N> in[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows)
            in[k] = load_pack<W, N>(w + (int64_t)ids[at.row + k] * D + d);
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (at.row + k < tiles.rows) {
            float out[N];
#pragma unroll
            for (int i = 0; i < N; i++)
                out[i] = scale * to_f32(in[k].v[i]);
            store<T, N>(y.p + (at.row + k) * y.ld + d, out);
        }
}

/* A thread a token; 8 bytes each. Integer sums, so their order does not matter. */
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_count(int32_t *count, const int32_t *__restrict__ ids, int M)
{
    const int m = (int)(blockIdx.x * ROWS_THREADS + threadIdx.x);
    if (m < M)
        atomicAdd(&count[ids[m]], 1);
}

/* start (V+1) = sums of the counts before. One block, 4 neighbouring ids a thread at a time. Moves
 * 8 bytes an id. */
__global__ void __launch_bounds__(SCAN_THREADS)
    k_embed_scan(int32_t *__restrict__ start, const int32_t *__restrict__ count, int V)
{
    constexpr int EACH = 4;
    SHARED(int, total, [1]);
    int done = 0;
    for (int low = 0; low < V; low += EACH * SCAN_THREADS) {
        const int first = low + EACH * (int)threadIdx.x;
        int n[EACH], sum = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            n[i] = first + i < V ? count[first + i] : 0;
            sum += n[i];
        }
        int at = done + sum_before<SCAN_THREADS>(sum);
        if (threadIdx.x == SCAN_THREADS - 1)
            total[0] = at + sum;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (first + i < V)
                start[first + i] = at;
            at += n[i];
        }
        __syncthreads();
        done = total[0];
    }
    if (threadIdx.x == 0)
        start[V] = done;
}

/* A thread a token: to any free place among its id's; 16 bytes each. */
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_scatter(int32_t *loose, int32_t *count, const int32_t *__restrict__ start,
                    const int32_t *__restrict__ ids, int M)
{
    const int m = (int)(blockIdx.x * ROWS_THREADS + threadIdx.x);
    if (m < M)
        loose[start[ids[m]] + atomicSub(&count[ids[m]], 1) - 1] = m;
}

/* Sorts n tokens below M: marks them in a bitmap, BITS tokens at a time, and reads it in order. The
 * whole block; shared memory: BITS/8 bytes and 32. */
__device__ void sort_long(int32_t *to, const int32_t *from, int n, int M)
{
    constexpr int WORDS = BITS / 32, EACH = WORDS / ROWS_THREADS;
    SHARED(uint32_t, marks, [WORDS]);
    SHARED(int, total, [1]);
    int done = 0;
    for (int low = 0; low < M; low += BITS) {
        for (int i = (int)threadIdx.x; i < WORDS; i += ROWS_THREADS)
            marks[i] = 0;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n; i += ROWS_THREADS) {
            const unsigned bit = (unsigned)(from[i] - low);
            if (from[i] >= low && bit < BITS)
                atomicOr(&marks[bit / 32], 1u << bit % 32);
        }
        __syncthreads();
        const int first = (int)threadIdx.x * EACH;
        int mine = 0;
        for (int i = first; i < first + EACH; i++)
            mine += __popc(marks[i]);
        int at = done + sum_before<ROWS_THREADS>(mine);
        if (threadIdx.x == ROWS_THREADS - 1)
            total[0] = at + mine;
        for (int i = first; i < first + EACH; i++)
            for (uint32_t rest = marks[i]; rest; rest &= rest - 1)
                to[at++] = low + i * 32 + __ffs((int)rest) - 1;
        __syncthreads();
        done = total[0];
    }
}

/* Sorts each id's tokens. A block takes the 64 positions from PIECE * blockIdx.x: a thread each for
 * tokens of ids with at most 64, which counts those before it; the block for the id with more that
 * begins there, if one does. Reads 4 bytes a token and id's token. */
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_sort(embed_work o, const int32_t *__restrict__ ids, int M)
{
    SHARED(int, first, [2]);
    const int at = (int)blockIdx.x * PIECE + (int)threadIdx.x;
    if (threadIdx.x == 0)
        first[1] = 0;
    __syncthreads();
    if (threadIdx.x < PIECE && at < M) {
        const int m = o.loose[at], begin = o.start[ids[m]], n = o.start[ids[m] + 1] - begin;
        if (n > PIECE && begin == at) {
            first[0] = begin;
            first[1] = n;
        } else if (n <= PIECE) {
            int before = 0;
            for (int i = 0; i < n; i++)
                before += o.loose[begin + i] < m;
            o.sorted[begin + before] = m;
        }
    }
    __syncthreads();
    if (first[1] > 0)
        sort_long(o.sorted + first[0], o.loose + first[0], first[1], M);
}

/* A warp takes the piece that begins at a sorted position, if one does, in 32 N neighbouring
 * columns (grid: positions, columns); D is a multiple of N. Moves sizeof(T) bytes an element of dy
 * and 8 an element of each row of dw that is touched; 1 FLOP an element. */
template <class T, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_sum(float *dw, embed_work o, const int32_t *__restrict__ ids, mat<const T> dy, int M,
                int D, float scale)
{
    const int at = (int)blockIdx.x * ROWS_WARPS + (int)threadIdx.x / 32;
    const int d = ((int)blockIdx.y * 32 + (int)threadIdx.x % 32) * N;
    if (at >= M || d >= D)
        return;
    const int id = ids[o.sorted[at]], begin = o.start[id], end = o.start[id + 1];
    if ((at - begin) % PIECE != 0)
        return;
    float sum[N] = {};
    const int n = min(PIECE, end - at);
#pragma unroll 4
    for (int i = 0; i < n; i++) {
        float v[N];
        load<T, N>(v, dy.p + o.sorted[at + i] * dy.ld + d);
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[j] += v[j];
    }
    if (end - begin > PIECE) {
        store_floats<N>(o.part + (int64_t)(at / PIECE * 2 + (at == begin)) * D + d, sum);
        return;
    }
    float was[N];
    load_floats<N>(was, dw + (int64_t)id * D + d);
#pragma unroll
    for (int j = 0; j < N; j++)
        sum[j] = was[j] + scale * sum[j];
    store_floats<N>(dw + (int64_t)id * D + d, sum);
}

/* Adds the pieces of the long id that begins among the 64 positions from PIECE * blockIdx.x, if one
 * does. A block takes 32 columns (grid: positions, columns), its warps every 8th piece, and their
 * sums are added in order. Shared memory: 1 KB. Moves 4 bytes an element of a piece, 8 of dw. */
__global__ void __launch_bounds__(ROWS_THREADS)
    k_embed_join(float *dw, embed_work o, const int32_t *__restrict__ ids, int M, int D,
                 float scale)
{
    SHARED(float, sums, [ROWS_WARPS][32]);
    SHARED(int, found, [1]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int at = (int)blockIdx.x * PIECE + (int)threadIdx.x;
    if (threadIdx.x == 0)
        found[0] = -1;
    __syncthreads();
    if (threadIdx.x < PIECE && at < M) {
        const int id = ids[o.sorted[at]];
        if (o.start[id] == at && o.start[id + 1] - at > PIECE)
            found[0] = id;
    }
    __syncthreads();
    if (found[0] < 0)
        return;
    const int id = found[0], begin = o.start[id], end = o.start[id + 1];
    const int d = (int)blockIdx.y * 32 + lane;
    float sum = 0;
    if (d < D)
#pragma unroll 4
        for (int p = begin + warp * PIECE; p < end; p += ROWS_WARPS * PIECE)
            sum += o.part[(int64_t)(p / PIECE * 2 + (p == begin)) * D + d];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || d >= D)
        return;
    for (int i = 1; i < ROWS_WARPS; i++)
        sum += sums[i][lane];
    dw[(int64_t)id * D + d] += scale * sum;
}

template <class T, class W, int N>
void run_fwd(struct dev *dev, struct tensor *y, const int32_t *ids, const struct weight *w,
             float scale)
{
    const row_tiles tiles = tiles_of(tensor_rows(y), w->cols, N);
    launch(dev, "embed_fwd", k_embed_fwd<T, W, N>, tile_blocks(tiles, 4), ROWS_THREADS, 0,
           mat_of<T>(y), ids, (const W *)w->data, w->cols, scale, tiles);
}

/* Leaves the tokens sorted by id. */
void sort_tokens(struct dev *dev, const embed_work &o, const int32_t *ids, int M, int V)
{
    const char *at = "embed_bwd";
    const unsigned blocks = blocks_for(M, ROWS_THREADS);
    cuda_note(dev, cudaMemsetAsync(o.count, 0, (size_t)V * sizeof *o.count, cuda_of(dev)->stream),
              at);
    launch(dev, at, k_embed_count, blocks, ROWS_THREADS, 0, o.count, ids, M);
    launch(dev, at, k_embed_scan, 1, SCAN_THREADS, 0, o.start, o.count, V);
    launch(dev, at, k_embed_scatter, blocks, ROWS_THREADS, 0, o.loose, o.count, o.start, ids, M);
    launch(dev, at, k_embed_sort, blocks_for(M, PIECE), ROWS_THREADS, 0, o, ids, M);
}

template <class T, int N>
void run_sum(struct dev *dev, float *dw, const embed_work &o, const int32_t *ids,
             const struct tensor *dy, float scale)
{
    const int M = (int)tensor_rows(dy), D = (int)tensor_cols(dy);
    launch(dev, "embed_bwd", k_embed_sum<T, N>,
           dim3(blocks_for(M, ROWS_WARPS), blocks_for(D, 32 * N)), ROWS_THREADS, 0, dw, o, ids,
           cmat_of<T>(dy), M, D, scale);
}
} // namespace

void cuda_embed_fwd(struct dev *dev, struct tensor *y, const int32_t *ids, const struct weight *w,
                    float scale)
{
    assert(tensor_cols(y) == w->cols);
    with_type(y->dtype, [&](auto zero) {
        with_type(w->dtype, [&](auto weight) {
            using T = decltype(zero);
            using W = decltype(weight);
            constexpr int N = wide<T>::n < wide<W>::n ? wide<T>::n : wide<W>::n;
            if (has_wide_rows(y) && w->cols % wide<W>::n == 0)
                run_fwd<T, W, N>(dev, y, ids, w, scale);
            else
                run_fwd<T, W, 1>(dev, y, ids, w, scale);
        });
    });
}

void cuda_embed_bwd(struct dev *dev, struct tensor *dw, const int32_t *ids, const struct tensor *dy,
                    float scale)
{
    const int64_t M = tensor_rows(dy), V = tensor_rows(dw), D = tensor_cols(dy);
    assert(tensor_cols(dw) == D && tensor_is_dense(dw) && M <= INT32_MAX);
    if (M == 0)
        return;
    assert(work_bytes(M, V, D) <= dev->work_bytes);
    const embed_work o = lay_out(dev->work, M, V);
    sort_tokens(dev, o, ids, (int)M, (int)V);
    with_type(dy->dtype, [&](auto zero) {
        using T = decltype(zero);
        if (has_wide_rows(dy) && has_wide_rows(dw))
            run_sum<T, wide<T>::n>(dev, (float *)dw->data, o, ids, dy, scale);
        else
            run_sum<T, 1>(dev, (float *)dw->data, o, ids, dy, scale);
    });
    launch(dev, "embed_bwd", k_embed_join, dim3(blocks_for(M, PIECE), blocks_for(D, 32)),
           ROWS_THREADS, 0, (float *)dw->data, o, ids, (int)M, (int)D, scale);
}

size_t cuda_embed_plan(const struct dev *dev, const struct sizes *s)
{
    (void)dev;
    return work_bytes((int64_t)s->B * s->T, s->V, s->D);
}
