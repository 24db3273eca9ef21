/* What C and CUDA spell differently, under one name.
 *
 * The headers of this folder are C11 and CUDA C++17 at once: no templates and references, no
 * designated initializers and compound literals. gcc and clang compile them, nvcc, NVRTC, and g++
 * for the tests' emulator. They hold what one element, one group or one step needs; loops and tiles
 * are the backends' own. */
#pragma once

#ifdef __CUDACC_RTC__ /* brings no headers */
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
#else
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#endif

typedef __int128 int128_t;
typedef unsigned __int128 uint128_t;

#if defined(__CUDACC__) || defined(MMINT_EMULATED)
#define MMINT_CUDA 1
#define MMINT_FUNCTION __device__ __forceinline__
#define MMINT_UNROLL _Pragma("unroll")
#else
#define MMINT_CUDA 0
#define MMINT_FUNCTION static inline __attribute__((always_inline))
#define MMINT_UNROLL _Pragma("GCC unroll 16")
#endif

MMINT_FUNCTION int int_min(int a, int b) { return a < b ? a : b; }
MMINT_FUNCTION int int_max(int a, int b) { return a > b ? a : b; }

/* The bits of a float32, and back. */
MMINT_FUNCTION uint32_t pattern_of(float x) {
#if MMINT_CUDA
    return __float_as_uint(x);
#else
    uint32_t pattern;
    memcpy(&pattern, &x, sizeof pattern);
    return pattern;
#endif
}

MMINT_FUNCTION float float_of(uint32_t pattern) {
#if MMINT_CUDA
    return __uint_as_float(pattern);
#else
    float x;
    memcpy(&x, &pattern, sizeof x);
    return x;
#endif
}

/* The place of the highest bit that is set, from 1; 0 for 0. */
MMINT_FUNCTION int bit_length(uint64_t magnitude) {
#if MMINT_CUDA
    return 64 - __clzll((long long)magnitude);
#else
    return magnitude ? 64 - __builtin_clzll(magnitude) : 0;
#endif
}
