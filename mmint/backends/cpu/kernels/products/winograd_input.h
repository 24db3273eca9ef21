/* The transform of inputs, and the last division, which both Winograd forms share. */
#ifndef MMINT_WINOGRAD_INPUT_H
#define MMINT_WINOGRAD_INPUT_H

#include <string.h>

#include "winograd_parts.h"

#define INVERSE_OF_9 954437177u

/* `count` channels at `from`, zeros up to 16. */
INLINE v16 load16(const int8_t *from, long count) {
    typedef int8_t b16 __attribute__((vector_size(16)));
    b16 narrow = {0};
    if (count >= VECTOR)
        memcpy(&narrow, from, VECTOR);
    else if (count > 0)
        memcpy(&narrow, from, (size_t)count);
    return __builtin_convertvector(narrow, v16);
}

/* B' on six values. */
INLINE void input_line(v16 *d, int step) {
    const v16 d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step],
              d5 = d[5 * step];
    const v16 even = d4 - d2 * 4, odd = d3 - d1 * 4, low = d4 - d2, twice = (d3 - d1) * 2;
    d[0] = d0 * 4 - d2 * 5 + d4;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = low + twice;
    d[4 * step] = low - twice;
    d[5 * step] = d1 * 4 - d3 * 5 + d5;
}

INLINE void input_tile(v16 *d) {
    for (int i = 0; i < 6; i++) input_line(d + i, 6);
    for (int i = 0; i < 6; i++) input_line(d + 6 * i, 1);
}

/* 9 * 64 * y modulo 2**32 to y, where 64 * y fits. */
INLINE v8 divide_by_576(v8 y) { return (v8)((s8)(y * INVERSE_OF_9) >> 6); }

#endif
