/* Sums of mantissas over all axes but one: a bias's gradient.
 *
 * Rows of channels add up in int32 over 2**13 rows of 16-bit mantissas at most, planes in int64. */
#include "arguments.h"
#include "arithmetic/mapping.h"
#include "levels/level.h"
#include "memory.h"
#include "planes_loops.h"
#include "status.h"

enum { PART = 1 << 13, CHUNK = 1 << 15 };

static void sum_planes(const channel_sum_args *a, int64_t *total) {
#pragma omp parallel for num_threads((int)a->threads) if (a->images * a->channels * a->pixels > \
                                                              CHUNK)
    for (long c = 0; c < a->channels; c++) {
        int64_t sum[2] = {0, 0};
        for (long n = 0; n < a->images; n++) {
            const long at = (n * a->channels + c) * a->pixels;
            const int8_t *narrow = (const int8_t *)a->x + at;
            const int16_t *wide = (const int16_t *)a->x + at;
            if (a->wide)
                sums16_loop(wide, wide, a->pixels, sum);
            else
                level->sums8(narrow, narrow, a->pixels, sum);
        }
        total[c] = sum[0];
    }
}

static int sum_rows(const channel_sum_args *a, int64_t *total) {
    const long rows = a->images, channels = a->channels, parts = div_up(rows, PART);
    int failed = 0;
#pragma omp parallel num_threads((int)a->threads) if (rows * channels > CHUNK)
    {
        int32_t *sum = allocate((size_t)channels * 4);
        if (!sum) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for
        for (long part = 0; part < parts; part++) {
            if (failed) continue;
            memset(sum, 0, (size_t)channels * 4);
            for (long r = part * PART; r < least(rows, (part + 1) * PART); r++) {
                if (a->wide) {
                    const int16_t *row = (const int16_t *)a->x + r * channels;
                    for (long c = 0; c < channels; c++) sum[c] += row[c];
                } else {
                    const int8_t *row = (const int8_t *)a->x + r * channels;
                    for (long c = 0; c < channels; c++) sum[c] += row[c];
                }
            }
#pragma omp critical
            for (long c = 0; c < channels; c++) total[c] += sum[c];
        }
        free(sum);
    }
    return failed;
}

int64_t channel_sum(const channel_sum_args *a) {
    int64_t *total = calloc((size_t)a->channels + 1, sizeof *total);
    int failed = !total;
    if (!failed && a->pixels != 1)
        sum_planes(a, total);
    else if (!failed)
        failed = sum_rows(a, total);
    for (long c = 0; !failed && c < a->channels; c++)
        a->out[c] = dequantize_one(total[c], exponent_at(EXPONENTS_OF(a, exponent), c));
    free(total);
    return failed ? NO_MEMORY : OK;
}
