/* The plan of an update by stochastic gradient descent: reference/sgd.py for one parameter.
 *
 * Gradient and parameter are mapped to mantissas. Three sums follow each other: the direction (the
 * new momentum), Nesterov's direction, and the updated parameter. Each takes two sweeps over the
 * elements: the largest sum of aligned terms, then all sums narrowed by it. What the sweeps find is
 * in `sgd_seen`, and the plan of what comes next follows from it.
 *
 * Products are below 2**30 and go left by at most 28 bits, so that int64 holds the sums. */
#pragma once

#include "arithmetic/mapping.h"

enum { SGD_ALIGNMENT = 28 };

/* mmint/numerics/random_bits.py, Role */
enum {
    SGD_PARAMETER = 16,
    SGD_GRADIENT,
    SGD_DIRECTION_SUM,
    SGD_MOMENTUM,
    SGD_NESTEROV_SUM,
    SGD_NESTEROV,
    SGD_UPDATE_SUM,
    SGD_UPDATE
};

typedef struct {
    int64_t mantissa, exponent;
} sgd_factor;

typedef struct {
    int64_t bits, nesterov;
    sgd_factor momentum, decay, rate; /* the rate with a minus */
} sgd_settings;

/* Where the mantissas are: int8 where not `wide`, which the momenta share. */
typedef struct {
    const void *grad, *param, *old, *buffer, *nesterov; /* old: NULL in the first step */
    int old_exponent;
    bool wide;
} sgd_mantissas;

/* Largest magnitudes, 0 where nobody has looked yet: the first two as patterns of float32, then of
 * mantissas, of which only matters whether they are 0, then of sums. */
typedef struct {
    uint64_t grad_pattern, param_pattern, grad, param, momentum, direction, nesterov, update;
} sgd_seen;

/* Mantissas times a factor; `counts` unless they are all zero. */
typedef struct {
    const void *mantissa;
    bool wide, counts;
    int exponent;
    int64_t factor;
} sgd_term;

/* Terms at a common exponent, each shifted right (left where negative); `draws`: some go right. */
typedef struct {
    sgd_term terms[3];
    int shift[3], exponent, role;
    bool draws;
} sgd_sum;

typedef struct {
    int grad_exponent, param_exponent, buffer_exponent;
    sgd_sum direction, nesterov, update;
} sgd_plan;

MMINT_FUNCTION sgd_term sgd_term_of(const void *mantissa, bool wide, int exponent, bool counts) {
    const sgd_term term = {mantissa, wide, counts, exponent, 1};
    return term;
}

MMINT_FUNCTION sgd_term sgd_times(sgd_term term, sgd_factor factor) {
    term.counts = term.counts && factor.mantissa;
    term.factor = factor.mantissa;
    term.exponent += (int)factor.exponent;
    return term;
}

MMINT_FUNCTION sgd_sum sgd_align(sgd_term first, sgd_term second, sgd_term third, int role) {
    sgd_sum s = {{first, second, third}, {0, 0, 0}, 0, role, false};
    if (!first.counts && !second.counts && !third.counts) s.terms[0].counts = true;
    int low = 0, high = 0;
    bool any = false;
    for (int i = 0; i < 3; i++) {
        if (!s.terms[i].counts) continue;
        low = any ? int_min(low, s.terms[i].exponent) : s.terms[i].exponent;
        high = any ? int_max(high, s.terms[i].exponent) : s.terms[i].exponent;
        any = true;
    }
    s.exponent = int_max(low, high - SGD_ALIGNMENT);
    for (int i = 0; i < 3; i++) {
        if (!s.terms[i].counts) continue;
        s.shift[i] = s.exponent - s.terms[i].exponent;
        s.draws = s.draws || s.shift[i] > 0;
    }
    return s;
}

/* By how much sums go right so that the largest, `top`, fits `bits`. */
MMINT_FUNCTION int sgd_narrowing(uint64_t top, int bits) {
    const int p = bits - 1, shift = bit_length(top) - p;
    return shift > 0 && top > (uint64_t)most_of(p) << shift ? shift + 1 : shift;
}

MMINT_FUNCTION int sgd_narrowed_exponent(const sgd_sum *sum, uint64_t top, int bits) {
    return top ? sum->exponent + sgd_narrowing(top, bits) : 0;
}

/* The sums, as far as what was seen makes them. */
MMINT_FUNCTION sgd_plan sgd_plan_of(const sgd_settings *a, const sgd_mantissas *of, sgd_seen seen) {
    const int bits = (int)a->bits;
    const sgd_term nothing = sgd_term_of(0, true, 0, false);
    sgd_plan p;
    p.grad_exponent = exponent_of((uint32_t)seen.grad_pattern, bits);
    p.param_exponent = exponent_of((uint32_t)seen.param_pattern, bits);
    const sgd_term grad = sgd_term_of(of->grad, true, p.grad_exponent, seen.grad != 0);
    const sgd_term param = sgd_term_of(of->param, true, p.param_exponent, seen.param != 0);
    const sgd_term old =
        of->old ? sgd_term_of(of->old, of->wide, of->old_exponent, seen.momentum != 0) : nothing;
    const sgd_term decayed = sgd_times(param, a->decay);
    p.direction = sgd_align(grad, decayed, sgd_times(old, a->momentum), SGD_DIRECTION_SUM);
    p.buffer_exponent = sgd_narrowed_exponent(&p.direction, seen.direction, bits);
    const sgd_term buffer =
        sgd_term_of(of->buffer, of->wide, p.buffer_exponent, seen.direction != 0);
    p.nesterov = sgd_align(grad, decayed, sgd_times(buffer, a->momentum), SGD_NESTEROV_SUM);
    sgd_term step = buffer;
    if (a->nesterov)
        step =
            sgd_term_of(of->nesterov, true, sgd_narrowed_exponent(&p.nesterov, seen.nesterov, bits),
                        seen.nesterov != 0);
    p.update = sgd_align(param, sgd_times(step, a->rate), nothing, SGD_UPDATE_SUM);
    return p;
}
