/* The fields of a float32, and integers that go right and are rounded: paper section 3.1. */
#pragma once

#include "arithmetic/language.h"

enum { FRACTION_BITS = 16 }; /* random bits of an element */

/* ---- float32 ---- */

/* The pattern without its sign; its exponent field, and the 24-bit mantissa, subnormals without the
 * hidden bit. */
MMINT_FUNCTION uint32_t magnitude_bits(float x) { return pattern_of(x) & 0x7FFFFFFF; }

MMINT_FUNCTION int field_of(uint32_t magnitude) { return (int)(magnitude >> 23); }

MMINT_FUNCTION uint32_t mantissa24_of(uint32_t magnitude) {
    return (magnitude & 0x7FFFFF) | (uint32_t)(magnitude >> 23 > 0) << 23;
}

MMINT_FUNCTION bool is_finite(uint32_t magnitude) { return magnitude < 0x7F800000; }

/* ---- integers ---- */

/* The largest mantissa of p = bits - 1 bits. */
MMINT_FUNCTION uint32_t most_of(int p) { return (1u << p) - 1; }

MMINT_FUNCTION uint64_t magnitude_of(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }

MMINT_FUNCTION int64_t with_sign(uint64_t magnitude, bool negative) {
    return negative ? -(int64_t)magnitude : (int64_t)magnitude;
}

/* magnitude / 2**shift to nearest, ties to even, at most 2**63; negative shifts go left. */
MMINT_FUNCTION uint64_t shift_right_even(uint64_t magnitude, int shift) {
    if (shift <= 0) return shift < -63 ? 0 : magnitude << -shift;
    if (shift > 63) return 0;
    const uint64_t kept = magnitude >> shift, rest = magnitude - (kept << shift);
    const uint64_t half = (uint64_t)1 << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

/* The same for a magnitude below 2**62 and a shift above -64, without branches, for shifts of which
 * nobody knows the direction. */
MMINT_FUNCTION uint64_t shift_either_way_even(uint64_t magnitude, int shift) {
    const int right = int_min(63, int_max(0, shift)), left = int_max(0, -shift);
    const uint64_t half = ((uint64_t)1 << right) >> 1, odd = magnitude >> right & (half > 0);
    return (magnitude + half - (half > 0) + odd) >> right << left;
}

/* integer / 2**shift, cut to 16 fraction bits towards zero, and with `drawn` random bits added there
 * rounded down; below 2**47 where 0 < shift < 16. */
MMINT_FUNCTION int64_t shift_right_stochastic(int64_t integer, int shift, uint32_t drawn) {
    const uint64_t magnitude = magnitude_of(integer);
    if (shift <= 0) return with_sign(shift < -63 ? 0 : magnitude << -shift, integer < 0);
    const int cut = shift - FRACTION_BITS;
    const uint64_t fine = cut > 62 ? 0 : cut >= 0 ? magnitude >> cut : magnitude << -cut;
    return (with_sign(fine, integer < 0) + drawn) >> FRACTION_BITS;
}
