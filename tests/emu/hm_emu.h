/* hm_emu: what a test sets and asks of the emulator. Functions of libhm-emu.so, C. */
#ifndef HM_EMU_CONTROL_H
#define HM_EMU_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#define HM_EMU_API __attribute__((visibility("default")))

/* In which order threads that can run do so, and the blocks of a grid. */
enum hm_emu_order { HM_EMU_FORWARD, HM_EMU_REVERSE, HM_EMU_RANDOM /* and above: other seeds */ };
HM_EMU_API void hm_emu_set_order(int order);

/* Whether work waits in its stream until something synchronises, so that a missing wait shows. */
HM_EMU_API void hm_emu_set_deferred(int is_deferred);

/* What GPU the device says it is, before it is opened: arch 75, 80, 86, 89, 90 ... with that
 * architecture's shared memory. memory_bytes: all it has. At first: 89 and 8 GiB. */
HM_EMU_API void hm_emu_set_gpu(int arch, size_t memory_bytes);

/* Since the program began, save now_bytes. */
struct hm_emu_counts {
    uint64_t switches, threads, blocks, launches, mma, ldmatrix, bank_conflicts;
    uint64_t n_faults; /* what the emulator found wrong, each also on stderr */
    uint64_t n_allocs, now_bytes, peak_bytes; /* device memory */
};
HM_EMU_API void hm_emu_count(struct hm_emu_counts *counts);
/* Makes the present memory the peak. */
HM_EMU_API void hm_emu_reset_peak(void);

/* The last fault, "" for none. */
HM_EMU_API const char *hm_emu_fault(void);
/* Forgets faults and their number, so that the device works again. */
HM_EMU_API void hm_emu_reset(void);

#ifdef __cplusplus
}
#endif
#endif
