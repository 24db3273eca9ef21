/* Where a tile's sums go as float32. */
#ifndef MMINT_TILE_H
#define MMINT_TILE_H

#include "extent.h"

/* (sum + row_bias[row] + lane_bias[lane]) * row_scale[row] * lane_scale[lane], `rows` rows of NR,
 * `stride` apart, noted in `seen`; both biases or neither (NULL). */
typedef struct results {
    float *out;
    long stride;
    int rows;
    const float *row_scale, *lane_scale; /* exact: see finish.h */
    const int32_t *row_bias, *lane_bias;
    extent_t *seen;
} results_t;

#endif
