/* Numbers of a norm's group, bit for bit as reference/wide.py: mantissa * 2**exponent with
 * 2**30 <= |mantissa| < 2**31 or mantissa 0, rounded to nearest even by every operation. Nothing
 * here overflows: products and aligned sums stay below 2**62, integers of sums below 2**127. */
#ifndef MMINT_WIDE_H
#define MMINT_WIDE_H

#include "common.h"
#include "number.h"

enum { WIDTH = 31, LOWEST = -(1 << 20) };

typedef __int128 int128;
typedef struct {
    int64_t mantissa;
    long exponent;
} wide_t;

INLINE int64_t with_sign(uint64_t magnitude, int64_t like) {
    return like < 0 ? -(int64_t)magnitude : (int64_t)magnitude;
}

INLINE uint64_t absolute(int64_t x) { return x < 0 ? 0 - (uint64_t)x : (uint64_t)x; }

/* magnitude / 2**shift of a magnitude below 2**62, to nearest even: `shift_right_even` without
 * branches, which would go either way; at shifts of 63 and more nothing is left. */
INLINE uint64_t shift_even(uint64_t magnitude, long shift) {
    const long right = least(63, most(0, shift)), left = most(0, -shift);
    const uint64_t half = ((uint64_t)1 << right) >> 1, odd = magnitude >> right & (half > 0);
    return (magnitude + half - (half > 0) + odd) >> right << left;
}

/* Below 2**62. */
INLINE wide_t narrow(int64_t integer, long exponent) {
    const long shift = bit_length(absolute(integer)) - WIDTH;
    const uint64_t rounded = shift_even(absolute(integer), shift);
    const int carried = (int)(rounded >> WIDTH); /* rounding up may give 2**31 */
    return (wide_t){with_sign(rounded >> carried, integer), exponent + shift + carried};
}

/* What is cut off leaves a bit behind, so that there is one rounding. */
INLINE wide_t from_integer(int128 integer) {
    unsigned __int128 magnitude = (unsigned __int128)integer;
    if (integer < 0) magnitude = 0 - magnitude;
    const uint64_t high = (uint64_t)(magnitude >> 64);
    const int length = high ? 64 + bit_length(high) : bit_length((uint64_t)magnitude);
    const int cut = (int)most(0, length - 61);
    const uint64_t kept = (uint64_t)(magnitude >> cut);
    const uint64_t rest = magnitude != (unsigned __int128)kept << cut;
    return narrow(integer < 0 ? -(int64_t)(kept | rest) : (int64_t)(kept | rest), cut);
}

/* NOT_FINITE where it is not. */
INLINE int from_float(float x, wide_t *wide) {
    const uint32_t magnitude = magnitude_of(x);
    const int64_t mantissa = mantissa24_of(magnitude);
    *wide = narrow(pattern_of(x) >> 31 ? -mantissa : mantissa, most(field_of(magnitude), 1) - 150);
    return field_of(magnitude) == 255 ? NOT_FINITE : OK;
}

INLINE wide_t shifted(wide_t a, long power) { return (wide_t){a.mantissa, a.exponent + power}; }

INLINE wide_t negated(wide_t a) { return (wide_t){-a.mantissa, a.exponent}; }

INLINE wide_t multiply(wide_t a, wide_t b) {
    return narrow(a.mantissa * b.mantissa, a.exponent + b.exponent);
}

/* The caller sees to it that it fits. */
INLINE int64_t to_integer(wide_t a, long exponent) {
    if (!a.mantissa) return 0;
    return with_sign(shift_even(absolute(a.mantissa), exponent - a.exponent), a.mantissa);
}

INLINE wide_t plus(wide_t a, wide_t b) {
    const long common =
        most(a.mantissa ? a.exponent : LOWEST, b.mantissa ? b.exponent : LOWEST) - 30;
    return narrow(to_integer(a, common) + to_integer(b, common), common);
}

/* b > 0 */
INLINE wide_t divide(wide_t a, wide_t b) {
    const uint64_t quotient = (absolute(a.mantissa) << 32) / (uint64_t)b.mantissa;
    return narrow(with_sign(quotient, a.mantissa), a.exponent - b.exponent - 32);
}

/* 1 / sqrt(a), a > 0: Newton's steps for the integer square root, from above. */
INLINE wide_t rsqrt(wide_t a) {
    const long odd = (a.exponent - WIDTH) & 1, half = (a.exponent - WIDTH + odd) >> 1;
    const uint64_t d = (uint64_t)a.mantissa << (31 - odd);
    uint64_t root = (uint64_t)1 << 31;
    for (int step = 0; step < 5; step++) root = (root + d / root) >> 1;
    root -= root * root > d;
    return narrow((int64_t)(((uint64_t)1 << 61) / root), -61 - half);
}

/* The lowest exponent at which it is at most 2**bits. */
INLINE long top_exponent(wide_t a, int bits) {
    return a.mantissa ? a.exponent + WIDTH - bits : LOWEST;
}

INLINE float to_float(wide_t a) { return dequantize_one(a.mantissa, a.exponent); }

/* value / divisor to nearest, ties to even; the quotient fits. */
INLINE int64_t divide_even(int128 value, int64_t divisor) {
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

#endif
