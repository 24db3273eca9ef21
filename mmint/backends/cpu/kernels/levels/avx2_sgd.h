/* The update with AVX2, eight elements at once, sums in two words of 32 bits.
 *
 * The upper word of a sum has 16 fraction bits, the lower one the 16 bits below; of a term each is
 * a shift of its product, so that no word wraps around that counts: the upper words stay below
 * 2**31, for a sum fits `bits` bits, and the lower ones are three of 16 bits. A gradient is cut by a
 * multiplication with a power of two, as in avx2_rounding.h, and what the conversion leaves behind
 * is cut again, 16 bits below; both are exact where 2**(16 - exponent) is a float32. */
#ifndef MMINT_AVX2_SGD_H
#define MMINT_AVX2_SGD_H

#include <immintrin.h>
#include <string.h>

#include "avx2_philox.h"
#include "avx2_rounding.h"
#include "elements/sgd_loops.h"

/* Shifts left, then right, of the upper and of the lower word. */
typedef struct {
    __m256i factor;
    __m128i up, down, low_up, low_down;
    int counts;
} term_lanes;

typedef struct {
    term_lanes momentum, param;
    __m256 scale;
    int has_grad;
} sum_lanes;

/* What the sum of a gradient, or of nothing, begins with. */
typedef struct {
    __m256i high, low;
} words_t;

INLINE __m128i count_of(int count) { return _mm_cvtsi32_si128((int)most(0, count)); }

INLINE term_lanes term_lanes_of(sgd_term term) {
    const int high = term.shift - FRACTION_BITS;
    return (term_lanes){_mm256_set1_epi32(term.factor & 0xFFFF),
                        count_of(high),
                        count_of(-high),
                        count_of(term.shift),
                        count_of(-term.shift),
                        term.factor != 0};
}

INLINE sum_lanes sum_lanes_of(const sgd_sum *s) {
    return (sum_lanes){term_lanes_of(s->momentum), term_lanes_of(s->param),
                       rounding_scale(s->exponent, 1), s->has_grad};
}

/* Mantissas of 16 bits in lanes of 32: the halves above them meet a factor of 0. */
INLINE void add_product(words_t *sum, const term_lanes *t, __m256i mantissa) {
    if (!t->counts) return;
    const __m256i product = _mm256_madd_epi16(mantissa, t->factor);
    const __m256i high = _mm256_sra_epi32(_mm256_sll_epi32(product, t->up), t->down);
    const __m256i low = _mm256_sra_epi32(_mm256_sll_epi32(product, t->low_up), t->low_down);
    sum->high = _mm256_add_epi32(sum->high, high);
    sum->low = _mm256_add_epi32(sum->low, _mm256_blend_epi16(low, _mm256_setzero_si256(), 0xAA));
}

INLINE words_t gradient_words(__m256 grad, __m256 scale) {
    const __m256 fine = _mm256_mul_ps(grad, scale);
    const __m256i high = _mm256_cvttps_epi32(fine);
    const __m256 rest = _mm256_sub_ps(fine, _mm256_cvtepi32_ps(high));
    return (words_t){high, _mm256_cvttps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(65536.0f)))};
}

/* The sum, rounded. */
INLINE __m256i summed(const sum_lanes *s, __m256i momentum, __m256i param, __m256 grad,
                      __m256i drawn) {
    words_t sum = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    if (s->has_grad) sum = gradient_words(grad, s->scale);
    add_product(&sum, &s->momentum, momentum);
    add_product(&sum, &s->param, param);
    const __m256i half = _mm256_set1_epi32(1 << (FRACTION_BITS - 1));
    const __m256i carry = _mm256_srai_epi32(_mm256_add_epi32(sum.low, half), FRACTION_BITS);
    const __m256i fine = _mm256_add_epi32(_mm256_add_epi32(sum.high, carry), drawn);
    return _mm256_srai_epi32(fine, FRACTION_BITS);
}

typedef struct {
    sum_lanes direction, ahead, update;
    philox_constants for_param, for_momentum, for_nesterov, for_update;
    __m256 param_scale, back;
} sgd_lanes;

/* A group; old momentum and new one are int8 where not `wide`, `old` NULL where there is none. */
INLINE void sgd_group(const sgd_lanes *l, float *param, const float *grad, const void *old,
                      void *made, int wide, int nesterov, uint64_t group) {
    drawn_t for_param, for_momentum, for_nesterov, for_update;
    __m256i off_grid = _mm256_setzero_si256();
    philox_vectors(&l->for_momentum, group, &for_momentum);
    philox_vectors(&l->for_update, group, &for_update);
    if (nesterov) philox_vectors(&l->for_nesterov, group, &for_nesterov);
    for (int i = 0; i < GROUP; i += 8) {
        const __m256 fine = _mm256_mul_ps(_mm256_loadu_ps(param + i), l->param_scale);
        off_grid = _mm256_or_si256(off_grid, _mm256_cvttps_epi32(fine));
    }
    const int rounds = !_mm256_testz_si256(off_grid, _mm256_set1_epi32(0xFFFF));
    if (rounds)
        philox_vectors(&l->for_param, group, &for_param);
    else
        memset(&for_param, 0, sizeof for_param);
    for (int d = 0; d < DRAWS; d++) {
        __m256i v[2];
        for (int i = 0; i < 2; i++) {
            const int at = 16 * d + 8 * i;
            const __m256 g = _mm256_loadu_ps(grad + at);
            const __m256i w = mantissas(_mm256_loadu_ps(param + at), l->param_scale,
                                        drawn_by(&for_param, d, i), 1);
            __m256i m = _mm256_setzero_si256();
            if (old)
                m = wide ? _mm256_cvtepi16_epi32(
                               _mm_loadu_si128((const void *)((const int16_t *)old + at)))
                         : _mm256_cvtepi8_epi32(
                               _mm_loadl_epi64((const void *)((const int8_t *)old + at)));
            m = v[i] = summed(&l->direction, m, w, g, drawn_by(&for_momentum, d, i));
            if (nesterov) m = summed(&l->ahead, m, w, g, drawn_by(&for_nesterov, d, i));
            const __m256i stepped = summed(&l->update, m, w, g, drawn_by(&for_update, d, i));
            _mm256_storeu_ps(param + at, _mm256_mul_ps(_mm256_cvtepi32_ps(stepped), l->back));
        }
        if (!made) continue;
        const __m256i packed = packed16(v[0], v[1]);
        if (wide)
            _mm256_storeu_si256((void *)((int16_t *)made + 16 * d), packed);
        else
            _mm_storeu_si128((void *)((int8_t *)made + 16 * d),
                             _mm_packs_epi16(_mm256_castsi256_si128(packed),
                                             _mm256_extracti128_si256(packed, 1)));
    }
}

INLINE void sgd_groups(const sgd_task_t *t, const sgd_lanes *l, long first, long n, int wide,
                       int nesterov) {
    const update_t *u = t->of;
    const long size = wide ? 2 : 1;
    long at = first;
    for (; at + GROUP <= first + n; at += GROUP) {
        char *momentum = u->momentum ? (char *)u->momentum + size * at : NULL;
        sgd_group(l, u->param + at, u->grad + at, u->is_first ? NULL : momentum, momentum, wide,
                  nesterov, (uint64_t)at / GROUP);
    }
    if (at == first + n) return;
    float param[GROUP] = {0}, grad[GROUP] = {0};
    int16_t momentum[GROUP] = {0};
    const size_t left = (size_t)(first + n - at);
    char *kept = u->momentum ? (char *)u->momentum + size * at : NULL;
    memcpy(param, u->param + at, 4 * left);
    memcpy(grad, u->grad + at, 4 * left);
    if (kept && !u->is_first) memcpy(momentum, kept, (size_t)size * left);
    sgd_group(l, param, grad, momentum, momentum, wide, nesterov, (uint64_t)at / GROUP);
    memcpy(u->param + at, param, 4 * left);
    if (kept) memcpy(kept, momentum, (size_t)size * left);
}

static void sgd_avx2(const sgd_task_t *t, long first, long n) {
    if (!t->usual) {
        sgd_loop(t, first, n);
        return;
    }
    const sgd_plan *p = &t->plan;
    const sgd_lanes l = {sum_lanes_of(&p->direction),
                         sum_lanes_of(&p->ahead),
                         sum_lanes_of(&p->update),
                         philox_constants_of(&t->for_param, 0),
                         philox_constants_of(&t->for_momentum, 0),
                         philox_constants_of(&t->for_nesterov, 0),
                         philox_constants_of(&t->for_update, 0),
                         rounding_scale(p->param_exponent, 1),
                         _mm256_set1_ps(scale_of(p->update.exponent))};
    if (t->of->settings.bits > 8)
        p->nesterov ? sgd_groups(t, &l, first, n, 1, 1) : sgd_groups(t, &l, first, n, 1, 0);
    else
        p->nesterov ? sgd_groups(t, &l, first, n, 0, 1) : sgd_groups(t, &l, first, n, 0, 0);
}

#endif
