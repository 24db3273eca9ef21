/* Numbers of a norm's group, as reference/wide.py defines them: mantissa * 2**exponent with
 * 2**30 <= |mantissa| < 2**31 or mantissa 0, rounded to nearest even by every operation. Nothing
 * here overflows: products and aligned sums stay below 2**62, integers of sums below 2**127. */
#pragma once

#include "arithmetic/mapping.h"

enum { WIDTH = 31, LOWEST = -(1 << 20) }; /* LOWEST: below any exponent */

typedef struct {
    int64_t mantissa;
    int exponent;
} wide_t;

MMINT_FUNCTION wide_t wide_of(int64_t mantissa, int exponent) {
    const wide_t made = {mantissa, exponent};
    return made;
}

/* Below 2**62. */
MMINT_FUNCTION wide_t narrow(int64_t integer, int exponent) {
    const int shift = bit_length(magnitude_of(integer)) - WIDTH;
    const uint64_t rounded = shift_either_way_even(magnitude_of(integer), shift);
    const int carried = (int)(rounded >> WIDTH); /* rounding up may give 2**31 */
    return wide_of(with_sign(rounded >> carried, integer < 0), exponent + shift + carried);
}

/* What is cut off leaves a bit behind, so that there is one rounding. */
MMINT_FUNCTION wide_t from_integer(int128_t integer) {
    uint128_t magnitude = (uint128_t)integer;
    if (integer < 0) magnitude = 0 - magnitude;
    const uint64_t high = (uint64_t)(magnitude >> 64);
    const int length = high ? 64 + bit_length(high) : bit_length((uint64_t)magnitude);
    const int cut = int_max(0, length - 61);
    const uint64_t kept = (uint64_t)(magnitude >> cut);
    const uint64_t rest = magnitude != (uint128_t)kept << cut;
    return narrow(with_sign(kept | rest, integer < 0), cut);
}

/* Finite, exact. */
MMINT_FUNCTION wide_t from_float(float x) {
    const uint32_t pattern = pattern_of(x), magnitude = pattern & 0x7FFFFFFF;
    return narrow(with_sign(mantissa24_of(magnitude), pattern >> 31),
                  int_max(field_of(magnitude), 1) - 150);
}

MMINT_FUNCTION float to_float(wide_t a) { return dequantize_one(a.mantissa, a.exponent); }

MMINT_FUNCTION wide_t shifted(wide_t a, int power) {
    return wide_of(a.mantissa, a.exponent + power);
}

MMINT_FUNCTION wide_t negated(wide_t a) { return wide_of(-a.mantissa, a.exponent); }

MMINT_FUNCTION wide_t multiply(wide_t a, wide_t b) {
    return narrow(a.mantissa * b.mantissa, a.exponent + b.exponent);
}

/* a / 2**exponent to nearest even; the caller sees to it that it fits. */
MMINT_FUNCTION int64_t to_integer(wide_t a, int exponent) {
    if (!a.mantissa) return 0;
    return with_sign(shift_either_way_even(magnitude_of(a.mantissa), exponent - a.exponent),
                     a.mantissa < 0);
}

MMINT_FUNCTION wide_t plus(wide_t a, wide_t b) {
    const int common =
        int_max(a.mantissa ? a.exponent : LOWEST, b.mantissa ? b.exponent : LOWEST) - 30;
    return narrow(to_integer(a, common) + to_integer(b, common), common);
}

/* b > 0 */
MMINT_FUNCTION wide_t divide(wide_t a, wide_t b) {
    const uint64_t quotient = (magnitude_of(a.mantissa) << 32) / (uint64_t)b.mantissa;
    return narrow(with_sign(quotient, a.mantissa < 0), a.exponent - b.exponent - 32);
}

/* 1 / sqrt(a), a > 0: Newton's steps for the integer square root, from above. */
MMINT_FUNCTION wide_t inverse_root(wide_t a) {
    const int odd = (a.exponent - WIDTH) & 1, half = (a.exponent - WIDTH + odd) >> 1;
    const uint64_t d = (uint64_t)a.mantissa << (31 - odd);
    uint64_t root = (uint64_t)1 << 31;
    for (int step = 0; step < 5; step++) root = (root + d / root) >> 1;
    root -= root * root > d;
    return narrow((int64_t)(((uint64_t)1 << 61) / root), -61 - half);
}

/* The lowest exponent at which it is at most 2**bits. */
MMINT_FUNCTION int top_exponent(wide_t a, int bits) {
    return a.mantissa ? a.exponent + WIDTH - bits : LOWEST;
}

/* value / divisor to nearest, ties to even; divisor > 0, the quotient fits. */
MMINT_FUNCTION int64_t divide_even(int128_t value, int64_t divisor) {
    int64_t quotient, rest;
    if (value == (int64_t)value) {
        quotient = (int64_t)value / divisor;
        rest = (int64_t)value % divisor;
    } else {
        quotient = (int64_t)(value / divisor);
        rest = (int64_t)(value % divisor);
    }
    if (rest < 0) {
        quotient--;
        rest += divisor;
    }
    return quotient + (rest > divisor - rest || (rest == divisor - rest && (quotient & 1)));
}
