/* Average pooling bit for bit as reference/pooling.py, plane by plane.
 *
 * Forward, the rows of a window are added into one line, whose running sums then give any range of
 * columns as a difference. Backward, a row of windows is spread over a line in the same way: each
 * window adds its share where it starts and takes it off where it stops, and running sums give the
 * line; a row of the image adds the lines of the window rows that hold it. All sums are int64
 * (modulo 2**64 on the way), as in the reference, and rounded once by their conversion to float32:
 * an integer below 2**63 times 2**-126 to 2**64 is a normal number. */
#include "pooling.h"

#include "arguments.h"
#include "levels/level.h"
#include "memory.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

static pool_t prepared(const avg_pool2d_args *a) {
    pool_t p = {.a = a,
                .rows = a->rows,
                .columns = a->columns,
                .reciprocals = a->reciprocals,
                .scale = scale_at(clamped_exponent(a->exponent))};
    p.one_column = a->out_w == 1 && p.columns[0] == 0 && p.columns[1] == a->width;
    return p;
}

typedef uint32_t (*plane_t)(const pool_t *p, const void *x, float *out, int64_t *lines);

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
                                     a->out + n * out, lines);
            top = t > top ? t : top;
        }
        free(lines);
    }
    return failed ? (int64_t)NO_MEMORY : (int64_t)top;
}

int64_t avg_pool2d(const avg_pool2d_args *a) {
    const pool_t p = prepared(a);
    return each_plane(&p, level->average, a->height * a->width,
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
    const int64_t top = each_plane(&p, level->average_grad, a->out_h * a->out_w,
                                   a->height * a->width);
    free(holders);
    return top;
}
