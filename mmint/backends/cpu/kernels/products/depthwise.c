#include "depthwise.h"

#include "levels/level.h"
#include "memory.h"
#include "status.h"

enum { PART = 1024 /* pixels at a time in a weight gradient */ };

static void widen(int64_t *wide, int32_t *sum, long n) {
    for (long c = 0; c < n; c++) wide[c] += sum[c];
    memset(sum, 0, (size_t)n * sizeof *sum);
}

int depthwise(const depthwise_t *p, int threads, extent_t *seen) {
    const operand_t *x = &p->x;
    const finish_t *f = p->finish;
    const long channels = x->channels, size = x->wide ? 2 : 1, taps = x->taps;
    const long per_image = x->pixels.grid_h * x->pixels.grid_w;
    const long limit = most(1, (long)(2147483647.0 / p->largest));
    const int widened = taps > limit, fast = f->all_fast && !widened;
    extent_t found = {{0}, {0}};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(join : found)
    {
        int32_t *sums = allocate((size_t)(channels * NR) * 4);
        int64_t *wide = allocate((size_t)(channels * NR) * 8);
        float *made = allocate((size_t)(channels * NR) * 4);
        if (!sums || !wide || !made) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (long j = 0; j < div_up(x->lanes, NR); j++) {
            if (!sums || !wide || !made) continue;
            const long lane = j * NR, count = least(NR, x->lanes - lane);
            const void *rows[NR];
            long place[NR];
            memset(sums, 0, (size_t)(channels * NR) * 4);
            if (widened) memset(wide, 0, (size_t)(channels * NR) * 8);
            for (long t = 0; t < taps; t++) {
                pixel_rows(x, t, lane, count, rows, NULL);
                for (long l = 0; l < count; l++) {
                    if (rows[l] != (const void *)x->zeros)
                        level->add_products(sums + l * channels, rows[l],
                                            p->weight + t * channels * size, channels, x->wide);
                    if (widened && (t + 1) % limit == 0)
                        widen(wide + l * channels, sums + l * channels, channels);
                }
            }
            for (long l = 0; l < count; l++) {
                const long n = (lane + l) / per_image, at = (lane + l) % per_image;
                place[l] = n * p->image_stride + at / x->pixels.grid_w * p->step_y +
                           at % x->pixels.grid_w * p->step_x;
                if (widened) widen(wide + l * channels, sums + l * channels, channels);
                if (fast)
                    level->finish_row(made + l * channels, sums + l * channels, f->bias32,
                                      f->scales, channels, &found);
                for (long i = l * channels; !fast && i < (l + 1) * channels; i++) {
                    const int64_t sum = widened ? wide[i] : sums[i];
                    made[i] = finish_one(&f[i - l * channels], sum, 0);
                    extent_take(&found, 0, sum != 0, made[i]);
                }
            }
            for (long c = 0; c < channels; c++) {
                float *out = p->out + c * p->row_stride;
                for (long l = 0; l < count; l++) out[place[l]] = made[l * channels + c];
            }
        }
        free(sums);
        free(wide);
        free(made);
    }
    extent_join(seen, &found, NR);
    return failed ? NO_MEMORY : OK;
}

int depthwise_weight_grad(const depthwise_weight_grad_t *p, int threads) {
    const operand_t *x = &p->x;
    const long channels = x->channels, size = x->wide ? 2 : 1, taps = x->taps;
    const long limit = most(1, (long)(2147483647.0 / p->largest)), part = least(PART, limit);
    int64_t *total = calloc((size_t)(taps * channels) + 1, 8);
    int failed = !total;
#pragma omp parallel num_threads(threads)
    {
        int32_t *sums = allocate((size_t)(taps * channels) * 4);
        const void **rows = allocate((size_t)(part + NR) * sizeof *rows);
        if (!sums || !rows) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(dynamic, 1)
        for (long first = 0; first < x->lanes; first += part) {
            if (failed) continue;
            const long count = least(part, x->lanes - first);
            memset(sums, 0, (size_t)(taps * channels) * 4);
            for (long t = 0; t < taps; t++) {
                pixel_rows(x, t, first, count, rows, NULL);
                for (long i = 0; i < count; i++)
                    if (rows[i] != (const void *)x->zeros)
                        level->add_products(sums + t * channels, rows[i],
                                            p->grad + (first + i) * channels * size, channels,
                                            x->wide);
            }
#pragma omp critical
            for (long i = 0; i < taps * channels; i++) total[i] += sums[i];
        }
        free(sums);
        free(rows);
    }
    for (long c = 0; !failed && c < channels; c++)
        for (long t = 0; t < taps; t++)
            p->out[c * taps + t] = dequantize_one(total[t * channels + c],
                                                  clamped_exponent(exponent_at(p->exponents, c)));
    free(total);
    return failed ? NO_MEMORY : OK;
}
