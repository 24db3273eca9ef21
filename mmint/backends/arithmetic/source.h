/* An element that is made where it is read: p * X + q * Y + r at 2**exponent, rounded as a norm
 * rounds it, then cut as ReLU and ReLU6 do. Where there is no Y it never falls where p * X does not,
 * so that the largest magnitude of a plane is that of its smallest or its largest mantissa. */
#pragma once

#include "arithmetic/coefficients.h"

/* What is cut: nothing, or what is below 0 and above `ceiling`. */
typedef struct {
    bool there;
    float ceiling;
} cut_t;

/* Of the pattern of the ceiling; -1 for nothing. */
MMINT_FUNCTION cut_t cut_at(int64_t ceiling) {
    const cut_t cut = {ceiling >= 0, float_of((uint32_t)ceiling)};
    return cut;
}

/* NaN stays, and -0, as in PyTorch. */
MMINT_FUNCTION float cut_one(float v, float ceiling) {
    const float kept = v < 0 ? 0 : v;
    return kept > ceiling ? ceiling : kept;
}

/* Does its gradient pass? */
MMINT_FUNCTION bool passes(float v, float ceiling) { return v > 0 && !(v >= ceiling); }

MMINT_FUNCTION float cut_by(cut_t cut, float v) { return cut.there ? cut_one(v, cut.ceiling) : v; }

/* The element of mantissas x and y, 0 where there is none: of at most 16 bits, and of at most 8,
 * where int32 holds the sum though not its terms. */
MMINT_FUNCTION float made_of(int64_t x, int64_t y, const coefficients_t *c, cut_t cut) {
    return cut_by(cut, scaled_int64(c->p * x + c->q * y + c->r, scale_at((int)c->exponent)));
}
MMINT_FUNCTION float made_of8(int32_t x, int32_t y, const coefficients_t *c, cut_t cut) {
    const uint32_t sum =
        (uint32_t)c->p * (uint32_t)x + (uint32_t)c->q * (uint32_t)y + (uint32_t)c->r;
    return cut_by(cut, scaled_int32((int32_t)sum, scale_at((int)c->exponent)));
}

/* Mantissas first ... last; none where `last` is below `first`. */
typedef struct {
    int first, last;
} mantissas_t;

/* The least k of -127 ... 128 from which on elements of sign * k are above a bound, or at it. */
MMINT_FUNCTION int first_above(const coefficients_t *c, int sign, float bound, bool at_it) {
    const cut_t uncut = cut_at(-1);
    int low = -127, high = 128;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        const float made = made_of8(sign * middle, 0, c, uncut);
        if (at_it ? made >= bound : made > bound)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The mantissas of 8 bits whose elements' gradients pass. */
MMINT_FUNCTION mantissas_t passing(const coefficients_t *c, float ceiling) {
    const int sign = c->p < 0 ? -1 : 1;
    const int first = first_above(c, sign, 0, 0), last = first_above(c, sign, ceiling, 1) - 1;
    const mantissas_t rising = {first, last}, falling = {-last, -first};
    return sign > 0 ? rising : falling;
}

/* The largest magnitude of elements of mantissas `low` to `high` alone. */
MMINT_FUNCTION uint32_t top_between(int64_t low, int64_t high, const coefficients_t *c, cut_t cut) {
    const uint32_t a = magnitude_bits(made_of(low, 0, c, cut));
    const uint32_t b = magnitude_bits(made_of(high, 0, c, cut));
    return a > b ? a : b;
}
