/* Planes of average pooling. */
#ifndef MMINT_POOLING_LOOPS_H
#define MMINT_POOLING_LOOPS_H

#include <string.h>

#include "planes_loops.h"
#include "pooling.h"

/* What each level writes itself: as sums8_loop. */
static void sums8(const int8_t *a, const int8_t *b, long n, int64_t *sum);

INLINE int64_t at(const void *x, long i, int wide) {
    return wide ? ((const int16_t *)x)[i] : ((const int8_t *)x)[i];
}

/* Notes the largest magnitude. */
INLINE float finished(const pool_t *p, int64_t total, uint32_t *top) {
    const float made = scaled_int64(total, p->scale);
    if (magnitude_bits(made) > *top) *top = magnitude_bits(made);
    return made;
}

INLINE int64_t run_sum(const void *x, long from, long to, int wide) {
    const int8_t *narrow = (const int8_t *)x + from;
    int64_t sum[2] = {0, 0};
    if (wide)
        sums16_loop((const int16_t *)x + from, (const int16_t *)x + from, to - from, sum);
    else
        sums8(narrow, narrow, to - from, sum);
    return sum[0];
}

INLINE uint32_t pool_body(const pool_t *p, const void *x, float *out, int64_t *line, int wide) {
    const long width = p->a->width, out_w = p->a->out_w;
    uint32_t top = 0;
    for (long i = 0; i < p->a->out_h; i++) {
        const long from = p->rows[2 * i], to = p->rows[2 * i + 1];
        const int64_t *reciprocal = p->reciprocals + i * out_w;
        if (p->one_column) {
            const int64_t total = run_sum(x, from * width, to * width, wide);
            *out++ = finished(p, total * reciprocal[0], &top);
            continue;
        }
        memset(line, 0, sizeof *line * (size_t)(width + 1));
        for (long r = from; r < to; r++)
            for (long w = 0; w < width; w++) line[w + 1] += at(x, r * width + w, wide);
        for (long w = 0; w < width; w++) line[w + 1] += line[w];
        for (long j = 0; j < out_w; j++) {
            const int64_t total = line[p->columns[2 * j + 1]] - line[p->columns[2 * j]];
            *out++ = finished(p, total * reciprocal[j], &top);
        }
    }
    return top;
}

/* Adds row i of windows, spread over the columns, to `sum`. */
INLINE void spread(const pool_t *p, const void *grad, long i, uint64_t *line, uint64_t *sum,
                   int wide) {
    const long width = p->a->width, out_w = p->a->out_w;
    uint64_t running = 0;
    memset(line, 0, sizeof *line * (size_t)(width + 1));
    for (long j = 0; j < out_w; j++) {
        const int64_t share = at(grad, i * out_w + j, wide) * p->reciprocals[i * out_w + j];
        line[p->columns[2 * j]] += (uint64_t)share;
        line[p->columns[2 * j + 1]] -= (uint64_t)share;
    }
    for (long w = 0; w < width; w++) sum[w] += running += line[w];
}

INLINE uint32_t pool_grad_body(const pool_t *p, const void *grad, float *out, int64_t *lines,
                               int wide) {
    const long width = p->a->width;
    uint64_t *sum = (uint64_t *)lines, *line = sum + width;
    uint32_t top = 0;
    for (long r = 0; r < p->a->height; r++, out += width) {
        const long from = p->holders[2 * r], to = p->holders[2 * r + 1];
        if (r && to - from == 1 && from == p->holders[2 * r - 2] && to == p->holders[2 * r - 1]) {
            memcpy(out, out - width, sizeof *out * (size_t)width);
            continue;
        }
        memset(sum, 0, sizeof *sum * (size_t)width);
        for (long i = from; i < to; i++)
            if (r >= p->rows[2 * i] && r < p->rows[2 * i + 1]) spread(p, grad, i, line, sum, wide);
        for (long w = 0; w < width; w++) out[w] = finished(p, (int64_t)sum[w], &top);
    }
    return top;
}

static inline uint32_t average_loop(const pool_t *p, const void *x, float *out, int64_t *lines) {
    return p->a->wide ? pool_body(p, x, out, lines, 1) : pool_body(p, x, out, lines, 0);
}

static inline uint32_t average_grad_loop(const pool_t *p, const void *grad, float *out,
                                         int64_t *lines) {
    return p->a->wide ? pool_grad_body(p, grad, out, lines, 1)
                      : pool_grad_body(p, grad, out, lines, 0);
}

#endif
