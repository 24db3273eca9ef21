/* Depthwise convolution, one filter a channel: nothing for tensor cores, bound by memory.
 *
 * A warp takes 32 neighbouring channels of a pixel, channels-last; results pass through shared
 * memory to planes. Weights are (taps, channels). Sums of int8 products over taps fit an int32; those
 * of the weight gradient, and of int16 products, are 64 bits wide. */
#include "finish.cuh"

enum { THREADS = 256, LANES = 32, PIXELS = 32, LINES = THREADS / LANES };

struct depthwise_axis {
    int64_t size, out, stride, padding, dilation, taps; /* of the input, of the output */
};

struct depthwise {
    const void *x, *y; /* input or gradient, and weight; of a weight gradient: input, gradient */
    float *out;
    int64_t *parts; /* of a weight gradient: (splits, channels, taps) */
    finish end;
    int64_t images, channels, splits;
    depthwise_axis v, h;
};

template <typename T> struct sum_of;
template <> struct sum_of<int8_t> {
    typedef int type;
};
template <> struct sum_of<int16_t> {
    typedef int64_t type;
};

/* The input place that window `i` sees at `tap`. */
__device__ __forceinline__ int seen(const depthwise_axis &a, int i, int tap) {
    return i * (int)a.stride - (int)a.padding + tap * (int)a.dilation;
}
/* The window that sees input place `i` at `tap`, or -1. */
__device__ __forceinline__ int seeing(const depthwise_axis &a, int i, int tap) {
    const int reach = i + (int)a.padding - tap * (int)a.dilation;
    return reach >= 0 && reach % (int)a.stride == 0 ? reach / (int)a.stride : -1;
}

/* Forward, or the input gradient: a block makes 32 channels of 32 pixels of an image. */
template <typename T, bool BACKWARD> __device__ void convolve(const depthwise &p) {
    typedef typename sum_of<T>::type sum_type;
    __shared__ sum_type sums[LANES][PIXELS + 1];
    const T *x = (const T *)p.x, *weight = (const T *)p.y;
    const int channels = (int)p.channels, lane = threadIdx.x % LANES, line = threadIdx.x / LANES;
    const int height = (int)(BACKWARD ? p.v.size : p.v.out),
              width = (int)(BACKWARD ? p.h.size : p.h.out);
    const int from_h = (int)(BACKWARD ? p.v.out : p.v.size),
              from_w = (int)(BACKWARD ? p.h.out : p.h.size);
    const int across = (channels + LANES - 1) / LANES, pixels = height * width;
    const int parts = (pixels + PIXELS - 1) / PIXELS;
    const int channel0 = (int)(blockIdx.x % across) * LANES;
    const int pixel0 = (int)(blockIdx.x / across % parts) * PIXELS;
    const int64_t image = blockIdx.x / across / parts;
    for (int i = line; i < PIXELS; i += LINES) {
        const int pixel = pixel0 + i, channel = channel0 + lane;
        sum_type sum = 0;
        if (pixel < pixels && channel < channels)
            for (int r = 0; r < p.v.taps; r++) {
                const int row = pixel / width;
                const int from_y = BACKWARD ? seeing(p.v, row, r) : seen(p.v, row, r);
                if ((unsigned)from_y >= (unsigned)from_h) continue;
                for (int s = 0; s < p.h.taps; s++) {
                    const int column = pixel % width;
                    const int from_x = BACKWARD ? seeing(p.h, column, s) : seen(p.h, column, s);
                    if ((unsigned)from_x >= (unsigned)from_w) continue;
                    sum +=
                        (int)x[((image * from_h + from_y) * from_w + from_x) * channels + channel] *
                        weight[(r * p.h.taps + s) * channels + channel];
                }
            }
        sums[lane][i] = sum;
    }
    __syncthreads();
    finisher finish(p.end);
    for (int i = line; i < LANES; i += LINES) {
        const int pixel = pixel0 + lane, channel = channel0 + i;
        if (pixel < pixels && channel < channels)
            p.out[(image * channels + channel) * pixels + pixel] = finish(sums[i][lane], channel);
        if (channel < channels) finish.note_channel(channel);
    }
    finish.note();
}

/* Part of the weight gradient of 32 channels at one tap: every splits-th 8 output pixels. */
template <typename T> __device__ void weight_gradient(const depthwise &p) {
    __shared__ int64_t sums[LINES][LANES];
    const T *x = (const T *)p.x, *grad = (const T *)p.y;
    const int channels = (int)p.channels, lane = threadIdx.x % LANES, line = threadIdx.x / LANES;
    const int across = (channels + LANES - 1) / LANES, taps = (int)(p.v.taps * p.h.taps);
    const int channel = (int)(blockIdx.x % across) * LANES + lane;
    const int tap = (int)(blockIdx.x / across % taps), split = (int)(blockIdx.x / across / taps);
    const int r = tap / (int)p.h.taps, s = tap % (int)p.h.taps;
    int64_t sum = 0;
    if (channel < channels)
        for (int64_t i = split * LINES + line; i < p.images * p.v.out * p.h.out;
             i += p.splits * LINES) {
            const int y = seen(p.v, (int)(i / p.h.out % p.v.out), r),
                      w = seen(p.h, (int)(i % p.h.out), s);
            if ((unsigned)y >= (unsigned)p.v.size || (unsigned)w >= (unsigned)p.h.size) continue;
            const int64_t image = i / p.h.out / p.v.out;
            sum += (int)x[((image * p.v.size + y) * p.h.size + w) * channels + channel] *
                   grad[i * channels + channel];
        }
    sums[line][lane] = sum;
    __syncthreads();
    if (line || channel >= channels) return;
    for (int i = 1; i < LINES; i++) sum += sums[i][lane];
    p.parts[((int64_t)split * channels + channel) * taps + tap] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) forward_8(depthwise p) {
    convolve<int8_t, false>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) forward_16(depthwise p) {
    convolve<int16_t, false>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) input_grad_8(depthwise p) {
    convolve<int8_t, true>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) input_grad_16(depthwise p) {
    convolve<int16_t, true>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) weight_grad_8(depthwise p) {
    weight_gradient<int8_t>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS) weight_grad_16(depthwise p) {
    weight_gradient<int16_t>(p);
}

/* Adds the parts of a weight gradient. */
extern "C" __global__ void __launch_bounds__(THREADS) add_weight_parts(depthwise p) {
    finisher finish(p.end);
    const int64_t sums = p.channels * p.v.taps * p.h.taps;
    for (int64_t i = first_index(); i < sums; i += stride()) {
        int64_t sum = 0;
        for (int64_t s = 0; s < p.splits; s++) sum += p.parts[s * sums + i];
        p.out[i] = finish(sum, i / (p.v.taps * p.h.taps));
    }
    finish.note();
}
