/* emu_fiber: the switch saves what a called function must keep, changes the stack, and returns on
 * the other side: some 10 ns, where swapcontext takes 200 for its system call. */
#include "emu_fiber.h"
#include "emu_sanitizer.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

extern "C" void hm_emu_switch(void **save_sp, void *load_sp);

#if defined(__x86_64__)
asm(".text\n.hidden hm_emu_switch\n.globl hm_emu_switch\n.type hm_emu_switch,@function\n"
    "hm_emu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size hm_emu_switch,.-hm_emu_switch\n"
    ".section .note.GNU-stack,\"\",@progbits\n.text\n");
static void *first_frame(char *top, void (*entry)())
{
    void **s = (void **)top;
    *--s = nullptr;
    *--s = (void *)entry; /* the return address; as after a call, sp is 8 off a multiple of 16 */
    for (int i = 0; i < 6; i++)
        *--s = nullptr;
    return s;
}
#elif defined(__aarch64__)
asm(".text\n.hidden hm_emu_switch\n.globl hm_emu_switch\n.type hm_emu_switch,%function\n"
    "hm_emu_switch:\n"
    "sub sp,sp,#160\n"
    "stp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\n"
    "stp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\n"
    "ldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
    "add sp,sp,#160\nret\n.size hm_emu_switch,.-hm_emu_switch\n");
static void *first_frame(char *top, void (*entry)())
{
    void **s = (void **)(top - 160);
    for (int i = 0; i < 20; i++)
        s[i] = nullptr;
    s[11] = (void *)entry; /* x30, where ret goes */
    return s;
}
#else
#error "emu_fiber: this architecture has no context switch yet"
#endif

namespace emu
{
static const size_t stack_bytes = 256 << 10, guard_bytes = 4096;

fiber host;
fiber *on = &host;

void fiber_host_here()
{
#ifdef EMU_TSAN
    host.tsan = __tsan_get_current_fiber();
#endif
}

void fiber_go(fiber *to)
{
    fiber *from = on;
    on = to;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->low, to->size);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(to->tsan, 1); /* 1: the switch itself orders nothing */
#endif
    hm_emu_switch(&from->sp, to->sp);
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}

void fiber_arrived()
{
#ifdef EMU_ASAN
    const void *low;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &low, &size);
    if (!host.low) { /* the first switch of all comes from the host */
        host.low = (char *)low;
        host.size = size;
    }
#endif
}

fiber *fiber_new(void (*entry)())
{
    fiber *f = new fiber();
    char *map = (char *)mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map, guard_bytes, PROT_NONE) != 0) {
        perror("emu: a stack");
        abort();
    }
    f->low = map + guard_bytes;
    f->size = stack_bytes;
#ifdef EMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    f->sp = first_frame(f->low + f->size, entry);
    return f;
}

void fiber_free(fiber *f)
{
#ifdef EMU_TSAN
    __tsan_destroy_fiber(f->tsan);
#endif
    unpoison(f->low, f->size);
    munmap(f->low - guard_bytes, guard_bytes + f->size);
    delete f;
}
} // namespace emu
