/* Tiles and packing for AVX2, and tiles for the two VNNI extensions, which share its packing. */
#include "finish.h"
#include "x86.h"

#if MMINT_X86

#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

/* Row r of a 6 x 16 tile is (x_r, y_r): 12 accumulators, two vectors of b, one broadcast of a. */
#define START(r)                                                              \
    __m256i x##r = c_in ? LOAD(c_in + NR * r) : _mm256_setzero_si256();       \
    __m256i y##r = c_in ? LOAD(c_in + NR * r + 8) : _mm256_setzero_si256();
#define KEEP(r)                   \
    STORE(c_out + NR * r, x##r);  \
    STORE(c_out + NR * r + 8, y##r);
#define FINISH(r)                                                                                \
    if (r < rows) {                                                                              \
        const __m256i bias = _mm256_set1_epi32(row_bias[r]);                                     \
        any = _mm256_or_si256(any, _mm256_or_si256(x##r, y##r));                                 \
        x##r = _mm256_add_epi32(x##r, _mm256_add_epi32(bias, lane0));                            \
        y##r = _mm256_add_epi32(y##r, _mm256_add_epi32(bias, lane1));                            \
        _mm256_storeu_ps(out + r * ldo, _mm256_mul_ps(_mm256_cvtepi32_ps(x##r), scale));         \
        _mm256_storeu_ps(out + r * ldo + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(y##r), scale));     \
    }
#define TILE_BODY(MULTIPLY)                                                                      \
    EACH_ROW(START)                                                                              \
    for (; groups > 0; groups--, a += MR, b += NR) {                                             \
        const __m256i b0 = LOAD(b), b1 = LOAD(b + 8);                                            \
        EACH_ROW(MULTIPLY)                                                                       \
    }                                                                                            \
    if (!out) {                                                                                  \
        EACH_ROW(KEEP)                                                                           \
        return 0;                                                                                \
    }                                                                                            \
    const __m256 scale = _mm256_set1_ps(finish->scale);                                          \
    const __m256i lane0 = LOAD(lane_bias), lane1 = LOAD(lane_bias + 8);                          \
    __m256i any = _mm256_setzero_si256();                                                        \
    EACH_ROW(FINISH)                                                                             \
    return !_mm256_testz_si256(any, any);

#define TILE_PARAMETERS                                                                          \
    const int32_t *a, const int32_t *b, long groups, const int32_t *c_in, int32_t *c_out,        \
        const finish_t *finish, const int32_t *row_bias, const int32_t *lane_bias, float *out,   \
        long ldo, int rows

#define MULTIPLY_AVX2(r)                                              \
    {                                                                 \
        const __m256i t = _mm256_set1_epi32(a[r]);                    \
        x##r = _mm256_add_epi32(x##r, _mm256_madd_epi16(t, b0));      \
        y##r = _mm256_add_epi32(y##r, _mm256_madd_epi16(t, b1));      \
    }
TARGET_AVX2 static int tile_avx2(TILE_PARAMETERS) { TILE_BODY(MULTIPLY_AVX2) }

#define MULTIPLY_AVXVNNI(r)                                  \
    {                                                        \
        const __m256i t = _mm256_set1_epi32(a[r]);           \
        x##r = _mm256_dpwssd_avx_epi32(x##r, t, b0);         \
        y##r = _mm256_dpwssd_avx_epi32(y##r, t, b1);         \
    }
__attribute__((target("avx2,fma,avxvnni"))) static int tile_avxvnni(TILE_PARAMETERS) {
    TILE_BODY(MULTIPLY_AVXVNNI)
}

/* Two groups at once, so that twelve chains hide the latency. */
#define START_512(r)                                                                    \
    __m512i x##r = c_in ? _mm512_loadu_si512(c_in + NR * r) : _mm512_setzero_si512();   \
    __m512i y##r = _mm512_setzero_si512();
#define MULTIPLY_512(r)                                                        \
    x##r = _mm512_dpwssd_epi32(x##r, _mm512_set1_epi32(a[r]), b0);             \
    y##r = _mm512_dpwssd_epi32(y##r, _mm512_set1_epi32(a[MR + r]), b1);
#define LAST_512(r) x##r = _mm512_dpwssd_epi32(x##r, _mm512_set1_epi32(a[r]), b0);
#define JOIN_512(r) x##r = _mm512_add_epi32(x##r, y##r);
#define KEEP_512(r) _mm512_storeu_si512(c_out + NR * r, x##r);
#define FINISH_512(r)                                                                        \
    if (r < rows) {                                                                          \
        any = _mm512_or_si512(any, x##r);                                                    \
        x##r = _mm512_add_epi32(x##r, _mm512_add_epi32(_mm512_set1_epi32(row_bias[r]), lane)); \
        _mm512_storeu_ps(out + r * ldo, _mm512_mul_ps(_mm512_cvtepi32_ps(x##r), scale));     \
    }
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static int tile_avx512vnni(
    TILE_PARAMETERS) {
    EACH_ROW(START_512)
    for (; groups > 1; groups -= 2, a += 2 * MR, b += 2 * NR) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + NR);
        EACH_ROW(MULTIPLY_512)
    }
    if (groups) {
        const __m512i b0 = _mm512_loadu_si512(b);
        EACH_ROW(LAST_512)
    }
    EACH_ROW(JOIN_512)
    if (!out) {
        EACH_ROW(KEEP_512)
        return 0;
    }
    const __m512 scale = _mm512_set1_ps(finish->scale);
    const __m512i lane = _mm512_loadu_si512(lane_bias);
    __m512i any = _mm512_setzero_si512();
    EACH_ROW(FINISH_512)
    return _mm512_test_epi32_mask(any, any) != 0;
}

/* ---- packing ---- */

TARGET_AVX2 INLINE void pack_rows_avx2_body(int16_t *dst, const void *const *rows, int lanes,
                                            long length, int wide) {
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

TARGET_AVX2 static void pack_rows_avx2(int16_t *dst, const void *const *rows, int lanes,
                                       long length, int wide) {
    if (lanes == MR)
        wide ? pack_rows_avx2_body(dst, rows, MR, length, 1)
             : pack_rows_avx2_body(dst, rows, MR, length, 0);
    else
        wide ? pack_rows_avx2_body(dst, rows, NR, length, 1)
             : pack_rows_avx2_body(dst, rows, NR, length, 0);
}

/* `count` bytes and zeros up to 16. */
TARGET_AVX2 INLINE __m128i load_some(const void *p, int count) {
    int8_t bytes[16] = {0};
    memcpy(bytes, p, (size_t)count);
    return _mm_loadu_si128((const void *)bytes);
}

TARGET_AVX2 static void pack_columns_avx2(int16_t *dst, const void *const *columns, long length,
                                          int lanes, int count, int wide) {
    const long whole = wide ? 0 : length / 2;
    if (lanes == MR && count >= 8) { /* eight lanes are there to be read: two too many are stored, */
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
        portable_level.pack_columns(dst, columns + 2 * whole, length - 2 * whole, lanes, count,
                                    wide);
}

const level_t avx2_level = {"avx2", tile_avx2, pack_rows_avx2, pack_columns_avx2, 1};
const level_t avxvnni_level = {"avxvnni", tile_avxvnni, pack_rows_avx2, pack_columns_avx2, 1};
const level_t avx512vnni_level = {"avx512vnni", tile_avx512vnni, pack_rows_avx2,
                                  pack_columns_avx2, 1};

#endif
