/* Mantissas of eight elements at once, for exponents at which powers of two do.
 *
 * A magnitude is cut to 16 fractional bits by a multiplication with a power of two, which adds to
 * its exponent, and a conversion: t = (int32)(|x| * 2**(16 - exponent)). The product is exact, or
 * subnormal and cut to 0 whatever it is; where no element exceeds what `exponent` is for, it is at
 * most (2**p - 1) * 2**16, so that t and the random bits added to it stay below 2**31. */
#ifndef MMINT_AVX2_ROUNDING_H
#define MMINT_AVX2_ROUNDING_H

#include <immintrin.h>

#include "elements/mapping_loops.h"

INLINE __m256 rounding_scale(int exponent, int stochastic) {
    return _mm256_set1_ps(scale_of((stochastic ? FRACTION_BITS : 0) - exponent));
}

INLINE __m256 rounding_scales(const int32_t *exponents, int stochastic) {
    const __m256i one = _mm256_set1_epi32(127 + (stochastic ? FRACTION_BITS : 0));
    const __m256i fields = _mm256_sub_epi32(one, _mm256_loadu_si256((const void *)exponents));
    return _mm256_castsi256_ps(_mm256_slli_epi32(fields, 23));
}

/* The random bits of the first or second eight of sixteen elements. */
INLINE __m256i drawn_half(__m256i words, int second) {
    return _mm256_cvtepu16_epi32(second ? _mm256_extracti128_si256(words, 1)
                                        : _mm256_castsi256_si128(words));
}

/* `drawn` counts where `stochastic`; else to nearest even, as the processor converts. */
INLINE __m256i mantissas(__m256 x, __m256 scale, __m256i drawn, int stochastic) {
    if (!stochastic) return _mm256_cvtps_epi32(_mm256_mul_ps(x, scale));
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
    const __m256i fine = _mm256_cvttps_epi32(_mm256_mul_ps(magnitude, scale));
    return _mm256_sign_epi32(_mm256_srli_epi32(_mm256_add_epi32(fine, drawn), FRACTION_BITS),
                             _mm256_castps_si256(x));
}

#endif
