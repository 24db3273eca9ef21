/* What a norm computes once a group, bit for bit as reference/norms: statistics and coefficients
 * from exact sums; source.c applies them. */
#include "arguments.h"
#include "arithmetic/coefficients.h"
#include "integers.h"
#include "status.h"

enum { MANY = 256 /* groups that are worth a second thread */ };

/* Of plane (image, channel): its group, and the sums' layout. */
typedef struct {
    long channels, groups, count;
    const int64_t *s1, *s2;
    exponents_t exponents;
    wide_t eps;
} statistics_t;

static statistics_t statistics(const int64_t *s1, long images, long channels, long groups,
                               long count, exponents_t exponents, wide_t eps) {
    const long all = groups ? images * groups : channels;
    return (statistics_t){channels, groups, count, s1, s1 + all, exponents, eps};
}

INLINE long group_of(const statistics_t *s, long image, long channel) {
    return s->groups ? image * s->groups + channel / (s->channels / s->groups) : channel;
}

static spread_t spread_in(const statistics_t *s, long group) {
    return spread_of(s->s1[group], s->s2[group], s->count, exponent_at(s->exponents, group),
                     s->eps);
}

/* `fallback` where there is no parameter. Is it not finite? */
static int parameter(const float *values, long channel, int fallback, wide_t *wide) {
    *wide = values ? from_float(values[channel]) : from_integer(fallback);
    return values && !is_finite(magnitude_bits(values[channel]));
}

int64_t norm(const norm_args *a) {
    const statistics_t s = statistics(a->sums, a->images, a->channels, a->groups, a->count,
                                      EXPONENTS_OF(a, exponent), EPS_OF(a));
    const long rows = a->groups ? a->images : 1, members = a->groups ? a->channels / a->groups : 1;
    coefficients_t *made = a->coefficients;
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) \
    reduction(| : failed) if (rows * a->channels > MANY)
    for (long first = 0; first < rows * a->channels; first += members) {
        const long group = first / members;
        const spread_t spread = spread_in(&s, group);
        for (long at = first; at < first + members; at++) {
            wide_t weight, bias;
            failed |= parameter(a->weight, at % a->channels, 1, &weight) |
                      parameter(a->bias, at % a->channels, 0, &bias);
            const wide_t scale = forward_scale(weight, spread, exponent_at(s.exponents, group));
            made[at] = forward_coefficients(scale, bias, s.s1[group], a->count, (int)a->bits);
        }
    }
    return failed ? NOT_FINITE : OK;
}

int64_t norm_grad(const norm_grad_args *a) {
    const statistics_t s = statistics(a->sums, a->images, a->channels, a->groups, a->count,
                                      EXPONENTS_OF(a, exponent), EPS_OF(a));
    const long rows = a->groups ? a->images : 1, members = a->groups ? a->channels / a->groups : 1;
    const int64_t *h1 = a->products, *h2 = h1 + rows * a->channels;
    coefficients_t *made = a->coefficients;
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) \
    reduction(| : failed) if (rows * a->channels > MANY)
    for (long first = 0; first < rows * a->channels; first += members) {
        const long group = first / members;
        const wide_t rstd = spread_in(&s, group).rstd;
        const int grad_exponent = exponent_at(EXPONENTS_OF(a, grad_exponent), group);
        for (long at = first; at < first + members; at++) {
            wide_t weight;
            failed |= parameter(a->weight, at % a->channels, 1, &weight);
            made[at] = scale_in_place(shifted(multiply(weight, rstd), grad_exponent));
        }
        backward_coefficients(made + first, members, rstd, s.s1[group], h1 + first, h2 + first,
                              a->count, (int)(a->grad_bits - a->bits),
                              exponent_at(s.exponents, group));
    }
    return failed ? NOT_FINITE : OK;
}

/* Images add one after another. */
int64_t norm_weight_grad(const norm_weight_grad_args *a) {
    const statistics_t s = statistics(a->sums, a->images, a->channels, a->groups, a->count,
                                      EXPONENTS_OF(a, exponent), EPS_OF(a));
    const int64_t *h1 = a->products, *h2 = h1 + a->images * a->channels;
    const wide_t count = from_integer(a->count);
#pragma omp parallel for num_threads((int)a->threads) if (a->images * a->channels > MANY)
    for (long c = 0; c < a->channels; c++) {
        wide_t slope = {0, 0}, total = {0, 0};
        for (long n = 0; n < a->images; n++) {
            const long group = group_of(&s, n, c), at = n * a->channels + c;
            const int grad_exponent = exponent_at(EXPONENTS_OF(a, grad_exponent), group);
            const wide_t covariance =
                from_integer((int128_t)a->count * h2[at] - (int128_t)s.s1[group] * h1[at]);
            const wide_t here = multiply(divide(covariance, count), spread_in(&s, group).rstd);
            slope = plus(slope, shifted(here, grad_exponent + exponent_at(s.exponents, group)));
            total = plus(total, narrow(h1[at], grad_exponent));
        }
        a->dweight[c] = to_float(slope);
        a->dbias[c] = to_float(total);
    }
    return OK;
}

static wide_t moved(wide_t old, wide_t batch, wide_t factor) {
    return plus(old, multiply(factor, plus(batch, negated(old))));
}

int64_t update_running(const update_running_args *a) {
    const int64_t *s1 = a->sums, *s2 = s1 + a->channels;
    float *mean = a->mean, *var = a->var;
    const wide_t factor = shifted(from_integer(a->momentum), (int)a->momentum_exponent);
    const wide_t count = from_integer(a->count);
    const wide_t pairs = from_integer((int128_t)a->count * (a->count - 1));
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(| : failed) if (a->channels > MANY)
    for (long c = 0; c < a->channels; c++) {
        const wide_t batch_mean = divide(narrow(s1[c], 0), count);
        const wide_t batch_var = divide(scatter_of(s1[c], s2[c], a->count), pairs);
        wide_t old_mean, old_var;
        failed |= parameter(a->mean, c, 0, &old_mean) | parameter(a->var, c, 0, &old_var);
        const int exponent = exponent_at(EXPONENTS_OF(a, exponent), c);
        mean[c] = to_float(moved(old_mean, shifted(batch_mean, exponent), factor));
        var[c] = to_float(moved(old_var, shifted(batch_var, 2 * exponent), factor));
    }
    return failed ? NOT_FINITE : OK;
}

/* 1 / sqrt(var + eps); NOT_FINITE where that is none. */
static int frozen_rstd(float var, wide_t eps, wide_t *rstd) {
    wide_t total;
    if (!is_finite(magnitude_bits(var))) return NOT_FINITE;
    total = plus(from_float(var), eps);
    if (total.mantissa <= 0) return NOT_FINITE;
    *rstd = inverse_root(total);
    return OK;
}

int64_t frozen_norm(const frozen_norm_args *a) {
    coefficients_t *made = a->coefficients;
    for (long c = 0; c < a->channels; c++) {
        wide_t rstd, weight, bias, mean;
        if (frozen_rstd(a->var[c], EPS_OF(a), &rstd) || parameter(a->weight, c, 1, &weight) ||
            parameter(a->bias, c, 0, &bias) || parameter(a->mean, c, 0, &mean))
            return NOT_FINITE;
        const wide_t scale = multiply(weight, rstd);
        const wide_t offset = plus(bias, negated(multiply(mean, scale)));
        const int exponent = exponent_at(EXPONENTS_OF(a, exponent), c);
        made[c] = forward_coefficients(shifted(scale, exponent), offset, 0, 1, (int)a->bits);
    }
    return OK;
}

int64_t frozen_norm_weight_grad(const frozen_norm_weight_grad_args *a) {
    const int64_t *h1 = a->products, *h2 = h1 + a->channels;
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(| : failed) if (a->channels > MANY)
    for (long c = 0; c < a->channels; c++) {
        wide_t rstd, mean;
        if (frozen_rstd(a->var[c], EPS_OF(a), &rstd) || parameter(a->mean, c, 0, &mean)) {
            failed = 1;
            continue;
        }
        const wide_t total = narrow(h2[c], exponent_at(EXPONENTS_OF(a, exponent), c));
        const wide_t centred = plus(total, negated(multiply(mean, narrow(h1[c], 0))));
        const int grad_exponent = exponent_at(EXPONENTS_OF(a, grad_exponent), c);
        a->dweight[c] = to_float(shifted(multiply(centred, rstd), grad_exponent));
    }
    return failed ? NOT_FINITE : OK;
}
