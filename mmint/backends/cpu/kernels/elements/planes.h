/* Images plane by plane: mantissas (N, C, P), P the product of the spatial sizes. */
#ifndef MMINT_PLANES_H
#define MMINT_PLANES_H

#include "arithmetic/coefficients.h"

/* Two tensors of mantissas (the second may be NULL), and float32 of their shape. */
typedef struct {
    const void *first, *second;
    float *out;
    long images, channels, pixels;
    int wide, threads;
} planes_t;

/* p * a + q * b + r of n mantissas, b may be NULL; returns the largest magnitude written. */
uint32_t combine16(const int16_t *a, const int16_t *b, float *out, long n, const coefficients_t *c);

/* Coefficients [channels], or [images][channels]; returns the largest magnitude written. */
uint32_t combine(const planes_t *planes, const coefficients_t *coefficients, int per_image);

#endif
