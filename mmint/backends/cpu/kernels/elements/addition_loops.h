/* Addition, element by element. */
#ifndef MMINT_ADDITION_LOOPS_H
#define MMINT_ADDITION_LOOPS_H

#include "addition.h"

static inline uint32_t add_loop(const sum_t *s, const float *const *x, float *out, long first,
                                long n) {
    uint16_t drawn[GROUP] = {0};
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        const uint64_t element = (uint64_t)(first + i);
        if (s->stochastic && (i == 0 || element % GROUP == 0))
            draw_group(&s->key, element / GROUP, drawn);
        out[i] = add_one(&s->plan, pattern_of(x[0][i]), pattern_of(x[1][i]), s->stochastic,
                         drawn[element % GROUP]);
        if (magnitude_bits(out[i]) > top) top = magnitude_bits(out[i]);
    }
    return top;
}

#endif
