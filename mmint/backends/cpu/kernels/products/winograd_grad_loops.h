/* Transforms of the Winograd form of the weight gradient: winograd.h. */
#ifndef MMINT_WINOGRAD_GRAD_LOOPS_H
#define MMINT_WINOGRAD_GRAD_LOOPS_H

#include "arithmetic/mapping.h"
#include "winograd_input.h"
#include "winograd_parts.h"

typedef struct {
    const int8_t *pixel[POINTS], *grad[SIDE * SIDE];
} winograd_grad_place_t;

static inline void winograd_grad_locate(const winograd_grad_job_t *s, long tile, winograd_grad_place_t *at) {
    const winograd_grad_t *p = s->p;
    const long x = tile % s->tiles_w, y = tile / s->tiles_w % s->tiles_h;
    const long rest = tile / s->tiles_w / s->tiles_h;
    const long phase_x = rest % p->dilation_w, phase_y = rest / p->dilation_w % p->dilation_h;
    const long n = rest / p->dilation_w / p->dilation_h;
    const long y0 = y * SIDE * p->dilation_h + phase_y, x0 = x * SIDE * p->dilation_w + phase_x;
    const int here = tile < s->tiles;
    for (int i = 0; i < 6; i++) {
        const long gy = y0 + i * p->dilation_h, iy = gy - p->pad_h;
        for (int j = 0; j < 6; j++) {
            const long gx = x0 + j * p->dilation_w, ix = gx - p->pad_w;
            at->pixel[6 * i + j] =
                !here || iy < 0 || iy >= p->height || ix < 0 || ix >= p->width
                    ? s->zeros
                    : p->image + ((n * p->height + iy) * p->width + ix) * p->channels;
            if (i < SIDE && j < SIDE)
                at->grad[SIDE * i + j] =
                    !here || gy >= p->out_h || gx >= p->out_w
                        ? s->zeros
                        : p->grad + ((n * p->out_h + gy) * p->out_w + gx) * p->rows;
        }
    }
}

/* The rows of G for four values. */
INLINE void grad_line(v16 *d, const v16 g0, const v16 g1, const v16 g2, const v16 g3, int step) {
    const v16 even = g0 + g2, odd = g1 + g3, far = g0 + g2 * 4, twice = (g1 + g3 * 4) * 2;
    d[0] = g0;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = far + twice;
    d[4 * step] = far - twice;
    d[5 * step] = g3;
}

INLINE void grad_tile(v16 *d, const v16 *g) {
    v16 half[24];
    for (int i = 0; i < 4; i++) grad_line(half + i, g[i], g[4 + i], g[8 + i], g[12 + i], 4);
    for (int i = 0; i < 6; i++) {
        const v16 *h = half + 4 * i;
        grad_line(d + 6 * i, h[0], h[1], h[2], h[3], 1);
    }
}

/* The rows of A' for three results, with 24 s, on six values. */
INLINE void winograd_grad_output_line(v8 *y, int to, const v8 *m, int step) {
    const v8 sum = m[step] + m[2 * step], difference = m[step] - m[2 * step];
    const v8 far = m[3 * step] + m[4 * step], twice = (m[3 * step] - m[4 * step]) * 2;
    y[0] = m[0] * 6 - sum * 4 + far;
    y[to] = twice - difference * 4;
    y[2 * to] = (far - sum) * 4 + m[5 * step] * 24;
}

INLINE void winograd_grad_output_tile(v8 *y, const v8 *m) {
    v8 half[18];
    for (int i = 0; i < 6; i++) winograd_grad_output_line(half + i, 6, m + i, 6);
    for (int i = 0; i < 3; i++) winograd_grad_output_line(y + 3 * i, 1, half + 6 * i, 1);
    for (int i = 0; i < FILTER_TAPS; i++) y[i] = divide_by_576(y[i]);
}

/* (a0, b0, a1, b1, ...) of two vectors of sixteen. */
INLINE void interleave(int32_t *to, v16 a, v16 b) {
    typedef uint32_t u16x2 __attribute__((vector_size(64)));
    typedef uint16_t u16 __attribute__((vector_size(32)));
    const u16x2 made = __builtin_convertvector((u16)a, u16x2) |
                       __builtin_convertvector((u16)b, u16x2) << 16;
    memcpy(to, &made, sizeof made);
}

/* Tiles 2 * pair and 2 * pair + 1 of the block that starts at tile `first`. */
static inline void winograd_grad_transform_loop(const winograd_grad_job_t *s, long first, long pair) {
    const winograd_grad_t *p = s->p;
    winograd_grad_place_t at[2];
    for (int i = 0; i < 2; i++) winograd_grad_locate(s, first + 2 * pair + i, &at[i]);
    for (long c = 0; c < p->channels; c += VECTOR) {
        int32_t *to = s->inputs + (c / NR * TILE_PAIRS + pair) * NR;
        v16 d[2][POINTS];
        for (int i = 0; i < 2; i++) {
            for (int k = 0; k < POINTS; k++)
                d[i][k] = load16(at[i].pixel[k] + c, p->channels - c);
            input_tile(d[i]);
        }
        for (int k = 0; k < POINTS; k++)
            interleave(to + k * s->lane_panels * TILE_PAIRS * NR, d[0][k], d[1][k]);
    }
    for (long row = 0; row < p->rows; row += ROW_STREAM) {
        int32_t stream[POINTS][ROW_STREAM];
        const long panels = least(ROW_STREAM / MR, s->row_panels - row / MR);
        for (long v = 0; v < ROW_STREAM; v += VECTOR) {
            v16 g[SIDE * SIDE], d[2][POINTS];
            const long count = p->rows - row - v;
            for (int i = 0; i < 2; i++) {
                for (int k = 0; k < SIDE * SIDE; k++)
                    g[k] = load16(at[i].grad[k] + (count > 0 ? row + v : 0), count);
                grad_tile(d[i], g);
            }
            for (int k = 0; k < POINTS; k++) interleave(&stream[k][v], d[0][k], d[1][k]);
        }
        for (int k = 0; k < POINTS; k++) {
            int32_t *to = s->grads + ((k * s->row_panels + row / MR) * TILE_PAIRS + pair) * MR;
            for (long i = 0; i < panels; i++)
                memcpy(to + i * TILE_PAIRS * MR, &stream[k][i * MR], MR * sizeof(int32_t));
        }
    }
}

/* Sums of one row and panel of channels, sums[point * TILE], into `total`; the last ones to out. */
static inline void winograd_grad_output_loop(const winograd_grad_job_t *s, const int32_t *sums, long row, long panel, int is_first,
                        int is_last) {
    const winograd_grad_t *p = s->p;
    const long place = (row * s->lane_panels + panel) * FILTER_TAPS * NR;
    const long count = least(NR, p->channels - panel * NR);
    const int fast = !s->widened && scale_is_exact(p->exponent, SCALED_INT32);
    const float scale = fast ? scale_of(p->exponent) : 0;
    float *out = p->out + (row * p->channels + panel * NR) * FILTER_TAPS;
    int32_t made[FILTER_TAPS][NR];
    for (int first = 0; first < NR; first += 8) {
        v8 m[POINTS], y[FILTER_TAPS];
        for (int i = 0; i < POINTS; i++) memcpy(&m[i], sums + i * TILE + first, sizeof m[i]);
        winograd_grad_output_tile(y, m);
        for (int t = 0; t < FILTER_TAPS; t++) memcpy(&made[t][first], &y[t], sizeof y[t]);
    }
    int64_t *wide = (int64_t *)s->sums + place;
    int32_t *narrow = (int32_t *)s->sums + place;
    if (s->widened) {
        for (int i = 0; i < FILTER_TAPS * NR; i++)
            wide[i] = (is_first ? 0 : wide[i]) + made[i / NR][i % NR];
    } else if (!is_first || !is_last) {
        for (int i = 0; i < FILTER_TAPS * NR; i++) {
            narrow[i] = (is_first ? 0 : narrow[i]) + made[i / NR][i % NR];
            made[i / NR][i % NR] = narrow[i];
        }
    }
    if (!is_last) return;
    float f[FILTER_TAPS][NR];
    for (int t = 0; t < FILTER_TAPS; t++)
        for (int l = 0; l < NR; l++)
            f[t][l] = fast ? (float)made[t][l] * scale
                           : dequantize_one(s->widened ? wide[t * NR + l] : made[t][l],
                                            p->exponent);
    for (long l = 0; l < count; l++)
        for (int t = 0; t < FILTER_TAPS; t++) out[l * FILTER_TAPS + t] = f[t][l];
}

#endif
