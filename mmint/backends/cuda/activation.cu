/* ReLU and ReLU6 in float32, which compare and move, as reference/activation.py defines it.
 *
 * Tensors are contiguous. A warp's 32 signs make a word by one ballot: element i in bit i % 8 of
 * byte i / 8. The largest magnitude of what is written is noted, of a gradient that of each channel:
 * the next mapping asks for it. */
#include "groups.cuh"
#include "source.cuh"

enum { THREADS = 256 };

/* Thread by thread: does the gradient of element i pass? */
__device__ __forceinline__ void note_passed(uint8_t *passed, int64_t bytes, int64_t i,
                                            bool passes) {
    const uint32_t bits = __ballot_sync(0xFFFFFFFFu, passes);
    const int lane = threadIdx.x % 32;
    const int64_t byte = (i - lane) / 8 + lane;
    if (lane < 4 && byte < bytes) passed[byte] = (uint8_t)(bits >> 8 * lane);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu(const float *x, float *out, uint8_t *passed, int64_t n, int64_t ceiling, int32_t *top) {
    const float most = float_of((uint32_t)ceiling);
    const int64_t bytes = (n + 7) / 8;
    uint32_t seen = 0;
    for (int64_t i = first_index(); i - threadIdx.x % 32 < n; i += stride()) {
        const float v = i < n ? x[i] : 0.0f;
        const float kept = cut_one(v, most);
        if (i < n) out[i] = kept;
        seen = max(seen, magnitude_bits(kept));
        note_passed(passed, bytes, i, passes(v, most));
    }
    note_top(seen, top);
}

/* The same bits of a source that is made, before it is cut. */
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_passed(source s, uint8_t *passed, int64_t n) {
    const float most = cut_at(s.ceiling).ceiling;
    plane of_plane = no_plane();
    for (int64_t i = first_index(); i - threadIdx.x % 32 < n; i += stride()) {
        const float v = i < n ? made_at(s, of_plane, i, cut_at(-1)) : 0.0f;
        note_passed(passed, (n + 7) / 8, i, passes(v, most));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    relu_grad(const float *grad, const uint8_t *passed, float *out, int64_t n, int64_t channels,
              int64_t run, int32_t *tops) {
    note_tops(whole_grid(), n, channels, run, tops, [=](int64_t i) {
        const float kept = passed[i / 8] >> i % 8 & 1 ? grad[i] : 0.0f;
        out[i] = kept;
        return magnitude_bits(kept);
    });
}
