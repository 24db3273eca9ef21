/* Tiles and packing for AVX2, and tiles for the two VNNI extensions, which share its packing. */
#include "extent.h"
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
#define WRITE(r)                                                                                 \
    {                                                                                            \
        const __m256 made0 = _mm256_mul_ps(_mm256_cvtepi32_ps(x##r), scale);                     \
        const __m256 made1 = _mm256_mul_ps(_mm256_cvtepi32_ps(y##r), scale);                     \
        _mm256_storeu_ps(out, made0);                                                            \
        _mm256_storeu_ps(out + 8, made1);                                                        \
        out += stride;                                                                           \
        top0 = _mm256_max_epu32(top0, _mm256_and_si256(_mm256_castps_si256(made0), mask));       \
        top1 = _mm256_max_epu32(top1, _mm256_and_si256(_mm256_castps_si256(made1), mask));       \
    }
#define FINISH(r) \
    if (r < rows) WRITE(r)
#define FINISH_BIASED(r)                                                                         \
    if (r < rows) {                                                                              \
        const __m256i bias = _mm256_set1_epi32(row_bias[r]);                                     \
        any0 = _mm256_or_si256(any0, x##r);                                                      \
        any1 = _mm256_or_si256(any1, y##r);                                                      \
        x##r = _mm256_add_epi32(x##r, _mm256_add_epi32(bias, lane0));                            \
        y##r = _mm256_add_epi32(y##r, _mm256_add_epi32(bias, lane1));                            \
        WRITE(r)                                                                                 \
    }
#define TILE_BODY(MULTIPLY)                                                                      \
    EACH_ROW(START)                                                                              \
    for (; groups > 0; groups--, a += MR, b += NR) {                                             \
        const __m256i b0 = LOAD(b), b1 = LOAD(b + 8);                                            \
        EACH_ROW(MULTIPLY)                                                                       \
    }                                                                                            \
    if (!to) {                                                                                   \
        EACH_ROW(KEEP)                                                                           \
        return;                                                                                  \
    }                                                                                            \
    float *out = to->out;                                                                        \
    const long stride = to->stride;                                                              \
    const int rows = to->rows;                                                                   \
    extent_t *seen = to->seen;                                                                   \
    const __m256 scale = _mm256_set1_ps(to->scale);                                              \
    const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);                                          \
    __m256i top0 = LOAD(seen->top), top1 = LOAD(seen->top + 8);                                  \
    if (to->row_bias) {                                                                          \
        const int32_t *row_bias = to->row_bias;                                                  \
        const __m256i lane0 = LOAD(to->lane_bias), lane1 = LOAD(to->lane_bias + 8);              \
        __m256i any0 = LOAD(seen->any), any1 = LOAD(seen->any + 8);                              \
        EACH_ROW(FINISH_BIASED)                                                                  \
        STORE(seen->any, any0);                                                                  \
        STORE(seen->any + 8, any1);                                                              \
    } else {                                                                                     \
        EACH_ROW(FINISH)                                                                         \
    }                                                                                            \
    STORE(seen->top, top0);                                                                      \
    STORE(seen->top + 8, top1);

#define TILE_PARAMETERS                                                                          \
    const int32_t *a, const int32_t *b, long groups, const int32_t *c_in, int32_t *c_out,        \
        const results_t *to

#define MULTIPLY_AVX2(r)                                              \
    {                                                                 \
        const __m256i t = _mm256_set1_epi32(a[r]);                    \
        x##r = _mm256_add_epi32(x##r, _mm256_madd_epi16(t, b0));      \
        y##r = _mm256_add_epi32(y##r, _mm256_madd_epi16(t, b1));      \
    }
TARGET_AVX2 static void tile_avx2(TILE_PARAMETERS) { TILE_BODY(MULTIPLY_AVX2) }

#define MULTIPLY_AVXVNNI(r)                                  \
    {                                                        \
        const __m256i t = _mm256_set1_epi32(a[r]);           \
        x##r = _mm256_dpwssd_avx_epi32(x##r, t, b0);         \
        y##r = _mm256_dpwssd_avx_epi32(y##r, t, b1);         \
    }
__attribute__((target("avx2,fma,avxvnni"))) static void tile_avxvnni(TILE_PARAMETERS) {
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
#define WRITE_512(r)                                                                    \
    {                                                                                   \
        const __m512 made = _mm512_mul_ps(_mm512_cvtepi32_ps(x##r), scale);             \
        _mm512_storeu_ps(out, made);                                                    \
        out += stride;                                                                  \
        top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(made), mask)); \
    }
#define FINISH_512(r) \
    if (r < rows) WRITE_512(r)
#define FINISH_BIASED_512(r)                                                            \
    if (r < rows) {                                                                     \
        any = _mm512_or_si512(any, x##r);                                               \
        const __m512i bias = _mm512_set1_epi32(row_bias[r]);                            \
        x##r = _mm512_add_epi32(x##r, _mm512_add_epi32(bias, lane));                    \
        WRITE_512(r)                                                                    \
    }
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static void tile_avx512vnni(
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
    if (!to) {
        EACH_ROW(KEEP_512)
        return;
    }
    float *out = to->out;
    const long stride = to->stride;
    const int rows = to->rows;
    extent_t *seen = to->seen;
    const __m512 scale = _mm512_set1_ps(to->scale);
    const __m512i mask = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i top = _mm512_loadu_si512(seen->top);
    if (to->row_bias) {
        const int32_t *row_bias = to->row_bias;
        const __m512i lane = _mm512_loadu_si512(to->lane_bias);
        __m512i any = _mm512_loadu_si512(seen->any);
        EACH_ROW(FINISH_BIASED_512)
        _mm512_storeu_si512(seen->any, any);
    } else {
        EACH_ROW(FINISH_512)
    }
    _mm512_storeu_si512(seen->top, top);
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
TARGET_AVX2 INLINE __m128i load_some(const void *p, int count) {
    return _mm_set_epi64x((long long)load8((const uint8_t *)p + 8, count - 8),
                          (long long)load8(p, count));
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

const level_t avx2_level = {"avx2", tile_avx2, pack_rows_avx2, pack_columns_avx2, 1, 0};
const level_t avxvnni_level = {"avxvnni", tile_avxvnni, pack_rows_avx2, pack_columns_avx2, 1, 0};
const level_t avx512vnni_level = {"avx512vnni", tile_avx512vnni, pack_rows_avx2,
                                  pack_columns_avx2, 1, 1};

#endif
