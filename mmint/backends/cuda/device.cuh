/* What all kernels need: dynamic shared memory, which the emulator of the tests declares its own
 * way, and the loop over more elements than threads. */
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
