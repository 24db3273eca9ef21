/* float32 of integers at an exponent that many of them share. */
#pragma once

#include "number.cuh"

struct scale {
    int exponent;
    float factor; /* 2**exponent where that times any integer below 2**62 is normal, else 0 */
};

__device__ __forceinline__ scale scale_at(int exponent) {
    const bool exact = exponent >= -126 && exponent <= 64;
    return {exponent, exact ? __uint_as_float((uint32_t)(exponent + 127) << 23) : 0.0f};
}

/* As `dequantize_one`: with a factor the conversion is the only rounding. I: int32_t or int64_t. */
template <typename I> __device__ __forceinline__ float scaled(I integer, const scale &s) {
    return s.factor != 0.0f ? (float)integer * s.factor : dequantize_one(integer, s.exponent);
}
