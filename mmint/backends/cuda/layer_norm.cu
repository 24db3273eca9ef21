/* Layer norm in integers: reference/norms.
 *
 * A block takes a row: exact sums, coefficients of them by one thread, then the elements. The
 * parameters' gradients are sums over rows: the block of a row leaves its coefficients, from which
 * `layer_weight_grad` makes the normalised elements again, column by column. */
#include "arithmetic/layer_norm.h"
#include "reduce.cuh"
#include "statistics.cuh"

enum {
    THREADS = 256,
    COLUMNS = 32,
    ROWS = THREADS / COLUMNS,
    PART_ROWS = 256,
};

/* Parameters at the exponent of the row's results, bias[size] behind these words: products of
 * normalised elements and weights first go right by `shift`. */
struct affine {
    int64_t exponent, shift;
};

struct layer {
    const void *x;
    const int16_t *weight;
    const int32_t *weight_exponent;
    int64_t rows, size, bits, normalised_exponent;
    statistics s; /* its sums are written by `layer_norm` */
};

__device__ __forceinline__ int64_t block_sum(int64_t v) {
    __shared__ int64_t of_warp[32];
#pragma unroll
    for (int bits = 16; bits; bits /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, bits);
    __syncthreads(); /* an earlier call's values have been read */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < THREADS / 32; i++) v += of_warp[i];
    return v;
}

__device__ __forceinline__ coefficients_t normalising_in(const layer &l, int64_t row,
                                                         const spread_t &v) {
    return normalising(v, l.s.sums[row], l.size, exponent_at(l.s.exponents, row), (int)l.bits);
}

__device__ __forceinline__ int32_t normalised(const layer &l, const coefficients_t &c, int64_t x) {
    const int64_t total = c.p * x + c.r;
    const int shift = (int)max((int64_t)0, l.normalised_exponent - c.exponent);
    const uint64_t most = (1 << NORMALISED_BITS) - 1;
    return (int32_t)with_sign(min(shift_right_even(magnitude_of(total), shift), most), total < 0);
}

/* One block. The bias may be NULL; if it is not finite, it counts as zeros. */
extern "C" __global__ void __launch_bounds__(THREADS)
    prepare_affine(layer l, const uint32_t *bias, affine *out, int32_t *flag, int64_t call) {
    uint32_t top = 0, any = 0;
    for (int64_t i = threadIdx.x; i < l.size; i += THREADS) {
        if (bias) top = max(top, bias[i] & 0x7FFFFFFF);
        if (l.weight[i]) any = 1;
    }
    top = block_max(top);
    any = block_max(any);
    const bool finite = is_finite(top);
    const int product = *l.weight_exponent + (int)l.normalised_exponent;
    const int exponent = affine_exponent(any, product, finite ? top : 0);
    for (int64_t i = threadIdx.x; i < l.size; i += THREADS)
        ((int32_t *)(out + 1))[i] =
            bias && finite ? (int32_t)quantize_one(bias[i], exponent, false, 0) : 0;
    if (threadIdx.x) return;
    *out = {exponent, max(0, exponent - product)};
    if (!finite) atomicCAS(flag, 0, (int32_t)call);
}

template <typename T>
__device__ void forward(const layer &l, int64_t *sums, const affine *a, float *out, int32_t *top) {
    __shared__ coefficients_t c;
    const scale_t back = scale_at((int)a->exponent);
    const int32_t *bias = (const int32_t *)(a + 1);
    uint32_t seen = 0;
    for (int64_t row = blockIdx.x; row < l.rows; row += gridDim.x) {
        const T *x = (const T *)l.x + row * l.size;
        int64_t s1 = 0, s2 = 0;
        for (int64_t i = threadIdx.x; i < l.size; i += THREADS) {
            s1 += x[i];
            s2 += x[i] * x[i];
        }
        s1 = block_sum(s1);
        s2 = block_sum(s2);
        if (threadIdx.x == 0) {
            sums[row] = s1;
            sums[l.rows + row] = s2;
            const coefficients_t found = normalising_in(l, row, spread_in(l.s, row));
            c = found;
        }
        __syncthreads();
        for (int64_t i = threadIdx.x; i < l.size; i += THREADS) {
            const int32_t product = normalised(l, c, x[i]) * l.weight[i];
            const int64_t shifted =
                with_sign(shift_right_even(magnitude_of(product), (int)a->shift), product < 0);
            const float made = scaled_int32((int32_t)shifted + bias[i], back);
            out[row * l.size + i] = made;
            seen = max(seen, magnitude_bits(made));
        }
    }
    note_top(seen, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_8(layer l, int64_t *sums, const affine *a, float *out, int32_t *top) {
    forward<int8_t>(l, sums, a, out, top);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_16(layer l, int64_t *sums, const affine *a, float *out, int32_t *top) {
    forward<int16_t>(l, sums, a, out, top);
}

struct gradient {
    const void *grad;
    const int32_t *exponent;
    int64_t bits;
    coefficients_t *made; /* of each row, those of its normalised elements */
};

template <typename T>
__device__ void backward(const layer &l, const gradient &g, float *out, int32_t *top) {
    __shared__ coefficients_t c;
    uint32_t seen = 0;
    for (int64_t row = blockIdx.x; row < l.rows; row += gridDim.x) {
        const T *x = (const T *)l.x + row * l.size, *grad = (const T *)g.grad + row * l.size;
        int64_t h1 = 0, h2 = 0;
        for (int64_t i = threadIdx.x; i < l.size; i += THREADS) {
            const int64_t t = l.weight[i] * grad[i];
            h1 += t;
            h2 += t * x[i];
        }
        h1 = block_sum(h1);
        h2 = block_sum(h2);
        if (threadIdx.x == 0) {
            const spread_t v = spread_in(l.s, row);
            coefficients_t made = scale_in_place(shifted(v.rstd, *g.exponent + *l.weight_exponent));
            backward_coefficients(&made, 1, v.rstd, l.s.sums[row], &h1, &h2, l.size,
                                  layer_wider((int)g.bits, (int)l.bits),
                                  exponent_at(l.s.exponents, row));
            c = made;
            g.made[row] = normalising_in(l, row, v);
        }
        __syncthreads();
        const scale_t back = scale_at((int)c.exponent);
        for (int64_t i = threadIdx.x; i < l.size; i += THREADS) {
            const int64_t t = l.weight[i] * grad[i];
            const float made = scaled_int64(c.p * t + c.q * x[i] + c.r, back);
            out[row * l.size + i] = made;
            seen = max(seen, magnitude_bits(made));
        }
    }
    note_top(seen, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_grad_8(layer l, gradient g, float *out, int32_t *top) {
    backward<int8_t>(l, g, out, top);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    layer_norm_grad_16(layer l, gradient g, float *out, int32_t *top) {
    backward<int16_t>(l, g, out, top);
}

/* Adds the sums over rows of G times the normalised elements, and of G, (2, size), to `out`. */
template <typename T> __device__ void weight_grad(const layer &l, const gradient &g, int64_t *out) {
    __shared__ int64_t sums[2][ROWS][COLUMNS];
    const int64_t across = (l.size + COLUMNS - 1) / COLUMNS;
    const int64_t down = (l.rows + PART_ROWS - 1) / PART_ROWS;
    const int lane = threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS;
    for (int64_t t = blockIdx.x; t < across * down; t += gridDim.x) {
        const int64_t column = t % across * COLUMNS + lane, row0 = t / across * PART_ROWS;
        int64_t product = 0, plain = 0;
        if (column < l.size)
            for (int64_t row = row0 + first; row < min(row0 + PART_ROWS, l.rows); row += ROWS) {
                const int64_t i = row * l.size + column, v = ((const T *)g.grad)[i];
                product += v * normalised(l, g.made[row], ((const T *)l.x)[i]);
                plain += v;
            }
        sums[0][first][lane] = product;
        sums[1][first][lane] = plain;
        __syncthreads();
        if (first < 2 && column < l.size) {
            int64_t sum = 0;
            for (int r = 0; r < ROWS; r++) sum += sums[first][r][lane];
            atomicAdd((unsigned long long *)out + first * l.size + column, (unsigned long long)sum);
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    layer_weight_grad_8(layer l, gradient g, int64_t *out) {
    weight_grad<int8_t>(l, g, out);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    layer_weight_grad_16(layer l, gradient g, int64_t *out) {
    weight_grad<int16_t>(l, g, out);
}
