/* A level with VNNI for machines with AVX2 alone: its tile and its packing, the instruction in C. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#pragma GCC target("avx2")

#include "levels/vnni_packing.h"

typedef uint32_t words __attribute__((vector_size(4 * VNNI_LANES)));

/* VPDPBUSD: to each sum, four products of unsigned and signed bytes, without saturation. */
static words emulated_dpbusd(words sums, words lanes, words row) {
    uint8_t u[4 * VNNI_LANES];
    int8_t s[4 * VNNI_LANES];
    memcpy(u, &lanes, sizeof u);
    memcpy(s, &row, sizeof s);
    for (int i = 0; i < VNNI_LANES; i++)
        for (int k = 4 * i; k < 4 * i + 4; k++) sums[i] += (uint32_t)((int32_t)u[k] * s[k]);
    return sums;
}

#define DPBUSD emulated_dpbusd
#include "levels/vnni_tile.h"

void FILL(level_t *t) {
    t->name = NAME;
    t->bytes = VNNI_FORM(VNNI_ROWS);
}
