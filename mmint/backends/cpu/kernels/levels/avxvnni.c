/* AVX-VNNI: the tiles' multiplications and additions in one instruction. */
#include "machine.h"

#if MMINT_X86

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* All functions of this file are for these instructions. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif

#include "avx2_tile.h"
#include "level.h"
#include "vnni_packing.h"

#define VNNI_ROWS 6
#define VNNI_LANES 8
#define DPBUSD(sums, lanes, row) \
    (vnni_words) _mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(lanes), (__m256i)(row))
#include "vnni_tile.h"

#define MULTIPLY_AVXVNNI(r)                          \
    {                                                \
        const __m256i t = _mm256_set1_epi32(a[r]);   \
        x##r = _mm256_dpwssd_avx_epi32(x##r, t, b0); \
        y##r = _mm256_dpwssd_avx_epi32(y##r, t, b1); \
    }
static void tile_avxvnni(TILE_PARAMETERS) { TILE_BODY(MULTIPLY_AVXVNNI) }

void fill_avxvnni(level_t *t) {
    t->name = "avxvnni";
    t->pairs.tile = tile_avxvnni;
    t->bytes = VNNI_FORM(VNNI_ROWS);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
