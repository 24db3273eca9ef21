/* A group's statistics, as kernels are given them. */
#pragma once

#include "arithmetic/coefficients.h"
#include "arithmetic/exponents.h"

/* Sums (2, groups) of X and X * X over `count` elements each, x's exponents, and epsilon. */
struct statistics {
    const int64_t *sums;
    exponents_t exponents;
    int64_t groups, count, eps, eps_exponent;
};

__device__ __forceinline__ spread_t spread_in(const statistics &s, int64_t group) {
    return spread_of(s.sums[group], s.sums[s.groups + group], s.count,
                     exponent_at(s.exponents, group), wide_of(s.eps, (int)s.eps_exponent));
}
