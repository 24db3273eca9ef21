/* The weight gradient: sums over pixels, of which there are many. */
#ifndef MMINT_WEIGHT_GRAD_H
#define MMINT_WEIGHT_GRAD_H

#include "operand.h"

/* out[row][channel][tap] = sum over pixels of grad[pixel][row] * x[pixel + tap][channel], with
 * `grad` as COLUMNS whose depth is pixels and `x` as PIXELS. */
typedef struct {
    operand_t grad, x;
    double largest; /* magnitude of one product */
    int exponent;
    float *out;
} weight_grad_t;

int weight_grad(const weight_grad_t *p, int threads);

#endif
