/* From exact sums to the integers that a norm's elements meet: reference/norm.py. */
#pragma once

#include "wide.cuh"

enum { SCALE_BITS = 22 };

/* p * G + q * X + r, or p * X + r, at an exponent. */
struct coefficients {
    int64_t p, q, r, exponent;
};

/* Sums (2, groups) of X and X * X over `count` elements each, x's exponent, and epsilon. */
struct statistics {
    const int64_t *sums;
    const int32_t *exponent;
    int64_t groups, count, eps, eps_exponent;
};

struct spread {
    wide rstd;
    bool constant; /* is the variance 0? */
};

/* n * S2 - S1**2 */
__device__ __forceinline__ wide scatter_of(int64_t s1, int64_t s2, int64_t count) {
    return from_integer((int128)count * s2 - (int128)s1 * s1);
}

__device__ __forceinline__ wide epsilon(const statistics &s) {
    return {s.eps, (int)s.eps_exponent};
}

__device__ __forceinline__ spread spread_in(const statistics &s, int64_t group) {
    const wide square = from_integer((int128)s.count * s.count);
    const wide scatter = scatter_of(s.sums[group], s.sums[s.groups + group], s.count);
    const wide var = shifted(divide(scatter, square), 2 * *s.exponent);
    return {inverse_root(plus(var, epsilon(s))), scatter.mantissa == 0};
}

/* Weight times rstd for a unit of X, which counts as 0 where all elements are the mean. */
__device__ __forceinline__ wide forward_scale(wide weight, const spread &v, int exponent) {
    if (v.constant) return {0, 0};
    return shifted(multiply(weight, v.rstd), exponent);
}

__device__ __forceinline__ coefficients forward_coefficients(wide scale, wide offset, int64_t s1,
                                                             int64_t count, int bits) {
    int exponent = max(top_exponent(scale, SCALE_BITS), top_exponent(offset, SCALE_BITS + bits));
    if (exponent == LOWEST) exponent = 0;
    const int64_t p = to_integer(scale, exponent);
    const int64_t mean = divide_even((int128)p * s1, count);
    return {p, 0, to_integer(offset, exponent) - mean, exponent};
}

/* Of `members` sums that one group has; scale(m) for a unit of G. G's mantissas are `wider` bits
 * wider than X's, whose exponent is `exponent`. */
template <typename Scale>
__device__ void backward_coefficients(Scale scale, int64_t members, wide rstd, int64_t s1,
                                      const int64_t *h1, const int64_t *h2, int64_t count,
                                      int wider, int exponent, coefficients *made) {
    int highest = LOWEST;
    for (int64_t m = 0; m < members; m++) highest = max(highest, top_exponent(scale(m), SCALE_BITS));
    int128 sum1 = 0, sum2 = 0;
    for (int64_t m = 0; m < members; m++) {
        const int64_t p = to_integer(scale(m), highest);
        sum1 += (int128)p * h1[m];
        sum2 += (int128)p * h2[m];
    }
    wide slope =
        divide(from_integer(count * sum2 - s1 * sum1), from_integer((int128)count * count));
    slope = negated(multiply(multiply(slope, rstd), rstd));
    slope = shifted(slope, highest + 2 * exponent);
    int common = max(highest, top_exponent(slope, SCALE_BITS + wider));
    if (common == LOWEST) common = 0;
    const int64_t q = to_integer(slope, common);
    sum1 = (int128)q * s1;
    for (int64_t m = 0; m < members; m++) sum1 += (int128)to_integer(scale(m), common) * h1[m];
    const int64_t mean = divide_even(sum1, count);
    for (int64_t m = 0; m < members; m++) made[m] = {to_integer(scale(m), common), q, -mean, common};
}
