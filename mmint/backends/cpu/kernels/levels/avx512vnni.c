/* AVX-512 with VNNI: the tiles. */
#include "machine.h"

#if MMINT_X86

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* All functions of this file are for these instructions. */
#if defined(__clang__)
#pragma clang attribute push(                                                          \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), \
    apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#pragma GCC target("prefer-vector-width=512")
#endif

#include "avx2_tile.h"
#include "level.h"
#include "vnni_packing.h"

#define VNNI_ROWS 16 /* chains, of which ten hide the latency; filters are often multiples of it */
#define VNNI_LANES 16
#define DPBUSD(sums, lanes, row) \
    (vnni_words) _mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(lanes), (__m512i)(row))
#include "vnni_tile.h"

/* Two groups at once, so that twelve chains hide the latency. */
#define START_512(r)                                                                  \
    __m512i x##r = c_in ? _mm512_loadu_si512(c_in + NR * r) : _mm512_setzero_si512(); \
    __m512i y##r = _mm512_setzero_si512();
#define MULTIPLY_512(r)                                            \
    x##r = _mm512_dpwssd_epi32(x##r, _mm512_set1_epi32(a[r]), b0); \
    y##r = _mm512_dpwssd_epi32(y##r, _mm512_set1_epi32(a[MR + r]), b1);
#define LAST_512(r) x##r = _mm512_dpwssd_epi32(x##r, _mm512_set1_epi32(a[r]), b0);
#define JOIN_512(r) x##r = _mm512_add_epi32(x##r, y##r);
#define KEEP_512(r) _mm512_storeu_si512(c_out + NR * r, x##r);
#define WRITE_512(r)                                                                    \
    {                                                                                   \
        const __m512 both = _mm512_mul_ps(_mm512_set1_ps(row_scale[r]), scale);         \
        const __m512 made = _mm512_mul_ps(_mm512_cvtepi32_ps(x##r), both);              \
        _mm512_storeu_ps(out, made);                                                    \
        out += stride;                                                                  \
        top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(made), mask)); \
    }
#define FINISH_512(r) \
    if (r < rows) WRITE_512(r)
#define FINISH_BIASED_512(r)                                         \
    if (r < rows) {                                                  \
        any = _mm512_or_si512(any, x##r);                            \
        const __m512i bias = _mm512_set1_epi32(row_bias[r]);         \
        x##r = _mm512_add_epi32(x##r, _mm512_add_epi32(bias, lane)); \
        WRITE_512(r)                                                 \
    }
static void tile_avx512vnni(TILE_PARAMETERS) {
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
    const float *row_scale = to->row_scale;
    const __m512 scale = _mm512_loadu_ps(to->lane_scale);
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

void fill_avx512vnni(level_t *t) {
    t->name = "avx512vnni";
    t->pairs.tile = tile_avx512vnni;
    t->bytes = VNNI_FORM(VNNI_ROWS);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
