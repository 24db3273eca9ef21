/* Max pooling in float32, which compares and moves, as reference/max_pooling.py defines it.
 *
 * Tensors are contiguous. The forward pass takes a thread for each output, the gradient a thread for
 * each input, which adds up the windows that chose it in row-major order, so that no atomics are
 * needed for that. The largest magnitude of what is written is noted: the next mapping asks for it.
 */
#include "reduce.cuh"

enum { THREADS = 256 };

struct planes {
    int64_t planes, height, width, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, padding_h,
        padding_w;
};

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d(const float *x, float *out, uint8_t *place, planes p, int32_t *top) {
    uint32_t seen = 0;
    for (int64_t o = first_index(); o < p.planes * p.out_h * p.out_w; o += stride()) {
        const int64_t upper = o / p.out_w % p.out_h * p.stride_h - p.padding_h;
        const int64_t left = o % p.out_w * p.stride_w - p.padding_w;
        const float *plane = x + o / (p.out_w * p.out_h) * p.height * p.width;
        float largest = 0.0f;
        int64_t chosen = -1;
        for (int64_t r = max((int64_t)0, -upper); r < min(p.kernel_h, p.height - upper); r++) {
            for (int64_t c = max((int64_t)0, -left); c < min(p.kernel_w, p.width - left); c++) {
                const float v = plane[(upper + r) * p.width + left + c];
                if (chosen >= 0 && !(v > largest) && v == v) continue; /* the last NaN counts */
                largest = v;
                chosen = r * p.kernel_w + c;
            }
        }
        out[o] = largest;
        place[o] = (uint8_t)chosen;
        seen = max(seen, magnitude_bits(largest));
    }
    note_top(seen, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool2d_grad(const float *grad, float *out, const uint8_t *place, planes p, int32_t *top) {
    uint32_t seen = 0;
    for (int64_t i = first_index(); i < p.planes * p.height * p.width; i += stride()) {
        const int64_t row = i / p.width % p.height + p.padding_h;
        const int64_t column = i % p.width + p.padding_w;
        const int64_t plane = i / (p.width * p.height) * p.out_h * p.out_w;
        /* The windows that hold the element: from the first whose end lies beyond it. */
        const int64_t first_r = max((int64_t)0, row - p.kernel_h + p.stride_h) / p.stride_h;
        const int64_t first_c = max((int64_t)0, column - p.kernel_w + p.stride_w) / p.stride_w;
        float sum = 0.0f;
        for (int64_t r = first_r; r < p.out_h && r * p.stride_h <= row; r++) {
            for (int64_t c = first_c; c < p.out_w && c * p.stride_w <= column; c++) {
                const int64_t o = plane + r * p.out_w + c;
                const int64_t here = (row - r * p.stride_h) * p.kernel_w + column - c * p.stride_w;
                if (place[o] == here) sum += grad[o];
            }
        }
        out[i] = sum;
        seen = max(seen, magnitude_bits(sum));
    }
    note_top(seen, top);
}
