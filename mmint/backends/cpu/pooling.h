/* Average pooling in integers. */
#ifndef MMINT_POOLING_H
#define MMINT_POOLING_H

#include "common.h"

/* `planes` images of `height` x `width`, planar; int64 rows[out_h][2], columns[out_w][2] (start and
 * stop, inside the image) and reciprocals[out_h][out_w]; results are float32. */
typedef struct {
    int64_t x, out, planes, height, width, out_h, out_w, rows, columns, reciprocals;
    int64_t wide, exponent, threads;
} avg_pool2d_args;

/* Both return the largest magnitude written. */
int64_t avg_pool2d(const avg_pool2d_args *a);
int64_t avg_pool2d_grad(const avg_pool2d_args *a); /* x: the incoming gradient, out: the input's */

#endif
