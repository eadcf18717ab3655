/* emu_wgmma: asynchronous products of a warpgroup (kernels/wgmma.cuh), each warp its 16 rows. They
 * are done when a wait asks for them, so that what reads a sum too early, or overwrites an operand
 * too early, shows. */
#ifndef HM_EMU_WGMMA_H
#define HM_EMU_WGMMA_H

#include "emu_core.h"

namespace emu
{
/* 16 k by some rows or columns of a tile: panels of 64 columns, packs of 8 permuted by the row. */
struct wgmma_view {
    const uint16_t *tile;
    int rows, r0, c0;
    bool is_down; /* k runs down the columns */
    uint16_t at(int i, int k) const
    {
        const int r = r0 + (is_down ? k : i), c = c0 + (is_down ? i : k);
        return *(const volatile uint16_t *)(tile + (c / 64 * rows + r) * 64 +
                                            ((c % 64 / 8) ^ (r % 8)) * 8 + c % 8);
    }
    uint32_t two(int i, int k) const
    {
        return (uint32_t)at(i, k) | (uint32_t)at(i, k + 1) << 16;
    }
};

struct wgmma_job {
    warp_op mma;
    float *c; /* n8 fragments of 4 */
    int n8;
    bool is_first; /* c is not read */
    uint32_t a[4]; /* where a_at.tile is NULL */
    wgmma_view a_at, b_at;
};
void wgmma_push(const wgmma_job &job);
void wgmma_commit();
bool wgmma_pop(int keep, wgmma_job *job); /* one that must be done when `keep` groups may remain */

static inline void wgmma_check(const wgmma_view &v, bool is_a, const char *file, int line)
{
    if ((uintptr_t)v.tile % 1024 != 0 || v.r0 % (v.is_down ? 16 : 8) != 0 ||
        v.c0 % (v.is_down ? 64 : 16) != 0)
        fail("%s:%d: wgmma: operand %s, row %d, column %d, in a tile at %p: misaligned", file, line,
             is_a ? "a" : "b", v.r0, v.c0, (const void *)v.tile);
}

static inline void wgmma_do(const wgmma_job &job, const char *file, int line)
{
    const int lane = cur->lane, g = lane / 4, t = lane % 4 * 2;
    const int row = (int)(threadIdx.x / 32 % 4) * 16 + g;
    uint32_t a[4] = {job.a[0], job.a[1], job.a[2], job.a[3]};
    if (job.a_at.tile) {
        wgmma_check(job.a_at, true, file, line);
        for (int i = 0; i < 4; i++)
            a[i] = job.a_at.two(row + i % 2 * 8, t + i / 2 * 8);
    }
    wgmma_check(job.b_at, false, file, line);
    for (int j = 0; j < job.n8; j++) {
        const uint32_t b[2] = {job.b_at.two(j * 8 + g, t), job.b_at.two(j * 8 + g, t + 8)};
        float *c = job.c + 4 * j;
        for (int i = 0; i < 4 && job.is_first; i++)
            c[i] = 0;
        mma_arg m = {a, b, c};
        warp_collective(~0u, job.mma, "wgmma", &m, file, line);
    }
}
static inline void wgmma_wait(int keep, const char *file, int line)
{
    wgmma_job job;
    while (wgmma_pop(keep, &job))
        wgmma_do(job, file, line);
}
} // namespace emu

#endif
