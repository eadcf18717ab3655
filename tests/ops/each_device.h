/* each_device: runs a check on every device that tests know: each instruction set of the CPU, and
 * the CUDA backend on the CPU (tests/emu) or on a GPU, in each type of activations; cuda_lib.h says
 * how a test program is told which.
 *
 * On an emulated GPU a check runs twice, the threads of the device in order and then at random,
 * with work that waits in its stream; what the check downloaded must be the same to the bit. */
#ifndef HM_EACH_DEVICE_H
#define HM_EACH_DEVICE_H

#include "cpu.h"
#include "cuda_lib.h"

static uint64_t seen_hash; /* of what the running check downloaded */

__attribute__((unused)) static bool is_cuda(const struct dev *dev)
{
    return !dev->is_host;
}

/* The types that products read on this device, first the one that is always there; how many. */
__attribute__((unused)) static int product_types(const struct dev *dev, enum dtype types[2])
{
    types[0] = dev->act_dtype;
    types[1] = DT_BF16;
    return is_cuda(dev) ? 1 : 2;
}

__attribute__((unused)) static void hash_bytes(const void *p, size_t n)
{
    const uint8_t *c = p;
    for (size_t i = 0; i < n; i++)
        seen_hash = (seen_hash ^ c[i]) * 0x100000001B3u;
}

static void run_check(void (*check)(struct dev *), void (*clean)(void), struct dev *dev)
{
    struct err err;
    seen_hash = 0xCBF29CE484222325u;
    check(dev);
    if (is_cuda(dev) && dev_status(dev, &err) != 0)
        ok(false, "%s: %s", dev->name, err.what);
    clean();
}

static void each_cpu(void (*check)(struct dev *), void (*clean)(void))
{
    for (int isa = 0; isa < CPU_ISAS; isa++)
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            struct dev dev;
            struct err err;
            if (!cpu_isa_usable((enum cpu_isa)isa))
                continue;
            if (cpu_open(&dev, (enum cpu_isa)isa, n_threads, &err) != 0)
                fail(err.what);
            check(&dev);
            clean();
            dev_close(&dev);
        }
}

/* One run of the check; the hash of what it saw. */
static uint64_t run_emulated(void (*check)(struct dev *), void (*clean)(void),
                             const struct cuda_lib *lib, const struct gpu *gpu, bool is_random)
{
    struct dev dev;
    open_emulated(&dev, lib, gpu, is_random);
    run_check(check, clean, &dev);
    close_emulated(&dev, lib, gpu);
    return seen_hash;
}

/* A sanitizer needs one order only: the race detector's is not that in which threads run, and the
 * other one finds the same in both, which it is given in turn. */
static void each_emulated(void (*check)(struct dev *), void (*clean)(void))
{
    const struct cuda_lib lib = load_cuda_lib("libhm-emu.so");
    for (size_t i = 0; i < N_GPUS; i++) {
        if (IS_TSAN && gpus[i].act == DT_F32)
            continue;
        const uint64_t hash = run_emulated(check, clean, &lib, &gpus[i], IS_ASAN && i % 2);
        if (!IS_TSAN && !IS_ASAN)
            ok(run_emulated(check, clean, &lib, &gpus[i], true) == hash,
               "emulated sm_%d, %s: the same bits whatever the order of threads", gpus[i].arch,
               dtype_name(gpus[i].act));
    }
}

static void each_real(void (*check)(struct dev *), void (*clean)(void))
{
    static const enum dtype acts[] = {DT_F32, DT_BF16, DT_F16};
    const struct cuda_lib lib = load_cuda_lib("libhm-cuda.so");
    for (int i = 0; i < 3; i++) {
        struct dev dev;
        open_cuda(&dev, &lib, acts[i], "");
        run_check(check, clean, &dev);
        dev_close(&dev);
    }
}

/* clean frees what a check took, before its device is closed. */
__attribute__((unused)) static void each_device_of(void (*check)(struct dev *), void (*clean)(void))
{
    if (is_wanted("cpu"))
        each_cpu(check, clean);
    if (is_wanted("emu"))
        each_emulated(check, clean);
    if (is_wanted("cuda"))
        each_real(check, clean);
}

#endif
