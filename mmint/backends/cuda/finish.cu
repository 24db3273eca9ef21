/* Before and after a product that has a bias: see finish.cuh. */
#include "arithmetic/philox.h"
#include "finish.cuh"

enum { THREADS = 256 };

struct preparation {
    exponents_t a_exponents, b_exponents;
    finish_state *states;  /* one for each group of channels, of which `length` have a bias */
    int64_t groups;
    const uint32_t *bias;  /* float32 */
    int64_t *rounded;      /* the bias as integers */
    int64_t length;
    int64_t bound;         /* of a sum's magnitude */
    int32_t *flag;
    int64_t call;
    random_words random;
};

extern "C" __global__ void __launch_bounds__(THREADS) prepare(preparation p) {
    const random_words random = resolved(p.random);
    const int64_t size = p.length / p.groups;
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < p.length; i += THREADS)
        top = max(top, p.bias[i] & 0x7FFFFFFF);
    top = block_max(top);
    const bool finite = is_finite(top);
    if (!finite && threadIdx.x == 0) atomicCAS(p.flag, 0, (int32_t)p.call);
    /* The threads share the channels of one group, or the groups. */
    const bool one = p.groups == 1;
    const int64_t first = one ? threadIdx.x : 0, step = one ? (int64_t)THREADS : 1;
    uint32_t slow = 0;
    for (int64_t g = one ? 0 : threadIdx.x; g < p.groups; g += one ? 1 : (int64_t)THREADS) {
        const int of_a = exponent_at(p.a_exponents, g), of_b = exponent_at(p.b_exponents, g);
        int exponent = of_a + of_b, excess = 0;
        int64_t largest = 0;
        if (finite) excess = bias_excess(top, exponent);
        exponent += excess;
        for (int64_t i = first; i < size; i += step) {
            const int64_t at = g * size + i;
            int64_t rounded = 0;
            if (finite)
                rounded = quantize_one(p.bias[at], exponent, random.stochastic != 0,
                                       random.stochastic ? draw_one(random, at) : 0);
            p.rounded[at] = rounded;
            largest = max(largest, (int64_t)magnitude_of(rounded));
        }
        if (one) largest = block_max(largest);
        const bool fits = p.bound + largest < (int64_t)1 << 31;
        const int fast = !excess && fits && scale_is_exact(exponent, SCALED_INT32);
        slow |= !fast;
        if (!one || threadIdx.x == 0) p.states[g] = {exponent, excess, (int32_t)top, 0, 0};
    }
    slow = block_max(slow);
    __syncthreads();
    if (threadIdx.x == 0) p.states[0].fast = !slow;
}

/* out (outer, channels, inner) becomes the bias (channels,) if all sums were zero. */
extern "C" __global__ void __launch_bounds__(THREADS)
    bias_alone(finish_state *state, const float *bias, float *out, int32_t *tops,
               int64_t by_channel, int64_t outer, int64_t channels, int64_t inner) {
    if (state->not_zero) return;
    for (int64_t i = first_index(); i < outer * channels * inner; i += stride())
        out[i] = bias[i / inner % channels];
    if (blockIdx.x) return;
    if (threadIdx.x == 0 && !by_channel) *tops = state->bias_top;
    for (int64_t c = threadIdx.x; by_channel && c < channels; c += THREADS)
        tops[c] = (int32_t)magnitude_bits(bias[c]);
}
