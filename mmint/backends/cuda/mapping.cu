/* float32 to integers and back, for whole tensors.
 *
 * The linear mapping takes two passes. `largest` finds the largest magnitude of each block's part,
 * as a bit pattern; the blocks of the second pass take the maximum of those few again, so that no
 * atomics and no zeroed memory are needed, and compute the exponent each for itself.
 *
 * The second pass gives each thread one Philox block, that is sixteen elements, which lie in pairs
 * 16 apart in the order of the logical shape. `quantize_*` writes in that order. `quantize_images_*`
 * turns (N, C, H * W) into (N, H * W, C): a block collects a tile of up to 32 channels by 512
 * pixels in shared memory, runs of consecutive elements in the logical order, and writes it
 * channels-last, words of as many channels as fit.
 *
 * A tensor with an infinity or NaN becomes zeros, and its call's number goes to the device's flag. */
#include "arithmetic/mapping.h"
#include "arithmetic/philox.h"
#include "reduce.cuh"
#include "rounding.cuh"

enum { THREADS = 256, TILE_CHANNELS = 32, TILE_PIXELS = 512 };

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
template <> struct pair_of<int8_t> {
    typedef uint16_t type;
};
template <> struct pair_of<int16_t> {
    typedef uint32_t type;
};

/* Four rows of four bytes, or two of two int16, become columns. */
__device__ __forceinline__ void transpose(uint32_t (&r)[4]) {
    const uint32_t a = __byte_perm(r[0], r[1], 0x5140), b = __byte_perm(r[2], r[3], 0x5140);
    const uint32_t c = __byte_perm(r[0], r[1], 0x7362), d = __byte_perm(r[2], r[3], 0x7362);
    r[0] = __byte_perm(a, b, 0x5410);
    r[1] = __byte_perm(a, b, 0x7632);
    r[2] = __byte_perm(c, d, 0x5410);
    r[3] = __byte_perm(c, d, 0x7632);
}
__device__ __forceinline__ void transpose(uint32_t (&r)[2]) {
    const uint32_t a = r[0];
    r[0] = __byte_perm(a, r[1], 0x5410);
    r[1] = __byte_perm(a, r[1], 0x7632);
}

/* The Philox block `block`, if any bits are drawn. */
template <bool STOCHASTIC>
__device__ __forceinline__ philox_words drawn_by(random_words random, int64_t block) {
    return STOCHASTIC ? philox(random, (uint32_t)block) : make_uint4(0, 0, 0, 0);
}

/* Two neighbours as one word, if `whole`, or the first alone. */
template <typename T> __device__ __forceinline__ void put(T *at, uint32_t pair, bool whole) {
    typedef typename pair_of<T>::type both;
    if (whole)
        *(both *)at = (both)pair;
    else
        *at = (T)pair;
}

template <typename T, bool STOCHASTIC>
__device__ __forceinline__ void quantize(const mapping &m, int exponent, bool finite) {
    const rounder<T, STOCHASTIC> round(exponent, finite);
    const random_words random = resolved(m.random);
    const int64_t n = m.images * m.channels * m.pixels;
    const int64_t blocks = (n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    const bool pairs = (uint64_t)m.x % 8 == 0;
    T *out = (T *)m.out;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        const int64_t first = first_element(block);
        const uint32_t *x = m.x + first;
        T *to = out + first;
        const philox_words words = drawn_by<STOCHASTIC>(random, block);
        if (pairs && first + distance_of(SERVED - 1) < n) {
            uint2 of[DRAWS];
#pragma unroll
            for (int d = 0; d < DRAWS; d++) of[d] = *(const uint2 *)(x + PAIR_STEP * d);
#pragma unroll
            for (int d = 0; d < DRAWS; d++)
                put(to + PAIR_STEP * d, round.pair(of[d].x, of[d].y, draw_of(words, d)), true);
            continue;
        }
        const int left = (int)min(n - first, (int64_t)GROUP);
#pragma unroll 1
        for (int d = 0, at = 0; at < left; d++, at += PAIR_STEP) {
            const bool both = at + 1 < left;
            put(to + at, round.pair(x[at], both ? x[at + 1] : 0, draw_of(words, d)), both);
        }
    }
}

/* Elements of a word, and from one channel to the next in a tile: a word more than its pixels, so
 * that channels begin in different banks. */
template <typename T> constexpr int WORD_OF = 4 / sizeof(T);
template <typename T> constexpr int PITCH_OF = TILE_PIXELS + WORD_OF<T>;

/* Tiles of TILE_CHANNELS by up to TILE_PIXELS, in which each channel's pixels follow one another. */
template <typename T, bool STOCHASTIC>
__device__ __forceinline__ void quantize_images(const mapping &m, int exponent, bool finite,
                                                T *tile) {
    constexpr int WORD = WORD_OF<T>, PITCH = PITCH_OF<T>;
    const rounder<T, STOCHASTIC> round(exponent, finite);
    const random_words random = resolved(m.random);
    const int64_t across = (m.channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t down = (m.pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    /* Where planes are whole groups so are tiles, which then share no Philox block. */
    const bool aligned = m.pixels % GROUP == 0;
    const int unit = aligned ? GROUP : 4;
    const int width = (int)(((m.pixels + down - 1) / down + unit - 1) / unit * unit);
    const bool pairs = (uint64_t)m.x % 8 == 0 && m.pixels % 2 == 0;
    T *out = (T *)m.out;
    for (int64_t t = blockIdx.x; t < m.images * across * down; t += gridDim.x) {
        const int64_t image = t / (across * down), channel0 = t / down % across * TILE_CHANNELS;
        const int64_t pixel0 = t % down * width;
        const int channels = (int)min((int64_t)TILE_CHANNELS, m.channels - channel0);
        const int pixels = (int)min((int64_t)width, m.pixels - pixel0);
        if (pixels <= 0) continue;
        /* Runs of consecutive elements: all of the tile, or a channel each. */
        const int runs = down == 1 ? 1 : channels, length = down == 1 ? channels * pixels : pixels;
        const int blocks =
            (aligned ? (length + GROUP - 1) / GROUP : (length + GROUP - 2) / GROUP + 1) *
            BLOCKS_OF_GROUP;
        const uint32_t by_blocks = 0xFFFFFFFFu / blocks + 1, by_pixels = 0xFFFFFFFFu / pixels + 1;
        for (int u = threadIdx.x; u < runs * blocks; u += THREADS) {
            const int run = (int)__umulhi(u, by_blocks);
            const int64_t start = (image * m.channels + channel0 + run) * m.pixels + pixel0;
            const int64_t block = start / GROUP * BLOCKS_OF_GROUP + (u - run * blocks);
            const int place0 = (int)(first_element(block) - start);
            if (place0 >= length) continue;
            const philox_words words = drawn_by<STOCHASTIC>(random, block);
            const uint32_t *x = m.x + start + place0;
            const int row = down > 1 ? run * PITCH : 0;
            /* The element of `tile` for one of the run. */
            auto at = [&](int place) {
                return down > 1 ? row + place
                                : place + (int)__umulhi(place, by_pixels) * (PITCH - pixels);
            };
            if (pairs) { /* each inside of the run, or outside */
                uint2 of[DRAWS];
#pragma unroll
                for (int d = 0; d < DRAWS; d++) {
                    const int place = place0 + PAIR_STEP * d;
                    of[d] = make_uint2(0, 0);
                    if (place >= 0 && place < length) of[d] = *(const uint2 *)(x + PAIR_STEP * d);
                }
#pragma unroll
                for (int d = 0; d < DRAWS; d++) {
                    const int place = place0 + PAIR_STEP * d;
                    if (place >= 0 && place < length)
                        put(tile + at(place), round.pair(of[d].x, of[d].y, draw_of(words, d)),
                            true);
                }
                continue;
            }
#pragma unroll 1
            for (int d = 0; d < DRAWS; d++) {
                const int place = place0 + PAIR_STEP * d;
                const bool first = place >= 0 && place < length;
                const bool second = place >= -1 && place + 1 < length;
                const uint32_t pair =
                    round.pair(first ? x[PAIR_STEP * d] : 0, second ? x[PAIR_STEP * d + 1] : 0,
                               draw_of(words, d));
                if (first) tile[at(place)] = (T)pair;
                if (second) tile[at(place + 1)] = (T)(pair >> 8 * sizeof(T));
            }
        }
        __syncthreads();
        T *to = out + (image * m.pixels + pixel0) * m.channels + channel0;
        /* WORD channels by WORD pixels, transposed in registers; what is left, one by one. */
        const int whole = m.channels % WORD == 0 ? pixels / WORD : 0;
        for (int k = threadIdx.x; k < whole * (TILE_CHANNELS / WORD); k += THREADS) {
            const int channel = k % (TILE_CHANNELS / WORD) * WORD;
            const int pixel = k / (TILE_CHANNELS / WORD) * WORD;
            if (channel >= channels) continue;
            uint32_t rows[WORD];
#pragma unroll
            for (int i = 0; i < WORD; i++)
                rows[i] = *(const uint32_t *)(tile + (channel + i) * PITCH + pixel);
            transpose(rows);
#pragma unroll
            for (int i = 0; i < WORD; i++)
                *(uint32_t *)(to + (pixel + i) * m.channels + channel) = rows[i];
        }
        const uint32_t by_channels = 0xFFFFFFFFu / channels + 1;
        for (int k = threadIdx.x; k < (pixels - whole * WORD) * channels; k += THREADS) {
            const int row = channels == 1 ? k : (int)__umulhi(k, by_channels);
            const int channel = k - row * channels, pixel = whole * WORD + row;
            to[pixel * m.channels + channel] = tile[channel * PITCH + pixel];
        }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) quantize_8(mapping m) {
    int exponent;
    const bool finite = prepare(m, &exponent);
    m.random.stochastic ? quantize<int8_t, true>(m, exponent, finite)
                        : quantize<int8_t, false>(m, exponent, finite);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_16(mapping m) {
    int exponent;
    const bool finite = prepare(m, &exponent);
    m.random.stochastic ? quantize<int16_t, true>(m, exponent, finite)
                        : quantize<int16_t, false>(m, exponent, finite);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_8(mapping m) {
    __shared__ __align__(4) int8_t tile[TILE_CHANNELS * PITCH_OF<int8_t>];
    int exponent;
    const bool finite = prepare(m, &exponent);
    m.random.stochastic ? quantize_images<int8_t, true>(m, exponent, finite, tile)
                        : quantize_images<int8_t, false>(m, exponent, finite, tile);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_16(mapping m) {
    __shared__ __align__(4) int16_t tile[TILE_CHANNELS * PITCH_OF<int16_t>];
    int exponent;
    const bool finite = prepare(m, &exponent);
    m.random.stochastic ? quantize_images<int16_t, true>(m, exponent, finite, tile)
                        : quantize_images<int16_t, false>(m, exponent, finite, tile);
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
    channel_sum(const int64_t *parts, float *out, int64_t count, int64_t channels, exponent_sum e) {
    for (int64_t c = first_index(); c < channels; c += stride()) {
        int64_t sum = 0;
        for (int64_t i = 0; i < count; i++) sum += parts[i * channels + c];
        out[c] = dequantize_one(sum, total(e));
    }
}
