/* The random bits of a group of elements at once: arithmetic/philox.h, in lanes. */
#ifndef MMINT_RANDOM_H
#define MMINT_RANDOM_H

#include "arithmetic/philox.h"
#include "integers.h"

/* The keys of all rounds, and words 1 to 3 of the counter. */
typedef struct philox_key {
    uint32_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS], c1, c2, c3;
} philox_key;

INLINE philox_key key_of(random_words name) {
    philox_key key = {.c1 = (uint32_t)name.c1, .c2 = (uint32_t)name.c2, .c3 = (uint32_t)name.c3};
    for (uint32_t round = 0; round < PHILOX_ROUNDS; round++) {
        key.k0[round] = (uint32_t)name.k0 + round * PHILOX_K0;
        key.k1[round] = (uint32_t)name.k1 + round * PHILOX_K1;
    }
    return key;
}

/* Bits of the elements from GROUP * group on. */
INLINE void draw_group(const philox_key *key, uint64_t group, uint16_t *out) {
    uint32_t words[4][BLOCKS_OF_GROUP];
    for (int l = 0; l < BLOCKS_OF_GROUP; l++) {
        words[0][l] = (uint32_t)(BLOCKS_OF_GROUP * group) + (uint32_t)l;
        words[1][l] = key->c1;
        words[2][l] = key->c2;
        words[3][l] = key->c3;
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++)
        for (int l = 0; l < BLOCKS_OF_GROUP; l++)
            philox_round(&words[0][l], &words[1][l], &words[2][l], &words[3][l], key->k0[round],
                         key->k1[round]);
    for (int d = 0; d < DRAWS; d++, out += PAIR_STEP)
        for (int l = 0; l < BLOCKS_OF_GROUP; l++) {
            const uint32_t drawn = words[d / 2][l] >> 16 * (d % 2);
            out[2 * l] = (uint16_t)drawn;
            out[2 * l + 1] = (uint16_t)~drawn;
        }
}

#endif
