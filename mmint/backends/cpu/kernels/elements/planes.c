/* The passes of batch and group norm over their elements, as reference/norms has them.
 *
 * Sums of int8 products are int32 over a block of 2**16 elements (127 * 127 * 2**16 < 2**31), then
 * int64. A combination of int8 mantissas stays below 2**31, though not the terms it is made of:
 * int32 modulo 2**32 gives it, one conversion to float32 rounds it, and a power of two that keeps
 * it normal scales it exactly. Mantissas of 16 bits do the same in int64, below 2**39. */
#include "planes.h"

#include "arguments.h"
#include "levels/level.h"
#include "mapping.h"
#include "planes_loops.h"
#include "status.h"

enum { CHUNK = 1 << 15 };

int64_t transpose(const transpose_args *a) {
    channels_last(a->x, a->out, a->images, a->rows, a->columns, (int)a->threads);
    return OK;
}

uint32_t combine16(const int16_t *a, const int16_t *b, float *out, long n,
                   const coefficients_t *c) {
    const scale_t scale = scale_at((int)c->exponent);
    uint32_t top = 0;
    for (long i = 0; i < n; i++) {
        out[i] = scaled_int64(c->p * a[i] + (b ? c->q * b[i] : 0) + c->r, scale);
        top = take(out[i], top);
    }
    return top;
}

static int64_t sum_planes(const void *first, const void *second, int64_t *out, long planes,
                          long pixels, int wide, int threads) {
#pragma omp parallel for num_threads(threads) if (planes * pixels > CHUNK)
    for (long n = 0; n < planes; n++) {
        int64_t sum[2] = {0, 0};
        const long at = (wide ? 2 : 1) * n * pixels;
        const char *a = (const char *)first + at, *b = (const char *)second + at;
        if (wide)
            sums16_loop((const int16_t *)a, (const int16_t *)b, pixels, sum);
        else
            level->sums8((const int8_t *)a, (const int8_t *)b, pixels, sum);
        out[n] = sum[0];
        out[planes + n] = sum[1];
    }
    return OK;
}

int64_t plane_sums(const plane_sums_args *a) {
    return sum_planes(a->x, a->x, a->out, a->planes, a->pixels, (int)a->wide, (int)a->threads);
}

int64_t plane_products(const plane_products_args *a) {
    return sum_planes(a->grad, a->x, a->out, a->planes, a->pixels, (int)a->wide, (int)a->threads);
}
