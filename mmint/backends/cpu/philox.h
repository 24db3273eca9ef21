/* The random bits of 64 elements at once: arithmetic/philox.h, in lanes. */
#ifndef MMINT_PHILOX_H
#define MMINT_PHILOX_H

#include "arithmetic/philox.h"
#include "common.h"

/* The keys of all rounds, and words 1 to 3 of the counter. */
typedef struct {
    uint32_t k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS], c1, c2, c3;
} philox_key;

INLINE philox_key philox_from(const int64_t *words) {
    philox_key key = {
        .c1 = (uint32_t)words[2], .c2 = (uint32_t)words[3], .c3 = (uint32_t)words[4]};
    for (uint32_t round = 0; round < PHILOX_ROUNDS; round++) {
        key.k0[round] = (uint32_t)words[0] + round * PHILOX_K0;
        key.k1[round] = (uint32_t)words[1] + round * PHILOX_K1;
    }
    return key;
}

/* Bits of the elements 64 * group ... 64 * group + 63. */
INLINE void philox_portable(const philox_key *key, uint64_t group, uint16_t *out) {
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

#if MMINT_X86
/* The same in four vectors of 16. A state word of blocks 0, 2, 4, 6 (and 1, 3, 5, 7) is the low half
 * of a 64-bit lane; the high half is left as it comes, the multiplier does not look at it.
 *
 * A round waits for the multiplications of the one before it: who has other work at hand puts it
 * between the rounds. */
typedef struct {
    __m256i state[2][4];
} philox_lanes;

TARGET_AVX2 INLINE philox_lanes philox_start_avx2(const philox_key *key, uint64_t group) {
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

TARGET_AVX2 INLINE void philox_round_avx2(philox_lanes *p, const philox_key *key, int round) {
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

TARGET_AVX2 INLINE void philox_words_avx2(const philox_lanes *p, __m256i *w) {
    for (int i = 0; i < 4; i++)
        w[i] = _mm256_blend_epi32(p->state[0][i], _mm256_slli_epi64(p->state[1][i], 32), 0xAA);
}

TARGET_AVX2 INLINE void philox_avx2(const philox_key *key, uint64_t group, __m256i *w) {
    philox_lanes p = philox_start_avx2(key, group);
#pragma GCC unroll 10
    for (int round = 0; round < PHILOX_ROUNDS; round++) philox_round_avx2(&p, key, round);
    philox_words_avx2(&p, w);
}

/* A block to a 64-bit lane, whose low half counts. */
TARGET_AVX512 INLINE void philox_avx512(const philox_key *key, uint64_t group, __m256i *w) {
    const __m512i m0 = _mm512_set1_epi64(PHILOX_M0), m1 = _mm512_set1_epi64(PHILOX_M1);
    __m512i s[4] = {_mm512_add_epi64(_mm512_set1_epi64((uint32_t)(8 * group)),
                                     _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)),
                    _mm512_set1_epi64(key->c1), _mm512_set1_epi64(key->c2),
                    _mm512_set1_epi64(key->c3)};
#pragma GCC unroll 10
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const __m512i k0 = _mm512_set1_epi64(key->k0[round]);
        const __m512i k1 = _mm512_set1_epi64(key->k1[round]);
        const __m512i p0 = _mm512_mul_epu32(s[0], m0), p1 = _mm512_mul_epu32(s[2], m1);
        s[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), s[1], k0, 0x96); /* xor */
        s[1] = p1;
        s[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), s[3], k1, 0x96);
        s[3] = p0;
    }
    for (int i = 0; i < 4; i++) w[i] = _mm512_cvtepi64_epi32(s[i]);
}
#endif

#endif
