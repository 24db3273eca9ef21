/* Scalar forms of the mappings in reference/mapping.py, for any shift and exponent. */
#ifndef MMINT_NUMBER_H
#define MMINT_NUMBER_H

#include "common.h"

enum { FRACTION_BITS = 16 };

INLINE uint32_t pattern_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

INLINE uint32_t magnitude_of(float x) { return pattern_of(x) & 0x7FFFFFFF; }

INLINE float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

INLINE uint64_t shift_right_even(uint64_t magnitude, long shift) {
    if (shift <= 0) return shift < -63 ? 0 : magnitude << -shift;
    if (shift > 63) return 0;
    uint64_t kept = magnitude >> shift, rest = magnitude - (kept << shift);
    uint64_t half = (uint64_t)1 << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

INLINE uint64_t shift_right_stochastic(uint64_t magnitude, long shift, uint32_t drawn) {
    if (shift <= 0) return shift < -63 ? 0 : magnitude << -shift;
    long cut = shift - FRACTION_BITS;
    uint64_t fine = cut > 62 ? 0 : cut >= 0 ? magnitude >> cut : magnitude << -cut;
    return (fine + drawn) >> FRACTION_BITS;
}

INLINE int bit_length(uint64_t magnitude) {
    return magnitude ? 64 - __builtin_clzll(magnitude) : 0;
}

INLINE uint32_t field_of(uint32_t magnitude) { return magnitude >> 23; }

INLINE uint32_t mantissa24_of(uint32_t magnitude) {
    uint32_t field = magnitude >> 23;
    return (magnitude & 0x7FFFFF) | (uint32_t)(field > 0) << 23;
}

/* The float32 nearest to mantissa * 2**exponent, rounded once, ties to even. */
INLINE float dequantize_one(int64_t mantissa, long exponent) {
    if (!mantissa) return 0.0f;
    uint64_t magnitude = mantissa < 0 ? 0 - (uint64_t)mantissa : (uint64_t)mantissa;
    long shift = most(bit_length(magnitude) - 24, -149 - exponent);
    int64_t pattern;
    if (shift + exponent + 149 >= 255)
        pattern = (int64_t)255 << 23;
    else
        pattern = ((int64_t)(shift + exponent + 149) << 23) +
                  (int64_t)shift_right_even(magnitude, shift);
    if (pattern > (int64_t)255 << 23) pattern = (int64_t)255 << 23;
    return float_of((uint32_t)pattern | (mantissa < 0 ? 0x80000000u : 0));
}

/* 2**exponent for exponents at which any int32 (as float32, or zero) times it is exact. */
INLINE int scale_is_exact(long exponent) { return exponent >= -126 && exponent <= 96; }
INLINE float scale_of(long exponent) { return float_of((uint32_t)(exponent + 127) << 23); }

#endif
