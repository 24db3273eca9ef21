/* Images plane by plane: mantissas (N, C, P), P the product of the spatial sizes. */
#ifndef MMINT_PLANES_H
#define MMINT_PLANES_H

#include "arithmetic/coefficients.h"

/* p * a + q * b + r of n mantissas, b may be NULL; returns the largest magnitude written. */
uint32_t combine16(const int16_t *a, const int16_t *b, float *out, long n, const coefficients_t *c);

#endif
