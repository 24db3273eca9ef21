/* From exact sums to the integers that a norm's elements meet: reference/norm.py. */
#ifndef MMINT_COEFFICIENTS_H
#define MMINT_COEFFICIENTS_H

#include "planes.h"
#include "wide.h"

enum { SCALE_BITS = 22 };

/* n * S2 - S1**2 */
INLINE wide_t scatter_of(int64_t s1, int64_t s2, int64_t count) {
    return from_integer((int128)count * s2 - (int128)s1 * s1);
}

typedef struct {
    wide_t rstd;
    int constant; /* is the variance 0? */
} spread_t;

INLINE spread_t spread_of(int64_t s1, int64_t s2, int64_t count, long exponent, wide_t eps) {
    const wide_t square = from_integer((int128)count * count), scatter = scatter_of(s1, s2, count);
    const wide_t var = shifted(divide(scatter, square), 2 * exponent);
    return (spread_t){rsqrt(plus(var, eps)), scatter.mantissa == 0};
}

/* Weight times rstd, which counts as 0 where all elements are the mean. */
INLINE wide_t forward_scale(wide_t weight, spread_t spread, long exponent) {
    if (spread.constant) return (wide_t){0, 0};
    return shifted(multiply(weight, spread.rstd), exponent);
}

/* `scale` for a unit of X. */
INLINE coefficients_t forward_coefficients(wide_t scale, wide_t offset, int64_t s1, int64_t count,
                                           int bits) {
    long exponent = most(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + bits));
    if (exponent == LOWEST) exponent = 0;
    const int64_t p = to_integer(scale, exponent);
    const int64_t mean = divide_even((int128)p * s1, count);
    return (coefficients_t){p, 0, to_integer(offset, exponent) - mean, exponent};
}

/* Of `members` sums that one group has, scale[] for a unit of G. */
static inline void backward_coefficients(const wide_t *scale, long members, wide_t rstd, int64_t s1,
                                         const int64_t *h1, const int64_t *h2, int64_t count,
                                         int wider, long exponent, coefficients_t *made) {
    long highest = LOWEST;
    for (long m = 0; m < members; m++) highest = most(highest, top_exponent(scale[m], SCALE_BITS));
    int128 sum1 = 0, sum2 = 0;
    for (long m = 0; m < members; m++) {
        const int64_t p = to_integer(scale[m], highest);
        sum1 += (int128)p * h1[m];
        sum2 += (int128)p * h2[m];
    }
    wide_t slope = divide(from_integer(count * sum2 - s1 * sum1),
                          from_integer((int128)count * count));
    slope = negated(multiply(multiply(slope, rstd), rstd));
    slope = shifted(slope, highest + 2 * exponent);
    long common = most(highest, top_exponent(slope, SCALE_BITS + wider));
    if (common == LOWEST) common = 0;
    const int64_t q = to_integer(slope, common);
    sum1 = (int128)q * s1;
    for (long m = 0; m < members; m++) {
        made[m] = (coefficients_t){to_integer(scale[m], common), q, 0, common};
        sum1 += (int128)made[m].p * h1[m];
    }
    const int64_t mean = divide_even(sum1, count);
    for (long m = 0; m < members; m++) made[m].r = -mean;
}

#endif
