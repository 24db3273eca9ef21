/* Mantissas of two neighbouring elements at once, with the bits of `map_one`.
 *
 * A magnitude is cut to 16 fractional bits by one multiplication with a power of two: of at most 8
 * bits, t = floor(|x| * 2**(16 - exponent)) stays below 2**23, so that |x| * 2**(16 - exponent) +
 * 2**23, rounded towards zero, has t in its low bits and zeros above up to bit 24. With its sign and
 * the random bits added, the mantissa is in byte 2. To nearest, x * 2**-exponent + 1.5 * 2**23 has
 * the mantissa in its low byte. Wider mantissas are converted, which takes longer; where a float32 cannot be the power of
 * two, `map_one` takes its place. */
#pragma once

#include "arithmetic/mapping.h"
#include "arithmetic/philox.h"
#include "device.cuh"

template <typename T> __device__ __forceinline__ uint32_t packed(int32_t first, int32_t second) {
    return sizeof(T) == 1 ? __byte_perm((uint32_t)first, (uint32_t)second, 0x7740) & 0xFFFF
                          : __byte_perm((uint32_t)first, (uint32_t)second, 0x5410);
}

/* Rarely needed, and long: called, so that loops stay short. */
template <typename T, bool STOCHASTIC>
__device__ __noinline__ uint32_t map_pair(uint32_t x0, uint32_t x1, int exponent, uint32_t drawn) {
    return packed<T>(map_one(x0, exponent, STOCHASTIC, drawn),
                     map_one(x1, exponent, STOCHASTIC, antithetic(drawn)));
}

template <typename T, bool STOCHASTIC> struct rounder {
    int exponent;
    bool scaled;
    uint32_t kept; /* all bits, or none of a tensor that is not finite */
    float scale;

    __device__ __forceinline__ rounder(int exponent, bool finite)
        : exponent(exponent),
          scaled(exponent >= FRACTION_BITS - 127),
          kept(finite ? ~0u : 0),
          scale(scaled ? scale_of((STOCHASTIC ? FRACTION_BITS : 0) - exponent) : 0.0f) {}

    /* Mantissas of patterns x0 and x1, neighbours that share `drawn`, in the low bits. */
    __device__ __forceinline__ uint32_t pair(uint32_t x0, uint32_t x1, uint32_t drawn) const {
        if (!scaled) return kept & map_pair<T, STOCHASTIC>(x0, x1, exponent, drawn);
        const float f0 = float_of(x0), f1 = float_of(x1);
        if (sizeof(T) == 1) {
            if (!STOCHASTIC) {
                const float middle = 12582912.0f;
                return kept &
                       __byte_perm(pattern_of(__fmaf_rn(f0, scale, middle)),
                                   pattern_of(__fmaf_rn(f1, scale, middle)), 0x7740) &
                       0xFFFF;
            }
            const uint32_t t0 = pattern_of(__fmaf_rz(fabsf(f0), scale, 8388608.0f));
            const uint32_t t1 = pattern_of(__fmaf_rz(fabsf(f1), scale, 8388608.0f));
            return kept &
                   __byte_perm(signed_by(t0, x0) + drawn, signed_by(t1, x1) + antithetic(drawn),
                               0x7762) &
                   0xFFFF;
        }
        if (!STOCHASTIC)
            return kept & packed<T>(__float2int_rn(f0 * scale), __float2int_rn(f1 * scale));
        /* The high halves are the mantissas. */
        return kept & __byte_perm(__float2int_rz(f0 * scale) + drawn,
                                  __float2int_rz(f1 * scale) + antithetic(drawn), 0x7632);
    }

   private:
    static __device__ __forceinline__ uint32_t signed_by(uint32_t magnitude, uint32_t pattern) {
        const uint32_t sign = (uint32_t)((int32_t)pattern >> 31);
        return (magnitude ^ sign) - sign;
    }
};
