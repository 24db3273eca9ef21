/* Elements in the order of the logical shape, read where they lie or made where they are read:
 * arithmetic/source.h. */
#pragma once

#include "arithmetic/source.h"
#include "device.cuh"

/* float32 in memory, where there are bits `passed`, 0 but for elements whose bit is set; or, where
 * `x` is NULL, made of mantissas (images, pixels, channels), and of others unless NULL, with
 * coefficients [channels], or [images][channels]. `ceiling` is a pattern, or -1. */
struct source {
    const uint32_t *x;
    const uint8_t *passed;
    const void *mantissas, *others;
    const coefficients_t *coefficients;
    int64_t channels, pixels, per_image, wide, ceiling;
};

__device__ __forceinline__ int64_t mantissa_at(const source &s, const void *of, int64_t i) {
    return s.wide ? ((const int16_t *)of)[i] : ((const int8_t *)of)[i];
}

/* What the mantissas at i make. */
__device__ __forceinline__ float made_at(const source &s, const coefficients_t *of, int64_t i,
                                         cut_t cut) {
    const int64_t x = mantissa_at(s, s.mantissas, i);
    const int64_t y = s.others ? mantissa_at(s, s.others, i) : 0;
    return s.wide ? made_of(x, y, of, cut) : made_of8((int32_t)x, (int32_t)y, of, cut);
}

/* A plane of a source that is made: its elements, and where its first mantissa is. */
struct plane {
    int64_t first, end, place;
    const coefficients_t *coefficients;
};

__device__ __forceinline__ plane no_plane() { return {0, 0, 0, nullptr}; }

/* Element i of a source that is made; `at` is the plane of an element before, or none. */
__device__ __forceinline__ float made_at(const source &s, plane &at, int64_t i, cut_t cut) {
    if (i < at.first || i >= at.end) {
        const int64_t number = quotient(i, s.pixels), image = quotient(number, s.channels);
        const int64_t channel = number - image * s.channels;
        at = {number * s.pixels, (number + 1) * s.pixels, image * s.pixels * s.channels + channel,
              s.coefficients + (s.per_image ? number : channel)};
    }
    return made_at(s, at.coefficients, at.place + (i - at.first) * s.channels, cut);
}

/* The pattern of an element of memory. */
__device__ __forceinline__ uint32_t passed_at(const source &s, int64_t i) {
    return !s.passed || s.passed[i / 8] >> i % 8 & 1 ? s.x[i] : 0;
}

/* The pattern of element i of any source. */
__device__ __forceinline__ uint32_t element(const source &s, plane &at, int64_t i) {
    return s.x ? passed_at(s, i) : pattern_of(made_at(s, at, i, cut_at(s.ceiling)));
}

/* Do the elements lie in memory as they are? */
__device__ __forceinline__ bool as_they_are(const source &s) { return s.x && !s.passed; }

/* float32 that surely lies in memory. */
struct in_memory {
    const uint32_t *x;
};
__device__ __forceinline__ uint32_t element(const in_memory &s, plane &, int64_t i) {
    return s.x[i];
}
__device__ __forceinline__ bool as_they_are(const in_memory &) { return true; }
