/* Addition of two tensors in integers: reference/addition.py.
 *
 * `weigh` takes the maxima of both operands, and finds out whether any mantissa is not zero, which
 * only a tensor of subnormals leaves open. `add` gives each thread one Philox block, that is sixteen
 * elements in pairs 16 apart, whose mantissas it aligns and adds.
 *
 * If an operand has an infinity or NaN, the sum is zeros, and the call's number goes to the
 * device's flag. */
#include "arithmetic/addition.h"
#include "arithmetic/philox.h"
#include "reduce.cuh"

enum { THREADS = 256 };

struct operand {
    const uint32_t *x, *tops; /* maxima of parts of x */
    int64_t top_count;
};

/* Of both operands the largest magnitude and whether a mantissa is not zero; of the sum the largest
 * magnitude. Zeros at the start. */
struct weighed {
    uint32_t top[2];
    int32_t counts[2], sum;
};

__device__ void weigh_one(const operand &o, int t, weighed *w, int64_t n, int bits,
                          const random_words &random) {
    uint32_t top = 0, found = 0;
    for (int64_t i = threadIdx.x; i < o.top_count; i += THREADS) top = max(top, o.tops[i]);
    top = block_max(top);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        w->top[t] = top;
        if (field_of(top)) w->counts[t] = 1;
    }
    if (!top || field_of(top)) return;
    const int exponent = exponent_of(top, bits);
    for (int64_t i = first_index(); i < n; i += stride()) {
        const uint32_t drawn = random.stochastic ? draw_one(random, i) : 0;
        if (map_one(o.x[i], exponent, random.stochastic != 0, seen_by(t, drawn))) found = 1;
    }
    found = block_max(found);
    if (threadIdx.x == 0 && found) atomicMax(&w->counts[t], 1);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    weigh(operand x, operand y, weighed *w, int64_t n, int64_t bits, random_words random) {
    random = resolved(random);
    weigh_one(x, 0, w, n, (int)bits, random);
    weigh_one(y, 1, w, n, (int)bits, random);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add(const uint32_t *x, const uint32_t *y, float *out, weighed *w, int64_t n, int64_t bits,
        random_words random, int32_t *flag, int64_t call) {
    const bool finite = is_finite(w->top[0]) && is_finite(w->top[1]);
    if (!finite && blockIdx.x == 0 && threadIdx.x == 0) atomicCAS(flag, 0, (int32_t)call);
    const addition_t a = addition_of(w->top[0], finite && w->counts[0], w->top[1],
                                     finite && w->counts[1], (int)bits);
    const bool stochastic = random.stochastic != 0;
    random = resolved(random);
    const int64_t blocks = (n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    uint32_t top = 0;
    for (int64_t block = first_index(); block < blocks; block += stride()) {
        const uint4 words = stochastic ? philox(random, (uint32_t)block) : make_uint4(0, 0, 0, 0);
#pragma unroll 4
        for (int e = 0; e < SERVED; e++) {
            const int64_t i = first_element(block) + distance_of(e);
            if (i >= n) break;
            const float made = add_one(&a, x[i], y[i], stochastic, bits_of(words, e));
            out[i] = made;
            top = max(top, magnitude_bits(made));
        }
    }
    note_top(top, &w->sum);
}
