/* The random bits of 64 elements with AVX2. */
#ifndef MMINT_AVX2_PHILOX_H
#define MMINT_AVX2_PHILOX_H

#include <immintrin.h>

#include "elements/random.h"

/* Four vectors of 16. A state word of blocks 0, 2, 4, 6 (and 1, 3, 5, 7) is the low half
 * of a 64-bit lane; the high half is left as it comes, the multiplier does not look at it.
 *
 * A round waits for the multiplications of the one before it: who has other work at hand puts it
 * between the rounds. */
typedef struct {
    __m256i state[2][4];
} philox_lanes;

INLINE philox_lanes philox_start(const philox_key *key, uint64_t group) {
    const int first = (int)(uint32_t)(8 * group);
    philox_lanes p;
    for (int i = 0; i < 2; i++) {
        p.state[i][0] = _mm256_add_epi32(_mm256_set1_epi32(first),
                                         _mm256_setr_epi32(i, 0, 2 + i, 0, 4 + i, 0, 6 + i, 0));
        p.state[i][1] = _mm256_set1_epi32((int)key->c1);
        p.state[i][2] = _mm256_set1_epi32((int)key->c2);
        p.state[i][3] = _mm256_set1_epi32((int)key->c3);
    }
    return p;
}

INLINE void philox_lanes_round(philox_lanes *p, const philox_key *key, int round) {
    const __m256i m0 = _mm256_set1_epi64x(PHILOX_M0), m1 = _mm256_set1_epi64x(PHILOX_M1);
    const __m256i k0 = _mm256_set1_epi32((int)key->k0[round]);
    const __m256i k1 = _mm256_set1_epi32((int)key->k1[round]);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256i *s = p->state[i];
        const __m256i p0 = _mm256_mul_epu32(s[0], m0), p1 = _mm256_mul_epu32(s[2], m1);
        s[0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(s[1], k0));
        s[1] = p1;
        s[2] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(s[3], k1));
        s[3] = p0;
    }
}

INLINE void philox_lanes_words(const philox_lanes *p, __m256i *w) {
    for (int i = 0; i < 4; i++)
        w[i] = _mm256_blend_epi32(p->state[0][i], _mm256_slli_epi64(p->state[1][i], 32), 0xAA);
}

INLINE void philox_vectors(const philox_key *key, uint64_t group, __m256i *w) {
    philox_lanes p = philox_start(key, group);
#pragma GCC unroll 10
    for (int round = 0; round < PHILOX_ROUNDS; round++) philox_lanes_round(&p, key, round);
    philox_lanes_words(&p, w);
}

#endif
