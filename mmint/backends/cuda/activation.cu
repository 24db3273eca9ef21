/* ReLU in float32, which compares and moves, as reference/activation.py defines it.
 *
 * Tensors are contiguous. A warp's 32 signs make a word by one ballot: element i in bit i % 8 of
 * byte i / 8. The largest magnitude of what is written is noted, of a gradient that of each channel:
 * the next mapping asks for it. */
#include "groups.cuh"

enum { THREADS = 256 };

extern "C" __global__ void __launch_bounds__(THREADS)
    relu(const float *x, float *out, uint8_t *positive, int64_t n, int32_t *top) {
    const int64_t bytes = (n + 7) / 8;
    uint32_t seen = 0;
    for (int64_t i = first_index(); i - threadIdx.x % 32 < n; i += stride()) {
        const float v = i < n ? x[i] : 0.0f;
        const uint32_t bits = __ballot_sync(0xFFFFFFFFu, v > 0);
        const float kept = v < 0 ? 0.0f : v;
        if (i < n) out[i] = kept;
        seen = max(seen, magnitude_bits(kept));
        const int lane = threadIdx.x % 32;
        const int64_t byte = (i - lane) / 8 + lane;
        if (lane < 4 && byte < bytes) positive[byte] = (uint8_t)(bits >> 8 * lane);
    }
    note_top(seen, top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_grad(const float *grad, const uint8_t *positive, float *out, int64_t n, int64_t channels,
              int64_t run, int32_t *tops) {
    note_tops(whole_grid(), n, channels, run, tops, [=](int64_t i) {
        const float kept = positive[i / 8] >> i % 8 & 1 ? grad[i] : 0.0f;
        out[i] = kept;
        return magnitude_bits(kept);
    });
}
