/* wgmma: products of a warpgroup (4 neighbouring warps, the first a multiple of 4) on tiles in
 * shared memory, for sm_90a: 64 x N x 16 a step, which run while the threads do something else
 * (PTX ISA, "Asynchronous warpgroup level matrix instructions"). Only files named *_sm90.cu use it.
 *
 *   wg_begin();                        registers that were written are seen by what follows
 *   wg_mma(d, a, b) ...                d (64 x N, f32) += a (64 x 16) b (16 x N)
 *   wg_commit();                       ends a group of products
 *   wg_wait<KEEP>(); wg_pin(d);        all but KEEP groups are done, their d may be read
 *   wg_pin(a);                         and a's registers, where it had some, used again
 *
 * d: warp w of the group has rows 16 w ..; a frag_c for each 8 columns, as mma.cuh has them. a: a
 * frag_a of those rows, or an operand in shared memory; b: an operand. Until the wait nothing may
 * touch d, nor what the operands read. What threads wrote to shared memory themselves, by stores or
 * by copies that they waited for, is seen by products after wg_publish and a barrier.
 *
 * Under emulation a product is done at the wait, as late as it may be. */
#ifndef HM_WGMMA_CUH
#define HM_WGMMA_CUH

#include "mma.cuh"

/* ROWS x COLS 16-bit elements in shared memory, at a multiple of 1024 bytes. Panels of 64 columns,
 * in which a row is 128 bytes, whose packs of 16 bytes are permuted by the row, so that neither
 * eight rows of a pack nor the packs of a row meet in a bank. */
template <class Type, int ROWS_, int COLS_> struct alignas(1024) wg_tile {
    using T = Type;
    static constexpr int ROWS = ROWS_, COLS = COLS_;
    static_assert(sizeof(T) == 2 && ROWS % 8 == 0 && COLS % 64 == 0, "whole panels");
    T e[ROWS * COLS];

    /* unsigned: shifts and masks alone */
    static __device__ __forceinline__ unsigned place(unsigned r, unsigned c)
    {
        return (c / 64 * ROWS + r) * 64 + ((c % 64 / 8) ^ (r % 8)) * 8 + c % 8;
    }
    __device__ __forceinline__ T *at(unsigned r, unsigned c)
    {
        return e + place(r, c);
    }
    __device__ __forceinline__ const T *at(unsigned r, unsigned c) const
    {
        return e + place(r, c);
    }
};

/* 16 k by up to 64 (as a) or N (as b) elements of a tile. IS_DOWN: k runs down the tile's columns,
 * else along its rows. */
template <class Type, bool IS_DOWN_> struct wg_operand {
    using T = Type;
    static constexpr bool IS_DOWN = IS_DOWN_;
#ifdef CUDA_EMU
    const uint16_t *tile;
    int rows, r0, c0;
#else
    uint64_t desc;
#endif
};

template <bool IS_DOWN, class T, int ROWS, int COLS>
__device__ __forceinline__ wg_operand<T, IS_DOWN> wg_operand_of(const wg_tile<T, ROWS, COLS> &tile,
                                                                int r0, int c0)
{
#ifdef CUDA_EMU
    return {reinterpret_cast<const uint16_t *>(tile.e), ROWS, r0, c0};
#else
    /* units of 16 bytes: where it begins; from panel to panel; from 8 rows to the next 8; 1: packs
     * permuted in 128 bytes. What lies below 2^32 is one sum, so that a tile's operands differ by
     * what is known beforehand. */
    constexpr uint32_t high = 1u << 30 | 1024 / 16, panel = ROWS * 128 / 16;
    const uint32_t first = ((uint32_t)__cvta_generic_to_shared(tile.e) & 0x3ffff) >> 4;
    const uint32_t low =
        (first | panel << 16) + (uint32_t)((c0 / 64 * ROWS + r0) * 128 + c0 % 64 * 2) / 16;
    wg_operand<T, IS_DOWN> to;
    asm("mov.b64 %0, {%1, %2};" : "=l"(to.desc) : "r"(low), "r"(high));
    return to;
#endif
}

/* k: columns c0 .. c0+15, c0 a multiple of 16. Rows of a (columns of b) are those from r0, a
 * multiple of 8. */
template <class T, int ROWS, int COLS>
__device__ __forceinline__ wg_operand<T, false> wg_along(const wg_tile<T, ROWS, COLS> &tile, int r0,
                                                         int c0)
{
    return wg_operand_of<false>(tile, r0, c0);
}
/* k: rows r0 .. r0+15, r0 a multiple of 16. Rows of a (columns of b) are the columns from c0, a
 * multiple of 64. */
template <class T, int ROWS, int COLS>
__device__ __forceinline__ wg_operand<T, true> wg_down(const wg_tile<T, ROWS, COLS> &tile, int r0,
                                                       int c0)
{
    return wg_operand_of<true>(tile, r0, c0);
}

/* --- order --- */

__device__ __forceinline__ void wg_begin()
{
#ifndef CUDA_EMU
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wg_commit()
{
#ifdef CUDA_EMU
    emu::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int KEEP> __device__ __forceinline__ void wg_wait(PTX_AT_ALONE)
{
#ifdef CUDA_EMU
    emu::wgmma_wait(KEEP PTX_HERE);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(KEEP) : "memory");
#endif
}
/* Keeps the compiler from reading d before the wait that stands above. */
template <int N8> __device__ __forceinline__ void wg_pin(frag_c (&d)[N8])
{
#ifndef CUDA_EMU
#pragma unroll
    for (int j = 0; j < N8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("" : "+f"(d[j].r[i])::"memory");
#else
    (void)d;
#endif
}
/* The same for a in registers, which stay a's until a product that reads them is done: behind its
 * wait. Before it begins: makes them before what stands below, since registers that are made while
 * a product runs hold up the next. */
template <class T, int N> __device__ __forceinline__ void wg_pin(frag_a<T> (&a)[N])
{
#ifndef CUDA_EMU
#pragma unroll
    for (int k = 0; k < N; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("" : "+r"(a[k].r[i])::"memory");
#else
    (void)a;
#endif
}
__device__ __forceinline__ void wg_publish()
{
#ifndef CUDA_EMU
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
/* A barrier of so many warpgroups alone; id 1 to 15, another one for each set of them. */
template <int GROUPS = 1> __device__ __forceinline__ void wg_sync(int id PTX_AT)
{
#ifdef CUDA_EMU
    emu::barrier(emu::VOTE_NONE, 0, at_file, at_line, id, GROUPS * 128);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(GROUPS * 128) : "memory");
#endif
}
/* From here on the warpgroup has N registers a thread, a multiple of 8: more than it had, for which
 * it waits until others have fewer, or fewer. */
template <int N> __device__ __forceinline__ void wg_take_registers()
{
#if !defined(CUDA_EMU) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N> __device__ __forceinline__ void wg_leave_registers()
{
#if !defined(CUDA_EMU) && defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* --- products --- */

#ifdef CUDA_EMU
template <class T, int N8, class B>
static inline void wg_push(frag_c (&d)[N8], const frag_a<T> *a, const emu::wgmma_view *a_at,
                           const B &b, bool is_first)
{
    emu::wgmma_job job = {};
    job.mma = std::is_same_v<T, __half> ? emu::op_mma_f16 : emu::op_mma_bf16;
    job.c = d[0].r;
    job.n8 = N8;
    job.is_first = is_first;
    if (a)
        memcpy(job.a, a->r, sizeof job.a);
    else
        job.a_at = *a_at;
    job.b_at = {b.tile, b.rows, b.r0, b.c0, B::IS_DOWN};
    emu::wgmma_push(job);
}
#else
#define WG_LIST_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define WG_LIST_32 WG_LIST_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WG_LIST_64                                                                                 \
    WG_LIST_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
               "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WG_D1(j)  "+f"(d[j].r[0]), "+f"(d[j].r[1]), "+f"(d[j].r[2]), "+f"(d[j].r[3])
#define WG_D4(j)  WG_D1(j), WG_D1(j + 1), WG_D1(j + 2), WG_D1(j + 3)
#define WG_D8(j)  WG_D4(j), WG_D4(j + 4)
#define WG_D16(j) WG_D8(j), WG_D8(j + 8)

/* The instruction for N columns, whose registers are %0 ..; operands that follow are numbered i0
 * .. i6. A predicate says whether d counts; 1, 1: nothing is negated. */
#define WG_ASM_SHARED(TYPE, N, LIST, D, i0, i1, i2, i3, i4)                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i2 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" LIST          \
                 "}, %" i0 ", %" i1 ", p, 1, 1, %" i3 ", %" i4 ";\n}\n"                            \
                 : D(0)                                                                            \
                 : "l"(a.desc), "l"(b.desc), "r"(is_first ? 0 : 1), "n"((int)A_DOWN),              \
                   "n"((int)B_DOWN))
#define WG_ASM_REGS(TYPE, N, LIST, D, i0, i1, i2, i3, i4, i5, i6)                                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" i5 ", 0;\n"                                  \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" LIST          \
                 "}, {%" i0 ",%" i1 ",%" i2 ",%" i3 "}, %" i4 ", p, 1, 1, %" i6 ";\n}\n"           \
                 : D(0)                                                                            \
                 : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "l"(b.desc),                \
                   "r"(is_first ? 0 : 1), "n"((int)B_DOWN))
/* Both forms of a, for a type and N. */
#define WG_FUNCTIONS(CTYPE, TYPE, N8, N, LIST, D, i0, i1, i2, i3, i4, i5, i6)                      \
    template <bool A_DOWN, bool B_DOWN>                                                            \
    __device__ __forceinline__ void wg_issue(frag_c(&d)[N8], wg_operand<CTYPE, A_DOWN> a,          \
                                             wg_operand<CTYPE, B_DOWN> b, bool is_first)           \
    {                                                                                              \
        WG_ASM_SHARED(TYPE, N, LIST, D, i0, i1, i2, i3, i4);                                       \
    }                                                                                              \
    template <bool B_DOWN>                                                                         \
    __device__ __forceinline__ void wg_issue(frag_c(&d)[N8], frag_a<CTYPE> a,                      \
                                             wg_operand<CTYPE, B_DOWN> b, bool is_first)           \
    {                                                                                              \
        WG_ASM_REGS(TYPE, N, LIST, D, i0, i1, i2, i3, i4, i5, i6);                                 \
    }
#define WG_ALL_N(CTYPE, TYPE)                                                                      \
    WG_FUNCTIONS(CTYPE, TYPE, 4, "32", WG_LIST_16, WG_D4, "16", "17", "18", "19", "20", "21",      \
                 "22")                                                                             \
    WG_FUNCTIONS(CTYPE, TYPE, 8, "64", WG_LIST_32, WG_D8, "32", "33", "34", "35", "36", "37",      \
                 "38")                                                                             \
    WG_FUNCTIONS(CTYPE, TYPE, 16, "128", WG_LIST_64, WG_D16, "64", "65", "66", "67", "68", "69",   \
                 "70")
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
WG_ALL_N(__nv_bfloat16, "bf16")
WG_ALL_N(__half, "f16")
#else /* the host's pass */
template <int N8, class A, class B>
__device__ __forceinline__ void wg_issue(frag_c (&)[N8], A, B, bool)
{
}
#endif
#endif

/* d (+)= a b, of which a is in shared memory. is_first: d is not read. */
template <int N8, class T, bool A_DOWN, bool B_DOWN>
__device__ __forceinline__ void wg_mma(frag_c (&d)[N8], const wg_operand<T, A_DOWN> &a,
                                       const wg_operand<T, B_DOWN> &b, bool is_first = false)
{
#ifdef CUDA_EMU
    const emu::wgmma_view a_at = {a.tile, a.rows, a.r0, a.c0, A_DOWN};
    wg_push<T>(d, nullptr, &a_at, b, is_first);
#else
    wg_issue(d, a, b, is_first);
#endif
}
/* The same with a in registers. */
template <int N8, class T, bool B_DOWN>
__device__ __forceinline__ void wg_mma(frag_c (&d)[N8], const frag_a<T> &a,
                                       const wg_operand<T, B_DOWN> &b, bool is_first = false)
{
#ifdef CUDA_EMU
    wg_push<T>(d, &a, nullptr, b, is_first);
#else
    wg_issue(d, a, b, is_first);
#endif
}

/* d = rows of a from a0 on times rows of b from b0 on, over all their columns. */
template <int N8, class T, int A_ROWS, int B_ROWS, int COLS>
__device__ __forceinline__ void wg_abt(frag_c (&d)[N8], const wg_tile<T, A_ROWS, COLS> &a, int a0,
                                       const wg_tile<T, B_ROWS, COLS> &b, int b0)
{
#pragma unroll
    for (int k = 0; k < COLS; k += 16)
        wg_mma(d, wg_along(a, a0, k), wg_along(b, b0, k), k == 0);
}
/* d += p times the 16 K rows of b from b0 on. */
template <int N8, int K, class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_pb(frag_c (&d)[N8], const frag_a<T> (&p)[K],
                                      const wg_tile<T, ROWS, COLS> &b, int b0)
{
#pragma unroll
    for (int k = 0; k < K; k++)
        wg_mma(d, p[k], wg_down(b, b0 + k * 16, 0));
}

/* --- between tiles, memory and fragments --- */

/* Rows [0,ROWS) of `from`, of which n_rows are there (the others become 0), by THREADS threads,
 * which have the numbers `thread` and all call it. Its rows are aligned to 16 bytes. Copies end
 * with a wait. */
template <int THREADS, class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_copy(wg_tile<T, ROWS, COLS> &to, const T *from, int64_t ld,
                                        int n_rows, unsigned thread)
{
    constexpr int per_row = COLS / 8, step = THREADS / per_row;
    static_assert(THREADS % per_row == 0 && step % 8 == 0,
                  "a thread stays in its column, and its packs in their place");
    const int r0 = (int)(thread / per_row), c = (int)(thread % per_row) * 8;
    T *const at = to.at(r0, c);
    from += r0 * (int)ld + c;
#pragma unroll
    for (int i = 0; i < ROWS; i += step)
        if (i + step <= ROWS || r0 + i < ROWS)
            copy16_async(at + i * 64, from + i * (int)ld, r0 + i < n_rows);
}

/* Where tokens lie folded in a tile, 16 rows are 8 tokens from the front and the 8 as far from the
 * back: then what a warp's rows have to do with the tokens before them is as much for all warps. */
template <int ROWS> __device__ __forceinline__ int wg_unfolded(unsigned row)
{
    const unsigned front = row / 16 * 8;
    return (int)((row % 16 < 8 ? front : ROWS - 8 - front) + row % 8);
}
/* wg_copy of rows that come to lie folded. */
template <int THREADS, class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_copy_folded(wg_tile<T, ROWS, COLS> &to, const T *from, int ld,
                                               int n_rows, unsigned thread)
{
    constexpr int per_row = COLS / 8;
    static_assert(THREADS / per_row == 16 && ROWS % 16 == 0, "a thread stays on its side");
    const unsigned row = thread / per_row, c = thread % per_row * 8;
    const int first = wg_unfolded<ROWS>(row), by = row < 8 ? 8 : -8;
    T *const at = to.at(row, c);
    from += first * ld + (int)c;
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++)
        copy16_async(at + i * 16 * 64, from + i * by * ld, first + i * by < n_rows);
}

/* A of 16x16 elements from (r0,c0), multiples of 8; _t: of their transpose. */
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_load_a(frag_a<T> &a, const wg_tile<T, ROWS, COLS> &tile, int r0,
                                          int c0)
{
    const unsigned lane = not_before(threadIdx.x) % 32;
    ldmatrix_x4(a.r, tile.at(r0 + lane % 16, c0 + lane / 16 * 8));
}
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_load_a_t(frag_a<T> &a, const wg_tile<T, ROWS, COLS> &tile,
                                            int r0, int c0)
{
    const unsigned lane = not_before(threadIdx.x) % 32, i = lane / 8;
    ldmatrix_x4_trans(a.r, tile.at(r0 + lane % 8 + i / 2 * 8, c0 + i % 2 * 8));
}
/* 16x16 elements, as A holds them, to (r0,c0), multiples of 8; _t: transposed. */
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_store_a(wg_tile<T, ROWS, COLS> &tile, int r0, int c0,
                                           const frag_a<T> &a)
{
    const unsigned lane = not_before(threadIdx.x) % 32;
    stmatrix_x4(tile.at(r0 + lane % 16, c0 + lane / 16 * 8), a.r);
}
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void wg_store_a_t(wg_tile<T, ROWS, COLS> &tile, int r0, int c0,
                                             const frag_a<T> &a)
{
    const unsigned lane = not_before(threadIdx.x) % 32, i = lane / 8;
    stmatrix_x4_trans(tile.at(r0 + lane % 8 + i / 2 * 8, c0 + i % 2 * 8), a.r);
}

#endif
