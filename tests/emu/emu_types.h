/* emu_types: CUDA's keywords and vector types for a C++ compiler. */
#ifndef HM_EMU_TYPES_H
#define HM_EMU_TYPES_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
/* Works, and the address sanitizer sees its ends, but it is not filled with NaN: kernels write
 * SHARED(). */
#define __shared__ static

/* An array in shared memory, found by the address of a key of its own. */
#define SHARED(T, name, dims)                                                                      \
    typedef T name##_emu_type dims;                                                                \
    static char name##_emu_key;                                                                    \
    name##_emu_type &name = *static_cast<name##_emu_type *>(                                       \
        emu::static_smem(&name##_emu_key, sizeof(name##_emu_type), #name))
#define SHARED_DYN(T, name) T *name = static_cast<T *>(emu::dyn_smem())

/* The caller's source line, as a hidden argument. */
#define EMU_AT const char *at_file = __builtin_FILE(), int at_line = __builtin_LINE()

#define EMU_VECTORS(T, name, size)                                                                 \
    struct name##1                                                                                 \
    {                                                                                              \
        T x;                                                                                       \
    };                                                                                             \
    struct __align__(size * 2) name##2                                                             \
    {                                                                                              \
        T x, y;                                                                                    \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        T x, y, z;                                                                                 \
    };                                                                                             \
    struct __align__(size * 4 > 16 ? 16 : size * 4) name##4                                        \
    {                                                                                              \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name##2 make_##name##2(T x, T y)                                                 \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(T x, T y, T z)                                            \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w)                                       \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }

EMU_VECTORS(signed char, char, 1)
EMU_VECTORS(unsigned char, uchar, 1)
EMU_VECTORS(short, short, 2)
EMU_VECTORS(unsigned short, ushort, 2)
EMU_VECTORS(int, int, 4)
EMU_VECTORS(unsigned, uint, 4)
EMU_VECTORS(float, float, 4)
EMU_VECTORS(double, double, 8)
EMU_VECTORS(long long, longlong, 8)
EMU_VECTORS(unsigned long long, ulonglong, 8)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz)
    {
    }
};

namespace emu
{
template <class To, class From> static inline To bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits in another type");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emu

#endif
