/* Loads, stores and transpositions with AVX2. */
#ifndef MMINT_AVX2_TRANSPOSE_H
#define MMINT_AVX2_TRANSPOSE_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "integers.h"

#define LOAD(p) _mm256_loadu_si256((const void *)(p))
#define STORE(p, v) _mm256_storeu_si256((void *)(p), v)

/* Eight vectors of eight 32-bit groups: transposed in place. */
INLINE void transpose8(__m256i *v) {
    __m256i t[8], u[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        v[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

/* The first six of eight 32-bit groups. */
INLINE void store6(int16_t *dst, __m256i v) {
    _mm_storeu_si128((void *)dst, _mm256_castsi256_si128(v));
    _mm_storel_epi64((void *)(dst + 8), _mm256_extracti128_si256(v, 1));
}

/* `count` bytes and zeros up to 8. */
INLINE uint64_t load8(const uint8_t *p, int count) {
    uint64_t all = 0;
    uint32_t low, high;
    if (count >= 8) {
        memcpy(&all, p, 8);
    } else if (count >= 4) { /* two halves that overlap */
        memcpy(&low, p, 4);
        memcpy(&high, p + count - 4, 4);
        all = low | (uint64_t)high << 8 * (count - 4);
    } else {
        for (int i = 0; i < count; i++) all |= (uint64_t)p[i] << 8 * i;
    }
    return all;
}

/* `count` bytes and zeros up to 16. */
INLINE __m128i load_some(const void *p, int count) {
    return _mm_set_epi64x((long long)load8((const uint8_t *)p + 8, count - 8),
                          (long long)load8(p, count));
}

#endif
