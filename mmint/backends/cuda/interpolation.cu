/* Bilinear interpolation: reference/interpolation.py.
 *
 * Mantissas are channels-last, results contiguous. The taps of boxes are made by a thread for each
 * axis of a box. Then a block takes 32 channels by 8 results, so that both its reads and its writes
 * fill sectors of 32 bytes: forward each thread adds up one result, the columns of a row in int32,
 * below 2**29, the rows in int64. Backward it adds its share of each pixel to sums in int64, by
 * integer atomics, whose order does not show, and a second kernel rounds them. */
#include "arithmetic/interpolation.h"
#include "arithmetic/mapping.h"
#include "reduce.cuh"

enum { CHANNELS = 32, PLACES = 8, THREADS = CHANNELS * PLACES };

struct taps {
    int32_t *image; /* null: one set of taps for all images */
    taps_t *rows;
    int16_t *row_weights;
    taps_t *columns;
    int16_t *column_weights;
};

struct sizes {
    int64_t count, images, channels, height, width, out_h, out_w;
};

extern "C" __global__ void __launch_bounds__(THREADS)
    box_taps(const float *boxes, taps t, sizes s, int64_t scale, int64_t ratio, int64_t aligned,
             failure failed) {
    for (int64_t i = first_index(); i < 2 * s.count; i += stride()) {
        const int64_t box = i / 2, axis = i % 2; /* 0: columns */
        const float *at = boxes + 5 * box;
        const bool good = box_is_good(at, s.images);
        const int64_t half = aligned ? ONE_PLACE / 2 : 0;
        int64_t start = 0, end = 0;
        if (good) {
            start = position_of(pattern_of(at[1 + axis]), (uint32_t)scale) - half;
            end = position_of(pattern_of(at[3 + axis]), (uint32_t)scale) - half;
        } else {
            report(failed);
        }
        if (axis == 0) {
            t.image[box] = good ? (int32_t)at[0] : 0;
            box_taps_of(start, end, s.width, s.out_w, ratio, aligned, t.columns + box * s.out_w,
                        t.column_weights + box * (s.width + 2 * s.out_w));
        } else {
            box_taps_of(start, end, s.height, s.out_h, ratio, aligned, t.rows + box * s.out_h,
                        t.row_weights + box * (s.height + 2 * s.out_h));
        }
    }
}

/* One result of one channel: the first pixel that it may read, and its taps. */
struct result {
    int64_t pixel; /* the first of its image */
    taps_t rows, columns;
    const int16_t *row_weights, *column_weights;
};

__device__ result result_at(const taps &t, const sizes &s, int64_t number) {
    const int64_t box = number / (s.out_h * s.out_w), set = t.image ? box : 0;
    const int64_t i = number / s.out_w % s.out_h, j = number % s.out_w;
    result r;
    r.pixel = (t.image ? t.image[box] : box) * s.height * s.width;
    r.rows = t.rows[set * s.out_h + i];
    r.columns = t.columns[set * s.out_w + j];
    r.row_weights = t.row_weights + set * (s.height + 2 * s.out_h) + r.rows.at;
    r.column_weights = t.column_weights + set * (s.width + 2 * s.out_w) + r.columns.at;
    return r;
}

/* Calls act(channel, number) for 32 channels by 8 of `n` results or pixels at a time. */
template <typename F> __device__ void each(int64_t channels, int64_t n, F act) {
    const int64_t across = (channels + CHANNELS - 1) / CHANNELS;
    const int64_t down = (n + PLACES - 1) / PLACES;
    for (int64_t t = blockIdx.x; t < across * down; t += gridDim.x) {
        const int64_t channel = t % across * CHANNELS + threadIdx.x % CHANNELS;
        const int64_t number = t / across * PLACES + threadIdx.x / CHANNELS;
        if (channel < channels && number < n) act(channel, number);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    interpolate(const int16_t *x, float *out, taps t, sizes s, int64_t exponent,
                const int32_t *x_exponent, int32_t *top) {
    const scale_t back = scale_at((int)(*x_exponent + exponent));
    const int64_t results = s.out_h * s.out_w;
    uint32_t largest = 0;
    each(s.channels, s.count * results, [&](int64_t channel, int64_t number) {
        const result r = result_at(t, s, number);
        int64_t total = 0;
        for (int64_t i = r.rows.from; i < r.rows.to; i++) {
            const int16_t *row = x + (r.pixel + i * s.width) * s.channels + channel;
            int32_t sum = 0;
            for (int64_t j = r.columns.from; j < r.columns.to; j++)
                sum += row[j * s.channels] * r.column_weights[j - r.columns.from];
            total += (int64_t)sum * r.row_weights[i - r.rows.from];
        }
        const float made = scaled_int64(total, back);
        out[(number / results * s.channels + channel) * results + number % results] = made;
        largest = max(largest, magnitude_bits(made));
    });
    note_top(largest, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    interpolate_grad(const int16_t *grad, unsigned long long *sums, taps t, sizes s) {
    each(s.channels, s.count * s.out_h * s.out_w, [&](int64_t channel, int64_t number) {
        const int32_t own = grad[number * s.channels + channel];
        if (!own) return;
        const result r = result_at(t, s, number);
        for (int64_t i = r.rows.from; i < r.rows.to; i++) {
            const int32_t weight = r.row_weights[i - r.rows.from];
            unsigned long long *row = sums + (r.pixel + i * s.width) * s.channels + channel;
            for (int64_t j = r.columns.from; weight && j < r.columns.to; j++) {
                const int64_t share =
                    (int64_t)(own * r.column_weights[j - r.columns.from]) * weight;
                atomicAdd(row + j * s.channels, (unsigned long long)share);
            }
        }
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
    round_sums(const int64_t *sums, float *out, sizes s, int64_t exponent,
               const int32_t *x_exponent, int32_t *top) {
    const scale_t back = scale_at((int)(*x_exponent + exponent));
    const int64_t pixels = s.height * s.width;
    uint32_t largest = 0;
    each(s.channels, s.images * pixels, [&](int64_t channel, int64_t number) {
        const float made = scaled_int64(sums[number * s.channels + channel], back);
        out[(number / pixels * s.channels + channel) * pixels + number % pixels] = made;
        largest = max(largest, magnitude_bits(made));
    });
    note_top(largest, top);
}
