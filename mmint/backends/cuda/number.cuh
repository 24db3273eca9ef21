/* Scalar forms of the mappings in reference/mapping.py, for any shift and exponent. */
#pragma once

#include "device.cuh"

enum { FRACTION_BITS = 16 };

/* The largest mantissa of p = bits - 1 bits. */
__device__ __forceinline__ uint32_t most_of(int p) { return (1u << p) - 1; }

__device__ __forceinline__ int bit_length(uint64_t magnitude) {
    return 64 - __clzll((long long)magnitude);
}

__device__ __forceinline__ uint64_t magnitude_of(int64_t x) {
    return x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
}

__device__ __forceinline__ int64_t with_sign(uint64_t magnitude, bool negative) {
    return negative ? -(int64_t)magnitude : (int64_t)magnitude;
}

/* magnitude / 2**shift to nearest, ties to even; negative shifts go left. */
__device__ __forceinline__ uint64_t shift_right_even(uint64_t magnitude, int shift) {
    if (shift <= 0) return shift < -63 ? 0 : magnitude << -shift;
    if (shift > 63) return 0;
    const uint64_t kept = magnitude >> shift, rest = magnitude - (kept << shift);
    const uint64_t half = (uint64_t)1 << (shift - 1);
    return kept + (rest > half || (rest == half && (kept & 1)));
}

/* magnitude / 2**shift rounded up with 16 random bits; magnitude below 2**47 where 0 < shift < 16. */
__device__ __forceinline__ uint64_t shift_right_stochastic(uint64_t magnitude, int shift,
                                                           uint32_t drawn) {
    if (shift <= 0) return shift < -63 ? 0 : magnitude << -shift;
    const int cut = shift - FRACTION_BITS;
    const uint64_t fine = cut > 62 ? 0 : cut >= 0 ? magnitude >> cut : magnitude << -cut;
    return (fine + drawn) >> FRACTION_BITS;
}

/* Of a float32's pattern without sign: exponent field, and 24-bit mantissa. */
__device__ __forceinline__ int field_of(uint32_t magnitude) { return (int)(magnitude >> 23); }

__device__ __forceinline__ uint32_t mantissa24_of(uint32_t magnitude) {
    return (magnitude & 0x7FFFFF) | (uint32_t)(magnitude >> 23 > 0) << 23;
}

__device__ __forceinline__ bool is_finite(uint32_t magnitude) { return magnitude < 0x7F800000; }

/* The exponent of a tensor whose largest magnitude is `top`, finite. */
__device__ __forceinline__ int exponent_of(uint32_t top, int bits) {
    const int p = bits - 1;
    if (!top) return 0;
    const int scale = max(field_of(top), 1) + (mantissa24_of(top) > most_of(p) << (24 - p));
    return scale - 126 - p;
}

/* The integer x / 2**exponent of a float32 pattern, rounded with `drawn` or to nearest. */
__device__ __forceinline__ int64_t quantize_one(uint32_t pattern, int exponent, bool stochastic,
                                                uint32_t drawn) {
    const uint32_t magnitude = pattern & 0x7FFFFFFF;
    const int shift = exponent + 150 - max(field_of(magnitude), 1);
    const uint64_t mantissa = mantissa24_of(magnitude);
    return with_sign(stochastic ? shift_right_stochastic(mantissa, shift, drawn)
                                : shift_right_even(mantissa, shift),
                     pattern >> 31);
}

/* The same where no element of the tensor is above its exponent's range: with p <= 15 bits the shift
 * is at least 24 - p >= 9, so that 32 bits hold mantissa24 << 16 >> shift. */
__device__ __forceinline__ int32_t map_one(uint32_t pattern, int exponent, bool stochastic,
                                           uint32_t drawn) {
    const uint32_t magnitude = pattern & 0x7FFFFFFF, mantissa = mantissa24_of(magnitude);
    const int shift = exponent + 150 - max(field_of(magnitude), 1);
    uint32_t rounded;
    if (stochastic) {
        const int cut = shift - FRACTION_BITS;
        const uint32_t fine = cut >= 0 ? mantissa >> min(cut, 31) : mantissa << -cut;
        rounded = (fine + drawn) >> FRACTION_BITS;
    } else {
        const int right = min(shift, 25); /* further right all is rounded to zero */
        const uint32_t kept = mantissa >> right, rest = mantissa - (kept << right);
        const uint32_t half = 1u << (right - 1);
        rounded = kept + (rest > half || (rest == half && (kept & 1)));
    }
    return pattern >> 31 ? -(int32_t)rounded : (int32_t)rounded;
}

/* The float32 nearest to mantissa * 2**exponent, rounded once, ties to even; |mantissa| < 2**62. */
__device__ __forceinline__ float dequantize_one(int64_t mantissa, int exponent) {
    if (!mantissa) return 0.0f;
    const uint64_t magnitude = magnitude_of(mantissa);
    const int shift = max(bit_length(magnitude) - 24, -149 - exponent);
    const int field = shift + exponent + 149;
    uint32_t pattern = 0x7F800000;
    if (field < 255) {
        const uint32_t rounded = (uint32_t)shift_right_even(magnitude, shift);
        pattern = min(((uint32_t)field << 23) + rounded, pattern);
    }
    return __uint_as_float(pattern | (mantissa < 0 ? 0x80000000u : 0));
}
