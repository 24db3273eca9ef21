/* Convolutions and matrix products: what Python calls. Arguments are int64 throughout. */
#ifndef MMINT_CONV_H
#define MMINT_CONV_H

#include "finish.h"

/* x (n, h, w, c) and weight (o, kernel_h, kernel_w, c / groups) and grad (n, out_h, out_w, o) are
 * mantissas, int16 if `wide`; bias belongs to the result's channels. */
typedef struct {
    int64_t x, weight, grad, out;
    int64_t n, c, h, w, o, kernel_h, kernel_w, out_h, out_w;
    int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
    int64_t wide, largest, exponent, threads;
    bias_args bias;
} conv_args;

/* extent_result, or a status: NOT_FINITE (the bias), NO_MEMORY. */
int64_t conv2d(const conv_args *a);
int64_t conv2d_input_grad(const conv_args *a);
int64_t conv2d_weight_grad(const conv_args *a); /* a status */

/* `batch` times a (m, k) and b (k, n), strides in elements; each has one dimension of stride 1. */
typedef struct {
    int64_t a, b, out, batch, m, k, n, a_batch, a_row, a_column, b_batch, b_row, b_column;
    int64_t wide, largest, exponent, threads;
    bias_args bias;
} matmul_args;
int64_t matmul(const matmul_args *a);

#endif
