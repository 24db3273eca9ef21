/* Addition of two tensors in integers: reference/addition.py.
 *
 * Each thread takes one Philox block, that is sixteen elements in pairs 16 apart, whose mantissas it
 * aligns and adds. Exponents follow from the largest magnitudes. Where all elements share them
 * (`add`), those are known of parts of an operand, and each block takes their maximum. Where runs of
 * elements do (`add_each`), a block takes one run after the other: it looks for its maxima, then
 * adds what the second time comes from the cache. A group of random bits that two runs share is
 * drawn by both.
 *
 * Where an operand has an infinity or NaN, the sum is zeros, and the call's number goes to the
 * device's flag. */
#include "arithmetic/addition.h"
#include "arithmetic/philox.h"
#include "reduce.cuh"

enum { THREADS = 256 };

struct operand {
    const uint32_t *x, *tops; /* maxima of parts of x */
    int64_t top_count;
};

struct addition {
    const uint32_t *x, *y;
    float *out;
    random_words random;
};

__device__ uint32_t top_of(const operand &o) {
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < o.top_count; i += THREADS) top = max(top, o.tops[i]);
    return block_max(top);
}

__device__ uint32_t top_of_run(const uint32_t *x, int64_t n) {
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) top = max(top, x[i] & 0x7FFFFFFF);
    return block_max(top);
}

__device__ addition_t prepare(uint32_t top_x, uint32_t top_y, int64_t bits, const failure &f,
                              bool reporting) {
    const bool finite = is_finite(top_x) && is_finite(top_y);
    if (!finite && reporting && threadIdx.x == 0) report(f);
    return addition_of(finite ? top_x : 0, finite ? top_y : 0, (int)bits);
}

/* Thread `thread` of `threads` adds its share of elements first ... end - 1; returns their top. */
__device__ uint32_t add_some(const addition &s, const addition_t &a, int64_t first, int64_t end,
                             int64_t thread, int64_t threads) {
    const int64_t last = (end + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    const bool stochastic = s.random.stochastic != 0;
    uint32_t top = 0;
    for (int64_t block = first / GROUP * BLOCKS_OF_GROUP + thread; block < last; block += threads) {
        const uint4 words = stochastic ? philox(s.random, (uint32_t)block) : make_uint4(0, 0, 0, 0);
#pragma unroll 4
        for (int e = 0; e < SERVED; e++) {
            const int64_t i = first_element(block) + distance_of(e);
            if (i < first) continue;
            if (i >= end) break;
            const float made = add_one(&a, s.x[i], s.y[i], stochastic, bits_of(words, e));
            s.out[i] = made;
            top = max(top, magnitude_bits(made));
        }
    }
    return top;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add(operand x, operand y, float *out, int64_t n, int64_t bits, random_words random,
        int32_t *out_top, failure f) {
    const addition s = {x.x, y.x, out, resolved(random)};
    const addition_t a = prepare(top_of(x), top_of(y), bits, f, blockIdx.x == 0);
    note_top(add_some(s, a, 0, n, first_index(), stride()), out_top);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add_each(const uint32_t *x, const uint32_t *y, float *out, int64_t count, int64_t run,
             int64_t bits, random_words random, int32_t *out_top, failure f) {
    const addition s = {x, y, out, resolved(random)};
    uint32_t top = 0;
    for (int64_t b = blockIdx.x; b < count; b += gridDim.x) {
        const uint32_t top_x = top_of_run(x + b * run, run), top_y = top_of_run(y + b * run, run);
        const addition_t a = prepare(top_x, top_y, bits, f, true);
        top = max(top, add_some(s, a, b * run, (b + 1) * run, threadIdx.x, blockDim.x));
    }
    note_top(top, out_top);
}
