/* Where a product's rows and lanes lie in memory, and how they are packed for the tiles.
 *
 * Depth runs over (tap, channel), channels in the groups of a form; a tap is a position of a
 * convolution's kernel, and a plain matrix has one. Strides and offsets are in bytes. */
#ifndef MMINT_OPERAND_H
#define MMINT_OPERAND_H

#include "levels/level.h"
#include "memory.h"

typedef enum {
    ROWS, /* lane l, tap t, channel c at base + l * lane_stride + tap_offset[t], c contiguous */
    COLUMNS, /* ... at base + tap_offset[t] + c * channel_stride, l contiguous */
    PIXELS /* lane l is a pixel of a grid laid over channels-last images; see pixels_t */
} operand_kind;

/* Grid point (n, i, j), tap t reads image n at (i * step_y + dy[t], j * step_x + dx[t]), zeros
 * outside. `merged`: all taps count as one, for few channels; `run` taps lie side by side. */
typedef struct {
    long height, width, pixel_stride, image_stride;
    long grid_h, grid_w, step_y, step_x;
    const long *dy, *dx;
    long merged_taps, merged_channels, run;
} pixels_t;

typedef struct {
    operand_kind kind;
    const char *base;
    int wide;
    long lanes, taps, channels;
    long lane_stride, channel_stride;
    const long *tap_offset;
    pixels_t pixels;
    const char *zeros; /* at least `channels` zero elements and 64 bytes more; PIXELS only */
} operand_t;

/* How operands of this width are multiplied. */
INLINE const form_t *form_for(int wide) { return wide ? &level->pairs : &level->bytes; }

INLINE long tap_groups(const operand_t *o, const form_t *form) {
    return div_up(o->channels, form->depth);
}

/* Bytes of scratch memory that `pack` wants. */
long pack_scratch(const operand_t *o);

/* Packs groups g0 ... g1 - 1 of a panel of rows, heads and all, or of lanes. */
void pack_rows(const operand_t *o, const form_t *form, long panel, long g0, long g1, int32_t *dst,
               char *scratch);
void pack_lanes(const operand_t *o, const form_t *form, long panel, long g0, long g1, int32_t *dst,
                char *scratch);

/* PIXELS the other way round: rows[i] is where pixel first + i reads, for tap `tap`, i < count.
 * `scratch` holds count * (channels + 64) elements where taps are merged. */
void pixel_rows(const operand_t *o, long tap, long first, long count, const void **rows,
                char *scratch);

#endif
