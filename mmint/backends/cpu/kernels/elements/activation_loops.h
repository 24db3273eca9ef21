/* ReLU, cut at a ceiling, and its gradient, element by element. */
#ifndef MMINT_ACTIVATION_LOOPS_H
#define MMINT_ACTIVATION_LOOPS_H

#include "arithmetic/source.h"

/* From element `i` on, a multiple of 8, where `top` is what was seen before. */
static inline uint32_t relu_rest(const float *x, float *out, uint8_t *passed, long i, long n,
                                 float ceiling, uint32_t top) {
    for (; i < n; i++) {
        const float v = x[i];
        if (i % 8 == 0) passed[i / 8] = 0;
        passed[i / 8] |= (uint8_t)(passes(v, ceiling) << i % 8);
        out[i] = cut_one(v, ceiling);
        if (magnitude_bits(out[i]) > top) top = magnitude_bits(out[i]);
    }
    return top;
}

static inline uint32_t relu_grad_rest(const float *grad, float *out, const uint8_t *passed, long i,
                                      long n, uint32_t top) {
    for (; i < n; i++) {
        out[i] = passed[i / 8] >> i % 8 & 1 ? grad[i] : 0;
        if (magnitude_bits(out[i]) > top) top = magnitude_bits(out[i]);
    }
    return top;
}

static inline uint32_t relu_loop(const float *x, float *out, uint8_t *passed, long n,
                                 float ceiling) {
    return relu_rest(x, out, passed, 0, n, ceiling, 0);
}

static inline uint32_t relu_grad_loop(const float *grad, float *out, const uint8_t *passed,
                                      long n) {
    return relu_grad_rest(grad, out, passed, 0, n, 0);
}

#endif
