/* Layer norm's rows: reference/norms.
 *
 * Weights are 16-bit mantissas, normalised elements have 15 bits and a bias 30, so that int32 holds
 * what a row becomes; backward, |p * weight * G + q * X + r| < 2**(bits + 38). */
#pragma once

#include "arithmetic/coefficients.h"

enum { LAYER_WEIGHT_BITS = 16, NORMALISED_BITS = 15, LAYER_SHIFT_BITS = 30 };

/* Of normalised elements: that of 2**ceil(log2(size) / 2) over 2**15. */
MMINT_FUNCTION int normalised_exponent(int64_t size) {
    return (bit_length((uint64_t)(size - 1)) + 1) / 2 - NORMALISED_BITS;
}

/* p * X + r becomes a normalised element by going right. */
MMINT_FUNCTION coefficients_t normalising(spread_t spread, int64_t s1, int64_t size, int exponent,
                                          int bits) {
    const wide_t scale = forward_scale(from_integer(1), spread, exponent);
    return forward_coefficients(scale, wide_of(0, 0), s1, size, bits);
}

/* The exponent of a row's results: that of products of normalised elements and weights, if any
 * weight is not zero, and high enough for the bias. */
MMINT_FUNCTION int affine_exponent(bool any_weight, int product, uint32_t bias_top) {
    int exponent = any_weight ? product : LOWEST;
    if (bias_top)
        exponent = int_max(exponent, int_max(field_of(bias_top), 1) - 126 - LAYER_SHIFT_BITS);
    return exponent == LOWEST ? 0 : exponent;
}

/* Of G times weights over X, for `backward_coefficients`. */
MMINT_FUNCTION int layer_wider(int grad_bits, int bits) {
    return grad_bits + LAYER_WEIGHT_BITS - 1 - bits;
}
