/* Philox 4x32-7 (Salmon et al., SC 2011) as mmint/numerics/random_bits.py defines it.
 *
 * One block of four words is eight draws of 16 bits, each for two neighbours: with g = block / 8,
 * l = block % 8, draw d = 2 * w + h, half h of word w, is for element 128 * g + 16 * d + 2 * l, and
 * its complement for the next one. */
#pragma once

#include "arithmetic/language.h"

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_K0 0x9E3779B9u
#define PHILOX_K1 0xBB67AE85u

enum {
    PHILOX_ROUNDS = 7,
    GROUP = 128, /* consecutive elements, served by as many blocks: */
    BLOCKS_OF_GROUP = 8,
    SERVED = 16, /* elements that a block serves, with as many draws: */
    DRAWS = 8,
    PAIR_STEP = 16 /* from the elements of a block's draw to those of its next */
};

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

/* Draw d of a block. */
MMINT_FUNCTION uint32_t draw_of(philox_words words, int d) {
    const uint32_t word = d < 2 ? words.x : d < 4 ? words.y : d < 6 ? words.z : words.w;
    return d & 1 ? word >> 16 : word & 0xFFFF;
}

/* What the second of two neighbours takes. */
MMINT_FUNCTION uint32_t antithetic(uint32_t drawn) { return 0xFFFF - drawn; }

/* The first element that a block serves, with draw 0; draw d is PAIR_STEP * d further. */
MMINT_FUNCTION int64_t first_element(int64_t block) {
    return (block >> 3 << 7) + ((block & 7) << 1);
}

/* Of a block's sixteen elements number e, in order: how far it is from the first, and its bits. */
MMINT_FUNCTION int distance_of(int e) { return PAIR_STEP * (e >> 1) + (e & 1); }
MMINT_FUNCTION uint32_t bits_of(philox_words words, int e) {
    const uint32_t drawn = draw_of(words, e >> 1);
    return e & 1 ? antithetic(drawn) : drawn;
}

/* The bits of one element; fifteen others in the block are computed for nothing. */
MMINT_FUNCTION uint32_t draw_one(random_words name, int64_t i) {
    const philox_words words = philox(name, (uint32_t)((i >> 7 << 3) + (i >> 1 & 7)));
    return bits_of(words, (int)((i >> 4 & 7) << 1 | (i & 1)));
}
