/* What a kernel's results have been, noticed on the way out: the next mapping need not look for
 * their largest magnitude, and a bias learns whether it stands alone. */
#ifndef MMINT_EXTENT_H
#define MMINT_EXTENT_H

#include "arithmetic/number.h"
#include "integers.h"
#include "levels/level.h"

/* In lanes, for vectors: bits of the sums, and the largest magnitude of a float32 result (its bit
 * pattern without the sign). */
typedef struct extent {
    uint32_t any[NR], top[NR];
} extent_t;

INLINE void extent_take(extent_t *e, int lane, int any, float made) {
    const uint32_t magnitude = magnitude_bits(made);
    e->any[lane] |= (uint32_t)any;
    if (magnitude > e->top[lane]) e->top[lane] = magnitude;
}

/* The first `lanes` lanes of `from`. */
INLINE void extent_join(extent_t *to, const extent_t *from, int lanes) {
    for (int l = 0; l < lanes; l++) {
        to->any[l] |= from->any[l];
        if (from->top[l] > to->top[l]) to->top[l] = from->top[l];
    }
}

#pragma omp declare reduction(join : extent_t : extent_join(&omp_out, &omp_in, NR)) \
    initializer(omp_priv = (extent_t){{0}, {0}})

/* For Python: bit 31 says whether a sum was not zero, the bits below are the top. */
INLINE int64_t extent_result(const extent_t *e) {
    uint32_t any = 0, top = 0;
    for (int l = 0; l < NR; l++) {
        any |= e->any[l];
        top = e->top[l] > top ? e->top[l] : top;
    }
    return (int64_t)(any != 0) << 31 | top;
}

#endif
