/* One element to an integer and back: paper sections 3.1 and 3.2, reference/mapping.py. */
#pragma once

#include "arithmetic/number.h"

enum { ZEROS_EXPONENT = -512 }; /* of a block of zeros beside others: numerics/fixed_point.py */

/* The exponent of a tensor of `bits` bits whose largest magnitude is `top`, finite. */
MMINT_FUNCTION int exponent_of(uint32_t top, int bits) {
    const int p = bits - 1;
    if (!top) return 0;
    const int scale = int_max(field_of(top), 1) + (mantissa24_of(top) > most_of(p) << (24 - p));
    return scale - 126 - p;
}

/* The integer x / 2**exponent of a float32 pattern, rounded with `drawn` or to nearest. */
MMINT_FUNCTION int64_t quantize_one(uint32_t pattern, int exponent, bool stochastic,
                                    uint32_t drawn) {
    const uint32_t magnitude = pattern & 0x7FFFFFFF;
    const int shift = exponent + 150 - int_max(field_of(magnitude), 1);
    const uint64_t mantissa = mantissa24_of(magnitude);
    return stochastic ? shift_right_stochastic(with_sign(mantissa, pattern >> 31), shift, drawn)
                      : with_sign(shift_right_even(mantissa, shift), pattern >> 31);
}

/* A float32 pattern in units of 2**exponent with 16 fraction bits, cut towards zero, where no element
 * of the tensor is above its exponent's range: with p <= 15 bits the shift is at least 24 - p >= 9,
 * so that 32 bits hold mantissa24 << 16 >> shift. */
MMINT_FUNCTION int32_t fine_of(uint32_t pattern, int exponent) {
    const uint32_t magnitude = pattern & 0x7FFFFFFF, mantissa = mantissa24_of(magnitude);
    const int cut = exponent + 150 - int_max(field_of(magnitude), 1) - FRACTION_BITS;
    const int32_t fine = (int32_t)(cut >= 0 ? mantissa >> int_min(cut, 31) : mantissa << -cut);
    return pattern >> 31 ? -fine : fine;
}

/* As `quantize_one`, where `fine_of` is right. */
MMINT_FUNCTION int32_t map_one(uint32_t pattern, int exponent, bool stochastic, uint32_t drawn) {
    if (stochastic) return (fine_of(pattern, exponent) + (int32_t)drawn) >> FRACTION_BITS;
    const uint32_t magnitude = pattern & 0x7FFFFFFF, mantissa = mantissa24_of(magnitude);
    const int shift = exponent + 150 - int_max(field_of(magnitude), 1);
    const int right = int_min(shift, 25); /* further right all is rounded to zero */
    const uint32_t kept = mantissa >> right, rest = mantissa - (kept << right);
    const uint32_t half = 1u << (right - 1);
    const int32_t rounded = (int32_t)(kept + (rest > half || (rest == half && (kept & 1))));
    return pattern >> 31 ? -rounded : rounded;
}

/* The float32 nearest to mantissa * 2**exponent, rounded once, ties to even; |exponent| < 2**30. */
MMINT_FUNCTION float dequantize_one(int64_t mantissa, int exponent) {
    if (!mantissa) return 0.0f;
    const uint64_t magnitude = magnitude_of(mantissa);
    const int shift = int_max(bit_length(magnitude) - 24, -149 - exponent);
    const int field = shift + exponent + 149;
    uint32_t pattern = 0x7F800000;
    if (field < 255) {
        const uint32_t made =
            ((uint32_t)field << 23) + (uint32_t)shift_right_even(magnitude, shift);
        if (made < pattern) pattern = made;
    }
    return float_of(pattern | (mantissa < 0 ? 0x80000000u : 0));
}

/* An exponent of any size within those that `dequantize_one` takes; no float32 tells them apart. */
MMINT_FUNCTION int clamped_exponent(int64_t exponent) {
    return exponent > 100000 ? 100000 : exponent < -100000 ? -100000 : (int)exponent;
}

/* ---- integers that share an exponent ---- */

/* Is an integer of at most 2**bits, as float32, times 2**exponent normal or zero? The conversion is
 * then the only rounding. */
enum { SCALED_INT32 = 31, SCALED_INT64 = 63 };

MMINT_FUNCTION bool scale_is_exact(int64_t exponent, int bits) {
    return exponent >= -126 && exponent <= 127 - bits;
}

MMINT_FUNCTION float scale_of(int exponent) { return float_of((uint32_t)(exponent + 127) << 23); }

typedef struct {
    int exponent;
    float factor; /* 2**exponent where that is exact for int64, else 0 */
} scale_t;

MMINT_FUNCTION scale_t scale_at(int exponent) {
    const scale_t scale = {exponent,
                           scale_is_exact(exponent, SCALED_INT64) ? scale_of(exponent) : 0.0f};
    return scale;
}

/* As `dequantize_one`. */
MMINT_FUNCTION float scaled_int32(int32_t integer, scale_t scale) {
    return scale.factor != 0.0f ? (float)integer * scale.factor
                                : dequantize_one(integer, scale.exponent);
}

MMINT_FUNCTION float scaled_int64(int64_t integer, scale_t scale) {
    return scale.factor != 0.0f ? (float)integer * scale.factor
                                : dequantize_one(integer, scale.exponent);
}
