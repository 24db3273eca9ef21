/* float32 to integers and back, for whole tensors.
 *
 * The linear mapping takes two passes. `largest` finds the largest magnitude of each block's part,
 * as a bit pattern; the blocks of the second pass take the maximum of those few again, so that no
 * atomics and no zeroed memory are needed, and compute the exponent each for itself.
 *
 * The second pass gives each thread one Philox block, that is eight elements, which lie in pairs 16
 * apart in the order of the logical shape. `quantize_*` writes in that order. `quantize_images_*`
 * turns (N, C, H * W) into (N, H * W, C): a block collects a tile of up to 32 channels by 128
 * pixels in shared memory, runs of consecutive elements in the logical order, and writes it
 * channels-last.
 *
 * A tensor with an infinity or NaN becomes zeros, and its call's number goes to the device's flag. */
#include "arithmetic/mapping.h"
#include "arithmetic/philox.h"
#include "reduce.cuh"

enum { THREADS = 256, TILE_CHANNELS = 32, TILE_PIXELS = 128 };

struct mapping {
    const uint32_t *x;
    void *out;
    const uint32_t *tops;  /* maxima of parts of x */
    int64_t top_count;
    int32_t *exponent;
    int32_t *flag;
    int64_t call, bits, images, channels, pixels;
    random_words random;
};

extern "C" __global__ void __launch_bounds__(THREADS)
    largest(const uint32_t *x, int64_t n, uint32_t *tops) {
    const int64_t first = first_index(), step = stride();
    uint32_t top = 0;
    int64_t done = 0;
    if ((uint64_t)x % 16 == 0) {
        const uint4 *quads = (const uint4 *)x;
#pragma unroll 4
        for (int64_t i = first; i < n / 4; i += step) {
            const uint4 q = quads[i];
            top = max(top, max(max(q.x & 0x7FFFFFFF, q.y & 0x7FFFFFFF),
                               max(q.z & 0x7FFFFFFF, q.w & 0x7FFFFFFF)));
        }
        done = n / 4 * 4;
    }
    for (int64_t i = done + first; i < n; i += step) top = max(top, x[i] & 0x7FFFFFFF);
    top = block_max(top);
    if (threadIdx.x == 0) tops[blockIdx.x] = top;
}

/* The tensor's exponent, and whether it is finite; the first block notes both. */
__device__ bool prepare(const mapping &m, int *exponent) {
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < m.top_count; i += THREADS) top = max(top, m.tops[i]);
    top = block_max(top);
    const bool finite = is_finite(top);
    *exponent = finite ? exponent_of(top, (int)m.bits) : 0;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *m.exponent = *exponent;
        if (!finite) atomicCAS(m.flag, 0, (int32_t)m.call);
    }
    return finite;
}

template <typename T> struct pair_of;
template <> struct pair_of<int8_t> { typedef char2 type; };
template <> struct pair_of<int16_t> { typedef short2 type; };

__device__ __forceinline__ uint4 drawn_by(const mapping &m, int64_t block) {
    return m.random.stochastic ? philox(m.random, (uint32_t)block) : make_uint4(0, 0, 0, 0);
}

template <typename T> __device__ void quantize(const mapping &m) {
    int exponent;
    const bool finite = prepare(m, &exponent), stochastic = m.random.stochastic != 0;
    const int64_t n = m.images * m.channels * m.pixels;
    const int64_t blocks = (n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    T *out = (T *)m.out;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        const uint4 words = drawn_by(m, block);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const int64_t i = first_element(block) + 16 * w;
            const uint32_t drawn = word_of(words, w);
            T made[2] = {0, 0};
            for (int h = 0; h < 2; h++)
                if (finite && i + h < n)
                    made[h] =
                        (T)map_one(m.x[i + h], exponent, stochastic, drawn >> 16 * h & 0xFFFF);
            if (i + 1 < n)
                *(typename pair_of<T>::type *)(out + i) = {made[0], made[1]};
            else if (i < n)
                out[i] = made[0];
        }
    }
}

template <typename T> __device__ void quantize_images(const mapping &m) {
    enum { PAD = 4 / sizeof(T), WORD = 4 / sizeof(T) };
    __shared__ __align__(4) T tile[TILE_PIXELS][TILE_CHANNELS + PAD];
    int exponent;
    const bool finite = prepare(m, &exponent), stochastic = m.random.stochastic != 0;
    const int64_t across = (m.channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t down = (m.pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    T *out = (T *)m.out;
    for (int64_t t = blockIdx.x; t < m.images * across * down; t += gridDim.x) {
        const int64_t image = t / (across * down), channel0 = t / down % across * TILE_CHANNELS;
        const int64_t pixel0 = t % down * TILE_PIXELS;
        const int channels = (int)min((int64_t)TILE_CHANNELS, m.channels - channel0);
        const int pixels = (int)min((int64_t)TILE_PIXELS, m.pixels - pixel0);
        /* Runs of consecutive elements: all of the tile, or a channel each. */
        const int runs = down == 1 ? 1 : channels, length = down == 1 ? channels * pixels : pixels;
        const int blocks = ((length + GROUP - 2) / GROUP + 1) * BLOCKS_OF_GROUP;
        for (int u = threadIdx.x; u < runs * blocks; u += THREADS) {
            const int run = u / blocks;
            const int64_t start =
                (image * m.channels + channel0 + run) * m.pixels + pixel0;
            const int64_t block = start / GROUP * BLOCKS_OF_GROUP + u % blocks;
            const int64_t first = first_element(block);
            if (first >= start + length) continue;
            const uint4 words = drawn_by(m, block);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const int64_t i = first + 16 * (e / 2) + e % 2;
                const int place = (int)(i - start);
                if (i < start || place >= length) continue;
                const int channel = down == 1 ? place / pixels : run;
                const int pixel = down == 1 ? place % pixels : place;
                T made = 0;
                if (finite)
                    made = (T)map_one(m.x[i], exponent, stochastic,
                                      word_of(words, e / 2) >> 16 * (e % 2) & 0xFFFF);
                tile[pixel][channel] = made;
            }
        }
        __syncthreads();
        T *to = out + (image * m.pixels + pixel0) * m.channels + channel0;
        if (m.channels % WORD == 0) {
            const int row = channels / WORD;
            for (int k = threadIdx.x; k < pixels * row; k += THREADS) {
                const int pixel = k / row, channel = k % row * WORD;
                *(int *)(to + pixel * m.channels + channel) = *(const int *)&tile[pixel][channel];
            }
        } else {
            for (int k = threadIdx.x; k < pixels * channels; k += THREADS)
                to[k / channels * m.channels + k % channels] = tile[k / channels][k % channels];
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) quantize_8(mapping m) { quantize<int8_t>(m); }
extern "C" __global__ void __launch_bounds__(THREADS) quantize_16(mapping m) { quantize<int16_t>(m); }
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_8(mapping m) {
    quantize_images<int8_t>(m);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_16(mapping m) {
    quantize_images<int16_t>(m);
}

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
    dequantize_8(const int8_t *x, float *out, int64_t n, exponent_sum e) { dequantize(x, out, n, e); }
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_16(const int16_t *x, float *out, int64_t n, exponent_sum e) { dequantize(x, out, n, e); }
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_32(const int32_t *x, float *out, int64_t n, exponent_sum e) { dequantize(x, out, n, e); }
extern "C" __global__ void __launch_bounds__(THREADS)
    dequantize_64(const int64_t *x, float *out, int64_t n, exponent_sum e) { dequantize(x, out, n, e); }

/* Sums over the rows of (rows, channels): block (i, j) adds every gridDim.y-th 8 rows of 32
 * channels, in int64; `channel_sum` adds the parts, (parts, channels), and maps back. */
template <typename T>
__device__ void channel_parts(const T *x, int64_t *parts, int64_t rows, int64_t channels) {
    __shared__ int64_t sums[8][32];
    const int64_t channel = (int64_t)blockIdx.x * 32 + threadIdx.x;
    int64_t sum = 0;
    if (channel < channels)
        for (int64_t r = (int64_t)blockIdx.y * 8 + threadIdx.y; r < rows; r += (int64_t)gridDim.y * 8)
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
                exponent_sum e) {
    for (int64_t c = first_index(); c < channels; c += stride()) {
        int64_t sum = 0;
        for (int64_t i = 0; i < count; i++) sum += parts[i * channels + c];
        out[c] = dequantize_one(sum, total(e));
    }
}
