/* cuda_lib: the library of kernels as tests open it: libhm-emu.so, which runs them on the CPU
 * (tests/emu), or libhm-cuda.so and a GPU that is there. A test program takes --device=cpu,
 * --device=emu or --device=cuda; without, all but the last. */
#ifndef HM_CUDA_LIB_H
#define HM_CUDA_LIB_H

#include "emu/hm_emu.h"
#include "must.h"
#include "ops.h"
#include "tap.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __SANITIZE_THREAD__
enum { IS_TSAN = 1 };
#else
enum { IS_TSAN = 0 };
#endif
#ifdef __SANITIZE_ADDRESS__
enum { IS_ASAN = 1 };
#else
enum { IS_ASAN = 0 };
#endif

/* How many of n cases that differ in nothing but a number are tried. A sanitizer takes up to a
 * hundred times as long, and finds in one of them what it finds in all. */
__attribute__((unused)) static size_t some_of(size_t n)
{
    return IS_ASAN || IS_TSAN ? 1 : n;
}

/* What tests need of the library. From set_order on NULL where the GPU is real. */
struct cuda_lib {
    void *handle;
    int (*open)(struct dev *, int ordinal, enum dtype act, struct err *);
    void (*set_order)(int);
    void (*set_deferred)(int);
    void (*set_gpu)(int arch, size_t memory_bytes);
    void (*count)(struct hm_emu_counts *);
    void (*reset)(void);
};

/* A GPU to emulate, with the type of activations: what people have, that with 227 KB of shared
 * memory a block, the oldest, which has 64 KB and no bf16. Whole models run on the first
 * MODEL_GPUS, ops on all N_GPUS. */
struct gpu {
    int arch;
    enum dtype act;
};
static const struct gpu gpus[]
    __attribute__((unused)) = {{89, DT_F32}, {90, DT_BF16}, {75, DT_F16}, {89, DT_BF16}};
enum { MODEL_GPUS = 3, N_GPUS = sizeof gpus / sizeof *gpus };

/* What --device said; NULL: nothing. */
static const char *wanted_device;

/* The C library hands main's arguments to constructors, too. */
__attribute__((constructor, unused)) static void take_device(int argc, char **argv)
{
    static const char option[] = "--device=";
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], option, sizeof option - 1) == 0)
            wanted_device = argv[i] + sizeof option - 1;
}

__attribute__((unused)) static bool is_wanted(const char *device)
{
    if (!wanted_device)
        return strcmp(device, "cuda") != 0;
    return strcmp(device, wanted_device) == 0;
}

/* The library lies beside the folders of tests and tools. */
__attribute__((unused)) static struct cuda_lib load_cuda_lib(const char *name)
{
    char self[PATH_MAX] = {0}, path[PATH_MAX + 64];
    struct cuda_lib lib = {0};
    if (readlink("/proc/self/exe", self, PATH_MAX - 1) < 0)
        fail("where this program lies");
    snprintf(path, sizeof path, "%s/%s", dirname(dirname(dirname(self))), name);
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

/* note is added to the device's name. */
__attribute__((unused)) static void open_cuda(struct dev *dev, const struct cuda_lib *lib,
                                              enum dtype act, const char *note)
{
    struct err err;
    if (lib->open(dev, 0, act, &err) != 0)
        fail(err.what);
    strncat(dev->name, note, sizeof dev->name - strlen(dev->name) - 1);
}

/* An emulated GPU whose threads run in order, or at random with work that waits in its stream. */
__attribute__((unused)) static void open_emulated(struct dev *dev, const struct cuda_lib *lib,
                                                  const struct gpu *gpu, bool is_random)
{
    lib->reset();
    lib->set_gpu(gpu->arch, (size_t)8 << 30);
    lib->set_order(is_random ? HM_EMU_RANDOM : HM_EMU_FORWARD);
    lib->set_deferred(is_random);
    open_cuda(dev, lib, gpu->act, is_random ? ", random" : "");
}

/* Closes it, and says what the emulator found wrong. */
__attribute__((unused)) static void close_emulated(struct dev *dev, const struct cuda_lib *lib,
                                                   const struct gpu *gpu)
{
    struct hm_emu_counts counts;
    dev_close(dev);
    lib->count(&counts);
    if (counts.n_faults || counts.now_bytes)
        ok(false, "emulated sm_%d, %s: %d faults, %.0f bytes not freed", gpu->arch,
           dtype_name(gpu->act), (int)counts.n_faults, (double)counts.now_bytes);
}

#endif
