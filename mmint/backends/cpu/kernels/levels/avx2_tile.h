/* The 6 x 16 tile in vectors of eight, for a multiplication that a level defines. */
#ifndef MMINT_AVX2_TILE_H
#define MMINT_AVX2_TILE_H

#include "avx2_transpose.h"
#include "products/tile.h"

#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)

/* Row r of a 6 x 16 tile is (x_r, y_r): 12 accumulators, two vectors of b, one broadcast of a. */
#define START(r)                                                        \
    __m256i x##r = c_in ? LOAD(c_in + NR * r) : _mm256_setzero_si256(); \
    __m256i y##r = c_in ? LOAD(c_in + NR * r + 8) : _mm256_setzero_si256();
#define KEEP(r)                  \
    STORE(c_out + NR * r, x##r); \
    STORE(c_out + NR * r + 8, y##r);
#define WRITE(r)                                                                                  \
    {                                                                                             \
        const __m256 row = _mm256_set1_ps(row_scale[r]);                                          \
        const __m256 made0 = _mm256_mul_ps(_mm256_cvtepi32_ps(x##r), _mm256_mul_ps(row, scale0)); \
        const __m256 made1 = _mm256_mul_ps(_mm256_cvtepi32_ps(y##r), _mm256_mul_ps(row, scale1)); \
        _mm256_storeu_ps(out, made0);                                                             \
        _mm256_storeu_ps(out + 8, made1);                                                         \
        out += stride;                                                                            \
        top0 = _mm256_max_epu32(top0, _mm256_and_si256(_mm256_castps_si256(made0), mask));        \
        top1 = _mm256_max_epu32(top1, _mm256_and_si256(_mm256_castps_si256(made1), mask));        \
    }
#define FINISH(r) \
    if (r < rows) WRITE(r)
#define FINISH_BIASED(r)                                              \
    if (r < rows) {                                                   \
        const __m256i bias = _mm256_set1_epi32(row_bias[r]);          \
        any0 = _mm256_or_si256(any0, x##r);                           \
        any1 = _mm256_or_si256(any1, y##r);                           \
        x##r = _mm256_add_epi32(x##r, _mm256_add_epi32(bias, lane0)); \
        y##r = _mm256_add_epi32(y##r, _mm256_add_epi32(bias, lane1)); \
        WRITE(r)                                                      \
    }
#define TILE_BODY(MULTIPLY)                                                         \
    EACH_ROW(START)                                                                 \
    for (; groups > 0; groups--, a += MR, b += NR) {                                \
        const __m256i b0 = LOAD(b), b1 = LOAD(b + 8);                               \
        EACH_ROW(MULTIPLY)                                                          \
    }                                                                               \
    if (!to) {                                                                      \
        EACH_ROW(KEEP)                                                              \
        return;                                                                     \
    }                                                                               \
    float *out = to->out;                                                           \
    const long stride = to->stride;                                                 \
    const int rows = to->rows;                                                      \
    extent_t *seen = to->seen;                                                      \
    const float *row_scale = to->row_scale;                                         \
    const __m256 scale0 = _mm256_loadu_ps(to->lane_scale);                          \
    const __m256 scale1 = _mm256_loadu_ps(to->lane_scale + 8);                      \
    const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);                             \
    __m256i top0 = LOAD(seen->top), top1 = LOAD(seen->top + 8);                     \
    if (to->row_bias) {                                                             \
        const int32_t *row_bias = to->row_bias;                                     \
        const __m256i lane0 = LOAD(to->lane_bias), lane1 = LOAD(to->lane_bias + 8); \
        __m256i any0 = LOAD(seen->any), any1 = LOAD(seen->any + 8);                 \
        EACH_ROW(FINISH_BIASED)                                                     \
        STORE(seen->any, any0);                                                     \
        STORE(seen->any + 8, any1);                                                 \
    } else {                                                                        \
        EACH_ROW(FINISH)                                                            \
    }                                                                               \
    STORE(seen->top, top0);                                                         \
    STORE(seen->top + 8, top1);

#define TILE_PARAMETERS                                                                   \
    const int32_t *a, const int32_t *b, long groups, const int32_t *c_in, int32_t *c_out, \
        const results_t *to

#endif
