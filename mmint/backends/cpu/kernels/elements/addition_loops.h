/* Addition, element by element. */
#ifndef MMINT_ADDITION_LOOPS_H
#define MMINT_ADDITION_LOOPS_H

#include "addition.h"

static inline uint32_t add_loop(const sum_t *s, float *out, long first, long n) {
    uint16_t drawn[GROUP] = {0};
    uint32_t top = 0;
    for (long i = first; i < first + n; i++) {
        if (s->stochastic && i % GROUP == 0) draw_group(&s->key, (uint64_t)i / GROUP, drawn);
        out[i] = add_one(&s->plan, pattern_of(s->x[0][i]), pattern_of(s->x[1][i]), s->stochastic,
                         drawn[i % GROUP]);
        if (magnitude_bits(out[i]) > top) top = magnitude_bits(out[i]);
    }
    return top;
}

#endif
