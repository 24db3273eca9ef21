/* Average pooling: reference/pooling.py.
 *
 * Mantissas are channels-last, (images, pixels, channels), results contiguous, (images, channels,
 * pixels). A block takes 32 channels by 8 results, so that both its reads and its writes fill
 * sectors of 32 bytes; each thread adds up one result in int64. */
#include "arithmetic/mapping.h"
#include "reduce.cuh"

enum { CHANNELS = 32, PLACES = 8, THREADS = CHANNELS * PLACES };

struct windows {
    const int64_t *rows, *columns;  /* start and stop of each, inside the image */
    const int64_t *reciprocals;     /* (out_h, out_w) */
    const int64_t *in_rows,
        *in_columns; /* the first window that holds a row, and one past the last */
    int64_t height, width, out_h, out_w;
};

struct averages {
    const void *x;
    float *out;
    int64_t images, channels, exponent; /* exponent: to be added to x's */
    const int32_t *x_exponent;
    int32_t *top;
};

template <typename T>
__device__ int64_t forward(const T *x, int64_t channels, const windows &w, int64_t place) {
    const int64_t i = place / w.out_w, j = place % w.out_w;
    int64_t total = 0;
    for (int64_t r = w.rows[2 * i]; r < w.rows[2 * i + 1]; r++)
        for (int64_t c = w.columns[2 * j]; c < w.columns[2 * j + 1]; c++)
            total += x[(r * w.width + c) * channels];
    return total * w.reciprocals[place];
}

__device__ __forceinline__ bool holds(const int64_t *ranges, int64_t window, int64_t place) {
    return ranges[2 * window] <= place && place < ranges[2 * window + 1];
}

template <typename T>
__device__ int64_t backward(const T *grad, int64_t channels, const windows &w, int64_t place) {
    const int64_t r = place / w.width, c = place % w.width;
    int64_t total = 0;
    for (int64_t i = w.in_rows[2 * r]; i < w.in_rows[2 * r + 1]; i++) {
        if (!holds(w.rows, i, r)) continue;
        for (int64_t j = w.in_columns[2 * c]; j < w.in_columns[2 * c + 1]; j++)
            if (holds(w.columns, j, c))
                total += grad[(i * w.out_w + j) * channels] * w.reciprocals[i * w.out_w + j];
    }
    return total;
}

template <typename T, bool GRAD> __device__ void average(const averages &a, const windows &w) {
    const int64_t in = GRAD ? w.out_h * w.out_w : w.height * w.width;
    const int64_t out = GRAD ? w.height * w.width : w.out_h * w.out_w;
    const int64_t across = (a.channels + CHANNELS - 1) / CHANNELS;
    const int64_t down = (a.images * out + PLACES - 1) / PLACES;
    const scale_t back = scale_at((int)(*a.x_exponent + a.exponent));
    uint32_t top = 0;
    for (int64_t t = blockIdx.x; t < across * down; t += gridDim.x) {
        const int64_t channel = t % across * CHANNELS + threadIdx.x % CHANNELS;
        const int64_t result = t / across * PLACES + threadIdx.x / CHANNELS;
        if (channel >= a.channels || result >= a.images * out) continue;
        const int64_t image = result / out, place = result % out;
        const T *x = (const T *)a.x + image * in * a.channels + channel;
        const float made = scaled_int64(
            GRAD ? backward(x, a.channels, w, place) : forward(x, a.channels, w, place), back);
        a.out[(image * a.channels + channel) * out + place] = made;
        top = max(top, magnitude_bits(made));
    }
    note_top(top, a.top);
}

extern "C" __global__ void __launch_bounds__(THREADS) avg_pool2d_8(averages a, windows w) {
    average<int8_t, false>(a, w);
}
extern "C" __global__ void __launch_bounds__(THREADS) avg_pool2d_16(averages a, windows w) {
    average<int16_t, false>(a, w);
}
extern "C" __global__ void __launch_bounds__(THREADS) avg_pool2d_grad_8(averages a, windows w) {
    average<int8_t, true>(a, w);
}
extern "C" __global__ void __launch_bounds__(THREADS) avg_pool2d_grad_16(averages a, windows w) {
    average<int16_t, true>(a, w);
}
