/* rope: rotary positions (Su et al. 2021) in place on x (M, n_heads*P): channels i and i+P/2 of a
 * head turn by the angle pos * theta^(-2i/P).
 *
 * The angle is reduced in 64-bit integers that count 2^-64 of a turn: pos * rate modulo 2^64 is the
 * rest of the angle after whole turns, exact but for the rate's own rounding, so that far positions
 * keep their digits without arithmetic in double. */
#include "cuda_ops.cuh"
#include "rows.cuh"

#include <cmath>

namespace
{
constexpr int MAX_PAIRS = 128;

/* 2^-64 of a turn that pair i turns a position. */
struct rates {
    uint64_t of[MAX_PAIRS];
};

struct turn {
    float cosine, sine;
};

/* Of `angle` 2^-64 of a turn: the nearest quarter turn is taken off, so that the series' argument
 * is at most pi/4, where terms up to x^10 leave less than f32's rounding. */
__device__ turn turn_by(uint64_t angle)
{
    const uint32_t high = (uint32_t)(angle >> 32), quarter = (high + 0x20000000u) >> 30;
    const float x = (float)(int32_t)(high - (quarter << 30)) * (6.283185307179586f * 0x1p-32f);
    const float q = x * x;
    const float s =
        x + x * q * (-1 / 6.0f + q * (1 / 120.0f + q * (-1 / 5040.0f + q * (1 / 362880.0f))));
    const float c =
        1.0f + q * (-0.5f + q * (1 / 24.0f +
                                 q * (-1 / 720.0f + q * (1 / 40320.0f + q * (-1 / 3628800.0f)))));
    const float a = quarter % 2 ? s : c, b = quarter % 2 ? c : s;
    return {quarter == 1 || quarter == 2 ? -a : a, quarter >= 2 ? -b : b};
}

/* A thread turns N neighbouring pairs in all heads of a row, P/2 being a multiple of N; a row's
 * pairs lie on neighbouring threads. Moves 2 sizeof(T) bytes an element, 3 FLOPs, and 30 operations
 * a pair of a row for the angle. */
template <class T, int N>
__global__ void __launch_bounds__(ROWS_THREADS)
    k_rope(mat<T> x, const int32_t *__restrict__ pos, int64_t M, int n_heads, int n_pairs,
           uint64_t flip, rates rate)
{
    const unsigned packs = (unsigned)(n_pairs / N);
    const int64_t at = (int64_t)blockIdx.x * ROWS_THREADS + threadIdx.x;
    const int64_t m = at / packs;
    if (m >= M)
        return;
    const int i0 = (int)(at % packs) * N;
    turn by[N];
    const uint64_t p = (uint64_t)(int64_t)pos[m];
#pragma unroll
    for (int i = 0; i < N; i++)
        by[i] = turn_by(p * ((rate.of[i0 + i] ^ flip) - flip));
    T *to = x.p + m * x.ld + i0;
#pragma unroll 4
    for (int h = 0; h < n_heads; h++) {
        T *head = to + (int64_t)h * 2 * n_pairs;
        float low[N], high[N], a[N], b[N];
        load<T, N>(low, head);
        load<T, N>(high, head + n_pairs);
#pragma unroll
        for (int i = 0; i < N; i++) {
            a[i] = low[i] * by[i].cosine - high[i] * by[i].sine;
            b[i] = high[i] * by[i].cosine + low[i] * by[i].sine;
        }
        store<T, N>(head, a);
        store<T, N>(head + n_pairs, b);
    }
}

template <class T, int N>
void run_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads, int n_pairs,
              bool inverse, const rates &rate)
{
    const int64_t M = tensor_rows(x);
    launch(dev, "rope", k_rope<T, N>, blocks_for(M * (n_pairs / N), ROWS_THREADS), ROWS_THREADS, 0,
           mat_of<T>(x), pos, M, n_heads, n_pairs, inverse ? ~(uint64_t)0 : 0, rate);
}
} // namespace

void cuda_rope(struct dev *dev, struct tensor *x, const int32_t *pos, int n_heads, float theta,
               bool inverse)
{
    const int n_pairs = (int)tensor_cols(x) / n_heads / 2;
    assert(n_pairs <= MAX_PAIRS);
    rates rate = {};
    for (int i = 0; i < n_pairs; i++) {
        const double turns = pow((double)theta, -(double)i / n_pairs) / 6.283185307179586;
        rate.of[i] = (uint64_t)ldexp(turns - floor(turns), 64);
    }
    const bool has_packs = (size_t)n_pairs * dtype_size(x->dtype) % 16 == 0;
    with_type(x->dtype, [&](auto zero) {
        using T = decltype(zero);
        if (has_packs && has_wide_rows(x))
            run_rope<T, wide<T>::n>(dev, x, pos, n_heads, n_pairs, inverse, rate);
        else
            run_rope<T, 1>(dev, x, pos, n_heads, n_pairs, inverse, rate);
    });
}
