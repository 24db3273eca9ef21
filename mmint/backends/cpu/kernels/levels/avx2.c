/* AVX2 and FMA. */
#include "machine.h"

#if MMINT_X86

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* All functions of this file are for these instructions. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "avx2_mapping.h"
#include "avx2_packing.h"
#include "avx2_philox.h"
#include "avx2_rounding.h"
#include "avx2_sgd.h"
#include "avx2_taps.h"
#include "avx2_tile.h"
#include "avx2_transpose.h"
#include "level.h"
#include "elements/addition_loops.h"
#include "elements/activation_loops.h"
#include "elements/interpolation_loops.h"
#include "elements/layer_norm_loops.h"
#include "elements/mapping_loops.h"
#include "elements/planes_loops.h"
#include "elements/pooling_loops.h"
#include "elements/source_loops.h"
#include "products/winograd_grad_loops.h"
#include "products/winograd_loops.h"

/* ---- the pieces that each level writes itself ---- */

INLINE int32_t lanes_sum(__m256i v) {
    int32_t lanes[8], total = 0;
    STORE(lanes, v);
    for (int l = 0; l < 8; l++) total += lanes[l];
    return total;
}

static void sums8(const int8_t *a, const int8_t *b, long n, int64_t *sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (long i = 0; i < n; i += SUM_BLOCK) {
        const long end = least(n, i + SUM_BLOCK);
        __m256i plain = _mm256_setzero_si256(), even = plain, odd = plain;
        long j = i;
        for (; j + 32 <= end; j += 32) {
            const __m256i a0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a + j)));
            const __m256i a1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a + j + 16)));
            const __m256i b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(b + j)));
            const __m256i b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(b + j + 16)));
            even = _mm256_add_epi32(even, _mm256_madd_epi16(a0, b0));
            odd = _mm256_add_epi32(odd, _mm256_madd_epi16(a1, b1));
            plain = _mm256_add_epi32(plain, _mm256_madd_epi16(_mm256_add_epi16(a0, a1), ones));
        }
        sum[0] += lanes_sum(plain);
        sum[1] += lanes_sum(_mm256_add_epi32(even, odd));
        if (j < end) sums8_loop(a + j, b + j, end - j, sum);
    }
}
INLINE __m256i add_widened(__m256i sum, __m256i v) {
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v));
    const __m256i high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1));
    return _mm256_add_epi64(sum, _mm256_add_epi64(low, high));
}

/* g * x is int16, and two of its products with weights are below 2**31. */
static void product_sums8(const int8_t *grad, const int8_t *x, const int16_t *weight, long n,
                          int64_t *sum) {
    __m256i plain = _mm256_setzero_si256(), product = plain;
    long i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i g = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(grad + i)));
        const __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(x + i)));
        const __m256i w = LOAD(weight + i), gv = _mm256_mullo_epi16(g, v);
        plain = add_widened(plain, _mm256_madd_epi16(w, g));
        product = add_widened(product, _mm256_madd_epi16(w, gv));
    }
    int64_t lanes[2][4];
    STORE(lanes[0], plain);
    STORE(lanes[1], product);
    for (int k = 0; k < 2; k++)
        for (int l = 0; l < 4; l++) sum[k] += lanes[k][l];
    product_sums_rest(grad, x, weight, i, n, sum, 0);
}

static inline void pack_points(int32_t *to, long point_stride, int width, int first, long groups,
                               winograd_points_t *made) {
    to += first;
    for (int point = 0; point < POINTS; point++, to += point_stride) {
        __m256i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) v[i] = LOAD(&made->point[point][i]);
        transpose8(v);
        for (long g = 0; g < groups; g++) {
            if (width == MR)
                store6((int16_t *)(to + g * width), v[g]);
            else
                STORE(to + g * width, v[g]);
        }
    }
}

static inline void stage(float (*made)[16], const f8 *f) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m256 a = (__m256)f[4 * i], b = (__m256)f[4 * i + 1];
        const __m256 c = (__m256)f[4 * i + 2], d = (__m256)f[4 * i + 3];
        const __m256d ab = (__m256d)_mm256_unpacklo_ps(a, b);
        const __m256d AB = (__m256d)_mm256_unpackhi_ps(a, b);
        const __m256d cd = (__m256d)_mm256_unpacklo_ps(c, d);
        const __m256d CD = (__m256d)_mm256_unpackhi_ps(c, d);
        const __m256 tiles[4] = {
            (__m256)_mm256_unpacklo_pd(ab, cd), (__m256)_mm256_unpackhi_pd(ab, cd),
            (__m256)_mm256_unpacklo_pd(AB, CD), (__m256)_mm256_unpackhi_pd(AB, CD)};
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++) {
            _mm_storeu_ps(made[l] + 4 * i, _mm256_castps256_ps128(tiles[l]));
            _mm_storeu_ps(made[l + 4] + 4 * i, _mm256_extractf128_ps(tiles[l], 1));
        }
    }
}

/* ---- tiles ---- */

#define MULTIPLY_AVX2(r)                                         \
    {                                                            \
        const __m256i t = _mm256_set1_epi32(a[r]);               \
        x##r = _mm256_add_epi32(x##r, _mm256_madd_epi16(t, b0)); \
        y##r = _mm256_add_epi32(y##r, _mm256_madd_epi16(t, b1)); \
    }
static void tile_avx2(TILE_PARAMETERS) { TILE_BODY(MULTIPLY_AVX2) }

/* ---- addition ---- */

/* Of the operand of the higher exponent, which goes left, and of the other one. */
typedef struct {
    __m256 scale[2], back;
    __m128i alignment;
    __m256d far, far_back; /* the same for double, which takes any alignment */
    __m256i top;
} lanes_t;

INLINE __m256d power_of_two(int exponent) {
    return _mm256_castsi256_pd(_mm256_set1_epi64x((long long)(exponent + 1023) << 52));
}

INLINE __m128 add4_far(const lanes_t *l, __m128i high, __m128i low) {
    const __m256d total =
        _mm256_add_pd(_mm256_mul_pd(_mm256_cvtepi32_pd(high), l->far), _mm256_cvtepi32_pd(low));
    return _mm256_cvtpd_ps(_mm256_mul_pd(total, l->far_back));
}

/* Eight sums, with `drawn` for the first operand. */
INLINE __m256 add8(lanes_t *l, __m256 x, __m256 y, __m256i drawn, int stochastic, int far) {
    const __m256i inverse = _mm256_xor_si256(drawn, _mm256_set1_epi32(0xFFFF));
    const __m256i high = mantissas(x, l->scale[0], drawn, stochastic);
    const __m256i low = mantissas(y, l->scale[1], inverse, stochastic);
    __m256 made;
    if (far) {
        made = _mm256_set_m128(
            add4_far(l, _mm256_extracti128_si256(high, 1), _mm256_extracti128_si256(low, 1)),
            add4_far(l, _mm256_castsi256_si128(high), _mm256_castsi256_si128(low)));
    } else {
        const __m256i total = _mm256_add_epi32(_mm256_sll_epi32(high, l->alignment), low);
        made = _mm256_mul_ps(_mm256_cvtepi32_ps(total), l->back);
    }
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), made);
    l->top = _mm256_max_epu32(l->top, _mm256_castps_si256(magnitude));
    return made;
}

/* A group of elements, whose random bits are `drawn`; draws those of the group `next`. */
INLINE void add_span(lanes_t *l, const float *x, const float *y, float *out, uint64_t next,
                     drawn_t *drawn, const philox_constants *key, int far) {
    philox_lanes lanes;
    if (key) lanes = philox_start(next);
    prefetch_group(x);
    prefetch_group(y);
#pragma GCC unroll 8
    for (int d = 0; d < DRAWS; d++) {
        if (key && d < PHILOX_ROUNDS - 1) philox_lanes_round(&lanes, key, d);
        for (int i = 0; i < 2; i++) {
            const int at = 16 * d + 8 * i;
            _mm256_storeu_ps(out + at, add8(l, _mm256_loadu_ps(x + at), _mm256_loadu_ps(y + at),
                                            drawn_by(drawn, d, i), key != NULL, far));
        }
    }
    if (key) philox_lanes_words(&lanes, key, drawn);
}

/* n elements of a group, from number `cut` of it on. */
INLINE void add_cut(lanes_t *l, const float *x, const float *y, float *out, long cut, long n,
                    uint64_t next, drawn_t *drawn, const philox_constants *key, int far) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    float made[8];
#pragma GCC unroll 4
    for (int i = 0; i < GROUP / 8; i++) {
        const long at = 8 * i - cut, from = most(at, 0), end = least(at + 8, n);
        const __m256i place = _mm256_add_epi32(lanes, _mm256_set1_epi32((int)at));
        const __m256i in = _mm256_andnot_si256(
            _mm256_srai_epi32(place, 31), _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), place));
        if (from >= end) continue;
        _mm256_storeu_ps(made,
                         add8(l, _mm256_maskload_ps(x + at, in), _mm256_maskload_ps(y + at, in),
                              drawn_by(drawn, i / 2, i % 2), key != NULL, far));
        for (long j = from; j < end; j++) out[j] = made[j - at];
    }
    if (key) philox_vectors(key, next, drawn);
}

INLINE uint32_t add_usual(const sum_t *s, const float *const *of, float *out, long first, long n,
                          int stochastic, int far) {
    const addition_t *a = &s->plan;
    const int higher = !a->counts[0] || (a->counts[1] && a->exponent[1] > a->exponent[0]);
    const philox_constants constants = philox_constants_of(&s->key, higher);
    const philox_constants *key = stochastic ? &constants : NULL;
    const float *x = of[higher], *y = of[!higher];
    lanes_t l = {.back = _mm256_set1_ps(scale_of(a->low)),
                 .alignment = _mm_cvtsi32_si128(a->high - a->low),
                 .far = power_of_two(a->high - a->low),
                 .far_back = power_of_two(a->low),
                 .top = _mm256_setzero_si256()};
    for (int i = 0; i < 2; i++) {
        const int t = i ? !higher : higher;
        l.scale[i] =
            a->counts[t] ? rounding_scale(a->exponent[t], stochastic) : _mm256_setzero_ps();
    }
    drawn_t drawn = {{{_mm256_setzero_si256()}}};
    uint64_t next = (uint64_t)first / GROUP;
    if (key) philox_vectors(key, next, &drawn);
    const long cut = first % GROUP;
    long i = 0;
    if (cut) {
        i = least(n, GROUP - cut);
        add_cut(&l, x, y, out, cut, i, ++next, &drawn, key, far);
    }
    for (; i + GROUP <= n; i += GROUP)
        add_span(&l, x + i, y + i, out + i, ++next, &drawn, key, far);
    if (i < n) add_cut(&l, x + i, y + i, out + i, 0, n - i, ++next, &drawn, key, far);
    uint32_t lanes[8], top = 0;
    _mm256_storeu_si256((void *)lanes, l.top);
    for (int j = 0; j < 8; j++) top = lanes[j] > top ? lanes[j] : top;
    return top;
}

static uint32_t add_avx2(const sum_t *s, const float *const *x, float *out, long first, long n) {
    if (!s->usual) return add_loop(s, x, out, first, n);
    if (s->far) return add_usual(s, x, out, first, n, s->stochastic, 1);
    return s->stochastic ? add_usual(s, x, out, first, n, 1, 0)
                         : add_usual(s, x, out, first, n, 0, 0);
}

/* ---- ReLU ---- */

INLINE __m256i larger(__m256i top, __m256 made) {
    const __m256i magnitude = _mm256_and_si256((__m256i)made, _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_max_epu32(top, magnitude);
}

INLINE uint32_t largest(__m256i top) {
    uint32_t lanes[8];
    _mm256_storeu_si256((void *)lanes, top);
    return top_loop(lanes, 8);
}

static uint32_t relu_avx2(const float *x, float *out, uint8_t *passed, long n, float ceiling) {
    const __m256 zero = _mm256_setzero_ps(), most = _mm256_set1_ps(ceiling);
    __m256i seen = _mm256_setzero_si256();
    long i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256 above = _mm256_cmp_ps(v, zero, _CMP_GT_OQ);
        const __m256 below = _mm256_cmp_ps(v, most, _CMP_NGE_UQ);
        passed[i / 8] = (uint8_t)_mm256_movemask_ps(_mm256_and_ps(above, below));
        /* not v < 0, so that NaN and -0 stay, as in PyTorch */
        const __m256 negative = _mm256_cmp_ps(v, zero, _CMP_LT_OQ);
        const __m256 made = _mm256_min_ps(most, _mm256_andnot_ps(negative, v));
        _mm256_storeu_ps(out + i, made);
        seen = larger(seen, made);
    }
    return relu_rest(x, out, passed, i, n, ceiling, largest(seen));
}

static uint32_t relu_grad_avx2(const float *g, float *out, const uint8_t *passed, long n) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i seen = _mm256_setzero_si256();
    long i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i bits = _mm256_and_si256(_mm256_set1_epi32(passed[i / 8]), bit);
        const __m256 kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, bit));
        const __m256 made = _mm256_and_ps(kept, _mm256_loadu_ps(g + i));
        _mm256_storeu_ps(out + i, made);
        seen = larger(seen, made);
    }
    return relu_grad_rest(g, out, passed, i, n, largest(seen));
}

void fill_avx2(level_t *t) {
    t->name = "avx2";
    t->pairs.tile = tile_avx2;
    t->pairs.pack_rows = pack_rows_avx2;
    t->pairs.pack_columns = pack_columns_avx2;
    t->bytes = t->pairs;
    t->lay_plane = lay_plane_avx2;
    t->tap_sums = tap_sums_avx2;
    t->tap_products = tap_products_avx2;
    t->finish_sums = finish_sums_loop;
    t->winograd_filters = winograd_filters_loop;
    t->winograd_inputs = winograd_inputs_loop;
    t->winograd_outputs = winograd_outputs_loop;
    t->winograd_grad_transform = winograd_grad_transform_loop;
    t->winograd_grad_output = winograd_grad_output_loop;
    t->top = top_avx2;
    t->raise = raise_loop;
    t->round = round_avx2;
    t->transpose = transpose_avx2;
    t->add = add_avx2;
    t->relu = relu_avx2;
    t->relu_grad = relu_grad_avx2;
    t->sums8 = sums8;
    t->combine8 = combine8_loop;
    t->extremes8 = extremes8_loop;
    t->cut = cut_loop;
    t->layer_norm = layer_norm_loop;
    t->layer_norm_grad = layer_norm_grad_loop;
    t->average = average_loop;
    t->average_grad = average_grad_loop;
    t->interpolate = interpolate_loop;
    t->interpolate_grad = interpolate_grad_loop;
    t->sgd = sgd_avx2;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
