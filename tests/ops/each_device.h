/* each_device: runs a check on every device that tests know: each instruction set of the CPU, and
 * the CUDA backend on the CPU (tests/emu), in each type of activations. A test program takes
 * --device=cpu, --device=emu or --device=cuda, which is a GPU that is there; without, all but the
 * last.
 *
 * On an emulated GPU a check runs twice, the threads of the device in order and then at random,
 * with work that waits in its stream; what the check downloaded must be the same to the bit. */
#ifndef HM_EACH_DEVICE_H
#define HM_EACH_DEVICE_H

#include "cpu.h"
#include "emu/hm_emu.h"
#include "ops.h"
#include "tap.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
enum { IS_TSAN = 1 };
#else
enum { IS_TSAN = 0 };
#endif

static struct {
    const char *wanted; /* "cpu", "emu" or "cuda"; NULL: the first two */
    uint64_t hash;      /* of what the running check downloaded */
    jmp_buf leave;      /* out of a check that wants an op which is not there */
} test_run;

/* What each_device needs of the library of kernels. The last are NULL on a real GPU. */
struct cuda_lib {
    void *handle;
    int (*open)(struct dev *, int ordinal, enum dtype act, struct err *);
    void (*set_order)(int);
    void (*set_deferred)(int);
    void (*set_gpu)(int arch, size_t memory_bytes);
    void (*count)(struct hm_emu_counts *);
    void (*reset)(void);
};

/* An emulated GPU: the oldest has 64 KB of shared memory a block and no bf16, the second is what
 * people have, the last has 227 KB. */
struct gpu {
    int arch;
    enum dtype act;
};
static const struct gpu gpus[] = {{89, DT_F32}, {89, DT_BF16}, {75, DT_F16}, {90, DT_BF16}};

__attribute__((unused, noreturn)) static void fail(const char *what)
{
    printf("Bail out! %s\n", what);
    exit(1);
}

/* The C library hands main's arguments to constructors, too. */
__attribute__((constructor, unused)) static void take_device(int argc, char **argv)
{
    static const char option[] = "--device=";
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], option, sizeof option - 1) == 0)
            test_run.wanted = argv[i] + sizeof option - 1;
}

static bool is_wanted(const char *device)
{
    if (!test_run.wanted)
        return strcmp(device, "cuda") != 0;
    return strcmp(device, test_run.wanted) == 0;
}

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
        test_run.hash = (test_run.hash ^ c[i]) * 0x100000001B3u;
}

/* In the place of ops that a backend does not have. */
static void missing_op(void)
{
    longjmp(test_run.leave, 1);
}

/* Runs the check with a table that has no gaps; what is missing ends the check. */
static void run_check(void (*check)(struct dev *), void (*clean)(void), struct dev *dev)
{
    const struct ops *kept = dev->ops;
    struct ops full = *kept;
    void (**slot)(void) = (void (**)(void)) & full;
    struct err err;
    for (size_t i = 0; i < sizeof full / sizeof *slot; i++)
        if (!slot[i])
            slot[i] = missing_op;
    dev->ops = &full;
    test_run.hash = 0xCBF29CE484222325u;
    if (setjmp(test_run.leave) == 0)
        check(dev);
    else
        printf("ok %d # SKIP %s: the backend has no such op\n", ++tap_count, dev->name);
    if (is_cuda(dev) && dev_status(dev, &err) != 0)
        ok(false, "%s: %s", dev->name, err.what);
    clean();
    dev->ops = kept;
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

/* The library lies beside the folders of tests and tools. */
static struct cuda_lib load_cuda_lib(const char *name)
{
    char path[PATH_MAX + 64] = {0};
    struct cuda_lib lib = {0};
    if (readlink("/proc/self/exe", path, PATH_MAX) < 0)
        fail("where this program lies");
    strcpy(path, dirname(dirname(dirname(path))));
    snprintf(path + strlen(path), 64, "/%s", name);
    lib.handle = dlopen(path, RTLD_NOW);
    if (!lib.handle)
        fail(dlerror());
    *(void **)&lib.open = dlsym(lib.handle, "hm_cuda_open");
    *(void **)&lib.set_order = dlsym(lib.handle, "hm_emu_set_order");
    *(void **)&lib.set_deferred = dlsym(lib.handle, "hm_emu_set_deferred");
    *(void **)&lib.set_gpu = dlsym(lib.handle, "hm_emu_set_gpu");
    *(void **)&lib.count = dlsym(lib.handle, "hm_emu_count");
    *(void **)&lib.reset = dlsym(lib.handle, "hm_emu_reset");
    return lib;
}

static void open_cuda(struct dev *dev, const struct cuda_lib *lib, enum dtype act, const char *note)
{
    struct err err;
    if (lib->open(dev, 0, act, &err) != 0)
        fail(err.what);
    strncat(dev->name, note, sizeof dev->name - strlen(dev->name) - 1);
}

/* One run of the check; the hash of what it saw. */
static uint64_t run_emulated(void (*check)(struct dev *), void (*clean)(void),
                             const struct cuda_lib *lib, const struct gpu *gpu, bool is_random)
{
    struct hm_emu_counts counts;
    struct dev dev;
    lib->reset();
    lib->set_gpu(gpu->arch, (size_t)8 << 30);
    lib->set_order(is_random ? HM_EMU_RANDOM : HM_EMU_FORWARD);
    lib->set_deferred(is_random);
    open_cuda(&dev, lib, gpu->act, is_random ? ", random" : "");
    run_check(check, clean, &dev);
    const char *name = gpu->act == DT_F32 ? "f32" : gpu->act == DT_BF16 ? "bf16" : "f16";
    dev_close(&dev);
    lib->count(&counts);
    if (counts.n_faults || counts.now_bytes)
        ok(false, "emulated sm_%d, %s: %d faults, %.0f bytes not freed", gpu->arch, name,
           (int)counts.n_faults, (double)counts.now_bytes);
    return test_run.hash;
}

/* The race detector takes a hundred times as long, and needs one order only. */
static void each_emulated(void (*check)(struct dev *), void (*clean)(void))
{
    const struct cuda_lib lib = load_cuda_lib("libhm-emu.so");
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        if (IS_TSAN && gpus[i].act == DT_F32)
            continue;
        const uint64_t hash = run_emulated(check, clean, &lib, &gpus[i], false);
        if (!IS_TSAN)
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
