/* cpu: opens the CPU backend with one of the tables that the Makefile compiled; see cpu.h. */
#include "cpu.h"
#include "gemm.h"

#include <stdio.h>
#include <stdlib.h>

extern const struct ops hm_cpu_ops_base;
#ifdef HAS_avx2
extern const struct ops hm_cpu_ops_avx2;
#endif
#ifdef HAS_avx512
extern const struct ops hm_cpu_ops_avx512;
#endif

static const struct ops *const tables[CPU_ISAS] = {
    [CPU_BASE] = &hm_cpu_ops_base,
#ifdef HAS_avx2
    [CPU_AVX2] = &hm_cpu_ops_avx2,
#endif
#ifdef HAS_avx512
    [CPU_AVX512] = &hm_cpu_ops_avx512,
#endif
};

const char *cpu_isa_name(enum cpu_isa isa)
{
    static const char *const names[CPU_ISAS] = {"base", "avx2", "avx512"};
    return names[isa];
}

bool cpu_isa_usable(enum cpu_isa isa)
{
    if (!tables[isa])
        return false;
#if defined(__x86_64__)
    if (isa == CPU_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    if (isa == CPU_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return isa == CPU_BASE;
}

enum cpu_isa cpu_isa_best(void)
{
    int isa = CPU_ISAS - 1;
    while (isa > CPU_BASE && !cpu_isa_usable((enum cpu_isa)isa))
        isa--;
    return (enum cpu_isa)isa;
}

int cpu_open(struct dev *dev, enum cpu_isa isa, int n_threads, struct err *err)
{
    *dev = (struct dev){.act_dtype = DT_F32,
                        .is_host = true,
                        .reads_states = true,
                        .read_unit = GEMM_UNIT,
                        .read_T = 512,
                        .head_rows = 512};
    if (!cpu_isa_usable(isa))
        return err_set(err, NULL, "use --device cpu", "this machine does not run %s code",
                       cpu_isa_name(isa));
    struct cpu *cpu = malloc(sizeof *cpu);
    if (!cpu)
        return err_oom(err, sizeof *cpu);
    *cpu = (struct cpu){0};
    if (pool_open(&cpu->pool, n_threads, err) != 0) {
        free(cpu);
        return -1;
    }
    dev->ops = tables[isa];
    dev->impl = cpu;
    snprintf(dev->name, sizeof dev->name, "cpu %s, %d thread%s", cpu_isa_name(isa),
             pool_size(cpu->pool), pool_size(cpu->pool) == 1 ? "" : "s");
    return 0;
}

struct pool *cpu_pool(const struct dev *dev)
{
    for (int i = 0; i < CPU_ISAS; i++)
        if (tables[i] && dev->ops == tables[i])
            return pool_of(dev);
    return NULL;
}
