/* Sums of products over a deep dimension, tile by tile, straight to float32.
 *
 * Exact: where an int32 is sure to hold the sum (`int32_groups`), the tiles add modulo 2**32, so that
 * what they meet on the way may wrap around; longer sums are those of blocks that an int32 is sure to
 * hold, added in int64. */
#ifndef MMINT_PRODUCT_H
#define MMINT_PRODUCT_H

#include "finish.h"
#include "operand.h"
#include "tile.h"

/* out[row, lane] = finish(sum over depth of a[row] * b[lane]).
 * Lanes are points of `images` grids of grid_h x grid_w points, stored at
 * out + n * image_stride + row * row_stride + i * step_y + j * step_x (in elements). */
typedef struct {
    operand_t a, b;
    double largest; /* magnitude of one product */
    const finish_t *finish;
    long finish_step; /* 1: each row (or lane, where it is by_lane) has a finish, 0: all have one */
    float *out;
    long images, grid_h, grid_w;
    long image_stride, row_stride, step_y, step_x;
} product_t;

int product(const product_t *p, int threads, extent_t *seen);

/* `count` products of one shape, so far apart: operands in bytes, results in elements, and their
 * finishes. */
typedef struct {
    long count, a_step, b_step, out_step, finish_step;
} batch_t;

int product_batch(const product_t *p, const batch_t *batch, int threads, extent_t *seen);

/* How many groups of products of that magnitude an int32 is sure to hold. */
INLINE long int32_groups(const form_t *form, double largest) {
    return largest > 0 ? (long)(2147483647.0 / (form->depth * largest)) : 1l << 40;
}

#endif
