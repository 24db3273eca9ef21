/* float32 to integers, for whole tensors; dequantize.cu goes back.
 *
 * The linear mapping takes two passes. The first finds the largest magnitudes, of parts of the
 * tensor (largest.cu); each block of the second takes the maximum of those few again, and computes
 * the exponent for itself.
 *
 * The second pass gives each thread one Philox block, that is sixteen elements, which lie in pairs
 * 16 apart in the order of the logical shape. `quantize_*` writes in that order. `quantize_images_*`
 * turns (N, C, H * W) into (N, H * W, C): a block collects a tile of up to 32 channels by 512
 * pixels in shared memory, runs of consecutive elements in the logical order, and writes it
 * channels-last, words of as many channels as fit.
 *
 * Where blocks of elements have exponents of their own (`quantize_each_*`), the first pass finds the
 * largest magnitude of each block, and every pair of elements looks up its block's.
 *
 * A tensor, or block, with an infinity or NaN becomes zeros, and its call's number goes to the
 * device's flag. */
#include "arithmetic/mapping.h"
#include "arithmetic/philox.h"
#include "groups.cuh"
#include "rounding.cuh"
#include "source.cuh"

enum { THREADS = 256, TILE_CHANNELS = 32, TILE_PIXELS = 512, MAPPINGS = 24 };

struct mapping {
    void *out;
    const uint32_t *tops; /* maxima of parts, or of each block */
    int64_t top_count;
    int32_t *exponent;
    int32_t *flag;
    int64_t call, bits, images, channels, pixels;
    int64_t count, run; /* element i is in block i / run % count */
    random_words random;
};

__device__ __forceinline__ int64_t block_of(const mapping &m, int64_t i) {
    const int64_t run = quotient(i, m.run);
    return run - quotient(run, m.count) * m.count;
}

/* The tensor's exponent, and whether it is finite; the first block notes both. */
__device__ bool prepare(const mapping &m, const crew &mine, int *exponent) {
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < m.top_count; i += THREADS) top = max(top, m.tops[i]);
    top = block_max(top);
    const bool finite = is_finite(top);
    *exponent = finite ? exponent_of(top, (int)m.bits) : 0;
    if (mine.block == 0 && threadIdx.x == 0) {
        *m.exponent = *exponent;
        if (!finite) atomicCAS(m.flag, 0, (int32_t)m.call);
    }
    return finite;
}

/* The same for the blocks of a tensor. */
__device__ void note_exponents(const mapping &m, const crew &mine) {
    if (mine.block) return;
    for (int64_t i = threadIdx.x; i < m.count; i += THREADS) {
        const bool finite = is_finite(m.tops[i]);
        m.exponent[i] = finite && m.tops[i] ? exponent_of(m.tops[i], (int)m.bits) : ZEROS_EXPONENT;
        if (!finite) atomicCAS(m.flag, 0, (int32_t)m.call);
    }
}

/* Two neighbours at the exponent that all elements share, or at those of their blocks. */
template <typename T, bool STOCHASTIC> struct round_alike {
    const rounder<T, STOCHASTIC> round;

    __device__ __forceinline__ round_alike(const mapping &, int exponent, bool finite)
        : round(exponent, finite) {}
    __device__ __forceinline__ uint32_t pair(uint32_t x0, uint32_t x1, uint32_t drawn,
                                             int64_t) const {
        return round.pair(x0, x1, drawn);
    }
};

template <typename T, bool STOCHASTIC> struct round_each {
    const mapping &m;

    __device__ __forceinline__ round_each(const mapping &m, int, bool) : m(m) {}
    __device__ __forceinline__ rounder<T, STOCHASTIC> rounder_of(int64_t block) const {
        const uint32_t top = m.tops[block];
        const bool finite = is_finite(top);
        return rounder<T, STOCHASTIC>(finite ? exponent_of(top, (int)m.bits) : 0, finite);
    }
    /* x0 is element `i`. */
    __device__ __forceinline__ uint32_t pair(uint32_t x0, uint32_t x1, uint32_t drawn,
                                             int64_t i) const {
        const int64_t first = block_of(m, i), second = block_of(m, i + 1);
        if (first == second) return rounder_of(first).pair(x0, x1, drawn);
        return rounder_of(first).pair(x0, 0, drawn) | rounder_of(second).pair(0, x1, drawn);
    }
};

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

template <typename T, bool STOCHASTIC, template <typename, bool> class ROUND, typename FROM>
__device__ __forceinline__ void quantize(const FROM &from, const mapping &m, const crew &mine,
                                         int exponent, bool finite) {
    const ROUND<T, STOCHASTIC> round(m, exponent, finite);
    const random_words random = resolved(m.random);
    const int64_t n = m.images * m.channels * m.pixels;
    const int64_t blocks = (n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    const bool pairs = as_they_are(from) && (uint64_t)from.x % 8 == 0;
    plane of_plane = no_plane();
    T *out = (T *)m.out;
    for (int64_t block = mine.first_index(); block < blocks; block += mine.stride()) {
        const int64_t first = first_element(block);
        T *to = out + first;
        const philox_words words = drawn_by<STOCHASTIC>(random, block);
        if (pairs && first + distance_of(SERVED - 1) < n) {
            uint2 of[DRAWS];
#pragma unroll
            for (int d = 0; d < DRAWS; d++)
                of[d] = *(const uint2 *)(from.x + first + PAIR_STEP * d);
#pragma unroll
            for (int d = 0; d < DRAWS; d++)
                put(to + PAIR_STEP * d,
                    round.pair(of[d].x, of[d].y, draw_of(words, d), first + PAIR_STEP * d), true);
            continue;
        }
        const int left = (int)min(n - first, (int64_t)GROUP);
#pragma unroll 1
        for (int d = 0, at = 0; at < left; d++, at += PAIR_STEP) {
            const bool both = at + 1 < left;
            const uint32_t x0 = element(from, of_plane, first + at);
            const uint32_t x1 = both ? element(from, of_plane, first + at + 1) : 0;
            put(to + at, round.pair(x0, x1, draw_of(words, d), first + at), both);
        }
    }
}

/* Elements of a word, and from one channel to the next in a tile: a word more than its pixels, so
 * that channels begin in different banks. */
template <typename T> constexpr int WORD_OF = 4 / sizeof(T);
template <typename T> constexpr int PITCH_OF = TILE_PIXELS + WORD_OF<T>;

/* Tiles of TILE_CHANNELS by up to TILE_PIXELS, in which each channel's pixels follow one another. */
template <typename T, bool STOCHASTIC, template <typename, bool> class ROUND, typename FROM>
__device__ __forceinline__ void quantize_images(const FROM &from, const mapping &m,
                                                const crew &mine, int exponent, bool finite,
                                                T *tile) {
    constexpr int WORD = WORD_OF<T>, PITCH = PITCH_OF<T>;
    const ROUND<T, STOCHASTIC> round(m, exponent, finite);
    const random_words random = resolved(m.random);
    const int64_t across = (m.channels + TILE_CHANNELS - 1) / TILE_CHANNELS;
    const int64_t down = (m.pixels + TILE_PIXELS - 1) / TILE_PIXELS;
    /* Where planes are whole groups so are tiles, which then share no Philox block. */
    const bool aligned = m.pixels % GROUP == 0;
    const int unit = aligned ? GROUP : 4;
    const int width = (int)(((m.pixels + down - 1) / down + unit - 1) / unit * unit);
    const bool pairs = as_they_are(from) && (uint64_t)from.x % 8 == 0 && m.pixels % 2 == 0;
    plane of_plane = no_plane();
    T *out = (T *)m.out;
    for (int64_t t = mine.block; t < m.images * across * down; t += mine.blocks) {
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
                    if (place >= 0 && place < length)
                        of[d] = *(const uint2 *)(from.x + start + place);
                }
#pragma unroll
                for (int d = 0; d < DRAWS; d++) {
                    const int place = place0 + PAIR_STEP * d;
                    if (place >= 0 && place < length)
                        put(tile + at(place),
                            round.pair(of[d].x, of[d].y, draw_of(words, d), start + place), true);
                }
                continue;
            }
#pragma unroll 1
            for (int d = 0; d < DRAWS; d++) {
                const int place = place0 + PAIR_STEP * d;
                const bool first = place >= 0 && place < length;
                const bool second = place >= -1 && place + 1 < length;
                const uint32_t pair =
                    round.pair(first ? element(from, of_plane, start + place) : 0,
                               second ? element(from, of_plane, start + place + 1) : 0,
                               draw_of(words, d), start + place);
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

template <typename T, template <typename, bool> class ROUND, typename FROM>
__device__ __forceinline__ void quantize_any(const FROM &from, const mapping &m, const crew &mine,
                                             int exponent, bool finite) {
    m.random.stochastic ? quantize<T, true, ROUND>(from, m, mine, exponent, finite)
                        : quantize<T, false, ROUND>(from, m, mine, exponent, finite);
}
template <typename T, template <typename, bool> class ROUND, typename FROM>
__device__ __forceinline__ void quantize_any_images(const FROM &from, const mapping &m,
                                                    const crew &mine, int exponent, bool finite,
                                                    T *tile) {
    m.random.stochastic ? quantize_images<T, true, ROUND>(from, m, mine, exponent, finite, tile)
                        : quantize_images<T, false, ROUND>(from, m, mine, exponent, finite, tile);
}

template <typename T, typename FROM>
__device__ __forceinline__ void quantize_one_exponent(const FROM &from, const mapping &m,
                                                      const crew &mine) {
    int exponent;
    const bool finite = prepare(m, mine, &exponent);
    quantize_any<T, round_alike>(from, m, mine, exponent, finite);
}
template <typename T, typename FROM>
__device__ __forceinline__ void quantize_each(const FROM &from, const mapping &m,
                                              const crew &mine) {
    note_exponents(m, mine);
    quantize_any<T, round_each>(from, m, mine, 0, true);
}
template <typename T, typename FROM>
__device__ __forceinline__ void quantize_images_one_exponent(const FROM &from, const mapping &m,
                                                             const crew &mine, T *tile) {
    int exponent;
    const bool finite = prepare(m, mine, &exponent);
    quantize_any_images<T, round_alike>(from, m, mine, exponent, finite, tile);
}
template <typename T, typename FROM>
__device__ __forceinline__ void quantize_images_each(const FROM &from, const mapping &m,
                                                     const crew &mine, T *tile) {
    note_exponents(m, mine);
    quantize_any_images<T, round_each>(from, m, mine, 0, true, tile);
}

#define TILE(T) __shared__ __align__(4) T tile[TILE_CHANNELS * PITCH_OF<T>]

extern "C" __global__ void __launch_bounds__(THREADS) quantize_8(source from, mapping m) {
    quantize_one_exponent<int8_t>(from, m, whole_grid());
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_16(source from, mapping m) {
    quantize_one_exponent<int16_t>(from, m, whole_grid());
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_8(source from, mapping m) {
    TILE(int8_t);
    quantize_images_one_exponent(from, m, whole_grid(), tile);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_images_16(source from, mapping m) {
    TILE(int16_t);
    quantize_images_one_exponent(from, m, whole_grid(), tile);
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_each_8(source from, mapping m) {
    quantize_each<int8_t>(from, m, whole_grid());
}
extern "C" __global__ void __launch_bounds__(THREADS) quantize_each_16(source from, mapping m) {
    quantize_each<int16_t>(from, m, whole_grid());
}
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_images_each_8(source from, mapping m) {
    TILE(int8_t);
    quantize_images_each(from, m, whole_grid(), tile);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_images_each_16(source from, mapping m) {
    TILE(int16_t);
    quantize_images_each(from, m, whole_grid(), tile);
}

/* ---- several tensors at once ---- */

/* `first_block` of those that take turns over a tensor, which are as many as go before the next. */
struct mapping_in_turn {
    in_memory from;
    mapping of;
    int64_t first_block;
};
struct mappings {
    int64_t count;
    mapping_in_turn of[MAPPINGS];
};

/* This block's tensor, and those that work on it. */
__device__ __forceinline__ const mapping_in_turn &mine_of(const mappings &all, crew *mine) {
    int i = (int)all.count - 1;
    while (all.of[i].first_block > blockIdx.x) i--;
    const int64_t first = all.of[i].first_block;
    const int64_t end = i + 1 < all.count ? all.of[i + 1].first_block : gridDim.x;
    *mine = {blockIdx.x - first, end - first};
    return all.of[i];
}

extern "C" __global__ void __launch_bounds__(THREADS)
    largest_of_all(const __grid_constant__ mappings all) {
    crew mine;
    const mapping_in_turn &next = mine_of(all, &mine);
    const mapping &m = next.of;
    const uint32_t *x = next.from.x;
    note_tops(mine, m.images * m.channels * m.pixels, m.count, m.run, (int32_t *)m.tops,
              [=](int64_t i) { return x[i] & 0x7FFFFFFF; });
}

template <typename T> __device__ __forceinline__ void quantize_all(const mappings &all, T *tile) {
    crew mine;
    const mapping_in_turn &next = mine_of(all, &mine);
    const in_memory &from = next.from;
    const mapping &m = next.of;
    if (m.channels == 1)
        m.count == 1 ? quantize_one_exponent<T>(from, m, mine) : quantize_each<T>(from, m, mine);
    else if (m.count == 1)
        quantize_images_one_exponent(from, m, mine, tile);
    else
        quantize_images_each(from, m, mine, tile);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_all_8(const __grid_constant__ mappings all) {
    TILE(int8_t);
    quantize_all(all, tile);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_all_16(const __grid_constant__ mappings all) {
    TILE(int16_t);
    quantize_all(all, tile);
}
