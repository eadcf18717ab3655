/* emu_block: the emulator's own view of threads, warps and blocks. */
#ifndef HM_EMU_BLOCK_H
#define HM_EMU_BLOCK_H

#include "emu_core.h"
#include "emu_fiber.h"
#include "emu_launch.h"
#include "emu_wgmma.h"
#include "hm_emu.h"

#include <vector>

namespace emu
{
static constexpr int max_threads = 1024; /* of a block */
static constexpr int n_barriers = 16;    /* of a block; __syncthreads is number 0 */

enum thread_state : uint8_t { FRESH, READY, IN_WARP, IN_BARRIER, DONE };

/* What a thread has under way, the oldest first, in groups that it ends: a ring, whose memory is
 * not given back, since the race detector would take that for a race. */
template <class T, unsigned MOST> struct pending {
    T item[MOST];
    unsigned group[MOST], head, tail, n_groups;

    void clear()
    {
        head = tail = n_groups = 0;
    }
    bool is_empty() const
    {
        return head == tail;
    }
    void push(const T &one, const char *what)
    {
        if (tail - head == MOST)
            fail("more than %u %s of one thread under way", MOST, what);
        item[tail % MOST] = one;
        group[tail++ % MOST] = n_groups;
    }
    /* One that must be done when `keep` groups may remain. */
    bool pop(int keep, T *one)
    {
        if (is_empty() || (int)(n_groups - group[head % MOST]) <= keep)
            return false;
        *one = item[head++ % MOST];
        return true;
    }
};

struct block;
struct thread : who {
    block *home;
    warp *in;
    fiber *at; /* NULL: it has not begun, or is done */
    thread_state state;
    /* what it waits for */
    warp_op op;
    void *arg;
    unsigned mask;
    const char *what, *file;
    int line;
    int predicate, verdict;
    vote kind;
    int barrier; /* which */
    char *sync;  /* what orders the threads that meet here, for the race detector */
    pending<async_copy, 128> copies;
    pending<wgmma_job, 64> products; /* of a warpgroup */
};

struct warp {
    thread *lane;
    unsigned alive, waiting, generation;
    char sync[64];
};

/* Shared memory of a block: the dynamic part, then static arrays as threads come to them, with
 * gaps of NaN between that nobody may write to. */
struct shared_array {
    const void *key;
    char *p;
    size_t bytes;
};
struct shared_memory {
    char *map;
    size_t used, static_bytes;
    std::vector<shared_array> arrays; /* the first is the dynamic one */
};

/* Threads that wait at one of a block's barriers. */
struct meeting {
    int n_arrived, n_wanted; /* n_wanted 0: all that are alive */
    thread *first;
    unsigned generation;
    char sync[2];
};

struct block {
    uint3 idx;
    int n_alive;
    thread threads[max_threads];
    warp warps[max_threads / 32];
    meeting barriers[n_barriers];
    shared_memory smem;
    fiber *fibers[2][max_threads]; /* race detector only: neighbouring blocks share none */
};

/* What runs now. */
struct run {
    int n_threads; /* of a block */
    int n_alive;   /* of all blocks that are begun */
    const std::function<void()> *body;
    bool is_in_kernel, has_failed;
    std::vector<thread *> ready, yielded; /* stacks */
    uint64_t idle_rounds; /* times that all threads yielded since one did something else */
};
extern run now;
extern hm_emu_counts counts;
extern hm_emu_order order;
uint32_t random_below(uint32_t n);

void begin_threads(block *b, int set);
void run_threads(); /* until all are done or one failed */
void drop_fibers(block *b, int set);
void threads_finished(); /* the grid is done: the host sees what it wrote */

void smem_begin(block *b, size_t dyn_bytes);
void smem_end(block *b); /* looks whether a gap was written to */

/* A fault outside a kernel, and the state that it leaves the device in. */
void note_fault(const char *text);
cudaError_t sticky_error();
cudaError_t set_error(cudaError_t e);
} // namespace emu

#endif
