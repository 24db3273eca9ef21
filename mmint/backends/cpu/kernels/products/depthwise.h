/* Depthwise convolution: one channel a group, so that lanes are channels and nothing is shared. */
#ifndef MMINT_DEPTHWISE_H
#define MMINT_DEPTHWISE_H

#include "finish.h"
#include "operand.h"

/* `x` holds the pixels (PIXELS, all channels); weight is (tap, channel); each channel has a finish. */
typedef struct {
    operand_t x;
    const char *weight;
    const finish_t *finish;
    double largest;
    float *out;
    long image_stride, row_stride, step_y, step_x;
} depthwise_t;

int depthwise(const depthwise_t *p, int threads, extent_t *seen);

/* out[channel][tap] = sum over pixels of grad[pixel][channel] * x[pixel + tap][channel]. */
typedef struct {
    operand_t x;
    const char *grad;
    double largest;
    exponents_t exponents;
    float *out;
} depthwise_weight_grad_t;

int depthwise_weight_grad(const depthwise_weight_grad_t *p, int threads);

#endif
