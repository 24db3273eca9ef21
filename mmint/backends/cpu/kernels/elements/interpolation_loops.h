/* LANES channels of an interpolation, side by side in vectors. */
#ifndef MMINT_INTERPOLATION_LOOPS_H
#define MMINT_INTERPOLATION_LOOPS_H

#include <string.h>

#include "integers.h"
#include "interpolation.h"
#include "levels/level.h"

typedef int32_t i32x8 __attribute__((vector_size(32), may_alias));
typedef double f64x4 __attribute__((vector_size(32), may_alias));

INLINE i32x8 widened(const int16_t *x) {
    int32_t wide[8];
    i32x8 vector;
    for (int l = 0; l < 8; l++) wide[l] = x[l];
    memcpy(&vector, wide, sizeof vector);
    return vector;
}

/* to[i][lane] = from[lane][i], lanes `stride` apart; zeros in those that are not there. */
INLINE void side_by_side(const int16_t *from, long stride, long n, long lanes, int16_t *to) {
    if (lanes < LANES) memset(to, 0, sizeof *to * (size_t)(n * LANES));
    for (long i = 0; i < n; i++)
        for (long l = 0; l < lanes; l++) to[i * LANES + l] = from[l * stride + i];
}

/* ---- the taps of one box ---- */

typedef struct {
    const taps_t *rows, *columns;
    const int16_t *row_weights, *column_weights;
} box_t;

INLINE box_t box_at(const interpolate_args *a, long n) {
    const long i = a->image ? n : 0;
    const box_t b = {(const taps_t *)a->rows + i * a->out_h,
                     (const taps_t *)a->columns + i * a->out_w,
                     a->row_weights + i * (a->height + 2 * a->out_h),
                     a->column_weights + i * (a->width + 2 * a->out_w)};
    return b;
}

/* The places that some of n results read. */
INLINE taps_t all_of(const taps_t *taps, long n) {
    taps_t all = {0, 0, 0};
    for (long i = 0; i < n; i++) {
        if (taps[i].from == taps[i].to) continue;
        const int first = all.from == all.to;
        if (first || taps[i].from < all.from) all.from = taps[i].from;
        if (first || taps[i].to > all.to) all.to = taps[i].to;
    }
    return all;
}

/* ---- forward ---- */

/* line[c] = the rows of x that a result reads, times their weights; for columns c of `all` */
INLINE void add_rows(const int16_t *x, long width, taps_t rows, const int16_t *weights, taps_t all,
                     double *line) {
    for (long c = all.from; c < all.to; c++) {
        i32x8 low = {0}, high = {0};
        const int16_t *v = x + (rows.from * width + c) * LANES;
        for (long r = rows.from; r < rows.to; r++, v += width * LANES) {
            low += widened(v) * weights[r - rows.from];
            high += widened(v + 8) * weights[r - rows.from];
        }
        for (int l = 0; l < 8; l++) line[c * LANES + l] = low[l];
        for (int l = 0; l < 8; l++) line[c * LANES + 8 + l] = high[l];
    }
}

/* sum[l] = the columns of the line that a result reads, times their weights */
INLINE void add_columns(const double *line, taps_t columns, const int16_t *weights, double *sum) {
    f64x4 a = {0}, b = {0}, c = {0}, d = {0};
    const f64x4 *v = (const f64x4 *)(line + columns.from * LANES);
    for (long i = 0; i < columns.to - columns.from; i++, v += 4) {
        const double weight = weights[i];
        a += v[0] * weight;
        b += v[1] * weight;
        c += v[2] * weight;
        d += v[3] * weight;
    }
    ((f64x4 *)sum)[0] = a;
    ((f64x4 *)sum)[1] = b;
    ((f64x4 *)sum)[2] = c;
    ((f64x4 *)sum)[3] = d;
}

/* n results of LANES channels, rounded. */
INLINE void round_sums(const double *sums, scale_t scale, long n, float *made) {
    if (scale.factor != 0.0f)
        for (long i = 0; i < n * LANES; i++) made[i] = (float)sums[i] * scale.factor;
    else
        for (long i = 0; i < n * LANES; i++)
            made[i] = dequantize_one((int64_t)sums[i], scale.exponent);
}

static uint32_t interpolate_loop(const interpolation_t *s, long image, long channel,
                                 void *scratch) {
    const interpolate_args *a = s->a;
    const long lanes = least(LANES, a->channels - channel), pixels = a->height * a->width;
    const long results = a->out_h * a->out_w, band = rows_of_band(a);
    double *line = scratch, *sums = line + a->width * LANES;
    float *made = (float *)(sums + band * a->out_w * LANES);
    int16_t *x = (int16_t *)(made + band * a->out_w * LANES);
    uint32_t top = 0;
    side_by_side(a->x + (image * a->channels + channel) * pixels, pixels, pixels, lanes, x);
    for (long n = 0; n < a->count; n++) {
        if ((a->image ? a->image[n] : n) != image) continue;
        const box_t b = box_at(a, n);
        const taps_t all = all_of(b.columns, a->out_w);
        float *out = a->out + (n * a->channels + channel) * results;
        for (long first = 0; first < a->out_h; first += band) {
            const long rows = least(band, a->out_h - first), here = rows * a->out_w;
            for (long i = 0; i < rows; i++) {
                const taps_t row = b.rows[first + i];
                double *sum = sums + i * a->out_w * LANES;
                add_rows(x, a->width, row, b.row_weights + row.at, all, line);
                for (long j = 0; j < a->out_w; j++, sum += LANES)
                    add_columns(line, b.columns[j], b.column_weights + b.columns[j].at, sum);
            }
            round_sums(sums, s->scale, here, made);
            const uint32_t t = level->top((const uint32_t *)made, here * LANES);
            top = t > top ? t : top;
            for (long l = 0; l < lanes; l++)
                for (long k = 0; k < here; k++)
                    out[l * results + first * a->out_w + k] = made[k * LANES + l];
        }
    }
    return top;
}

/* ---- backward ---- */

/* Do at most MOST_OVERLAP of the results, in order, read the same column? */
INLINE int few_overlap(const taps_t *columns, long n) {
    for (long j = MOST_OVERLAP; j < n; j++) {
        const taps_t one = columns[j - MOST_OVERLAP], other = columns[j];
        if (one.from < other.to && other.from < one.to) return 0;
    }
    return 1;
}

/* Spreads the gradients of n results of a row over the line, and that over the rows they read. */
INLINE void spread_row(const int16_t *grad, const taps_t *columns, const int16_t *column_weights,
                       long n, taps_t rows, const int16_t *row_weights, long width, int32_t *line,
                       int64_t *sums) {
    const taps_t all = all_of(columns, n);
    const long elements = (all.to - all.from) * LANES;
    memset(line, 0, sizeof *line * (size_t)elements);
    for (long j = 0; j < n; j++) {
        const i32x8 low = widened(grad + j * LANES), high = widened(grad + j * LANES + 8);
        i32x8 *to = (i32x8 *)(line + (columns[j].from - all.from) * LANES);
        for (long c = columns[j].from; c < columns[j].to; c++, to += 2) {
            const int32_t weight = column_weights[columns[j].at + c - columns[j].from];
            to[0] += low * weight;
            to[1] += high * weight;
        }
    }
    for (long r = rows.from; r < rows.to; r++) {
        const int32_t weight = row_weights[r - rows.from];
        int64_t *row = sums + (r * width + all.from) * LANES;
        for (long i = 0; weight && i < elements; i++) row[i] += (int64_t)line[i] * weight;
    }
}

static uint32_t interpolate_grad_loop(const interpolation_t *s, long image, long channel,
                                      void *scratch) {
    const interpolate_args *a = s->a;
    const long lanes = least(LANES, a->channels - channel), pixels = a->height * a->width;
    const long results = a->out_h * a->out_w, band = rows_of_band(a);
    int64_t *sums = scratch;
    int32_t *line = (int32_t *)(sums + pixels * LANES);
    int16_t *grad = (int16_t *)(line + a->width * LANES);
    memset(sums, 0, sizeof *sums * (size_t)(pixels * LANES));
    for (long n = 0; n < a->count; n++) {
        if ((a->image ? a->image[n] : n) != image) continue;
        const box_t b = box_at(a, n);
        const int16_t *x = a->x + (n * a->channels + channel) * results;
        const long step = few_overlap(b.columns, a->out_w) ? a->out_w : MOST_OVERLAP;
        for (long i = 0; i < a->out_h; i++) {
            const taps_t rows = b.rows[i];
            if (i % band == 0)
                side_by_side(x + i * a->out_w, results, least(band, a->out_h - i) * a->out_w, lanes,
                             grad);
            for (long j = 0; rows.from < rows.to && j < a->out_w; j += step)
                spread_row(grad + (i % band * a->out_w + j) * LANES, b.columns + j,
                           b.column_weights, least(step, a->out_w - j), rows,
                           b.row_weights + rows.at, a->width, line, sums);
        }
    }
    uint32_t top = 0;
    float *out = a->out + (image * a->channels + channel) * pixels;
    for (long l = 0; l < lanes; l++, out += pixels) {
        for (long i = 0; i < pixels; i++) out[i] = scaled_int64(sums[i * LANES + l], s->scale);
        const uint32_t t = level->top((const uint32_t *)out, pixels);
        top = t > top ? t : top;
    }
    return top;
}

#endif
