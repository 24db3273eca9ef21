/* The mapping with AVX2: the largest magnitude, rounding, and int8 to channels-last. */
#ifndef MMINT_AVX2_MAPPING_H
#define MMINT_AVX2_MAPPING_H

#include <string.h>

#include "avx2_philox.h"
#include "avx2_rounding.h"
#include "avx2_transpose.h"

static uint32_t top_avx2(const uint32_t *x, long n) {
    const __m256i mask = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i t0 = _mm256_setzero_si256(), t1 = t0, t2 = t0, t3 = t0;
    long i = 0;
#define STEP(t, o) \
    t = _mm256_max_epu32(t, _mm256_and_si256(mask, _mm256_loadu_si256((const void *)(x + i + o))))
    for (; i + 32 <= n; i += 32) {
        STEP(t0, 0);
        STEP(t1, 8);
        STEP(t2, 16);
        STEP(t3, 24);
    }
#undef STEP
    uint32_t lanes[8], top = top_loop(x + i, n - i);
    t0 = _mm256_max_epu32(_mm256_max_epu32(t0, t1), _mm256_max_epu32(t2, t3));
    _mm256_storeu_si256((void *)lanes, t0);
    for (int l = 0; l < 8; l++) top = lanes[l] > top ? lanes[l] : top;
    return top;
}

/* The processor itself looks ahead no farther than to the end of a page. */
INLINE void prefetch_group(const float *x) {
    enum { AHEAD = 1 << 13 };
    const uintptr_t to = (uintptr_t)x + AHEAD;
#pragma GCC unroll 8
    for (uintptr_t i = 0; i < 4 * GROUP; i += 64) _mm_prefetch((const void *)(to + i), _MM_HINT_T0);
}

/* What each element of a group of random bits is scaled by. */
typedef struct {
    float of[GROUP];
    place_t at;
    long alike; /* before this element they stay as they are */
} scales_t;

/* Of elements from ... to - 1, in the group that begins at `start`. */
INLINE void take_scales(scales_t *s, const blocks_t *e, long start, long from, long to,
                        int stochastic) {
    if (start + GROUP <= s->alike) return;
    if (s->at.end <= from) next_block(e, &s->at);
    if (s->at.end >= start + GROUP) {
        const __m256 scale = rounding_scale(rounding_exponent(e, s->at.block), stochastic);
        for (int i = 0; i < GROUP; i += 8) _mm256_storeu_ps(s->of + i, scale);
        s->alike = s->at.end;
        return;
    }
    for (long i = from; i < to;) {
        if (s->at.end == i) next_block(e, &s->at);
        const int exponent = rounding_exponent(e, s->at.block);
        const float scale = scale_to_round(exponent, stochastic);
        for (const long end = least(to, s->at.end); i < end; i++) s->of[i - start] = scale;
    }
}

/* A group of elements, whose random bits are `drawn`; draws those of the group `next`. Each has a
 * scale of its own where there are `scales`. */
INLINE void round_group(const float *x, void *out, drawn_t *drawn, uint64_t next,
                        const float *scales, __m256 scale, int wide, const philox_constants *key) {
    __m256i made[4];
    philox_lanes lanes;
    if (key) lanes = philox_start(next);
    prefetch_group(x);
#pragma GCC unroll 8
    for (int d = 0; d < DRAWS; d++, x += 16) {
        if (key && d < PHILOX_ROUNDS - 1) philox_lanes_round(&lanes, key, d);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m256i *to = &made[d % 2 * 2 + i];
            const __m256 v = _mm256_loadu_ps(x + 8 * i);
            if (scales) scale = _mm256_loadu_ps(scales + 16 * d + 8 * i);
            if (key && !wide)
                *to = fine_mantissas(v, scale, drawn_by(drawn, d, i));
            else
                *to = mantissas(v, scale, drawn_by(drawn, d, i), key != NULL);
        }
        if (wide)
            STORE((int16_t *)out + 16 * d, packed16(made[d % 2 * 2], made[d % 2 * 2 + 1]));
        else if (d % 2)
            STORE((int8_t *)out + 16 * (d - 1),
                  packed8(made[0], made[1], made[2], made[3], key != NULL));
    }
    if (key) philox_lanes_words(&lanes, key, drawn);
}

INLINE void round_run(const float *x, void *out, long first, long n, const blocks_t *e, int wide,
                      const philox_constants *key) {
    const int size = wide ? 2 : 1;
    const long period = e->count * e->run;
    scales_t scales = {{0}, place_of(e, first), 0};
    uint64_t group = (uint64_t)first / GROUP;
    drawn_t drawn = {{{_mm256_setzero_si256()}}};
    if (key) philox_vectors(key, group, &drawn);
    long start = -(first % GROUP);
    while (start < n) {
        const long from = most(start, 0), to = least(start + GROUP, n), skipped = from - start;
        const float *each = scales.of;
        if (e->scales)
            each = e->scales + (first + start) % period;
        else
            take_scales(&scales, e, start, from, to, key != NULL);
        const __m256 scale = _mm256_loadu_ps(scales.of);
        const long alike = start < 0 ? start : least(n, scales.alike);
        if (start + GROUP <= alike) {
            for (; start + GROUP <= alike; start += GROUP)
                round_group(x + start, (char *)out + size * start, &drawn, ++group, NULL, scale,
                            wide, key);
            continue;
        }
        const int whole = to - from == GROUP;
        float some[GROUP] = {0};
        int16_t made[GROUP];
        if (!whole) memcpy(some + skipped, x + from, 4 * (size_t)(to - from));
        round_group(whole ? x + start : some, whole ? (char *)out + size * start : (char *)made,
                    &drawn, ++group, each, scale, wide, key);
        if (!whole)
            memcpy((char *)out + size * from, (char *)made + size * skipped,
                   (size_t)(size * (to - from)));
        start += GROUP;
    }
}

#define ROUND_RUN(name, WIDE, KEY)                                                     \
    static void name(const float *x, void *out, long first, long n, const blocks_t *e, \
                     const philox_constants *key) {                                    \
        (void)key;                                                                     \
        round_run(x, out, first, n, e, WIDE, KEY);                                     \
    }
ROUND_RUN(round_stochastic8, 0, key)
ROUND_RUN(round_stochastic16, 1, key)
ROUND_RUN(round_even8, 0, NULL)
ROUND_RUN(round_even16, 1, NULL)

static void round_avx2(const float *x, void *out, long first, long n, const blocks_t *e, int wide,
                       const philox_key *key) {
    if (!e->scales && !scale_does(lowest_exponent(e, first, n))) {
        round_loop(x, out, first, n, e, wide, key);
    } else if (key) {
        const philox_constants constants = philox_constants_of(key, 0);
        (wide ? round_stochastic16 : round_stochastic8)(x, out, first, n, e, &constants);
    } else {
        (wide ? round_even16 : round_even8)(x, out, first, n, e, NULL);
    }
}

/* 16 x 16 bytes: four rounds of interleaving rows i and i + 8. */
INLINE void transpose16(const int8_t *from, long from_row, int8_t *to, long to_row) {
    __m128i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm_loadu_si128((const void *)(from + i * from_row));
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) a[i] = b[i];
    }
    for (int i = 0; i < 16; i++) _mm_storeu_si128((void *)(to + i * to_row), a[i]);
}

static void transpose_avx2(const int8_t *from, long from_row, int8_t *to, long to_row,
                           long channels, long pixels) {
    const long full_c = channels / 16 * 16, full_p = pixels / 16 * 16;
    for (long p = 0; p < full_p; p += 16)
        for (long c = 0; c < full_c; c += 16)
            transpose16(from + c * from_row + p, from_row, to + p * to_row + c, to_row);
    for (long p = 0; p < pixels; p++)
        for (long c = p < full_p ? full_c : 0; c < channels; c++)
            to[p * to_row + c] = from[c * from_row + p];
}

#endif
