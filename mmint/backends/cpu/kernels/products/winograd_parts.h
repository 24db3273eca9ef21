/* Vectors of any machine, and what the Winograd forms prepare for their transforms. */
#ifndef MMINT_WINOGRAD_PARTS_H
#define MMINT_WINOGRAD_PARTS_H

#include "levels/level.h"
#include "winograd.h"

enum {
    SIDE = 4,    /* of a tile of outputs, or of their gradient */
    POINTS = 36, /* products for each tile and pair of channels */
    VECTOR = 16  /* channels transformed at a time */
};

typedef int16_t v16 __attribute__((vector_size(32)));
typedef uint32_t v8 __attribute__((vector_size(32)));
typedef int32_t s8 __attribute__((vector_size(32)));
typedef float f8 __attribute__((vector_size(32)));

/* ---- a convolution ---- */

typedef struct winograd_job {
    const winograd_t *p;
    long tiles_h, tiles_w, tiles; /* of one phase of the dilation; of all images and phases */
    long groups, row_panels, lane_panels;
    /* Either all filters are made first, (point, panel of rows, group, MR), or all inputs,
     * (panel of tiles, point, group, NR), whichever are fewer. */
    int32_t *filters, *inputs;
    int8_t *zeros;
} winograd_job_t;

/* Where the tiles of a panel read and write. */
typedef struct winograd_places {
    const int8_t *pixel[NR][POINTS];
    float *out[NR];
    int high[NR], wide[NR]; /* how much of the tile lies inside */
    int count;              /* of tiles */
} winograd_places_t;

/* What was transformed: sixteen channels of eight lanes, point by point. */
typedef struct winograd_points {
    v16 point[POINTS][8];
} winograd_points_t;

/* ---- a weight gradient ---- */

enum {
    TILE_BLOCK = 128,    /* tiles summed modulo 2**32: 64 * 127 * 127 * 16 * 128 < 2**31 */
    TILE_PAIRS = TILE_BLOCK / 2,
    ROW_STREAM = 8 * MR, /* rows transformed before they are dealt out to panels: 3 vectors */
    FILTER_TAPS = 9
};

typedef struct winograd_grad_job {
    const winograd_grad_t *p;
    long tiles_h, tiles_w, tiles, row_panels, lane_panels;
    int8_t *zeros;
    int32_t *grads;  /* (point, panel of rows, pair of tiles, MR) */
    int32_t *inputs; /* (point, panel of channels, pair of tiles, NR) */
    void *sums;      /* (row, panel of channels, tap, NR) of all blocks so far: int32 or, */
    int widened;     /* if so, int64 */
} winograd_grad_job_t;

#endif
