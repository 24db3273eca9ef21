/* Batch, group and layer norm in integers; definitions in reference/norm.py.
 *
 * Mantissas are (images, channels, pixels), int16 if `wide`; float32 parameters and statistics are
 * (channels,), a weight or bias may be NULL; `eps` is a mantissa and an exponent. Sums and products
 * are int64, of planes' sums the totals of each group. Kernels that write a tensor of the size of x
 * return its largest magnitude. */
#ifndef MMINT_NORM_H
#define MMINT_NORM_H

#include "common.h"

/* `groups` in each image; 0: batch norm, where each channel is one through all images. */
typedef struct {
    int64_t x, sums, weight, bias, out, images, channels, pixels, groups, count;
    int64_t wide, bits, exponent, eps[2], threads;
} norm_args;
int64_t norm(const norm_args *a);

/* products[2][channels] for batch norm, [2][images][channels] for group norm. */
typedef struct {
    int64_t grad, x, sums, products, weight, out, images, channels, pixels, groups, count;
    int64_t wide, grad_bits, bits, grad_exponent, exponent, eps[2], threads;
} norm_grad_args;
int64_t norm_grad(const norm_grad_args *a);

/* For batch norm, images is 1. */
typedef struct {
    int64_t sums, products, dweight, dbias, images, channels, groups, count;
    int64_t grad_exponent, exponent, eps[2], threads;
} norm_weight_grad_args;
int64_t norm_weight_grad(const norm_weight_grad_args *a);

/* Changes mean and var also where it returns NOT_FINITE. */
typedef struct {
    int64_t mean, var, sums, channels, count, exponent, momentum[2], threads;
} update_running_args;
int64_t update_running(const update_running_args *a);

/* mean NULL: the input's gradient, where x is the incoming one. */
typedef struct {
    int64_t x, mean, var, weight, bias, out, images, channels, pixels;
    int64_t wide, bits, exponent, eps[2], threads;
} frozen_norm_args;
int64_t frozen_norm(const frozen_norm_args *a);

typedef struct {
    int64_t products, mean, var, dweight, channels, grad_exponent, exponent, eps[2];
} frozen_norm_weight_grad_args;
int64_t frozen_norm_weight_grad(const frozen_norm_weight_grad_args *a);

/* Rows of `size` elements; here weight and bias are there. */
typedef struct {
    int64_t x, weight, bias, out, sums, rows, size, wide, bits, exponent, eps[2], threads;
} layer_norm_args;
int64_t layer_norm(const layer_norm_args *a);

typedef struct {
    int64_t grad, x, sums, weight, out, dweight, dbias, rows, size;
    int64_t wide, grad_bits, bits, grad_exponent, exponent, eps[2], threads;
} layer_norm_grad_args;
int64_t layer_norm_grad(const layer_norm_grad_args *a);

#endif
