/* The tile of int8 with VNNI, whose instruction adds four products of an unsigned and a signed byte
 * to an int32.
 *
 * Lanes are what is unsigned: a panel of lanes holds b + 128. As sum(a * (b + 128)) is
 * sum(a * b) + 128 * sum(a), a panel of rows opens with -128 * sum(a), from which its sums start
 * (vnni_packing.h). That is exact: four products are below 2**17, the instruction does not saturate,
 * sums are taken modulo 2**32, and the true sum of a panel's depth fits (product.h).
 *
 * Before it includes this file, a level defines VNNI_ROWS, of a tile; VNNI_LANES, int32 in a vector;
 * and DPBUSD(sums, unsigned, signed). */
#ifndef MMINT_VNNI_TILE_H
#define MMINT_VNNI_TILE_H

#include <string.h>

#include "products/tile.h"

enum { VNNI_VECTORS = NR / VNNI_LANES };

typedef uint32_t vnni_words __attribute__((vector_size(4 * VNNI_LANES)));
typedef int32_t vnni_ints __attribute__((vector_size(4 * VNNI_LANES)));
typedef float vnni_floats __attribute__((vector_size(4 * VNNI_LANES)));

INLINE vnni_words vnni_load(const void *from) {
    vnni_words v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Sums to float32, noted. */
INLINE void vnni_finish(vnni_words (*sums)[VNNI_VECTORS], const results_t *to) {
#pragma GCC unroll 2
    for (int v = 0; v < VNNI_VECTORS; v++) {
        const int lane = v * VNNI_LANES;
        const vnni_floats scale = (vnni_floats)vnni_load(to->lane_scale + lane);
        const vnni_words bias = to->row_bias ? vnni_load(to->lane_bias + lane) : (vnni_words){0};
        vnni_words any = vnni_load(to->seen->any + lane), top = vnni_load(to->seen->top + lane);
#pragma GCC unroll 16
        for (int r = 0; r < VNNI_ROWS; r++) {
            if (r >= to->rows) continue;
            const uint32_t row_bias = to->row_bias ? (uint32_t)to->row_bias[r] : 0;
            const vnni_ints sum = (vnni_ints)(sums[r][v] + (bias + row_bias));
            const vnni_floats made =
                __builtin_convertvector(sum, vnni_floats) * (scale * to->row_scale[r]);
            const vnni_words magnitude = (vnni_words)made & 0x7FFFFFFF;
            const vnni_words larger = (vnni_words)(magnitude > top);
            any |= sums[r][v];
            top = (magnitude & larger) | (top & ~larger);
            memcpy(to->out + r * to->stride + lane, &made, sizeof made);
        }
        memcpy(to->seen->any + lane, &any, sizeof any);
        memcpy(to->seen->top + lane, &top, sizeof top);
    }
}

static void tile_vnni(const int32_t *a, const int32_t *b, long groups, const int32_t *c_in,
                      int32_t *c_out, const results_t *to) {
    vnni_words c[VNNI_ROWS][VNNI_VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < VNNI_ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VNNI_VECTORS; v++) {
            c[r][v] = (vnni_words){0} + (uint32_t)a[r];
            if (c_in) c[r][v] += vnni_load(c_in + NR * r + VNNI_LANES * v);
        }
    a += VNNI_ROWS;
    for (; groups > 0; groups--, a += VNNI_ROWS, b += NR) {
        vnni_words lanes[VNNI_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VNNI_VECTORS; v++) lanes[v] = vnni_load(b + VNNI_LANES * v);
#pragma GCC unroll 16
        for (int r = 0; r < VNNI_ROWS; r++) {
            const vnni_words row = (vnni_words){0} + (uint32_t)a[r];
#pragma GCC unroll 2
            for (int v = 0; v < VNNI_VECTORS; v++) c[r][v] = DPBUSD(c[r][v], lanes[v], row);
        }
    }
    if (to) {
        vnni_finish(c, to);
        return;
    }
#pragma GCC unroll 16
    for (int r = 0; r < VNNI_ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VNNI_VECTORS; v++)
            memcpy(c_out + NR * r + VNNI_LANES * v, &c[r][v], sizeof c[r][v]);
}

#endif
