/* Philox 4x32-10 as mmint/numerics/random_bits.py defines it.
 *
 * One block of four words holds the 16 bits of eight elements: with g = block / 8, l = block % 8,
 * half h of word w is for element 64 * g + 16 * w + 2 * l + h. */
#pragma once

#include "device.cuh"

enum { GROUP = 64, BLOCKS_OF_GROUP = 8 };

/* The arguments that every kernel with random bits takes: whether it draws any, and their name. */
struct random_words {
    int64_t stochastic, k0, k1, c1, c2, c3;
};

__device__ __forceinline__ uint4 philox(const random_words &name, uint32_t block) {
    uint32_t c0 = block, c1 = (uint32_t)name.c1, c2 = (uint32_t)name.c2, c3 = (uint32_t)name.c3;
    uint32_t k0 = (uint32_t)name.k0, k1 = (uint32_t)name.k1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

__device__ __forceinline__ uint32_t word_of(const uint4 &words, int w) {
    return w == 0 ? words.x : w == 1 ? words.y : w == 2 ? words.z : words.w;
}

/* The element that a block's half 0 of word 0 is for; word w is 16 w further, half 1 one further. */
__device__ __forceinline__ int64_t first_element(int64_t block) {
    return (block >> 3 << 6) + ((block & 7) << 1);
}

/* The bits of one element; its seven neighbours in the block are computed for nothing. */
__device__ __forceinline__ uint32_t draw_one(const random_words &name, int64_t i) {
    const uint4 words = philox(name, (uint32_t)((i >> 6 << 3) + (i >> 1 & 7)));
    return word_of(words, (int)(i >> 4 & 3)) >> ((i & 1) << 4) & 0xFFFF;
}
