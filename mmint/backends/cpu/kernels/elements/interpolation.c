/* Bilinear interpolation bit for bit as reference/interpolation.py: RoIAlign and resizing.
 *
 * A job is LANES channels of one image, for all of its boxes: threads share nothing, backward
 * either, so that there are no atomics. The job lays out its channels side by side, one pixel after
 * another, and works on vectors of them.
 *
 * Forward, the rows of a result are added into a line of the columns that its box needs, in int32:
 * weights add up to at most 2**14, so |line| < 2**29. Then each result adds columns of the line, as
 * doubles, which hold integers below 2**53: |sum| < 2**43. Their conversion to float32 is the one
 * rounding. Backward, a row of results is spread over a line, and the line over rows of int64. At
 * most MOST_OVERLAP results of a row are spread at a time over a column, so that int32 holds the
 * line: 4 * 2**14 * (2**15 - 1) < 2**31. */
#include "interpolation.h"

#include "levels/level.h"
#include "memory.h"
#include "status.h"

int64_t box_taps(const box_taps_args *a) {
    const long row_weights = a->height + 2 * a->out_h, column_weights = a->width + 2 * a->out_w;
    int bad = 0;
#pragma omp parallel for num_threads((int)a->threads) reduction(max : bad) if (a->count > 64)
    for (long i = 0; i < a->count; i++) {
        const float *box = a->boxes + 5 * i;
        if (!box_is_good(box, a->images)) {
            bad = 1;
            continue;
        }
        int64_t ends[4];
        for (int k = 0; k < 4; k++)
            ends[k] = position_of(pattern_of(box[k + 1]), (uint32_t)a->scale) -
                      (a->aligned ? ONE_PLACE / 2 : 0);
        a->image[i] = (int32_t)box[0];
        box_taps_of(ends[1], ends[3], a->height, a->out_h, a->ratio, a->aligned,
                    (taps_t *)a->rows + i * a->out_h, a->row_weights + i * row_weights);
        box_taps_of(ends[0], ends[2], a->width, a->out_w, a->ratio, a->aligned,
                    (taps_t *)a->columns + i * a->out_w, a->column_weights + i * column_weights);
    }
    return bad ? NOT_FINITE : OK;
}

typedef uint32_t (*job_t)(const interpolation_t *s, long image, long channel, void *scratch);

/* A job needs so many bytes a channel: for each pixel, each column, each result of a band. */
static int64_t each_job(const interpolate_args *a, job_t job, size_t pixel, size_t column,
                        size_t result) {
    const size_t scratch_bytes =
        LANES * (pixel * (size_t)(a->height * a->width) + column * (size_t)a->width +
                 result * (size_t)(rows_of_band(a) * a->out_w));
    const interpolation_t s = {a, scale_at(clamped_exponent(a->exponent))};
    const long blocks = div_up(a->channels, LANES);
    uint32_t top = 0;
    int failed = 0;
#pragma omp parallel num_threads((int)a->threads) reduction(max : top, failed)
    {
        void *scratch = allocate(scratch_bytes);
        failed = !scratch;
#pragma omp for schedule(dynamic)
        for (long n = 0; n < a->images * blocks; n++) {
            if (!scratch) continue;
            const uint32_t t = job(&s, n / blocks, n % blocks * LANES, scratch);
            top = t > top ? t : top;
        }
        free(scratch);
    }
    return failed ? (int64_t)NO_MEMORY : (int64_t)top;
}

int64_t interpolate(const interpolate_args *a) {
    const size_t pixel = sizeof(int16_t), column = sizeof(double);
    const size_t result = sizeof(double) + sizeof(float);
    return each_job(a, level->interpolate, pixel, column, result);
}

int64_t interpolate_grad(const interpolate_args *a) {
    return each_job(a, level->interpolate_grad, sizeof(int64_t), sizeof(int32_t), sizeof(int16_t));
}
