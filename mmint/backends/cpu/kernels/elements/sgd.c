/* The parameter update: paper section 3.4, bit for bit as reference/sgd.py, by the plan of
 * arithmetic/sgd.h. */
#include "sgd.h"

#include "arguments.h"
#include "levels/level.h"
#include "mapping.h"
#include "memory.h"
#include "status.h"

enum { CHUNK = 1 << 13 };

/* Sums mapped to `bits`, into `out`; returns the largest magnitude of the sums. */
static uint64_t narrow(const sgd_step_args *a, const sgd_sum *plan, int role, int16_t *out) {
    const update_sum_t s = {*plan, key_of(with_role(RANDOM_OF(a), plan->role))};
    const philox_key key = key_of(with_role(RANDOM_OF(a), role));
    const long chunks = div_up(a->n, CHUNK);
    int64_t top = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : top) if (chunks > 1)
    for (long c = 0; c < chunks; c++) {
        const int64_t t = level->sum_top(&s, c * CHUNK, least(CHUNK, a->n - c * CHUNK));
        if (t > top) top = t;
    }
    const long shift = sgd_narrowing((uint64_t)top, (int)a->bits);
#pragma omp parallel for num_threads((int)a->threads) if (chunks > 1)
    for (long c = 0; c < chunks; c++)
        level->sum_narrow(&s, &key, shift, c * CHUNK, least(CHUNK, a->n - c * CHUNK), out);
    return (uint64_t)top;
}

static int any_of(const int16_t *mantissa, long n) {
    for (long i = 0; i < n; i++)
        if (mantissa[i]) return 1;
    return 0;
}

/* float32 with this largest magnitude mapped to `bits`, into `out`. Is any mantissa not zero? That
 * of subnormals may all be. */
static int map(const sgd_step_args *a, const float *x, uint64_t top, int role, int16_t *out) {
    const philox_key key = key_of(with_role(RANDOM_OF(a), role));
    const int exponent = exponent_of((uint32_t)top, (int)a->bits);
    round_all(x, out, a->n, exponent, 1, &key, (int)a->threads);
    return any_of(out, a->n);
}

/* The update in the int16 tensors g, w, u and v of work: gradient, parameter, old momentum and then
 * Nesterov's direction, new momentum. */
static int64_t step(const sgd_step_args *a, int16_t *g, int16_t *w, int16_t *u, int16_t *v) {
    const int bits = (int)a->bits, threads = (int)a->threads, narrow_momentum = bits <= 8;
    const sgd_settings settings = {
        bits, a->nesterov, {a->momentum_factor, a->momentum_factor_exponent},
        {a->weight_decay, a->weight_decay_exponent}, {a->negative_lr, a->negative_lr_exponent}};
    const int16_t *old = a->momentum;
    sgd_seen seen = {.grad_pattern = top_magnitude(a->grad, a->n, threads),
                     .param_pattern = top_magnitude(a->param, a->n, threads)};
    if (!is_finite((uint32_t)seen.grad_pattern) || !is_finite((uint32_t)seen.param_pattern))
        return NOT_FINITE;
    if (old && narrow_momentum) {
        for (long i = 0; i < a->n; i++) u[i] = ((const int8_t *)a->momentum)[i];
        old = u;
    }
    const sgd_mantissas of = {g, w, old, v, u, (int)a->momentum_exponent, true};
    seen.grad = (uint64_t)map(a, a->grad, seen.grad_pattern, SGD_GRADIENT, g);
    seen.param = (uint64_t)map(a, a->param, seen.param_pattern, SGD_PARAMETER, w);
    seen.momentum = old && any_of(old, a->n);
    sgd_plan plan = sgd_plan_of(&settings, &of, seen);
    seen.direction = narrow(a, &plan.direction, SGD_MOMENTUM, v);
    if (narrow_momentum)
        for (long i = 0; i < a->n; i++) ((int8_t *)a->out)[i] = (int8_t)v[i];
    if (a->nesterov) {
        plan = sgd_plan_of(&settings, &of, seen);
        seen.nesterov = narrow(a, &plan.nesterov, SGD_NESTEROV, u);
    }
    plan = sgd_plan_of(&settings, &of, seen);
    seen.update = narrow(a, &plan.update, SGD_UPDATE, g);
    const dequantize_args back = {
        .x = g, .out = a->param, .n = a->n, .size = 2, .threads = threads,
        .exponent = sgd_narrowed_exponent(&plan.update, seen.update, bits)};
    dequantize(&back);
    return plan.buffer_exponent;
}

int64_t sgd_step(const sgd_step_args *a) {
    const size_t size = (size_t)a->n * 2;
    int16_t *g = allocate(size), *w = allocate(size), *u = allocate(size);
    int16_t *v = a->bits > 8 ? a->out : allocate(size);
    const int64_t result = g && w && u && (v || !a->n) ? step(a, g, w, u, v) : NO_MEMORY;
    free(g);
    free(w);
    free(u);
    if (a->bits <= 8) free(v);
    return result;
}
