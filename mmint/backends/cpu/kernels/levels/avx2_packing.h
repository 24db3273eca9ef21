/* Packing pairs of int16 with AVX2. */
#ifndef MMINT_AVX2_PACKING_H
#define MMINT_AVX2_PACKING_H

#include "avx2_transpose.h"
#include "level.h"
#include "portable_packing.h"

INLINE void pack_rows_avx2_body(int16_t *dst, const void *const *rows, int lanes, long length,
                                int wide) {
    for (int first = 0; first < lanes; first += 8) {
        const int here = lanes - first < 8 ? lanes - first : 8;
        for (long k = 0; k < length; k += 16) {
            const long left = length - k;
            __m256i v[8];
            int16_t rest[16];
#pragma GCC unroll 8
            for (int l = 0; l < 8; l++) {
                if (l >= here) {
                    v[l] = _mm256_setzero_si256();
                } else if (left >= 16) {
                    v[l] = wide ? LOAD((const int16_t *)rows[first + l] + k)
                                : _mm256_cvtepi8_epi16(_mm_loadu_si128(
                                      (const void *)((const int8_t *)rows[first + l] + k)));
                } else {
                    for (int i = 0; i < 16; i++)
                        rest[i] = i >= left ? 0
                                  : wide    ? ((const int16_t *)rows[first + l])[k + i]
                                            : ((const int8_t *)rows[first + l])[k + i];
                    v[l] = LOAD(rest);
                }
            }
            transpose8(v);
            int16_t *to = dst + (k * lanes + 2 * first);
            const long groups = left >= 16 ? 8 : (left + 1) / 2;
            for (int g = 0; g < groups; g++) {
                if (here == 6)
                    store6(to + g * 2 * lanes, v[g]);
                else
                    STORE(to + g * 2 * lanes, v[g]);
            }
        }
    }
}

static inline void pack_rows_avx2(int32_t *panel, const void *const *rows, int lanes, long length,
                                  int wide) {
    int16_t *dst = (int16_t *)panel;
    if (lanes == MR)
        wide ? pack_rows_avx2_body(dst, rows, MR, length, 1)
             : pack_rows_avx2_body(dst, rows, MR, length, 0);
    else
        wide ? pack_rows_avx2_body(dst, rows, NR, length, 1)
             : pack_rows_avx2_body(dst, rows, NR, length, 0);
}

static inline void pack_columns_avx2(int32_t *panel, const void *const *columns, long length,
                                     int lanes, int count, int wide) {
    int16_t *dst = (int16_t *)panel;
    const long whole = wide ? 0 : length / 2;
    if (lanes == MR &&
        count >= 8) { /* eight lanes are there to be read: two too many are stored, */
        for (long g = 0; g < whole; g++, dst += 2 * MR) { /* and overwritten by the next six */
            const __m128i pairs = _mm_unpacklo_epi8(_mm_loadl_epi64(columns[2 * g]),
                                                    _mm_loadl_epi64(columns[2 * g + 1]));
            if (g + 1 < whole)
                STORE(dst, _mm256_cvtepi8_epi16(pairs));
            else
                store6(dst, _mm256_cvtepi8_epi16(pairs));
        }
    } else if (lanes == MR) {
        const int here = count < MR ? count : MR;
        for (long g = 0; g < whole; g++, dst += 2 * MR)
            store6(dst, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(
                            load_some(columns[2 * g], here), load_some(columns[2 * g + 1], here))));
    } else {
        for (long g = 0; g < whole; g++, dst += 2 * NR) {
            __m128i u0, u1;
            if (count >= NR) {
                u0 = _mm_loadu_si128(columns[2 * g]);
                u1 = _mm_loadu_si128(columns[2 * g + 1]);
            } else {
                u0 = load_some(columns[2 * g], count);
                u1 = load_some(columns[2 * g + 1], count);
            }
            STORE(dst, _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(u0, u1)));
            STORE(dst + 16, _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(u0, u1)));
        }
    }
    if (2 * whole < length)
        pack_columns_loop((int32_t *)dst, columns + 2 * whole, length - 2 * whole, lanes, count,
                          wide);
}

#endif
