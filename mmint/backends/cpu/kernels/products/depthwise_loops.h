/* Planes that filters of one channel read, and sums over their taps. */
#ifndef MMINT_DEPTHWISE_LOOPS_H
#define MMINT_DEPTHWISE_LOOPS_H

#include <string.h>

#include "extent.h"

/* How a plane is laid out for a filter: as int16, zeros around it, and where the filter strides,
 * its phases apart: every step_y-th row and step_x-th column lie together. */
typedef struct laid {
    long height, width; /* of the part that is read; rows are `row` elements apart */
    long row;
    long top, left; /* zeros before it */
    long step_y, step_x;
    long rows, pitch; /* of a phase */
} laid_t;

enum {
    LAID_SLACK = 64, /* elements that may be read beyond the end */
    TAP_LANES = 16 /* an int32 sum of `tap_products` takes two products of each 16 elements */
};

INLINE long laid_size(const laid_t *l) {
    return l->step_y * l->step_x * l->rows * l->pitch + LAID_SLACK;
}

/* Where row y and column x lie, counted with the zeros before them. */
INLINE long laid_at(const laid_t *l, long y, long x) {
    const long phase = y % l->step_y * l->step_x + x % l->step_x;
    return (phase * l->rows + y / l->step_y) * l->pitch + x / l->step_x;
}

/* Of a row of n elements each step-th from `phase` on, as int16; up to 15 zeros may follow them. */
typedef void lay_row(int16_t *to, const void *row, long n, long step, long phase);

#define LAY_ROW(name, type)                                                           \
    static inline void name(int16_t *restrict to, const void *row, long n, long step, \
                            long phase) {                                             \
        const type *from = row;                                                       \
        if (step == 1)                                                                \
            for (long x = 0; x < n; x++) to[x] = from[x];                             \
        else                                                                          \
            for (long x = phase; x < n; x += step) *to++ = from[x];                   \
    }
LAY_ROW(lay_row8, int8_t)
LAY_ROW(lay_row16, int16_t)

/* From the lower addresses to the higher ones, so that zeros behind a row are overwritten. */
INLINE void lay_rows(const laid_t *l, const char *plane, long size, int16_t *out, lay_row row) {
    for (long i = 0; i < l->step_y; i++)
        for (long j = 0; j < l->step_x; j++) {
            const long first = (l->step_y - l->top % l->step_y + i) % l->step_y;
            const long phase = (l->step_x - l->left % l->step_x + j) % l->step_x;
            if (phase >= l->width) continue;
            int16_t *to = out + laid_at(l, first + l->top, phase + l->left);
            for (long y = first; y < l->height; y += l->step_y, to += l->pitch)
                row(to, plane + y * l->row * size, l->width, l->step_x, phase);
        }
}

static inline void lay_plane_loop(const laid_t *l, const void *plane, int wide, int16_t *out) {
    wide ? lay_rows(l, plane, 2, out, lay_row16) : lay_rows(l, plane, 1, out, lay_row8);
}

static inline void tap_sums_loop(int32_t *sums, const int16_t *x, const long *offset,
                                 const int16_t *weight, long taps, long n) {
    memset(sums, 0, (size_t)n * sizeof *sums);
    for (long t = 0; t < taps; t++)
        for (long i = 0; i < n; i++) sums[i] += (int32_t)weight[t] * x[offset[t] + i];
}

static inline void tap_products_loop(int64_t *sums, const int16_t *grad, const int16_t *x,
                                     const long *offset, long taps, long n) {
    for (long t = 0; t < taps; t++) {
        int32_t lanes[8] = {0};
        const int16_t *from = x + offset[t];
        for (long i = 0; i < n; i += 16)
            for (int l = 0; l < 8; l++)
                lanes[l] += (int32_t)grad[i + 2 * l] * from[i + 2 * l] +
                            (int32_t)grad[i + 2 * l + 1] * from[i + 2 * l + 1];
        for (int l = 0; l < 8; l++) sums[t] += lanes[l];
    }
}

static inline void finish_sums_loop(float *restrict made, const int32_t *restrict sum, int32_t bias,
                                    float scale, long n, extent_t *restrict seen) {
    uint32_t any = seen->any[0], top = seen->top[0];
    for (long i = 0; i < n; i++) {
        made[i] = (float)(sum[i] + bias) * scale;
        const uint32_t magnitude = magnitude_bits(made[i]);
        any |= (uint32_t)sum[i];
        top = magnitude > top ? magnitude : top;
    }
    seen->any[0] = any;
    seen->top[0] = top;
}

#endif
