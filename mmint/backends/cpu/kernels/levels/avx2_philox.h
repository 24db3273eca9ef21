/* The random bits of a group of elements with AVX2.
 *
 * The state of a block is the low half of 64-bit lanes; what is in the high half does not count,
 * the multiplier does not look at it. Four blocks to a vector, two vectors at once. Three words of
 * the counter are the same in all blocks, so that half of the first two rounds is done once for all
 * of them, in `philox_constants`; and since a product's low half is only added to that of the next
 * round, one xor brings the keys of two rounds in.
 *
 * A word comes out with its complement: the lane of block l is the bits of the elements 2l and
 * 2l + 1 in the low halves of its 32-bit lanes, and of those 16 further in the high halves.
 *
 * A round waits for the multiplications of the one before it: who has other work at hand puts it
 * between the rounds. */
#ifndef MMINT_AVX2_PHILOX_H
#define MMINT_AVX2_PHILOX_H

#include <immintrin.h>

#include "elements/random.h"

typedef struct {
    __m256i m0, m1, second2, third0, third2, fourth2, key[4], last, complement;
} philox_constants;

/* A group's random bits: of word w, those of the first and of the second eight of 16 elements. */
typedef struct {
    __m256i word[4][2];
} drawn_t;

typedef struct {
    __m256i state[2][4];
} philox_lanes;

/* The halves of 64-bit lanes. */
INLINE __m256i halves(uint32_t low, uint32_t high) {
    return _mm256_set1_epi64x((long long)((uint64_t)high << 32 | low));
}

/* Where `flipped`, all bits come complemented. */
INLINE philox_constants philox_constants_of(const philox_key *key, int flipped) {
    const uint64_t p1 = (uint64_t)key->c2 * PHILOX_M1;
    const uint32_t s0 = (uint32_t)(p1 >> 32) ^ key->c1 ^ key->k0[0];
    const uint64_t p0 = (uint64_t)s0 * PHILOX_M0;
    const uint32_t *k0 = key->k0, *k1 = key->k1, first = flipped ? ~0u : 0;
    return (philox_constants){
        .m0 = halves(PHILOX_M0, 0),
        .m1 = halves(PHILOX_M1, 0),
        .second2 = halves(key->c3 ^ k1[0], 0),
        .third0 = halves((uint32_t)p1 ^ k0[1], 0),
        .third2 = halves((uint32_t)(p0 >> 32) ^ k1[1], 0),
        .fourth2 = halves((uint32_t)p0 ^ k1[2], 0),
        .key = {halves(k0[3], k0[2]), halves(k1[4], k1[3]), halves(k0[5], k0[4]),
                halves(k1[6], k1[5])},
        .last = halves(k0[6] ^ first, ~(k0[6] ^ first)),
        .complement = halves(first, ~first),
    };
}

INLINE philox_lanes philox_start(uint64_t group) {
    const __m256i first = _mm256_set1_epi64x((long long)(BLOCKS_OF_GROUP * group));
    philox_lanes p;
    p.state[0][0] = _mm256_add_epi64(first, _mm256_setr_epi64x(0, 1, 2, 3));
    p.state[1][0] = _mm256_add_epi64(first, _mm256_setr_epi64x(4, 5, 6, 7));
    return p;
}

/* A high half in both halves, a low half in both. */
#define HIGH_TWICE(v) _mm256_shuffle_epi32(v, 0xF5)
#define LOW_TWICE(v) _mm256_shuffle_epi32(v, 0xA0)

/* Rounds 0 to 5; words 1 and 3 wait with the next round's key in them. */
INLINE void philox_lanes_round(philox_lanes *p, const philox_constants *c, int round) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m256i *s = p->state[i], p0, p1;
        if (round != 1) p0 = _mm256_mul_epu32(s[0], c->m0);
        if (round != 0) p1 = _mm256_mul_epu32(s[2], c->m1);
        if (round == 3) p0 = _mm256_xor_si256(p0, c->key[1]);
        if (round == 5) p0 = _mm256_xor_si256(p0, c->key[3]);
        if (round == 2) p1 = _mm256_xor_si256(p1, c->key[0]);
        if (round == 4) p1 = _mm256_xor_si256(p1, c->key[2]);
        if (round == 1)
            s[2] = _mm256_xor_si256(s[3], c->third2);
        else
            s[2] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), round == 0   ? c->second2
                                                               : round == 2 ? c->fourth2
                                                                            : s[3]);
        if (round != 0)
            s[0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), round == 1 ? c->third0 : s[1]);
        if (round != 1) s[3] = p0;
        if (round != 0) s[1] = p1;
    }
}

/* The last round. */
INLINE void philox_lanes_words(const philox_lanes *p, const philox_constants *c, drawn_t *drawn) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        const __m256i *s = p->state[i];
        const __m256i p0 = _mm256_mul_epu32(s[0], c->m0), p1 = _mm256_mul_epu32(s[2], c->m1);
        const __m256i w0 = _mm256_xor_si256(HIGH_TWICE(p1), LOW_TWICE(s[1]));
        const __m256i w2 = _mm256_xor_si256(HIGH_TWICE(p0), LOW_TWICE(s[3]));
        drawn->word[0][i] = _mm256_xor_si256(w0, c->last);
        drawn->word[1][i] = _mm256_xor_si256(LOW_TWICE(p1), c->complement);
        drawn->word[2][i] = _mm256_xor_si256(w2, c->complement);
        drawn->word[3][i] = _mm256_xor_si256(LOW_TWICE(p0), c->complement);
    }
}

INLINE void philox_vectors(const philox_constants *c, uint64_t group, drawn_t *drawn) {
    philox_lanes p = philox_start(group);
#pragma GCC unroll 8
    for (int round = 0; round < PHILOX_ROUNDS - 1; round++) philox_lanes_round(&p, c, round);
    philox_lanes_words(&p, c, drawn);
}

/* The bits of eight elements, of the 16 that draw `d` serves the first or the `second` eight. */
INLINE __m256i drawn_by(const drawn_t *drawn, int d, int second) {
    const __m256i word = drawn->word[d / 2][second];
    return d % 2 ? _mm256_srli_epi32(word, 16)
                 : _mm256_blend_epi16(word, _mm256_setzero_si256(), 0xAA);
}

#endif
