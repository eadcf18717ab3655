/* cpu: the CPU backend. lib/cpu is compiled once for each instruction set of enum cpu_isa, from the
 * same sources, and the best that this machine has is picked when the device is opened. */
#ifndef HM_CPU_H
#define HM_CPU_H

#include "dev.h"

/* CPU_BASE is plain x86-64-v2, or whatever another architecture's compiler makes by default. */
enum cpu_isa { CPU_BASE, CPU_AVX2, CPU_AVX512, CPU_ISAS };

const char *cpu_isa_name(enum cpu_isa isa); /* "base", "avx2", "avx512" */
bool cpu_isa_usable(enum cpu_isa isa);      /* built in, and this machine has it */
enum cpu_isa cpu_isa_best(void);

/* n_threads < 1: one a core. isa must be usable. dev_close frees the pool too. */
MUST_USE int cpu_open(struct dev *dev, enum cpu_isa isa, int n_threads, struct err *err);

/* The device's pool, for host work beside the model (encoding, loading). NULL on other devices. */
struct pool *cpu_pool(const struct dev *dev);

#endif
