/* The random bits of 64 elements at once: arithmetic/philox.h, in lanes. */
#ifndef MMINT_RANDOM_H
#define MMINT_RANDOM_H

#include "arithmetic/philox.h"
#include "integers.h"

/* The keys of all rounds, and words 1 to 3 of the counter. */
typedef struct philox_key {
    uint32_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS], c1, c2, c3;
} philox_key;

INLINE philox_key key_of(random_words name) {
    philox_key key = {
        .c1 = (uint32_t)name.c1, .c2 = (uint32_t)name.c2, .c3 = (uint32_t)name.c3};
    for (uint32_t round = 0; round < PHILOX_ROUNDS; round++) {
        key.k0[round] = (uint32_t)name.k0 + round * PHILOX_K0;
        key.k1[round] = (uint32_t)name.k1 + round * PHILOX_K1;
    }
    return key;
}

/* Bits of the elements 64 * group ... 64 * group + 63. */
INLINE void draw_group(const philox_key *key, uint64_t group, uint16_t *out) {
    uint32_t c0[8], c1[8], c2[8], c3[8];
    for (int l = 0; l < 8; l++) {
        c0[l] = (uint32_t)(8 * group + l);
        c1[l] = key->c1;
        c2[l] = key->c2;
        c3[l] = key->c3;
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        for (int l = 0; l < 8; l++)
            philox_round(&c0[l], &c1[l], &c2[l], &c3[l], key->k0[round], key->k1[round]);
    }
    for (int l = 0; l < 8; l++) {
        for (int half = 0; half < 2; half++) {
            out[2 * l + half] = (uint16_t)(c0[l] >> 16 * half);
            out[16 + 2 * l + half] = (uint16_t)(c1[l] >> 16 * half);
            out[32 + 2 * l + half] = (uint16_t)(c2[l] >> 16 * half);
            out[48 + 2 * l + half] = (uint16_t)(c3[l] >> 16 * half);
        }
    }
}

#endif
