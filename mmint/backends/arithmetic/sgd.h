/* One parameter's update by stochastic gradient descent: reference/sgd.py.
 *
 * Three sums follow each other, each of at most three terms: the direction (the new momentum),
 * Nesterov's direction, and the updated parameter. The exponent of each follows from the largest
 * magnitudes of what comes in, so that the plan of all three is known before the first element.
 *
 * A sum has 32 fraction bits, and at most 2**15 of its units: int64 holds it. A product is one of
 * two integers of 16 bits, below 2**30. */
#pragma once

#include "arithmetic/mapping.h"

enum { SUM_FRACTION_BITS = 32, BOUND_BITS = 40 };

/* mmint/numerics/random_bits.py, Role */
enum { SGD_PARAMETER = 16, SGD_MOMENTUM, SGD_NESTEROV, SGD_UPDATE };

typedef struct {
    int64_t mantissa, exponent;
} sgd_factor;

typedef struct {
    int64_t bits, nesterov;
    sgd_factor momentum, decay, rate; /* the rate with a minus */
} sgd_settings;

/* Largest magnitudes: of gradient and parameter as patterns of float32, of the old momentum as a
 * mantissa, 0 in the first step. */
typedef struct {
    uint32_t grad, param, momentum;
    int momentum_exponent;
} sgd_tops;

/* Mantissas that share an exponent, and what none of their magnitudes exceeds. */
typedef struct {
    int exponent;
    int64_t top;
} sgd_number;

/* What a term adds to a sum: its mantissa times `factor`, shifted left by `shift`, or right. */
typedef struct {
    int32_t factor;
    int shift;
} sgd_term;

/* momentum (or direction) + param + grad, narrowed to `exponent`. */
typedef struct {
    int exponent;
    bool has_grad;
    sgd_term momentum, param;
} sgd_sum;

typedef struct {
    int param_exponent;
    bool nesterov;
    sgd_sum direction, ahead, update;
} sgd_plan;

/* ---- the plan ---- */

/* top / 2**right, rounded up. */
MMINT_FUNCTION int64_t ceil_shifted(int64_t top, int right) {
    return right <= 0 ? top << -right : right > 62 ? top > 0 : -(-top >> right);
}

MMINT_FUNCTION sgd_number sgd_times(sgd_number x, sgd_factor factor) {
    const sgd_number product = {x.exponent + (int)factor.exponent,
                                x.top * (int64_t)magnitude_of(factor.mantissa)};
    return product;
}

/* By how much a sum of magnitude `top` at most goes right to fit `bits`. */
MMINT_FUNCTION int sgd_narrowing(uint64_t top, int bits) {
    const int p = bits - 1, shift = int_max(bit_length(top) - p, 0);
    return top > (uint64_t)most_of(p) << shift ? shift + 1 : shift;
}

/* The exponent at which the sum of these terms fits `bits`, and its largest magnitude there. */
MMINT_FUNCTION sgd_number sgd_fit(const sgd_number *terms, int bits) {
    bool any = false;
    int high = 0;
    int64_t bound = 0;
    for (int i = 0; i < 3; i++) {
        const int length = bit_length((uint64_t)terms[i].top) + terms[i].exponent;
        if (terms[i].top) high = any ? int_max(high, length) : length;
        any = any || terms[i].top;
    }
    const int common = any ? high - BOUND_BITS : 0;
    for (int i = 0; i < 3; i++)
        if (terms[i].top) bound += ceil_shifted(terms[i].top, common - terms[i].exponent);
    const int shift = sgd_narrowing((uint64_t)bound, bits);
    const sgd_number sum = {common + shift, ceil_shifted(bound, shift)};
    return sum;
}

MMINT_FUNCTION sgd_term sgd_term_of(sgd_number product, sgd_factor factor, int exponent) {
    sgd_term term = {0, 0};
    if (!product.top) return term;
    term.factor = (int32_t)factor.mantissa;
    term.shift = int_max(product.exponent - exponent + SUM_FRACTION_BITS, -63);
    return term;
}

/* Plans a sum; returns what comes out. */
MMINT_FUNCTION sgd_number sgd_plan_sum(sgd_sum *sum, sgd_number momentum, sgd_factor of_momentum,
                                       sgd_number param, sgd_factor of_param, sgd_number grad,
                                       int bits) {
    const sgd_number terms[3] = {sgd_times(momentum, of_momentum), sgd_times(param, of_param),
                                 grad};
    const sgd_number made = sgd_fit(terms, bits);
    sum->exponent = made.exponent;
    sum->momentum = sgd_term_of(terms[0], of_momentum, made.exponent);
    sum->param = sgd_term_of(terms[1], of_param, made.exponent);
    sum->has_grad = grad.top != 0;
    return made;
}

/* Of a largest magnitude. */
MMINT_FUNCTION sgd_number sgd_number_of(uint32_t magnitude) {
    const sgd_number number = {int_max(field_of(magnitude), 1) - 150, mantissa24_of(magnitude)};
    return number;
}

MMINT_FUNCTION sgd_plan sgd_plan_of(const sgd_settings *a, sgd_tops tops) {
    const int bits = (int)a->bits;
    const sgd_factor one = {1, 0};
    const sgd_number grad = sgd_number_of(tops.grad), top = sgd_number_of(tops.param);
    const sgd_number old = {tops.momentum_exponent, tops.momentum}, nothing = {0, 0};
    sgd_plan p;
    p.nesterov = a->nesterov != 0;
    p.param_exponent = exponent_of(tops.param, bits);
    const sgd_number param = {p.param_exponent,
                              ceil_shifted(top.top, p.param_exponent - top.exponent)};
    const sgd_number made =
        sgd_plan_sum(&p.direction, old, a->momentum, param, a->decay, grad, bits);
    const sgd_number ahead = sgd_plan_sum(&p.ahead, made, a->momentum, param, a->decay, grad, bits);
    sgd_plan_sum(&p.update, p.nesterov ? ahead : made, a->rate, param, one, nothing, bits);
    return p;
}

/* ---- an element ---- */

MMINT_FUNCTION int64_t sgd_product(int32_t mantissa, sgd_term term) {
    const int64_t product = mantissa * term.factor;
    return term.shift >= 0 ? product * ((int64_t)1 << term.shift) : product >> -term.shift;
}

/* A gradient in the sum's units, cut towards zero. */
MMINT_FUNCTION int64_t sgd_fine(uint32_t pattern, int exponent) {
    const uint32_t magnitude = pattern & 0x7FFFFFFF;
    const int left = int_max(field_of(magnitude), 1) - 150 - exponent + SUM_FRACTION_BITS;
    const uint64_t mantissa = mantissa24_of(magnitude);
    return with_sign(left >= 0 ? mantissa << left : mantissa >> int_min(-left, 63), pattern >> 31);
}

/* The sum, rounded to nearest at 16 fraction bits, and these with `drawn`. */
MMINT_FUNCTION int32_t sgd_summed(const sgd_sum *s, int32_t momentum, int32_t param, uint32_t grad,
                                  uint32_t drawn) {
    int64_t total = sgd_product(momentum, s->momentum) + sgd_product(param, s->param);
    if (s->has_grad) total += sgd_fine(grad, s->exponent);
    const int64_t half = (int64_t)1 << (SUM_FRACTION_BITS - FRACTION_BITS - 1);
    total = (total + half) >> (SUM_FRACTION_BITS - FRACTION_BITS);
    return (int32_t)((total + drawn) >> FRACTION_BITS);
}
