/* Sums and combinations of int8 mantissas. */
#ifndef MMINT_PLANES_LOOPS_H
#define MMINT_PLANES_LOOPS_H

#include "arithmetic/coefficients.h"
#include "integers.h"

enum { SUM_BLOCK = 1 << 16 }; /* products that int32 holds */

/* The larger one of `top` and the magnitude of `made`. */
INLINE uint32_t take(float made, uint32_t top) {
    return magnitude_bits(made) > top ? magnitude_bits(made) : top;
}

/* sum[0] of a, sum[1] of a * b */
static inline void sums8_loop(const int8_t *a, const int8_t *b, long n, int64_t *sum) {
    for (long i = 0; i < n; i += SUM_BLOCK) {
        const long end = least(n, i + SUM_BLOCK);
        int32_t plain = 0, product = 0;
        for (long j = i; j < end; j++) {
            plain += a[j];
            product += a[j] * b[j];
        }
        sum[0] += plain;
        sum[1] += product;
    }
}

INLINE void sums16_loop(const int16_t *a, const int16_t *b, long n, int64_t *sum) {
    for (long i = 0; i < n; i++) {
        sum[0] += a[i];
        sum[1] += a[i] * b[i];
    }
}

static inline uint32_t combine8_loop(const int8_t *a, const int8_t *b, float *restrict out, long n,
                                     const coefficients_t *c) {
    const uint32_t p = (uint32_t)c->p, q = (uint32_t)c->q, r = (uint32_t)c->r;
    const int fast = scale_is_exact(c->exponent, SCALED_INT32);
    const float scale = fast ? scale_of((int)c->exponent) : 0;
    uint32_t top = 0;
    if (fast && b) {
        for (long i = 0; i < n; i++) {
            out[i] = (float)(int32_t)(p * (uint32_t)a[i] + q * (uint32_t)b[i] + r) * scale;
            top = take(out[i], top);
        }
    } else if (fast) {
        for (long i = 0; i < n; i++) {
            out[i] = (float)(int32_t)(p * (uint32_t)a[i] + r) * scale;
            top = take(out[i], top);
        }
    } else {
        for (long i = 0; i < n; i++) {
            const uint32_t second = b ? q * (uint32_t)b[i] : 0;
            out[i] = dequantize_one((int32_t)(p * (uint32_t)a[i] + second + r), (int)c->exponent);
            top = take(out[i], top);
        }
    }
    return top;
}

#endif
