/* Packing int8 for the VNNI tile, four of a row or lane to a word, with AVX2. */
#ifndef MMINT_VNNI_PACKING_H
#define MMINT_VNNI_PACKING_H

#include "avx2_transpose.h"
#include "level.h"

static void pack_rows_vnni(int32_t *panel, const void *const *rows, int lanes, long length,
                           int wide) {
    (void)wide;
    for (int first = 0; first < lanes; first += 8) {
        const int here = (int)least(8, lanes - first);
        for (long k = 0; k < length; k += 32) {
            const long left = least(32, length - k), groups = div_up(left, 4);
            __m256i v[8];
#pragma GCC unroll 8
            for (int l = 0; l < 8; l++) {
                int8_t rest[32] = {0};
                const int8_t *from = l < here ? (const int8_t *)rows[first + l] + k : rest;
                if (left < 32 && l < here) from = memcpy(rest, from, (size_t)left);
                v[l] = LOAD(from);
            }
            transpose8(v);
            int32_t *to = panel + k / 4 * lanes + first;
            for (long g = 0; g < groups; g++, to += lanes) {
                if (here < 8)
                    store6((int16_t *)to, v[g]);
                else
                    STORE(to, v[g]);
            }
        }
    }
}

static void pack_columns_vnni(int32_t *panel, const void *const *columns, long length, int lanes,
                              int count, int wide) {
    (void)wide;
    for (long k = 0; k < length; k += 4, panel += lanes) {
        for (int first = 0; first < lanes; first += 8) {
            __m128i v[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                v[i] = k + i >= length ? _mm_setzero_si128()
                       : first + 8 <= count
                           ? _mm_loadl_epi64((const void *)((const char *)columns[k + i] + first))
                           : load_some((const char *)columns[k + i] + first, count - first);
            const __m128i even = _mm_unpacklo_epi8(v[0], v[1]), odd = _mm_unpacklo_epi8(v[2], v[3]);
            const __m256i made =
                _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
            if (lanes - first < 8)
                store6((int16_t *)(panel + first), made);
            else
                STORE(panel + first, made);
        }
    }
}

/* heads[row] = -128 * the sum of its bytes. */
static void complete_rows_vnni(int32_t *heads, const int32_t *panel, int rows, long groups) {
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    for (int first = 0; first < rows; first += 8) {
        __m256i sum = _mm256_setzero_si256();
        for (long g = 0; g < groups; g++) {
            const __m256i pairs = _mm256_maddubs_epi16(ones8, LOAD(panel + g * rows + first));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones16));
        }
        sum = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), sum), 7);
        if (rows - first < 8)
            store6((int16_t *)(heads + first), sum);
        else
            STORE(heads + first, sum);
    }
}

/* b becomes b + 128. */
static void complete_lanes_vnni(int32_t *panel, long groups) {
    const __m256i offset = _mm256_set1_epi8((char)0x80);
    for (long i = 0; i < groups * NR; i += 8)
        STORE(panel + i, _mm256_xor_si256(LOAD(panel + i), offset));
}

#define VNNI_FORM(ROWS)                            \
    ((form_t){.rows = ROWS,                        \
              .depth = 4,                          \
              .heads = 1,                          \
              .tile = tile_vnni,                   \
              .pack_rows = pack_rows_vnni,         \
              .pack_columns = pack_columns_vnni,   \
              .complete_rows = complete_rows_vnni, \
              .complete_lanes = complete_lanes_vnni})

#endif
