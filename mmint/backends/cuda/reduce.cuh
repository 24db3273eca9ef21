/* Reductions over a block of threads, whose size is a multiple of 32. */
#pragma once

#include "arithmetic/number.h"
#include "device.cuh"

template <typename T> __device__ T warp_max(T v) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2) v = max(v, __shfl_xor_sync(0xFFFFFFFFu, v, bits));
    return v;
}

#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ uint32_t warp_max(uint32_t v) {
    return __reduce_max_sync(0xFFFFFFFFu, v);
}
#endif

/* The largest `v` of the block, on every thread. */
template <typename T> __device__ T block_max(T v) {
    __shared__ T of_warp[32];
    v = warp_max(v);
    __syncthreads(); /* an earlier call's values have been read */
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
    __syncthreads();
    v = of_warp[0];
    for (int i = 1; i < (int)blockDim.x / 32; i++) v = max(v, of_warp[i]);
    return v;
}

/* The block's largest magnitude, a bit pattern, joins the largest so far in memory. */
__device__ __forceinline__ void note_top(uint32_t top, int32_t *at) {
    top = block_max(top);
    if (threadIdx.x == 0 && top) atomicMax(at, (int32_t)top);
}
