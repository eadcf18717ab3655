/* norm_long: both RMSNorms for rows too long for registers, element by element: a block a row,
 * which is read twice, and dw by columns. Included by norm.cuh, which has the formulas. */
#ifndef HM_NORM_LONG_CUH
#define HM_NORM_LONG_CUH

template <class T, bool GATED>
__device__ float norm_value(const mat<const T> &y, const mat<const T> &z, int64_t m, int d)
{
    const float v = to_f32(y.p[m * y.ld + d]);
    if (!GATED)
        return v;
    const float g = to_f32(z.p[m * z.ld + d]);
    return v * (g * sigmoid_for<T>(g));
}

/* A block of 8 warps takes a row, of any length. Shared memory: 32 bytes. Moves (3 + 2 GATED)
 * sizeof(T) bytes an element. */
template <class T, bool GATED>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_norm_fwd_long(norm_fwd_args<T> o)
{
    const int64_t m = blockIdx.x;
    float sum = 0;
    for (int d = (int)threadIdx.x; d < o.D; d += ROWS_THREADS) {
        const float v = norm_value<T, GATED>(o.y, o.z, m, d);
        sum += v * v;
    }
    sum = block_sum<ROWS_THREADS>(sum);
    const float rstd = 1.0f / sqrtf(sum / (float)o.D + o.eps);
    if (o.rstd && threadIdx.x == 0)
        o.rstd[m] = rstd;
    for (int d = (int)threadIdx.x; d < o.D; d += ROWS_THREADS)
        o.out.p[m * o.out.ld + d] =
            from_f32<T>(o.w[d] * (norm_value<T, GATED>(o.y, o.z, m, d) * rstd));
}

/* A thread takes a column of a range of rows (grid: columns, ranges). Moves (2 + GATED) sizeof(T)
 * bytes an element. */
template <class T, bool GATED>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_norm_dw_long(norm_bwd_args<T> o)
{
    const int64_t end = min((int64_t)(blockIdx.y + 1) * o.range, o.M);
    const int d = (int)(blockIdx.x * ROWS_THREADS + threadIdx.x);
    if (d >= o.D)
        return;
    float sum = 0;
    for (int64_t m = (int64_t)blockIdx.y * o.range; m < end; m++)
        sum += to_f32(o.dout.p[m * o.dout.ld + d]) *
               (norm_value<T, GATED>(o.y, o.z, m, d) * o.rstd[m]);
    o.part[(int64_t)blockIdx.y * o.D + d] = sum;
}

/* A block of 8 warps takes a row, of any length. Shared memory: 32 bytes. Moves (6 + 2 GATED)
 * sizeof(T) bytes an element. */
template <class T, bool GATED>
__global__ void __launch_bounds__(ROWS_THREADS, 2) k_norm_bwd_long(norm_bwd_args<T> o)
{
    const int64_t m = blockIdx.x;
    const float rstd = o.rstd[m];
    float sum = 0;
    for (int d = (int)threadIdx.x; d < o.D; d += ROWS_THREADS)
        sum += to_f32(o.dout.p[m * o.dout.ld + d]) * o.w[d] * norm_value<T, GATED>(o.y, o.z, m, d);
    sum = block_sum<ROWS_THREADS>(sum);
    const float pull = rstd * rstd * rstd * sum / (float)o.D;
    for (int d = (int)threadIdx.x; d < o.D; d += ROWS_THREADS) {
        const float v = norm_value<T, GATED>(o.y, o.z, m, d);
        const float dv = rstd * (to_f32(o.dout.p[m * o.dout.ld + d]) * o.w[d]) - pull * v;
        T *dy = o.dy.p + m * o.dy.ld + d;
        if (GATED) {
            const float g = to_f32(o.z.p[m * o.z.ld + d]), s = sigmoid_for<T>(g);
            const float y = to_f32(o.y.p[m * o.y.ld + d]);
            *dy = from_f32<T>(dv * (g * s));
            o.dz.p[m * o.dz.ld + d] = from_f32<T>(dv * y * (s + g * s * (1.0f - s)));
        } else {
            *dy = from_f32<T>(to_f32(*dy) + dv);
        }
    }
}

#endif
