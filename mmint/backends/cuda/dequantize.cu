/* Integers to float32, for whole tensors, and for sums over rows: reference/mapping.py. */
#include "arithmetic/exponents.h"
#include "arithmetic/mapping.h"
#include "device.cuh"

enum { THREADS = 256 };

/* The exponent of integers to be mapped back: one on the device, if given, and an addend. */
struct exponent_sum {
    const int32_t *on_device;
    int64_t addend;
};

__device__ __forceinline__ int total(const exponent_sum &e) {
    const int64_t sum = (e.on_device ? *e.on_device : 0) + e.addend;
    return (int)max((int64_t)-100000, min(sum, (int64_t)100000));
}

template <typename T>
__device__ void dequantize(const T *mantissa, float *out, int64_t n, const exponent_sum &e) {
    const int exponent = total(e);
    for (int64_t i = first_index(); i < n; i += stride())
        out[i] = dequantize_one(mantissa[i], exponent);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_8(const int8_t *x, float *out, int64_t n, exponent_sum e) {
    dequantize(x, out, n, e);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_16(const int16_t *x, float *out, int64_t n, exponent_sum e) {
    dequantize(x, out, n, e);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_32(const int32_t *x, float *out, int64_t n, exponent_sum e) {
    dequantize(x, out, n, e);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_64(const int64_t *x, float *out, int64_t n, exponent_sum e) {
    dequantize(x, out, n, e);
}

/* Sums over the rows of (rows, channels): block (i, j) adds every gridDim.y-th 8 rows of 32
 * channels, in int64; `channel_sum` adds the parts, (parts, channels), and maps back. */
template <typename T>
__device__ void channel_parts(const T *x, int64_t *parts, int64_t rows, int64_t channels) {
    __shared__ int64_t sums[8][32];
    const int64_t channel = (int64_t)blockIdx.x * 32 + threadIdx.x;
    int64_t sum = 0;
    if (channel < channels)
        for (int64_t r = (int64_t)blockIdx.y * 8 + threadIdx.y; r < rows;
             r += (int64_t)gridDim.y * 8)
            sum += x[r * channels + channel];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || channel >= channels) return;
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    parts[blockIdx.y * channels + channel] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_parts_8(const int8_t *x, int64_t *parts, int64_t rows, int64_t channels) {
    channel_parts(x, parts, rows, channels);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    channel_parts_16(const int16_t *x, int64_t *parts, int64_t rows, int64_t channels) {
    channel_parts(x, parts, rows, channels);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_sum(const int64_t *parts, float *out, int64_t count, int64_t channels,
                exponents_t exponents) {
    for (int64_t c = first_index(); c < channels; c += stride()) {
        int64_t sum = 0;
        for (int64_t i = 0; i < count; i++) sum += parts[i * channels + c];
        out[c] = dequantize_one(sum, exponent_at(exponents, c));
    }
}
