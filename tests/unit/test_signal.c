/* test_signal: a signal that comes while oneDNN multiplies leaves everything as it was: bin/cli.h,
 * lib/threads.h. */
#include "tap.h"

#include "cli.h"
#include "threads.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A product of the size whose packed operands a signal's frame was seen to overwrite. */
enum { M = 512, N = 4096, K = 128, SIGNALS = 30 };

static atomic_bool is_armed, is_over;

/* Sends a signal to the main thread each time that it waits for one. */
static void *pester(void *arg)
{
    const pthread_t *to = arg;
    for (unsigned i = 0; !is_over; i++) {
        usleep(500 + i * 377 % 2000);
        if (atomic_exchange(&is_armed, false))
            pthread_kill(*to, SIGTERM);
    }
    return NULL;
}

static bool multiply(float *c, const float *a, const float *b)
{
    return dnnl_sgemm('N', 'T', M, N, K, 1, a, K, b, K, 0, c, N) == dnnl_success;
}

static void test_products(void)
{
    float *a = malloc(sizeof *a * M * K), *b = malloc(sizeof *b * N * K);
    float *c = malloc(sizeof *c * M * N), *want = malloc(sizeof *c * M * N);
    for (int i = 0; i < M * K; i++)
        a[i] = (float)(i * 7 % 23 - 11);
    for (int i = 0; i < N * K; i++)
        b[i] = (float)(i * 5 % 29 - 14);
    bool is_same = multiply(want, a, b);
    pthread_t self = pthread_self(), other;
    pthread_create(&other, NULL, pester, &self);
    for (int i = 0; i < SIGNALS; i++) {
        cli_clear_signal();
        is_armed = true;
        while (!cli_signal())
            is_same = multiply(c, a, b) && memcmp(c, want, sizeof *c * M * N) == 0 && is_same;
    }
    is_over = true;
    pthread_join(other, NULL);
    ok(is_same, "%d signals during products: no bit changes, the heap stays whole", SIGNALS);
    free(a);
    free(b);
    free(c);
    free(want);
}

static void see_mask(void *arg, int worker, int n_workers)
{
    sigset_t mask;
    (void)n_workers;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    ((int *)arg)[worker] = sigismember(&mask, SIGTERM);
}

static void test_workers(void)
{
    struct err err;
    struct pool *pool;
    int is_blocked[4] = {-1, -1, -1, -1};
    ok(pool_open(&pool, 4, &err) == 0, "a pool of 4");
    pool_run(pool, see_mask, is_blocked);
    ok(!is_blocked[0] && is_blocked[1] == 1 && is_blocked[2] == 1 && is_blocked[3] == 1,
       "workers leave signals to the main thread");
    pool_close(pool);
}

int main(void)
{
    struct sigaction now;
    stack_t stack;
    cli_catch_signals();
    sigaction(SIGTERM, NULL, &now);
    sigaltstack(NULL, &stack);
    ok(now.sa_flags & SA_ONSTACK && !(stack.ss_flags & SS_DISABLE),
       "the handler has a stack of its own");
    test_workers();
    test_products();
    return tap_done();
}
