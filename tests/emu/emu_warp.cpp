/* emu_warp: what a warp's lanes do together, done for all of them at once; and each lane's
 * asynchronous copies. */
#include "emu_block.h"
#include "emu_half.h"

#include <algorithm>

namespace emu
{
template <class A> static A *arg_of(warp *w, int lane)
{
    return static_cast<A *>(w->lane[lane].arg);
}

void op_sync(warp *, unsigned)
{
}

void op_shuffle(warp *w, unsigned mask)
{
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        shuffle_arg *a = arg_of<shuffle_arg>(w, lane);
        const thread &t = w->lane[lane];
        if (!(mask >> a->from & 1))
            fail("%s:%d: %s: lane %d reads lane %d, which is not active in mask 0x%08x", t.file,
                 t.line, t.what, lane, a->from, t.mask);
        memcpy(a->got, arg_of<shuffle_arg>(w, a->from)->given, sizeof a->got);
    }
}

static unsigned combine(int kind, unsigned a, unsigned b)
{
    switch (kind) {
    case REDUCE_ADD:
        return a + b;
    case REDUCE_MIN:
        return std::min(a, b);
    case REDUCE_MAX:
        return std::max(a, b);
    case REDUCE_MIN_SIGNED:
        return (unsigned)std::min((int)a, (int)b);
    case REDUCE_MAX_SIGNED:
        return (unsigned)std::max((int)a, (int)b);
    case REDUCE_AND:
        return a & b;
    case REDUCE_XOR:
        return a ^ b;
    default:
        return a | b;
    }
}

void op_reduce(warp *w, unsigned mask)
{
    unsigned all = 0;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        const reduce_arg *a = arg_of<reduce_arg>(w, lane);
        const unsigned v = a->kind == REDUCE_BALLOT ? a->given << lane : a->given;
        all = rest == mask ? v : combine(a->kind, all, v);
    }
    for (unsigned rest = mask; rest; rest &= rest - 1)
        arg_of<reduce_arg>(w, __builtin_ctz(rest))->got = all;
}

static void want_full(const warp *w, unsigned mask)
{
    const thread &t = w->lane[0];
    if (mask != ~0u)
        fail("%s:%d: %s needs all 32 lanes; active are 0x%08x", t.file, t.line, t.what, mask);
}

/* --- 16x8x16 products; the layouts are in kernels/ptx.cuh --- */
static float element(const uint32_t *v, int i, float (*value)(uint16_t))
{
    return value((uint16_t)(v[i / 2] >> i % 2 * 16));
}
static float element(const float *v, int i, float (*)(uint16_t))
{
    return v[i];
}

/* Sums in the order of k with one rounding a term, as fmaf in a loop does. */
#if defined(__x86_64__)
__attribute__((target_clones("fma", "default"), optimize("O3")))
#endif
static void
product(float (&c)[16][8], const float (&a)[16][16], const float (&b)[16][8])
{
    for (int i = 0; i < 16; i++) {
        float sum[8];
        for (int j = 0; j < 8; j++)
            sum[j] = c[i][j];
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++)
                sum[j] = __builtin_fmaf(a[i][k], b[k][j], sum[j]);
        for (int j = 0; j < 8; j++)
            c[i][j] = sum[j];
    }
}

template <class V> static void mma_16816(warp *w, unsigned mask, float (*value)(uint16_t))
{
    float a[16][16], b[16][8], c[16][8];
    want_full(w, mask);
    counts.mma++;
    for (int lane = 0; lane < 32; lane++) {
        const mma_arg *m = arg_of<mma_arg>(w, lane);
        const int g = lane / 4, t = lane % 4 * 2;
        for (int i = 0; i < 8; i++)
            a[g + i / 2 % 2 * 8][t + i % 2 + i / 4 * 8] =
                element(static_cast<const V *>(m->a), i, value);
        for (int i = 0; i < 4; i++)
            b[t + i % 2 + i / 2 * 8][g] = element(static_cast<const V *>(m->b), i, value);
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][t + i % 2] = m->c[i];
    }
    product(c, a, b);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++)
            arg_of<mma_arg>(w, lane)->c[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void op_mma_bf16(warp *w, unsigned mask)
{
    mma_16816<uint32_t>(w, mask, bf16_value);
}
void op_mma_f16(warp *w, unsigned mask)
{
    mma_16816<uint32_t>(w, mask, f16_value);
}
void op_mma_f32(warp *w, unsigned mask)
{
    mma_16816<float>(w, mask, nullptr);
}

template <int N, bool is_trans> void op_ldmatrix(warp *w, unsigned mask)
{
    want_full(w, mask);
    counts.ldmatrix++;
    for (int i = 0; i < N; i++) {
        int banks[8] = {}; /* of 16 bytes: the eight rows should lie in eight of them */
        uint16_t m[8][8];
        for (int r = 0; r < 8; r++) {
            const ldmatrix_arg *a = arg_of<ldmatrix_arg>(w, 8 * i + r);
            counts.bank_conflicts += banks[(uintptr_t)a->at / 16 % 8]++ > 0;
            memcpy(m[r], a->row, 16);
        }
        for (int lane = 0; lane < 32; lane++) {
            const int g = lane / 4, t = lane % 4 * 2;
            const uint32_t low = is_trans ? m[t][g] : m[g][t];
            const uint32_t high = is_trans ? m[t + 1][g] : m[g][t + 1];
            arg_of<ldmatrix_arg>(w, lane)->out[i] = low | high << 16;
        }
    }
}
template void op_ldmatrix<1, false>(warp *, unsigned);
template void op_ldmatrix<1, true>(warp *, unsigned);
template void op_ldmatrix<2, false>(warp *, unsigned);
template void op_ldmatrix<2, true>(warp *, unsigned);
template void op_ldmatrix<4, false>(warp *, unsigned);
template void op_ldmatrix<4, true>(warp *, unsigned);

template <bool is_trans> void op_stmatrix(warp *w, unsigned mask)
{
    want_full(w, mask);
    const auto element = [&](int matrix, int r, int c) {
        const uint32_t v = arg_of<stmatrix_arg>(w, r * 4 + c / 2)->given[matrix];
        return v >> c % 2 * 16 & 0xffff;
    };
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int m = lane / 8, r = lane % 8, c = 2 * i;
            const uint32_t low = is_trans ? element(m, c, r) : element(m, r, c);
            const uint32_t high = is_trans ? element(m, c + 1, r) : element(m, r, c + 1);
            arg_of<stmatrix_arg>(w, lane)->row[i] = low | high << 16;
        }
}
template void op_stmatrix<false>(warp *, unsigned);
template void op_stmatrix<true>(warp *, unsigned);

/* --- asynchronous copies --- */
static thread *me()
{
    return static_cast<thread *>(cur);
}

void async_push(const async_copy &c)
{
    me()->copies.push(c, "asynchronous copies");
}

void async_commit()
{
    me()->copies.n_groups++;
}

bool async_pop(int keep, async_copy *c)
{
    return me()->copies.pop(keep, c);
}

/* --- products of a warpgroup --- */
void wgmma_push(const wgmma_job &job)
{
    me()->products.push(job, "products");
}

void wgmma_commit()
{
    me()->products.n_groups++;
}

bool wgmma_pop(int keep, wgmma_job *job)
{
    return me()->products.pop(keep, job);
}
} // namespace emu
