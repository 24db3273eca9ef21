/* Average pooling bit for bit as reference/pooling.py, plane by plane.
 *
 * Forward, the rows of a window are added into one line, whose running sums then give any range of
 * columns as a difference. Backward, a row of windows is spread over a line in the same way: each
 * window adds its share where it starts and takes it off where it stops, and running sums give the
 * line; a row of the image adds the lines of the window rows that hold it. All sums are int64
 * (modulo 2**64 on the way), as in the reference, and rounded once by their conversion to float32:
 * an integer below 2**63 times 2**-126 to 2**64 is a normal number. */
#include "pooling.h"

#include "arithmetic/mapping.h"


enum { BLOCK = 1 << 12, CHUNK = 1 << 15 };

typedef struct {
    const avg_pool2d_args *a;
    const int64_t *rows, *columns, *reciprocals;
    const int64_t *holders; /* backward: of a row, from which to before which row of windows */
    scale_t scale;
    int one_column; /* is there one window to a row, as wide as the image? */
} pool_t;

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
    int64_t total = 0;
    for (long i = from; i < to; i += BLOCK) {
        const long end = least(to, i + BLOCK);
        int32_t part = 0;
        for (long j = i; j < end; j++) part += (int32_t)at(x, j, wide);
        total += part;
    }
    return total;
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

typedef uint32_t (*plane_t)(const pool_t *p, const void *x, float *out, int64_t *lines);

#define PLANES(suffix, target)                                                                    \
    target static uint32_t pool8##suffix(const pool_t *p, const void *x, float *o, int64_t *l) {  \
        return pool_body(p, x, o, l, 0);                                                          \
    }                                                                                             \
    target static uint32_t pool16##suffix(const pool_t *p, const void *x, float *o, int64_t *l) { \
        return pool_body(p, x, o, l, 1);                                                          \
    }                                                                                             \
    target static uint32_t grad8##suffix(const pool_t *p, const void *x, float *o, int64_t *l) {  \
        return pool_grad_body(p, x, o, l, 0);                                                     \
    }                                                                                             \
    target static uint32_t grad16##suffix(const pool_t *p, const void *x, float *o, int64_t *l) { \
        return pool_grad_body(p, x, o, l, 1);                                                     \
    }
PLANES(, )
#if MMINT_X86
PLANES(_avx2, TARGET_AVX2)
#define FORM(name) (level->avx2 ? name##_avx2 : name)
#else
#define FORM(name) (name)
#endif

static pool_t prepared(const avg_pool2d_args *a) {
    pool_t p = {.a = a,
                .rows = (const int64_t *)a->rows,
                .columns = (const int64_t *)a->columns,
                .reciprocals = (const int64_t *)a->reciprocals,
                .scale = scale_at(clamped_exponent(a->exponent))};
    p.one_column = a->out_w == 1 && p.columns[0] == 0 && p.columns[1] == a->width;
    return p;
}

static int64_t each_plane(const pool_t *p, plane_t plane, long in, long out) {
    const avg_pool2d_args *a = p->a;
    uint32_t top = 0;
    int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(max : top, failed) \
    if (a->planes * most(in, out) > CHUNK)
    {
        int64_t *lines = allocate(sizeof *lines * (size_t)(2 * a->width + 1));
        failed = !lines;
#pragma omp for
        for (long n = 0; n < a->planes; n++) {
            if (!lines) continue;
            const uint32_t t = plane(p, (const char *)a->x + (a->wide ? 2 : 1) * n * in,
                                     (float *)a->out + n * out, lines);
            top = t > top ? t : top;
        }
        free(lines);
    }
    return failed ? (int64_t)NO_MEMORY : (int64_t)top;
}

int64_t avg_pool2d(const avg_pool2d_args *a) {
    const pool_t p = prepared(a);
    return each_plane(&p, a->wide ? FORM(pool16) : FORM(pool8), a->height * a->width,
                      a->out_h * a->out_w);
}

int64_t avg_pool2d_grad(const avg_pool2d_args *a) {
    pool_t p = prepared(a);
    int64_t *holders = allocate(sizeof *holders * (size_t)(2 * a->height));
    if (!holders) return NO_MEMORY;
    for (long r = 0; r < a->height; r++) {
        holders[2 * r] = holders[2 * r + 1] = 0;
        for (long i = 0; i < a->out_h; i++) {
            if (r < p.rows[2 * i] || r >= p.rows[2 * i + 1]) continue;
            if (!holders[2 * r + 1]) holders[2 * r] = i;
            holders[2 * r + 1] = i + 1;
        }
    }
    p.holders = holders;
    const int64_t top = each_plane(&p, a->wide ? FORM(grad16) : FORM(grad8), a->out_h * a->out_w,
                                   a->height * a->width);
    free(holders);
    return top;
}
