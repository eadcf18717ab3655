/* emu_device: the functions that CUDA gives to device code. */
#ifndef HM_EMU_DEVICE_H
#define HM_EMU_DEVICE_H

#include "emu_core.h"
#include "emu_half.h"

static constexpr int warpSize = 32;

/* --- barriers and fences --- */
static inline void __syncthreads(EMU_AT)
{
    emu::barrier(emu::VOTE_NONE, 0, at_file, at_line);
}
static inline int __syncthreads_count(int p, EMU_AT)
{
    return emu::barrier(emu::VOTE_COUNT, p, at_file, at_line);
}
static inline int __syncthreads_and(int p, EMU_AT)
{
    return emu::barrier(emu::VOTE_AND, p, at_file, at_line);
}
static inline int __syncthreads_or(int p, EMU_AT)
{
    return emu::barrier(emu::VOTE_OR, p, at_file, at_line);
}
static inline void __syncwarp(unsigned mask = ~0u, EMU_AT)
{
    emu::warp_collective(mask, emu::op_sync, "__syncwarp", nullptr, at_file, at_line);
}
static inline void __threadfence()
{
    emu::fence();
}
static inline void __threadfence_block()
{
    emu::fence();
}
/* What a loop that waits for another thread must call. */
static inline void __nanosleep(unsigned)
{
    emu::yield_thread();
}
[[noreturn]] static inline void __trap()
{
    emu::fail("__trap()");
}

/* --- warp --- */
template <class T> static inline T __shfl_sync(unsigned mask, T v, int from, int w = 32, EMU_AT)
{
    const int at = (emu::cur->lane & ~(w - 1)) | (from & (w - 1));
    return emu::shuffle(mask, v, at, "__shfl_sync", at_file, at_line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned d, int w = 32, EMU_AT)
{
    const int lane = emu::cur->lane, at = lane - (int)d;
    return emu::shuffle(mask, v, at < (lane & ~(w - 1)) ? lane : at, "__shfl_up_sync", at_file,
                        at_line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned d, int w = 32, EMU_AT)
{
    const int lane = emu::cur->lane, at = lane + (int)d;
    return emu::shuffle(mask, v, at > (lane | (w - 1)) ? lane : at, "__shfl_down_sync", at_file,
                        at_line);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int x, int w = 32, EMU_AT)
{
    const int lane = emu::cur->lane, at = lane ^ x;
    return emu::shuffle(mask, v, at > (lane | (w - 1)) ? lane : at, "__shfl_xor_sync", at_file,
                        at_line);
}
static inline unsigned __ballot_sync(unsigned mask, int p, EMU_AT)
{
    return emu::reduce(mask, emu::REDUCE_BALLOT, p != 0, "__ballot_sync", at_file, at_line);
}
static inline int __any_sync(unsigned mask, int p, EMU_AT)
{
    return (int)emu::reduce(mask, emu::REDUCE_OR, p != 0, "__any_sync", at_file, at_line);
}
static inline int __all_sync(unsigned mask, int p, EMU_AT)
{
    return (int)emu::reduce(mask, emu::REDUCE_AND, p != 0, "__all_sync", at_file, at_line);
}
static inline unsigned __reduce_add_sync(unsigned mask, unsigned v, EMU_AT)
{
    return emu::reduce(mask, emu::REDUCE_ADD, v, "__reduce_add_sync", at_file, at_line);
}
static inline unsigned __reduce_min_sync(unsigned mask, unsigned v, EMU_AT)
{
    return emu::reduce(mask, emu::REDUCE_MIN, v, "__reduce_min_sync", at_file, at_line);
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned v, EMU_AT)
{
    return emu::reduce(mask, emu::REDUCE_MAX, v, "__reduce_max_sync", at_file, at_line);
}
static inline int __reduce_add_sync(unsigned mask, int v, EMU_AT)
{
    return (int)emu::reduce(mask, emu::REDUCE_ADD, (unsigned)v, "__reduce_add_sync", at_file,
                            at_line);
}
static inline int __reduce_min_sync(unsigned mask, int v, EMU_AT)
{
    return (int)emu::reduce(mask, emu::REDUCE_MIN_SIGNED, (unsigned)v, "__reduce_min_sync", at_file,
                            at_line);
}
static inline int __reduce_max_sync(unsigned mask, int v, EMU_AT)
{
    return (int)emu::reduce(mask, emu::REDUCE_MAX_SIGNED, (unsigned)v, "__reduce_max_sync", at_file,
                            at_line);
}

/* --- bits --- */
static inline float __int_as_float(int i)
{
    return emu::bits<float>(i);
}
static inline float __uint_as_float(unsigned i)
{
    return emu::bits<float>(i);
}
static inline int __float_as_int(float f)
{
    return emu::bits<int>(f);
}
static inline unsigned __float_as_uint(float f)
{
    return emu::bits<unsigned>(f);
}
static inline double __longlong_as_double(long long i)
{
    return emu::bits<double>(i);
}
static inline long long __double_as_longlong(double d)
{
    return emu::bits<long long>(d);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

/* --- arithmetic; the C library declares some of these names itself, hence macros --- */
#define __expf    expf
#define __logf    logf
#define __log2f   log2f
#define __log10f  log10f
#define __powf    powf
#define __sinf    sinf
#define __cosf    cosf
#define __sincosf sincosf
#define rsqrtf    emu_rsqrtf
static inline float emu_rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline float __frsqrt_rn(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}
static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}
template <class A, class B>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                           std::common_type_t<A, B>>
min(A a, B b)
{
    using C = std::common_type_t<A, B>;
    return (C)b < (C)a ? (C)b : (C)a;
}
template <class A, class B>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                           std::common_type_t<A, B>>
max(A a, B b)
{
    using C = std::common_type_t<A, B>;
    return (C)a < (C)b ? (C)b : (C)a;
}

/* --- memory --- */
template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcg(const T *p)
{
    return *p;
}
template <class T> static inline void __stcs(T *p, T v)
{
    *p = v;
}
template <class T> static inline void __stcg(T *p, T v)
{
    *p = v;
}
static inline void __pipeline_memcpy_async(void *to, const void *from, size_t n, size_t zeros = 0)
{
    emu::copy_async(to, from, (int)n, (int)(n - zeros));
}
static inline void __pipeline_commit()
{
    emu::async_commit();
}
static inline void __pipeline_wait_prior(int keep)
{
    emu::copy_async_wait(keep);
}

/* --- atomics: relaxed, as on the device. Floats have none, so that none comes to be used --- */
namespace emu
{
template <class T> using same = std::common_type_t<T>;
template <class T, class F> static inline T change(T *p, F f)
{
    static_assert(std::is_integral_v<T>, "an atomic on something that is not an integer");
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, f(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}
} // namespace emu
template <class T> static inline T atomicAdd(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return (T)(o + v); });
}
template <class T> static inline T atomicSub(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return (T)(o - v); });
}
template <class T> static inline T atomicMax(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return o < v ? v : o; });
}
template <class T> static inline T atomicMin(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return v < o ? v : o; });
}
template <class T> static inline T atomicAnd(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return o & v; });
}
template <class T> static inline T atomicOr(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T o) { return o | v; });
}
template <class T> static inline T atomicExch(T *p, emu::same<T> v)
{
    return emu::change(p, [v](T) { return v; });
}
template <class T> static inline T atomicCAS(T *p, emu::same<T> expected, emu::same<T> v)
{
    return emu::change(p, [expected, v](T o) { return o == expected ? v : o; });
}
static inline unsigned atomicInc(unsigned *p, unsigned last)
{
    return emu::change(p, [last](unsigned o) { return o >= last ? 0u : o + 1; });
}

#endif
