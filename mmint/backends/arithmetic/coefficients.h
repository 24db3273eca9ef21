/* From a group's exact sums to the integers that its elements meet: reference/norms. */
#pragma once

#include "arithmetic/wide.h"

enum { SCALE_BITS = 22 };

/* p * first + q * second + r, at 2**exponent. */
typedef struct coefficients {
    int64_t p, q, r, exponent;
} coefficients_t;

MMINT_FUNCTION coefficients_t coefficients_of(int64_t p, int64_t q, int64_t r, int exponent) {
    const coefficients_t made = {p, q, r, exponent};
    return made;
}

/* n * S2 - S1**2 */
MMINT_FUNCTION wide_t scatter_of(int64_t s1, int64_t s2, int64_t count) {
    return from_integer((int128_t)count * s2 - (int128_t)s1 * s1);
}

typedef struct {
    wide_t rstd;
    bool constant; /* is the variance 0? */
} spread_t;

/* Of `count` elements at `exponent` whose sum is s1 and whose squares add up to s2. */
MMINT_FUNCTION spread_t spread_of(int64_t s1, int64_t s2, int64_t count, int exponent, wide_t eps) {
    const wide_t square = from_integer((int128_t)count * count);
    const wide_t scatter = scatter_of(s1, s2, count);
    const wide_t var = shifted(divide(scatter, square), 2 * exponent);
    const spread_t made = {inverse_root(plus(var, eps)), scatter.mantissa == 0};
    return made;
}

/* Weight times rstd for a unit of X, which counts as 0 where all elements are the mean. */
MMINT_FUNCTION wide_t forward_scale(wide_t weight, spread_t spread, int exponent) {
    if (spread.constant) return wide_of(0, 0);
    return shifted(multiply(weight, spread.rstd), exponent);
}

/* `scale` for a unit of X, whose mantissas have `bits` bits. */
MMINT_FUNCTION coefficients_t forward_coefficients(wide_t scale, wide_t offset, int64_t s1,
                                                   int64_t count, int bits) {
    int exponent =
        int_max(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + bits));
    if (exponent == LOWEST) exponent = 0;
    const int64_t p = to_integer(scale, exponent);
    const int64_t mean = divide_even((int128_t)p * s1, count);
    return coefficients_of(p, 0, to_integer(offset, exponent) - mean, exponent);
}

/* A member's scale on its way into `backward_coefficients`. */
MMINT_FUNCTION coefficients_t scale_in_place(wide_t scale) {
    return coefficients_of(scale.mantissa, 0, 0, scale.exponent);
}

MMINT_FUNCTION wide_t placed_scale(const coefficients_t *member) {
    return wide_of(member->p, (int)member->exponent);
}

/* The coefficients of the `members` planes of one group, in `made`, where `scale_in_place` has put
 * their scales for a unit of G. h1 and h2 are their sums of G and of G * X. G's mantissas are
 * `wider` bits wider than X's, whose exponent is `exponent`. */
MMINT_FUNCTION void backward_coefficients(coefficients_t *made, int64_t members, wide_t rstd,
                                          int64_t s1, const int64_t *h1, const int64_t *h2,
                                          int64_t count, int wider, int exponent) {
    int highest = LOWEST;
    for (int64_t m = 0; m < members; m++)
        highest = int_max(highest, top_exponent(placed_scale(&made[m]), SCALE_BITS));
    int128_t sum1 = 0, sum2 = 0;
    for (int64_t m = 0; m < members; m++) {
        const int64_t p = to_integer(placed_scale(&made[m]), highest);
        sum1 += (int128_t)p * h1[m];
        sum2 += (int128_t)p * h2[m];
    }
    wide_t slope =
        divide(from_integer(count * sum2 - s1 * sum1), from_integer((int128_t)count * count));
    slope = negated(multiply(multiply(slope, rstd), rstd));
    slope = shifted(slope, highest + 2 * exponent);
    int common = int_max(highest, top_exponent(slope, SCALE_BITS + wider));
    if (common == LOWEST) common = 0;
    const int64_t q = to_integer(slope, common);
    sum1 = (int128_t)q * s1;
    for (int64_t m = 0; m < members; m++) {
        made[m] = coefficients_of(to_integer(placed_scale(&made[m]), common), q, 0, common);
        sum1 += (int128_t)made[m].p * h1[m];
    }
    const int64_t mean = divide_even(sum1, count);
    for (int64_t m = 0; m < members; m++) made[m].r = -mean;
}
