/* Sums over the taps of depthwise filters: products of two taps at a time. */
#ifndef MMINT_AVX2_TAPS_H
#define MMINT_AVX2_TAPS_H

#include <immintrin.h>
#include <string.h>

#include "avx2_transpose.h"
#include "products/depthwise_loops.h"

enum { VECTORS = 2 /* of 16 sums, at once */ };

/* ---- planes ---- */

INLINE void lay_row8_avx2(int16_t *to, const void *row, long n, long step, long phase) {
    const int8_t *from = row;
    long x = 0;
    if (step == 1) {
        for (; x + 16 <= n; x += 16)
            STORE(to + x, _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(from + x))));
        if (x < n) STORE(to + x, _mm256_cvtepi8_epi16(load_some(from + x, (int)(n - x))));
    } else if (step == 2) { /* pairs: the upper byte as it is, or the lower one moved there */
        const __m128i up = _mm_cvtsi32_si128(phase ? 0 : 8);
        for (; x < n; x += 32, to += 16) {
            const int left = (int)least(32, n - x);
            __m256i pairs;
            if (left == 32)
                pairs = LOAD(from + x);
            else
                pairs = _mm256_set_m128i(load_some(from + x + least(16, left), left - 16),
                                         load_some(from + x, left));
            STORE(to, _mm256_srai_epi16(_mm256_sll_epi16(pairs, up), 8));
        }
    } else {
        lay_row8(to, row, n, step, phase);
    }
}

static void lay_plane_avx2(const laid_t *l, const void *plane, int wide, int16_t *out) {
    if (wide)
        lay_plane_loop(l, plane, wide, out);
    else
        lay_rows(l, plane, 1, out, lay_row8_avx2);
}

/* ---- sums ---- */

/* The interleaving of two taps leaves elements 0-3 and 8-11 of a vector in one sum, the others in
 * the other one. */
INLINE void tap_sums_body(int32_t *sums, const int16_t *x, const long *offset,
                          const int16_t *weight, long pairs, long n) {
    for (long q = 0; q < n; q += 16 * VECTORS, x += 16 * VECTORS) {
        __m256i sum[2 * VECTORS];
        for (int v = 0; v < 2 * VECTORS; v++) sum[v] = _mm256_setzero_si256();
#pragma GCC unroll 5
        for (long t = 0; t < pairs; t++) {
            int32_t both;
            memcpy(&both, weight + 2 * t, sizeof both);
            const __m256i weights = _mm256_set1_epi32(both);
            const int16_t *a = x + offset[2 * t], *b = x + offset[2 * t + 1];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) {
                const __m256i one = LOAD(a + 16 * v), two = LOAD(b + 16 * v);
                const __m256i low = _mm256_unpacklo_epi16(one, two);
                const __m256i high = _mm256_unpackhi_epi16(one, two);
                sum[2 * v] = _mm256_add_epi32(sum[2 * v], _mm256_madd_epi16(low, weights));
                sum[2 * v + 1] = _mm256_add_epi32(sum[2 * v + 1], _mm256_madd_epi16(high, weights));
            }
        }
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            const __m256i low = sum[2 * v], high = sum[2 * v + 1];
            STORE(sums + q + 16 * v, _mm256_permute2x128_si256(low, high, 0x20));
            STORE(sums + q + 16 * v + 8, _mm256_permute2x128_si256(low, high, 0x31));
        }
    }
}

static void tap_sums_avx2(int32_t *sums, const int16_t *x, const long *offset,
                          const int16_t *weight, long taps, long n) {
    if (taps == 10)
        tap_sums_body(sums, x, offset, weight, 5, n);
    else
        tap_sums_body(sums, x, offset, weight, taps / 2, n);
}

INLINE int64_t lanes_total(__m256i v) {
    const __m256i wide = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
                                          _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1)));
    const __m128i half =
        _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}

INLINE void tap_products_body(int64_t *sums, const int16_t *grad, const int16_t *x,
                              const long *offset, int taps, long n) {
    __m256i sum[9];
    for (int t = 0; t < taps; t++) sum[t] = _mm256_setzero_si256();
    for (long q = 0; q < n; q += TAP_LANES) {
        const __m256i g = LOAD(grad + q);
#pragma GCC unroll 9
        for (int t = 0; t < taps; t++)
            sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(g, LOAD(x + q + offset[t])));
    }
    for (int t = 0; t < taps; t++) sums[t] += lanes_total(sum[t]);
}

static void tap_products_avx2(int64_t *sums, const int16_t *grad, const int16_t *x,
                              const long *offset, long taps, long n) {
    long t = 0;
    for (; t + 9 <= taps; t += 9) tap_products_body(sums + t, grad, x, offset + t, 9, n);
    for (; t + 3 <= taps; t += 3) tap_products_body(sums + t, grad, x, offset + t, 3, n);
    for (; t < taps; t++) tap_products_body(sums + t, grad, x, offset + t, 1, n);
}

#endif
