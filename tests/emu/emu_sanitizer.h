/* emu_sanitizer: what the emulator tells the sanitizers. Its own files are compiled without them;
 * EMU_ASAN or EMU_TSAN says with which the kernels are. */
#ifndef HM_EMU_SANITIZER_H
#define HM_EMU_SANITIZER_H

#include <cstddef>

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef EMU_TSAN
extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *p);
void __tsan_release(void *p);
}
#endif

namespace emu
{
#ifdef EMU_TSAN
static constexpr bool is_tsan = true;
#else
static constexpr bool is_tsan = false;
#endif

/* Memory that nobody may touch, and may again. */
static inline void poison([[maybe_unused]] void *p, [[maybe_unused]] size_t n)
{
#ifdef EMU_ASAN
    __asan_poison_memory_region(p, n);
#endif
}
static inline void unpoison([[maybe_unused]] void *p, [[maybe_unused]] size_t n)
{
#ifdef EMU_ASAN
    __asan_unpoison_memory_region(p, n);
#endif
}

/* What came before release(p) comes before what follows acquire(p). */
static inline void acquire([[maybe_unused]] void *p)
{
#ifdef EMU_TSAN
    __tsan_acquire(p);
#endif
}
static inline void release([[maybe_unused]] void *p)
{
#ifdef EMU_TSAN
    __tsan_release(p);
#endif
}
} // namespace emu

#endif
