/* Max pooling as reference/max_pooling.py has it: comparisons and moves, so exact.
 *
 * Each thread takes whole planes of an image; the sums of a gradient, where windows overlap, are thus
 * taken in row-major order by one thread. */
#include <math.h>
#include <string.h>

#include "arguments.h"
#include "integers.h"
#include "levels/level.h"

enum { CHUNK = 1 << 15 };

/* The first output, at stride, padding and offset in the window, whose element is inside. */
static int64_t first_output(int64_t offset, int64_t stride) {
    return offset >= 0 ? 0 : div_up(-offset, stride);
}

/* Places are tried one after the other for a whole row of outputs, so that the loop has no tests
 * of borders; each output still sees its elements in row-major order. */
static void pool_plane(const max_pool2d_args *a, const float *x, float *out, uint8_t *place) {
    for (int64_t i = 0; i < a->out_h; i++, out += a->out_w, place += a->out_w) {
        int started = 0;
        for (int64_t j = 0; j < a->out_w; j++) out[j] = -INFINITY;
        for (int64_t p = 0; p < a->kernel_h; p++) {
            const int64_t row = i * a->stride_h - a->padding_h + p;
            if (row < 0 || row >= a->height) continue;
            for (int64_t q = a->kernel_w; !started && q-- > 0;) {
                const int64_t offset = q - a->padding_w;
                for (int64_t j = first_output(offset, a->stride_w); j < a->out_w; j++)
                    place[j] = (uint8_t)(p * a->kernel_w + q); /* the first element inside */
            }
            started = 1;
            for (int64_t q = 0; q < a->kernel_w; q++) {
                const int64_t offset = q - a->padding_w;
                const int64_t end = least(a->out_w, div_up(a->width - offset, a->stride_w));
                const float *from = x + row * a->width + offset;
                const uint8_t where = (uint8_t)(p * a->kernel_w + q);
                for (int64_t j = first_output(offset, a->stride_w); j < end; j++) {
                    const float v = from[j * a->stride_w];
                    const int takes = v > out[j] || isnan(v);
                    place[j] = takes ? where : place[j];
                    out[j] = takes ? v : out[j];
                }
            }
        }
    }
}

static void pool_plane_grad(const max_pool2d_args *a, const float *g, float *out,
                            const uint8_t *place) {
    memset(out, 0, sizeof(float) * (size_t)(a->height * a->width));
    for (int64_t i = 0; i < a->out_h; i++) {
        for (int64_t j = 0; j < a->out_w; j++) {
            const int64_t p = *place / a->kernel_w, q = *place % a->kernel_w;
            const int64_t row = i * a->stride_h - a->padding_h + p;
            const int64_t column = j * a->stride_w - a->padding_w + q;
            out[row * a->width + column] += *g++;
            place++;
        }
    }
}

int64_t max_pool2d(const max_pool2d_args *a) {
    uint32_t top = 0;
    const int64_t in = a->height * a->width, out = a->out_h * a->out_w;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (a->planes * out > CHUNK)
    for (int64_t n = 0; n < a->planes; n++) {
        pool_plane(a, a->x + n * in, a->out + n * out,
                   a->place + n * out);
        const uint32_t here = level->top((const uint32_t *)a->out + n * out, out); /* cached */
        top = (uint32_t)most(top, here);
    }
    return top;
}

int64_t max_pool2d_grad(const max_pool2d_args *a) {
    uint32_t top = 0;
    const int64_t in = a->height * a->width, out = a->out_h * a->out_w;
#pragma omp parallel for num_threads(a->threads) reduction(max : top) if (a->planes * out > CHUNK)
    for (int64_t n = 0; n < a->planes; n++) {
        pool_plane_grad(a, a->x + n * out, a->out + n * in,
                        a->place + n * out);
        const uint32_t here = level->top((const uint32_t *)a->out + n * in, in); /* cached */
        top = (uint32_t)most(top, here);
    }
    return top;
}
