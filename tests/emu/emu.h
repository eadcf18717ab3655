/* emu: CUDA C++ on the CPU, for tests. Kernels compile unchanged as C++17: the headers of include/
 * stand in for the toolkit's and all lead here. Every CUDA thread of a block runs as a fiber of
 * one host thread, so each run is repeatable; barriers, warp operations, asynchronous copies and
 * tensor-core products are checked while they are carried out (emu_core.h).
 *
 * What is not modelled: rounding order inside a tensor core, approximate intrinsics, the weak
 * memory model, registers, speed. */
#ifndef HM_EMU_H
#define HM_EMU_H

#define CUDA_EMU 1

#include "emu_types.h"
#include "emu_half.h"
#include "emu_api.h"
#include "emu_core.h"
#include "emu_wgmma.h"
#include "emu_launch.h"
#include "emu_device.h"

/* Last, since headers of the C++ library mean the attribute by it. */
#define __noinline__ __attribute__((noinline))

#endif
