/* emu_core: what device code needs of the emulator: who runs, where shared memory is, barriers,
 * and warp operations. All warp operations are one: each lane posts an argument and waits; the last
 * lane of the mask to arrive works for all. On the way it is checked that all lanes are in the
 * same operation with the same mask. */
#ifndef HM_EMU_CORE_H
#define HM_EMU_CORE_H

#include "emu_types.h"

/* Objects, not macros: cudaLaunchConfig_t has members of these names. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emu
{
struct who {
    uint3 tid;
    int lane;
};
extern who *cur; /* the thread that runs */

/* Reports, ends the launch and makes it fail. For use within a kernel. */
[[noreturn]] void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void *dyn_smem();
void *static_smem(const void *key, size_t bytes, const char *name);

struct warp;
typedef void (*warp_op)(warp *w, unsigned mask);
void warp_collective(unsigned mask, warp_op op, const char *what, void *arg, const char *file,
                     int line);

enum vote { VOTE_NONE, VOTE_COUNT, VOTE_AND, VOTE_OR };
/* Number id of the block's barriers, for n_wanted threads (0: all). */
int barrier(vote vote, int predicate, const char *file, int line, int id = 0, int n_wanted = 0);
void yield_thread();
void fence();

struct shuffle_arg {
    uint64_t given[2], got[2];
    int from; /* lane */
};
struct reduce_arg {
    int kind;
    unsigned given, got;
};
struct mma_arg {
    const void *a, *b;
    float *c;
};
struct ldmatrix_arg {
    uint32_t row[4];
    uint32_t *out;
    const void *at;
};

struct stmatrix_arg {
    const uint32_t *given; /* 4 */
    uint32_t row[4];
};

enum reduction {
    REDUCE_ADD,
    REDUCE_MIN,
    REDUCE_MAX,
    REDUCE_MIN_SIGNED,
    REDUCE_MAX_SIGNED,
    REDUCE_AND,
    REDUCE_OR,
    REDUCE_XOR,
    REDUCE_BALLOT
};

void op_sync(warp *w, unsigned mask);
void op_shuffle(warp *w, unsigned mask);
void op_reduce(warp *w, unsigned mask);
void op_mma_bf16(warp *w, unsigned mask);
void op_mma_f16(warp *w, unsigned mask);
void op_mma_f32(warp *w, unsigned mask);
template <int N, bool is_trans> void op_ldmatrix(warp *w, unsigned mask);
template <bool is_trans> void op_stmatrix(warp *w, unsigned mask);

/* A copy under way from global to shared memory. */
struct async_copy {
    void *to;
    const void *from;
    int bytes, n_read; /* the rest becomes zero */
};
void async_push(const async_copy &c);
void async_commit();
bool async_pop(int keep, async_copy *c); /* one that must be done when `keep` groups may remain */

template <class T>
static inline T shuffle(unsigned mask, T v, int from, const char *what, const char *file, int line)
{
    static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>, "a type to shuffle");
    shuffle_arg a = {};
    memcpy(a.given, &v, sizeof v);
    a.from = from;
    warp_collective(mask, op_shuffle, what, &a, file, line);
    memcpy(&v, a.got, sizeof v);
    return v;
}

static inline unsigned reduce(unsigned mask, reduction kind, unsigned v, const char *what,
                              const char *file, int line)
{
    reduce_arg a = {kind, v, 0};
    warp_collective(mask, op_reduce, what, &a, file, line);
    return a.got;
}

/* The destination is unreadable until the wait, and the source is read as late as it may be.
 * Words are moved one by one so that the race detector sees them. */
static inline void copy_async(void *to, const void *from, int bytes, int n_read)
{
    if ((((uintptr_t)to | (n_read > 0 ? (uintptr_t)from : 0)) & (uintptr_t)(bytes - 1)) != 0)
        fail("asynchronous copy of %d bytes at a misaligned address", bytes);
    for (int i = 0; i < bytes / 4; i++)
        ((volatile uint32_t *)to)[i] = ~0u;
    async_push({to, from, bytes, n_read});
}
static inline void copy_async_wait(int keep)
{
    async_copy c;
    while (async_pop(keep, &c))
        for (int i = 0; i < c.bytes / 4; i++)
            ((volatile uint32_t *)c.to)[i] =
                4 * i < c.n_read ? ((const volatile uint32_t *)c.from)[i] : 0;
}

template <int N, bool is_trans>
static inline void ldmatrix(uint32_t *out, const void *row, const char *file, int line)
{
    ldmatrix_arg a = {};
    a.out = out;
    a.at = row;
    if (cur->lane < 8 * N) {
        if ((uintptr_t)row % 16 != 0)
            fail("%s:%d: ldmatrix: a row that is not aligned to 16 bytes", file, line);
        for (int i = 0; i < 4; i++)
            a.row[i] = ((const volatile uint32_t *)row)[i];
    }
    warp_collective(~0u, op_ldmatrix<N, is_trans>, is_trans ? "ldmatrix.trans" : "ldmatrix", &a,
                    file, line);
}
/* Four 8x8 matrices: each lane writes the row that it named. */
template <bool is_trans>
static inline void stmatrix(void *row, const uint32_t *given, const char *file, int line)
{
    stmatrix_arg a = {given, {}};
    if ((uintptr_t)row % 16 != 0)
        fail("%s:%d: stmatrix: a row that is not aligned to 16 bytes", file, line);
    warp_collective(~0u, op_stmatrix<is_trans>, is_trans ? "stmatrix.trans" : "stmatrix", &a, file,
                    line);
    for (int i = 0; i < 4; i++)
        ((volatile uint32_t *)row)[i] = a.row[i];
}
template <warp_op op>
static inline void mma(float *c, const void *a, const void *b, const char *file, int line)
{
    mma_arg m = {a, b, c};
    warp_collective(~0u, op, "mma", &m, file, line);
}
} // namespace emu

#endif
