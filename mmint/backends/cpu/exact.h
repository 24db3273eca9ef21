/* ReLU and max pooling, exact in float32, with small state for the backward pass. */
#ifndef MMINT_EXACT_H
#define MMINT_EXACT_H

#include "common.h"

/* float32 x, out (may be x); uint8 positive: element i is bit i % 8 of byte i / 8. */
typedef struct {
    int64_t x, out, positive, count, threads;
} relu_args;

/* All four return the top of the result. */
int64_t relu(const relu_args *a);
int64_t relu_grad(const relu_args *a); /* x: the incoming gradient */

/* `planes` images of `height` x `width`; uint8 place: row * kernel_w + column in the window. */
typedef struct {
    int64_t x, out, place, planes, height, width, out_h, out_w;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, threads;
} max_pool2d_args;

int64_t max_pool2d(const max_pool2d_args *a);
int64_t max_pool2d_grad(const max_pool2d_args *a); /* x: the incoming gradient, out: the input's */

#endif
