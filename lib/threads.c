/* threads: a fork-join pool; see threads.h.
 *
 * A run is published by raising `ticket`; a worker that sees it raised takes its share and lowers
 * `running`. Both sides spin for some microseconds first, since the ops of a training step follow
 * each other closely, and then sleep on a futex, so that an idle pool costs nothing. */
#include "threads.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 4000 };

struct pool {
    int n_workers;
    void (*fn)(void *arg, int worker, int n_workers);
    void *arg;
    _Alignas(64) atomic_uint ticket;
    _Alignas(64) atomic_uint running;
    atomic_bool stop;
    pthread_t threads[POOL_MAX_WORKERS];
};

struct seat {
    struct pool *pool;
    int worker;
};

/* Returns once *word differs from `seen`. */
static void await_change(atomic_uint *word, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen)
            return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    while (atomic_load_explicit(word, memory_order_acquire) == seen)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void *work(void *arg)
{
    struct seat seat = *(struct seat *)arg;
    free(arg);
    struct pool *p = seat.pool;
    for (unsigned seen = 0;; seen++) {
        await_change(&p->ticket, seen);
        if (atomic_load(&p->stop))
            return NULL;
        p->fn(p->arg, seat.worker, p->n_workers);
        if (atomic_fetch_sub(&p->running, 1) == 1)
            wake(&p->running);
    }
}

static int usable_cores(void)
{
    cpu_set_t set;
    const char *omp = getenv("OMP_NUM_THREADS");
    const long asked = omp ? strtol(omp, NULL, 10) : 0;
    if (asked > 0 && asked <= POOL_MAX_WORKERS)
        return (int)asked;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* Starts worker i. Signals belong to the tool's thread, which has a stack for them. */
static bool start_worker(struct pool *p, int i)
{
    sigset_t all, old;
    struct seat *seat = malloc(sizeof *seat);
    if (!seat)
        return false;
    *seat = (struct seat){p, i};
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    const bool is_started = pthread_create(&p->threads[i], NULL, work, seat) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!is_started)
        free(seat);
    return is_started;
}

int pool_open(struct pool **pool, int n_workers, struct err *err)
{
    if (n_workers < 1)
        n_workers = usable_cores();
    if (n_workers > POOL_MAX_WORKERS)
        n_workers = POOL_MAX_WORKERS;
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p)
        return err_oom(err, sizeof *p);
    *p = (struct pool){.n_workers = 1};
    for (int i = 1; i < n_workers; i++) {
        if (!start_worker(p, i)) {
            pool_close(p);
            return err_set(err, NULL, "ask for fewer threads with -j", "cannot start thread %d", i);
        }
        p->n_workers = i + 1;
    }
    *pool = p;
    return 0;
}

int pool_size(const struct pool *pool)
{
    return pool ? pool->n_workers : 1;
}

void pool_run(struct pool *p, void (*fn)(void *arg, int worker, int n_workers), void *arg)
{
    if (!p || p->n_workers == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->running, (unsigned)p->n_workers - 1);
    atomic_fetch_add(&p->ticket, 1);
    wake(&p->ticket);
    fn(arg, 0, p->n_workers);
    for (unsigned left; (left = atomic_load(&p->running)) != 0;)
        await_change(&p->running, left);
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->ticket, 1);
    wake(&p->ticket);
    for (int i = 1; i < p->n_workers; i++)
        pthread_join(p->threads[i], NULL);
    free(p);
}
