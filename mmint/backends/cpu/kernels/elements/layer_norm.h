/* A layer norm, prepared. */
#ifndef MMINT_LAYER_NORM_H
#define MMINT_LAYER_NORM_H

#include <string.h>

#include "arguments.h"
#include "arithmetic/layer_norm.h"

typedef struct {
    const int16_t *weight;
    const int32_t *bias;
    long shift; /* by which the product goes right */
    int exponent; /* of the sum */
} affine_t;

typedef struct layer_forward {
    const layer_norm_args *a;
    affine_t affine;
    int normalised_exponent;
    wide_t eps;
} forward_t;

typedef struct layer_backward {
    const layer_norm_grad_args *a;
    const int16_t *weight;
    int weight_exponent, normalised_exponent;
    wide_t eps;
} backward_t;

/* The parameters' gradients of one thread: sums of grad times the normalised rows, and of grad,
 * each of `size`. Those of int8 gradients are taken in int32 over 2**8 rows (2**7 * 2**15 * 2**8 is
 * below 2**31). */
typedef struct layer_sums {
    int64_t *total;
    int32_t *recent;
    long size, rows;
} gradients_t;

enum { RECENT_ROWS = 1 << 8 };

static inline void settle(gradients_t *sums) {
    for (long i = 0; i < 2 * sums->size; i++) sums->total[i] += sums->recent[i];
    memset(sums->recent, 0, sizeof *sums->recent * (size_t)(2 * sums->size));
    sums->rows = 0;
}

#endif
