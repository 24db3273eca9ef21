/* An average pooling, prepared. */
#ifndef MMINT_POOLING_H
#define MMINT_POOLING_H

#include "arguments.h"
#include "arithmetic/mapping.h"

typedef struct average {
    const avg_pool2d_args *a;
    const int64_t *rows, *columns, *reciprocals;
    const int64_t *holders; /* backward: of a row, from which to before which row of windows */
    scale_t scale;
    int one_column; /* is there one window to a row, as wide as the image? */
} pool_t;

#endif
