/* emu_shared: shared memory. It begins as NaN, so what is read before it is written shows; gaps
 * between arrays are watched. */
#include "emu_block.h"
#include "emu_sanitizer.h"

#include <sys/mman.h>

namespace emu
{
static const size_t map_bytes = 1 << 20, gap_bytes = 256, static_limit = 48 << 10, align = 128,
                    dyn_begin = 1024, /* where the dynamic array is: aligned to so many bytes */
    max_arrays = 64;

static size_t round_up(size_t n)
{
    return (n + align - 1) / align * align;
}

/* Not memset: the race detector would see it, as a write of the host. n is a multiple of 8. */
static void fill_nan(char *p, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        *(volatile uint64_t *)(p + i) = ~(uint64_t)0;
}

/* An array and the gap behind it. */
static char *place(shared_memory *m, const void *key, size_t bytes)
{
    char *p = m->map + m->used;
    const size_t whole = round_up(bytes) + gap_bytes;
    if (m->used + whole > map_bytes || m->arrays.size() == max_arrays)
        fail("more shared memory than a block can have");
    unpoison(p, whole);
    fill_nan(p, whole);
    poison(p + bytes, whole - bytes);
    m->used += whole;
    m->arrays.push_back({key, p, bytes});
    return p;
}

void smem_begin(block *b, size_t dyn_bytes)
{
    shared_memory *m = &b->smem;
    if (is_tsan && m->map) { /* a fresh mapping: blocks do not race in shared memory */
        munmap(m->map, map_bytes);
        m->map = nullptr;
    }
    if (!m->map) {
        m->map = (char *)mmap(nullptr, map_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m->map == MAP_FAILED)
            abort();
        poison(m->map, map_bytes);
        unpoison(m->map + dyn_begin - gap_bytes, gap_bytes);
        fill_nan(m->map + dyn_begin - gap_bytes, gap_bytes);
    }
    poison(m->map, m->used ? m->used : dyn_begin);
    m->used = dyn_begin;
    m->static_bytes = 0;
    m->arrays.clear();
    m->arrays.reserve(max_arrays);
    place(m, nullptr, dyn_bytes);
}

static bool is_nan_all(const char *p, const char *end)
{
    for (; p < end; p++)
        if ((unsigned char)*p != 0xff)
            return false;
    return true;
}

void smem_end(block *b)
{
    const shared_memory *m = &b->smem;
    bool is_clean = is_nan_all(m->map + dyn_begin - gap_bytes, m->map + dyn_begin);
    for (const shared_array &a : m->arrays)
        is_clean = is_clean && is_nan_all(a.p + a.bytes, a.p + round_up(a.bytes) + gap_bytes);
    if (is_clean)
        return;
    unpoison(m->map, m->used);
    fill_nan(m->map, m->used);
    note_fault("shared memory was written to outside its arrays");
    now.has_failed = true;
}

void *dyn_smem()
{
    return static_cast<thread *>(cur)->home->smem.arrays[0].p;
}

void *static_smem(const void *key, size_t bytes, const char *name)
{
    shared_memory *m = &static_cast<thread *>(cur)->home->smem;
    for (const shared_array &a : m->arrays)
        if (a.key == key)
            return a.p;
    m->static_bytes += bytes;
    if (m->static_bytes > static_limit)
        fail("more than 48 KB of shared arrays, at %s", name);
    return place(m, key, bytes);
}
} // namespace emu
