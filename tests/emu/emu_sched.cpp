/* emu_sched: which thread runs next, and where threads wait for each other. */
#include "emu_block.h"
#include "emu_sanitizer.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <string>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu
{
static const uint64_t max_idle_rounds = 1 << 16;

who *cur;
run now;
hm_emu_counts counts;
hm_emu_order order;
static uint64_t rng_state = 1;
/* Not freed at the end, so that its fibers are no leak. */
static std::vector<fiber *> &idle_fibers = *new std::vector<fiber *>;
static char launched, fenced, finished; /* addresses for the race detector */

uint32_t random_below(uint32_t n)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 32) * n >> 32);
}

static thread *me()
{
    return static_cast<thread *>(cur);
}

static void become(thread *t)
{
    cur = t;
    threadIdx = t->tid;
    blockIdx = t->home->idx;
}

/* --- faults --- */
void fail(const char *fmt, ...)
{
    char text[3000], all[3400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!now.is_in_kernel) {
        fprintf(stderr, "emu: device code called from the host: %s\n", text);
        abort();
    }
    snprintf(all, sizeof all, "block (%u,%u,%u) thread (%u,%u,%u): %s", blockIdx.x, blockIdx.y,
             blockIdx.z, cur->tid.x, cur->tid.y, cur->tid.z, text);
    note_fault(all);
    now.has_failed = true;
    counts.switches++;
    fiber_go(&host);
    abort(); /* nothing comes back here */
}

static std::string state_of(const thread *t)
{
    char text[500];
    if (t->state == DONE)
        return "exited";
    if (t->state == IN_WARP)
        snprintf(text, sizeof text, "%s:%d: in %s(mask 0x%08x)", t->file, t->line, t->what,
                 t->mask);
    else
        snprintf(text, sizeof text, "%s:%d: at barrier %d", t->file, t->line, t->barrier);
    return text;
}

[[noreturn]] static void fail_deadlock()
{
    std::map<std::string, int> n;
    std::map<std::string, const thread *> first;
    const block *b = me()->home;
    for (int i = 0; i < now.n_threads; i++) {
        const std::string state = state_of(&b->threads[i]);
        if (n[state]++ == 0)
            first[state] = &b->threads[i];
    }
    std::string text = "deadlock: no thread of the block can go on";
    for (const auto &entry : n) {
        char line[600];
        const thread *t = first[entry.first];
        snprintf(line, sizeof line, "\n    %d thread(s), first (%u,%u,%u): %s", entry.second,
                 t->tid.x, t->tid.y, t->tid.z, entry.first.c_str());
        text += line;
    }
    fail("%s", text.c_str());
}

/* --- choice --- */
static thread *pick()
{
    if (now.ready.empty() && !now.yielded.empty()) {
        std::reverse(now.yielded.begin(), now.yielded.end()); /* the first to yield goes first */
        std::swap(now.ready, now.yielded);
        now.idle_rounds++;
    }
    if (now.ready.empty())
        return nullptr;
    if (order >= HM_EMU_RANDOM)
        std::swap(now.ready.back(), now.ready[random_below((uint32_t)now.ready.size())]);
    thread *t = now.ready.back();
    now.ready.pop_back();
    return t;
}

/* Lets them run in the chosen order. */
static void wake(thread **v, int n)
{
    for (int i = 0; i < n; i++) {
        thread *t = v[order == HM_EMU_REVERSE ? i : n - 1 - i];
        if (t->state != FRESH)
            t->state = READY;
        now.ready.push_back(t);
    }
}

static void thread_main();

static fiber *fresh_fiber()
{
    if (idle_fibers.empty())
        return fiber_new(thread_main);
    fiber *f = idle_fibers.back();
    idle_fibers.pop_back();
    return f;
}

/* The current thread waits: another one runs. */
static void wait_here()
{
    thread *self = me(), *t = pick();
    if (!t)
        fail_deadlock();
    become(t);
    if (t == self)
        return;
    if (!t->at)
        t->at = fresh_fiber();
    counts.switches++;
    fiber_go(t->at);
}

/* --- barriers --- */
static void barrier_open(block *b, int id)
{
    thread *v[max_threads];
    meeting *m = &b->barriers[id];
    int n = 0, n_true = 0;
    for (int i = 0; i < now.n_threads; i++)
        if (b->threads[i].state == IN_BARRIER && b->threads[i].barrier == id) {
            v[n++] = &b->threads[i];
            n_true += b->threads[i].predicate != 0;
        }
    for (int i = 0; i < n; i++)
        v[i]->verdict = v[i]->kind == VOTE_COUNT ? n_true
                        : v[i]->kind == VOTE_AND ? n_true == n
                                                 : n_true > 0;
    m->n_arrived = 0;
    m->first = nullptr;
    m->generation++;
    wake(v, n);
}

int barrier(vote kind, int predicate, const char *file, int line, int id, int n_wanted)
{
    thread *t = me();
    block *b = t->home;
    if (id < 0 || id >= n_barriers || n_wanted % 32 != 0)
        fail("%s:%d: barrier %d for %d threads", file, line, id, n_wanted);
    meeting *m = &b->barriers[id];
    const thread *first = m->first;
    if (first && m->n_wanted != n_wanted)
        fail("%s:%d: barrier %d is for %d threads here, for %d elsewhere", file, line, id, n_wanted,
             m->n_wanted);
    if (first && (first->line != line || first->kind != kind || strcmp(first->file, file) != 0))
        fail("divergent barrier: this thread is at %s:%d, thread (%u,%u,%u) waits at %s:%d", file,
             line, first->tid.x, first->tid.y, first->tid.z, first->file, first->line);
    now.idle_rounds = 0;
    t->predicate = predicate;
    t->kind = kind;
    t->file = file;
    t->line = line;
    t->state = IN_BARRIER;
    t->barrier = id;
    t->sync = &m->sync[m->generation & 1];
    release(t->sync);
    if (!first)
        m->first = t;
    m->n_wanted = n_wanted;
    if (++m->n_arrived >= (n_wanted ? n_wanted : b->n_alive))
        barrier_open(b, id);
    wait_here();
    acquire(t->sync);
    return t->verdict;
}

void yield_thread()
{
    if (now.idle_rounds > max_idle_rounds)
        fail("no thread does anything but wait by __nanosleep");
    me()->state = READY;
    now.yielded.push_back(me());
    wait_here();
}

/* Taken to order against every other fence: more than the device promises, so a race between two
 * threads that both fence may be missed, and none is reported that is not there. */
void fence()
{
    acquire(&fenced);
    release(&fenced);
}

/* --- warps --- */
static bool is_complete(const warp *w, unsigned mask)
{
    const unsigned need = mask & w->alive;
    if (need == 0 || (w->waiting & need) != need)
        return false;
    for (unsigned rest = need; rest; rest &= rest - 1)
        if (w->lane[__builtin_ctz(rest)].mask != mask)
            return false;
    return true;
}

static void warp_open(warp *w, unsigned mask)
{
    const unsigned need = mask & w->alive;
    const thread *first = &w->lane[__builtin_ctz(need)];
    thread *v[32];
    int n = 0;
    for (unsigned rest = need; rest; rest &= rest - 1) {
        thread *t = &w->lane[__builtin_ctz(rest)];
        v[n++] = t;
        if (t->op != first->op)
            fail("divergent warp operation: lane %d is in %s (%s:%d) but lane %d is in %s (%s:%d)",
                 first->lane, first->what, first->file, first->line, t->lane, t->what, t->file,
                 t->line);
    }
    first->op(w, need);
    w->waiting &= ~need;
    wake(v, n);
}

/* Lanes of one __syncwarp order through one object; shuffles and votes order no memory. */
static char *sync_of(warp *w, warp_op op, unsigned mask)
{
    for (unsigned rest = w->waiting; rest; rest &= rest - 1) {
        const thread &other = w->lane[__builtin_ctz(rest)];
        if (other.op == op && other.mask == mask)
            return other.sync;
    }
    return &w->sync[w->generation++ % sizeof w->sync];
}

void warp_collective(unsigned mask, warp_op op, const char *what, void *arg, const char *file,
                     int line)
{
    thread *t = me();
    warp *w = t->in;
    if (!(mask >> t->lane & 1))
        fail("%s:%d: %s: lane %d is not in its own mask 0x%08x", file, line, what, t->lane, mask);
    now.idle_rounds = 0;
    t->op = op;
    t->mask = mask;
    t->what = what;
    t->arg = arg;
    t->file = file;
    t->line = line;
    if (op == op_sync) {
        t->sync = sync_of(w, op, mask);
        release(t->sync);
    }
    w->waiting |= 1u << t->lane;
    t->state = IN_WARP;
    if (is_complete(w, mask))
        warp_open(w, mask);
    wait_here();
    if (op == op_sync)
        acquire(t->sync);
}

/* --- begin and end --- */
static void thread_exit(thread *t)
{
    block *b = t->home;
    warp *w = t->in;
    now.idle_rounds = 0;
    if (!t->products.is_empty())
        fail("the thread ends with products that it did not wait for");
    t->state = DONE;
    if (!is_tsan)
        t->at = nullptr;
    b->n_alive--;
    now.n_alive--;
    w->alive &= ~(1u << t->lane);
    for (unsigned rest = w->waiting; rest; rest &= rest - 1) {
        const unsigned mask = w->lane[__builtin_ctz(rest)].mask;
        if (is_complete(w, mask)) {
            warp_open(w, mask);
            break;
        }
    }
    if (b->n_alive > 0 && b->barriers[0].n_arrived >= b->n_alive)
        barrier_open(b, 0);
}

/* A fiber runs one thread after another; as long as they do not wait, without a switch. */
static void thread_main()
{
    fiber_arrived();
    for (;;) {
        thread *t = me();
        t->at = on;
        counts.threads++;
        acquire(&launched);
        (*now.body)();
        release(&finished);
        thread_exit(t);
        t = pick();
        if (!t && now.n_alive > 0)
            fail_deadlock();
        if (t)
            become(t);
        if (t && !t->at)
            continue;
        if (!is_tsan)
            idle_fibers.push_back(on);
        counts.switches++;
        fiber_go(t ? t->at : &host);
    }
}

void begin_threads(block *b, [[maybe_unused]] int set)
{
    thread *v[max_threads];
    b->n_alive = now.n_threads;
    for (meeting &m : b->barriers) {
        m.n_arrived = 0;
        m.first = nullptr;
    }
    for (int i = 0; i < now.n_threads; i++) {
        thread *t = v[i] = &b->threads[i];
        const unsigned u = (unsigned)i;
        t->tid = {u % blockDim.x, u / blockDim.x % blockDim.y, u / blockDim.x / blockDim.y};
        t->lane = i % 32;
        t->home = b;
        t->in = &b->warps[i / 32];
        t->at = nullptr;
        t->state = FRESH;
        t->copies.clear();
        t->products.clear();
        if (is_tsan) { /* made here: one made by another fiber would be ordered after it */
            if (!b->fibers[set][i])
                b->fibers[set][i] = fiber_new(thread_main);
            t->at = b->fibers[set][i];
        }
    }
    for (int i = 0; i < now.n_threads; i += 32) {
        const int n = std::min(32, now.n_threads - i);
        b->warps[i / 32] = {&b->threads[i], n == 32 ? ~0u : (1u << n) - 1, 0, 0, {}};
    }
    now.n_alive += now.n_threads;
    counts.blocks++;
    wake(v, now.n_threads);
}

void run_threads()
{
    now.idle_rounds = 0;
    fiber_host_here();
    release(&launched);
    become(pick());
    if (!me()->at)
        me()->at = fresh_fiber();
    counts.switches++;
    fiber_go(me()->at);
    if (now.has_failed) {
        now.ready.clear();
        now.yielded.clear();
        now.n_alive = 0;
    }
}

/* After a failure: stacks that stopped in the middle. */
void drop_fibers(block *b, int set)
{
    for (int i = 0; i < now.n_threads; i++) {
        if (b->threads[i].at)
            fiber_free(b->threads[i].at);
        b->threads[i].at = nullptr;
        b->fibers[set][i] = nullptr;
    }
}

void threads_finished()
{
    acquire(&finished);
}
} // namespace emu

void hm_emu_set_order(int o)
{
    emu::order = o >= HM_EMU_RANDOM ? HM_EMU_RANDOM : (hm_emu_order)o;
    emu::rng_state = (uint64_t)(o + 1) * 0x9E3779B97F4A7C15ull | 1;
}
