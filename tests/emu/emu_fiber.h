/* emu_fiber: stacks to switch between, on one host thread. */
#ifndef HM_EMU_FIBER_H
#define HM_EMU_FIBER_H

#include <cstddef>

namespace emu
{
struct fiber {
    void *sp;
    char *low; /* of the stack */
    size_t size;
    void *fake, *tsan; /* the sanitizers' own */
};

extern fiber host; /* the program's own stack */
extern fiber *on;  /* where we are */
void fiber_go(fiber *to);
/* To be called first on a new fiber. */
void fiber_arrived();
fiber *fiber_new(void (*entry)());
void fiber_free(fiber *f);
/* Before fibers run: the host's own fiber for the race detector. */
void fiber_host_here();
} // namespace emu

#endif
