/* Sums of SGD, a group of elements at a time. */
#ifndef MMINT_SGD_LOOPS_H
#define MMINT_SGD_LOOPS_H

#include <string.h>

#include "sgd.h"

/* What each level writes itself: as draw_group. */
static void draw(const philox_key *key, uint64_t group, uint16_t *out);

/* integer / 2**shift, as shift_right_stochastic. */
INLINE int64_t round_signed(int64_t integer, long cut, long left, uint16_t drawn) {
    const int64_t fine = (int64_t)((uint64_t)(integer < 0 ? -integer : integer) >> cut << left);
    return ((integer < 0 ? -fine : fine) + drawn) >> FRACTION_BITS;
}

/* The sums of elements first ... first + n - 1 (first a multiple of GROUP, n at most GROUP). */
INLINE void sum_span(const update_sum_t *s, long first, int n, int64_t *out) {
    uint16_t drawn[GROUP];
    if (s->plan.draws) draw(&s->key, (uint64_t)first / GROUP, drawn);
    for (int i = 0; i < GROUP; i++) out[i] = 0;
    for (int t = 0; t < 3; t++) {
        const sgd_term *term = &s->plan.terms[t];
        if (!term->counts) continue;
        int16_t mantissa[GROUP] = {0};
        memcpy(mantissa, (const int16_t *)term->mantissa + first, 2 * (size_t)n);
        const int32_t factor = (int32_t)term->factor;
        const int shift = s->plan.shift[t];
        if (shift <= 0) {
            const long up = -shift;
            for (int i = 0; i < GROUP; i++)
                out[i] += (int64_t)((uint64_t)(int64_t)(mantissa[i] * factor) << up);
        } else {
            const long cut = least(62, most(0, shift - FRACTION_BITS));
            const long left = most(0, FRACTION_BITS - shift);
            for (int i = 0; i < GROUP; i++)
                out[i] += round_signed(mantissa[i] * factor, cut, left, drawn[i]);
        }
    }
}

static inline int64_t sum_top_loop(const update_sum_t *s, long first, long n) {
    int64_t sum[GROUP], top = 0;
    for (long i = 0; i < n; i += GROUP) {
        sum_span(s, first + i, (int)least(GROUP, n - i), sum);
        for (int l = 0; l < GROUP; l++) {
            const int64_t magnitude = sum[l] < 0 ? -sum[l] : sum[l];
            top = magnitude > top ? magnitude : top;
        }
    }
    return top;
}

static inline void sum_narrow_loop(const update_sum_t *s, const philox_key *key, long shift,
                                   long first, long n, int16_t *out) {
    int64_t sum[GROUP];
    int16_t made[GROUP];
    uint16_t drawn[GROUP];
    for (long i = 0; i < n; i += GROUP) {
        const int size = (int)least(GROUP, n - i);
        sum_span(s, first + i, size, sum);
        if (shift > 0) {
            const long cut = most(0, shift - FRACTION_BITS), left = most(0, FRACTION_BITS - shift);
            draw(key, (uint64_t)(first + i) / GROUP, drawn);
            for (int l = 0; l < GROUP; l++)
                made[l] = (int16_t)round_signed(sum[l], cut, left, drawn[l]);
        } else {
            for (int l = 0; l < GROUP; l++) made[l] = (int16_t)((uint64_t)sum[l] << -shift);
        }
        memcpy(out + first + i, made, 2 * (size_t)size);
    }
}

#endif
