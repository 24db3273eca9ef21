/* 3 x 3 convolutions of stride 1 with a quarter of the multiplications, exactly.
 *
 * Winograd's F(4 x 4, 3 x 3): an output tile of 4 x 4 takes 36 products where it took 144. Float
 * libraries shun it for its rounding errors; integers have none. With the usual matrices
 *     Y = A' [(G g G') . (B' d B)] A
 * B is integer; the rows of G are integer once divided by s = (1/4, -1/6, -1/6, 1/24, 1/24, 1), and
 * A takes on 24 s instead, so that Y comes out 24 * 24 times too large. Transformed inputs are at
 * most 100 * 127, filters 49 * 127: int16. Sums may wrap modulo 2**32: 576 Y = 9 * 64 Y is
 * multiplied by the inverse of 9, which undoes the 9 modulo 2**32, and what remains, 64 Y, is read
 * as signed and shifted. So all that must fit is |64 Y| < 2**31, which is checked against the
 * filters' actual magnitudes. */
#ifndef MMINT_WINOGRAD_H
#define MMINT_WINOGRAD_H

#include "finish.h"
#include "operand.h"

/* out[n, row, y, x] = finish(sum over (ky, kx, channel) of
 *     weight[row, ky, kx, channel] * image[n, y + (ky * dilation) - pad, .., channel]). */
typedef struct {
    const int8_t *image; /* channels-last */
    long n, height, width, channels;
    const int8_t *weight; /* at row * row_stride + (3 * ky + kx) * tap_stride + channel */
    long rows, row_stride, tap_stride;
    long pad_h, pad_w, dilation_h, dilation_w;
    const finish_t *finish;
    float *out; /* (n, rows, out_h, out_w) */
    long out_h, out_w;
} winograd_t;

/* Is it likely to be faster than plain products (whatever the weights)? */
int winograd_pays(const winograd_t *p);

/* Is it exact for these weights? */
int winograd_fits(const winograd_t *p);

int winograd(const winograd_t *p, int threads, extent_t *seen);

/* The weight gradient the same way: F(3 x 3, 4 x 4), sums over tiles of 4 x 4 gradients; here 64 Y
 * is kept below 2**31 by summing 128 tiles at a time.
 * out[row][channel][tap] as in weight_grad.h. */
typedef struct {
    const int8_t *image, *grad; /* channels-last */
    long n, height, width, channels, rows;
    long pad_h, pad_w, dilation_h, dilation_w;
    int exponent;
    float *out;
    long out_h, out_w; /* of grad */
} winograd_grad_t;

int winograd_grad_pays(const winograd_grad_t *p);

int winograd_grad(const winograd_grad_t *p, int threads);

#endif
