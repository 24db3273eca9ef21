/* What all kernels need: dynamic shared memory, which the emulator of the tests declares its own
 * way, the loop over more elements than threads, its divisions, and where to say that a value is not
 * finite. */
#pragma once

#include "arithmetic/language.h"

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

/* for (int64_t i = first_index(); i < n; i += stride()), in blocks and grids of one dimension. */
__device__ __forceinline__ int64_t first_index() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t stride() { return (int64_t)gridDim.x * blockDim.x; }

/* The device's flag, and the number of the call that sets it. */
struct failure {
    int32_t *flag;
    int64_t call;
};

__device__ __forceinline__ void report(const failure &f) { atomicCAS(f.flag, 0, (int32_t)f.call); }

/* a / b of numbers from 0, faster where both fit 32 bits. */
__device__ __forceinline__ int64_t quotient(int64_t a, int64_t b) {
    return (a | b) >> 32 ? a / b : (int64_t)((uint32_t)a / (uint32_t)b);
}
