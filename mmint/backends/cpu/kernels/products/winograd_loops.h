/* Transforms of the Winograd form of convolution: winograd.h. */
#ifndef MMINT_WINOGRAD_LOOPS_H
#define MMINT_WINOGRAD_LOOPS_H

#include "winograd_input.h"
#include "winograd_parts.h"

/* What each level writes itself: `made` to groups of two channels, for lanes first ... of `width`;
 * and f[element of a tile][tile] the other way round. */
static inline void pack_points(int32_t *to, long point_stride, int width, int first, long groups,
                               winograd_points_t *made);
static inline void stage(float (*made)[16], const f8 *f);

/* ---- transforms ---- */

/* G / s on three values. */
INLINE void winograd_filter_line(v16 *d, const v16 g0, const v16 g1, const v16 g2, int step) {
    const v16 sum = g0 + g2, far = g0 + g2 * 4, twice = g1 * 2;
    d[0] = g0;
    d[step] = sum + g1;
    d[2 * step] = sum - g1;
    d[3 * step] = far + twice;
    d[4 * step] = far - twice;
    d[5 * step] = g2;
}

INLINE void winograd_filter_tile(v16 *d, const v16 *g) {
    v16 half[18];
    for (int i = 0; i < 3; i++) winograd_filter_line(half + i, g[i], g[3 + i], g[6 + i], 3);
    for (int i = 0; i < 6; i++)
        winograd_filter_line(d + 6 * i, half[3 * i], half[3 * i + 1], half[3 * i + 2], 1);
}

/* A' with 24 s on six values. */
INLINE void winograd_output_line(v8 *y, int to, const v8 *m, int step) {
    const v8 sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const v8 far = m[3 * step] + m[4 * step], twice = (m[3 * step] - m[4 * step]) * 2;
    y[0] = m[0] * 6 - sum * 4 + far;
    y[to] = twice - difference * 4;
    y[2 * to] = (far - sum) * 4;
    y[3 * to] = twice * 4 - difference * 4 + m[5 * step] * 24;
}

/* Eight tiles of one row: m[point] to y[4 * i + j], exact sums. */
INLINE void winograd_output_tile(v8 *y, const v8 *m) {
    v8 half[24];
    for (int i = 0; i < 6; i++) winograd_output_line(half + i, 6, m + i, 6);
    for (int i = 0; i < 4; i++) winograd_output_line(y + 4 * i, 1, half + 6 * i, 1);
    for (int i = 0; i < 16; i++) y[i] = divide_by_576(y[i]);
}

/* ---- filters ---- */

/* Panel `panel` of rows, to to[point * stride]. */
static inline void winograd_filters_loop(const winograd_job_t *s, long panel, int32_t *to,
                                         long stride, winograd_points_t *made) {
    const winograd_t *p = s->p;
    for (long c = 0; c < p->channels; c += VECTOR, to += VECTOR / 2 * MR) {
        const long count = p->channels - c, groups = least(VECTOR / 2, (count + 1) / 2);
        for (int r = 0; r < MR; r++) {
            const long row = least(panel * MR + r, p->rows - 1); /* beyond: not read */
            v16 g[9], d[POINTS];
            for (int t = 0; t < 9; t++)
                g[t] = load16(p->weight + row * p->row_stride + t * p->tap_stride + c, count);
            winograd_filter_tile(d, g);
            for (int i = 0; i < POINTS; i++) made->point[i][r] = d[i];
        }
        pack_points(to, stride, MR, 0, groups, made);
    }
}

/* ---- inputs ---- */

static inline void winograd_inputs_loop(const winograd_job_t *s, const winograd_places_t *at,
                                        int32_t *to, long stride, winograd_points_t *made) {
    const winograd_t *p = s->p;
    for (long c = 0; c < p->channels; c += VECTOR, to += VECTOR / 2 * NR) {
        const long count = p->channels - c, groups = least(VECTOR / 2, (count + 1) / 2);
        for (int first = 0; first < NR; first += 8) {
            for (int l = 0; l < 8; l++) {
                v16 d[POINTS];
                for (int i = 0; i < POINTS; i++) d[i] = load16(at->pixel[first + l][i] + c, count);
                input_tile(d);
                for (int i = 0; i < POINTS; i++) made->point[i][l] = d[i];
            }
            pack_points(to, stride, NR, first, groups, made);
        }
    }
}

/* ---- outputs ---- */

INLINE s8 larger_lanes(s8 a, s8 b) {
    const s8 less = a < b;
    return (a & ~less) | (b & less);
}

/* Sums of one row, sums[point * TILE + lane], to float32. */
static inline void winograd_outputs_loop(const winograd_job_t *s, const winograd_places_t *at,
                                         const int32_t *sums, long row, extent_t *seen) {
    const winograd_t *p = s->p;
    const long offset = row * p->out_h * p->out_w, down = p->dilation_h * p->out_w;
    const long right = p->dilation_w;
    const uint32_t bias = (uint32_t)p->finish->bias32[row];
    const float scale = p->finish->scales[row];
    for (int first = 0; first < NR && first < at->count; first += 8) {
        v8 m[POINTS], y[16], any = {0};
        s8 top = {0};
        f8 f[16];
        float made[8][16];
        for (int i = 0; i < POINTS; i++) memcpy(&m[i], sums + i * TILE + first, sizeof m[i]);
        winograd_output_tile(y, m);
        for (int i = 0; i < 16; i++) {
            any |= y[i];
            f[i] = __builtin_convertvector((s8)(y[i] + bias), f8) * scale;
            top = larger_lanes(top, (s8)f[i] & 0x7FFFFFFF);
        }
        stage(made, f);
        for (int l = 0; l < 8 && first + l < at->count; l++) {
            const int high = at->high[first + l], wide = at->wide[first + l]; /* 0 in some phases */
            float *out = at->out[first + l] + offset;
            if (high == SIDE && wide == SIDE && right == 1) {
                seen->any[l] |= any[l];
                seen->top[l] = (uint32_t)most(seen->top[l], top[l]);
                for (int i = 0; i < SIDE; i++) memcpy(out + i * down, made[l] + SIDE * i, 16);
                continue;
            }
            for (int i = 0; i < high; i++)
                for (int j = 0; j < wide; j++) {
                    out[i * down + j * right] = made[l][SIDE * i + j];
                    extent_take(seen, l, y[SIDE * i + j][l] != 0, made[l][SIDE * i + j]);
                }
        }
    }
}

#endif
