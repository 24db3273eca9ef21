/* Mantissas of eight elements at once, for exponents at which powers of two do.
 *
 * A number is cut to 16 fractional bits, towards zero, by a multiplication with a power of two,
 * which adds to its exponent, and a conversion: t = (int32)(x * 2**(16 - exponent)). The product is
 * exact, or subnormal and cut to 0 whatever it is; where no element exceeds what `exponent` is for,
 * its magnitude is at most (2**p - 1) * 2**16, so that t and the random bits added to it stay below
 * 2**31. */
#ifndef MMINT_AVX2_ROUNDING_H
#define MMINT_AVX2_ROUNDING_H

#include <immintrin.h>

#include "elements/mapping_loops.h"

INLINE __m256 rounding_scale(int exponent, int stochastic) {
    return _mm256_set1_ps(scale_to_round(exponent, stochastic));
}

/* Mantissas with 16 fractional bits, to which `drawn` are added. */
INLINE __m256i fine_mantissas(__m256 x, __m256 scale, __m256i drawn) {
    return _mm256_add_epi32(_mm256_cvttps_epi32(_mm256_mul_ps(x, scale)), drawn);
}

/* `drawn` counts where `stochastic`; else to nearest even, as the processor converts. */
INLINE __m256i mantissas(__m256 x, __m256 scale, __m256i drawn, int stochastic) {
    if (!stochastic) return _mm256_cvtps_epi32(_mm256_mul_ps(x, scale));
    return _mm256_srai_epi32(fine_mantissas(x, scale, drawn), FRACTION_BITS);
}

/* 32 int8 of 32 elements: a and b of the first 16 of them, c and d of the others. */
INLINE __m256i packed8(__m256i a, __m256i b, __m256i c, __m256i d, int stochastic) {
    if (!stochastic)
        return _mm256_permutevar8x32_epi32(
            _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)),
            _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    /* of fine mantissas: their high halves, elements k and k + 8 side by side */
    const __m256i ab = _mm256_blend_epi16(_mm256_srli_epi32(a, FRACTION_BITS), b, 0xAA);
    const __m256i cd = _mm256_blend_epi16(_mm256_srli_epi32(c, FRACTION_BITS), d, 0xAA);
    const __m256i apart = _mm256_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 0,
                                           2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(_mm256_packs_epi16(ab, cd), apart),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* 16 int16 of 16 elements. */
INLINE __m256i packed16(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
}

#endif
