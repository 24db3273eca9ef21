/* Addition of two tensors: reference/addition.py.
 *
 * p = bits - 1 <= 15 bits go left by at most 40, so that int64 holds the sum. Where the exponents
 * differ by more, the higher mantissa counts, or the lower one where that is 0. */
#pragma once

#include "arithmetic/mapping.h"
#include "arithmetic/philox.h"

enum { ADDITION_ALIGNMENT = 40 };

typedef struct {
    bool counts[2]; /* is an element not zero? */
    int exponent[2], low, high;
    scale_t at_low, at_high;
} addition_t;

/* The random bits that operand t sees of the element's. */
MMINT_FUNCTION uint32_t seen_by(int t, uint32_t drawn) { return t ? antithetic(drawn) : drawn; }

/* Of operands with these largest magnitudes; zeros take the other's exponent. */
MMINT_FUNCTION addition_t addition_of(uint32_t top_x, uint32_t top_y, int bits) {
    addition_t a;
    a.counts[0] = top_x != 0;
    a.counts[1] = top_y != 0;
    const int x = top_x ? exponent_of(top_x, bits) : 0;
    const int y = top_y ? exponent_of(top_y, bits) : 0;
    a.exponent[0] = x;
    a.exponent[1] = y;
    a.low = int_min(top_x ? x : y, top_y ? y : x);
    a.high = int_max(top_x ? x : y, top_y ? y : x);
    a.at_low = scale_at(a.low);
    a.at_high = scale_at(a.high);
    return a;
}

MMINT_FUNCTION float add_one(const addition_t *a, uint32_t x, uint32_t y, bool stochastic,
                             uint32_t drawn) {
    const bool apart = a->high - a->low > ADDITION_ALIGNMENT;
    int64_t total = 0, upper = 0;
    MMINT_UNROLL
    for (int t = 0; t < 2; t++) {
        if (!a->counts[t]) continue;
        const int64_t m = map_one(t ? y : x, a->exponent[t], stochastic, seen_by(t, drawn));
        if (apart && a->exponent[t] == a->high)
            upper = m;
        else
            total += m * ((int64_t)1 << (a->exponent[t] - a->low));
    }
    return upper ? scaled_int64(upper, a->at_high) : scaled_int64(total, a->at_low);
}
