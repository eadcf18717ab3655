/* device: see device.h. */
#include "device.h"
#include "cpu.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int cuda_open_fn(struct dev *dev, int ordinal, enum dtype act, struct err *err);

_Static_assert(DT_F32 == 0 && DT_BF16 == 1 && DT_F16 == 2, "device_dtypes follows enum dtype");
const char *const device_dtypes[] = {"f32", "bf16", "f16", "auto", NULL};

struct cli_opt device_opt(const char **to)
{
    return (struct cli_opt){.kind = CLI_TEXT,
                            .name = "device",
                            .to = to,
                            .arg = "DEV",
                            .help = "auto, cpu, cpu:ISA, cuda, cuda:N"};
}

struct cli_opt device_dtype_opt(int *to)
{
    return (struct cli_opt){.kind = CLI_ENUM,
                            .name = "dtype",
                            .to = to,
                            .arg = "TYPE",
                            .help = "what matrix products read",
                            .names = device_dtypes};
}

/* --- the library of GPUs --- */

/* Where a library may lie, seen from the folder of the program: installed, or in a build. */
static const char *const places[] = {"", "../", "../lib/hm/"};
enum { N_PLACES = sizeof places / sizeof *places };

/* The i-th place's file into to[n]; false: it is not there. */
static bool find_library(const char *name, int i, char *to, size_t n)
{
    char self[512];
    const ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0)
        return false;
    self[len] = '\0';
    char *slash = strrchr(self, '/');
    if (!slash)
        return false;
    slash[1] = '\0';
    snprintf(to, n, "%s%s%s", self, places[i], name);
    return access(to, F_OK) == 0;
}

static bool has_library(const char *name, char *path, size_t n)
{
    int i = 0;
    while (i < N_PLACES && !find_library(name, i, path, n))
        i++;
    return i < N_PLACES;
}

bool device_has_cuda(void)
{
    char path[1024];
    return has_library("libhm-cuda.so", path, sizeof path);
}

/* The library stays open as long as the program runs. */
static int open_library(struct dev *dev, const char *name, int ordinal, int dtype, struct err *err)
{
    char path[1024];
    cuda_open_fn *open;
    if (!has_library(name, path, sizeof path))
        return err_set(err, NULL, "build hm where nvcc is, or use --device cpu",
                       "%s: it is not beside the tools", name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "hm_cuda_open") : NULL;
    if (!symbol)
        return err_set(err, NULL, "build hm anew", "%s", dlerror());
    memcpy(&open, &symbol, sizeof open);
    return open(dev, ordinal, dtype == DTYPE_AUTO ? DT_COUNT : (enum dtype)dtype, err);
}

/* "", or ":" and a number. */
static bool read_ordinal(const char *text, int *ordinal)
{
    char *end;
    *ordinal = 0;
    if (!*text)
        return true;
    const long n =
        text[0] == ':' && text[1] >= '0' && text[1] <= '9' ? strtol(text + 1, &end, 10) : -1;
    *ordinal = (int)n;
    return n >= 0 && n < 1024 && !*end;
}

static int open_cuda(struct dev *dev, int ordinal, int dtype, bool is_plan, struct err *err)
{
    struct err no_gpu;
    if (!is_plan)
        return open_library(dev, "libhm-cuda.so", ordinal, dtype, err);
    if (open_library(dev, "libhm-cuda.so", ordinal, dtype, &no_gpu) == 0)
        return 0;
    return open_library(dev, "libhm-cuda.so", -1, dtype, err);
}

/* --- the processor --- */

static int open_cpu(struct dev *dev, const char *isa, int n_threads, int dtype, struct err *err)
{
    if (dtype == DT_F16)
        return err_set(err, NULL, "use --dtype bf16 or f32", "f16 needs a GPU");
    if (!*isa)
        return cpu_open(dev, cpu_isa_best(), n_threads, err);
    for (int i = 0; i < CPU_ISAS; i++)
        if (*isa == ':' && strcmp(isa + 1, cpu_isa_name((enum cpu_isa)i)) == 0)
            return cpu_open(dev, (enum cpu_isa)i, n_threads, err);
    return err_set(err, NULL, "use cpu, cpu:base, cpu:avx2 or cpu:avx512",
                   "there is no device 'cpu%s'", isa);
}

static int open_auto(struct dev *dev, const struct cli_tool *tool, int n_threads, int dtype,
                     struct err *err)
{
    struct err why;
    if (open_library(dev, "libhm-cuda.so", 0, dtype, &why) == 0)
        return 0;
    if (tool->verbose)
        cli_note(tool, "the CPU is used, no GPU: %s", why.what);
    return open_cpu(dev, "", n_threads, dtype, err);
}

int device_open(struct dev *dev, const struct cli_tool *tool, const char *spec, int n_threads,
                int dtype, bool is_plan, struct err *err)
{
    int ordinal;
    char path[1024];
    *dev = (struct dev){0};
    if (strcmp(spec, "auto") == 0)
        return open_auto(dev, tool, n_threads, dtype, err);
    if (strncmp(spec, "cpu", 3) == 0)
        return open_cpu(dev, spec + 3, n_threads, dtype, err);
    if (strncmp(spec, "cuda", 4) == 0 && read_ordinal(spec + 4, &ordinal))
        return open_cuda(dev, ordinal, dtype, is_plan, err);
    /* the kernels on the CPU: only test builds have that library */
    if (strcmp(spec, "emu") == 0 && has_library("libhm-emu.so", path, sizeof path))
        return open_library(dev, "libhm-emu.so", 0, dtype, err);
    return err_set(err, NULL, "use auto, cpu, cpu:base, cpu:avx2, cpu:avx512, cuda or cuda:N",
                   "there is no device '%s'", spec);
}

enum dtype device_product(const struct dev *dev, int dtype)
{
    if (!dev->is_host)
        return dev->act_dtype;
    return dtype == DT_BF16 ? DT_BF16 : DT_F32;
}
