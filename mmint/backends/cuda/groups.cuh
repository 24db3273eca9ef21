/* Elements that share an exponent: of n elements, i is in group i / run % count. */
#pragma once

#include "reduce.cuh"

/* Of the blocks that share some work: which this one is, and how many they are. */
struct crew {
    int64_t block, blocks;

    __device__ __forceinline__ int64_t first_index() const {
        return block * blockDim.x + threadIdx.x;
    }
    __device__ __forceinline__ int64_t stride() const { return blocks * blockDim.x; }
};
/* Where that is the whole grid. */
__device__ __forceinline__ crew whole_grid() { return {(int64_t)blockIdx.x, (int64_t)gridDim.x}; }

/* Joins the largest `magnitude(i)`, a bit pattern, of each group to tops[group]. A block of threads
 * takes 16 elements a thread of a group at a time. */
template <typename F>
__device__ __forceinline__ void note_tops(const crew &mine, int64_t n, int64_t count, int64_t run,
                                          int32_t *tops, const F &magnitude) {
    const int64_t size = n / count, part = 16 * blockDim.x, parts = (size + part - 1) / part;
    for (int64_t t = mine.block; t < count * parts; t += mine.blocks) {
        const int64_t group = t / parts, first = t % parts * part, last = min(first + part, size);
        uint32_t top = 0;
        for (int64_t k = first + threadIdx.x; k < last; k += blockDim.x) {
            const int64_t period = quotient(k, run);
            top = max(top, magnitude((period * count + group) * run + (k - period * run)));
        }
        note_top(top, tops + group);
    }
}
