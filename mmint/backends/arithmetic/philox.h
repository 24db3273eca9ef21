/* Philox 4x32-10 (Salmon et al., SC 2011) as mmint/numerics/random_bits.py defines it.
 *
 * One block of four words holds the 16 bits of eight elements: with g = block / 8, l = block % 8,
 * half h of word w is for element 64 * g + 16 * w + 2 * l + h. */
#pragma once

#include "arithmetic/language.h"

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_K0 0x9E3779B9u
#define PHILOX_K1 0xBB67AE85u

enum { PHILOX_ROUNDS = 10, GROUP = 64, BLOCKS_OF_GROUP = 8 };

/* The arguments that every kernel with random bits takes: whether it draws any, and their name. In
 * a CUDA graph c1 is a distance from `iteration`, else NULL. */
typedef struct {
    int64_t stochastic, k0, k1, c1, c2, c3;
    const int64_t *iteration;
} random_words;

#if MMINT_CUDA
typedef uint4 philox_words;
#else
typedef struct {
    uint32_t x, y, z, w;
} philox_words;
#endif

/* The same name for another role of tensors; `name` is of role 0. */
MMINT_FUNCTION random_words with_role(random_words name, int role) {
    name.c2 |= role;
    return name;
}

/* The name itself; kernels that may be captured begin with it. */
MMINT_FUNCTION random_words resolved(random_words name) {
    if (name.iteration) name.c1 += *name.iteration;
    return name;
}

MMINT_FUNCTION void philox_round(uint32_t *c0, uint32_t *c1, uint32_t *c2, uint32_t *c3,
                                 uint32_t k0, uint32_t k1) {
    const uint64_t p0 = (uint64_t)*c0 * PHILOX_M0, p1 = (uint64_t)*c2 * PHILOX_M1;
    *c0 = (uint32_t)(p1 >> 32) ^ *c1 ^ k0;
    *c1 = (uint32_t)p1;
    *c2 = (uint32_t)(p0 >> 32) ^ *c3 ^ k1;
    *c3 = (uint32_t)p0;
}

MMINT_FUNCTION philox_words philox(random_words name, uint32_t block) {
    philox_words s;
    uint32_t k0 = (uint32_t)name.k0, k1 = (uint32_t)name.k1;
    s.x = block;
    s.y = (uint32_t)name.c1;
    s.z = (uint32_t)name.c2;
    s.w = (uint32_t)name.c3;
    MMINT_UNROLL
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        philox_round(&s.x, &s.y, &s.z, &s.w, k0, k1);
        k0 += PHILOX_K0;
        k1 += PHILOX_K1;
    }
    return s;
}

MMINT_FUNCTION uint32_t word_of(philox_words words, int w) {
    return w == 0 ? words.x : w == 1 ? words.y : w == 2 ? words.z : words.w;
}

/* The element for which a block's half 0 of word 0 is; word w is 16 w further, half 1 one on. */
MMINT_FUNCTION int64_t first_element(int64_t block) {
    return (block >> 3 << 6) + ((block & 7) << 1);
}

/* The bits of one element; its seven neighbours in the block are computed for nothing. */
MMINT_FUNCTION uint32_t draw_one(random_words name, int64_t i) {
    const philox_words words = philox(name, (uint32_t)((i >> 6 << 3) + (i >> 1 & 7)));
    return word_of(words, (int)(i >> 4 & 3)) >> ((i & 1) << 4) & 0xFFFF;
}
