/* Addition of two tensors in integers: reference/addition.py.
 *
 * Each thread takes one Philox block, that is sixteen elements in pairs 16 apart, whose mantissas it
 * aligns and adds. Both exponents follow from the largest magnitudes, of which each block takes the
 * maximum.
 *
 * Whether any mantissa is not zero, which decides whether an operand's exponent counts, is clear but
 * for a tensor of nothing but subnormals. Then one block works alone: it looks at all elements before
 * it writes the first, which may replace an operand.
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

__device__ uint32_t top_of(const operand &o) {
    uint32_t top = 0;
    for (int64_t i = threadIdx.x; i < o.top_count; i += THREADS) top = max(top, o.tops[i]);
    return block_max(top);
}

__device__ __forceinline__ bool is_subnormal(uint32_t top) { return top && !field_of(top); }

/* Whether a mantissa of operand t is not zero. */
__device__ bool counts(const operand &o, int t, uint32_t top, int64_t n, int bits,
                       const random_words &random) {
    if (!is_subnormal(top)) return top;
    const int exponent = exponent_of(top, bits);
    uint32_t found = 0;
    for (int64_t first = 0; first < n && !found; first += THREADS) {
        const int64_t i = first + threadIdx.x;
        const uint32_t drawn = random.stochastic && i < n ? draw_one(random, i) : 0;
        if (i < n)
            found = map_one(o.x[i], exponent, random.stochastic != 0, seen_by(t, drawn)) != 0;
        found = block_max(found);
    }
    return found;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    add(operand x, operand y, float *out, int32_t *out_top, int64_t n, int64_t bits,
        random_words random, int32_t *flag, int64_t call) {
    const uint32_t top_x = top_of(x), top_y = top_of(y);
    const bool finite = is_finite(top_x) && is_finite(top_y);
    if (!finite && blockIdx.x == 0 && threadIdx.x == 0) atomicCAS(flag, 0, (int32_t)call);
    const bool alone = finite && (is_subnormal(top_x) || is_subnormal(top_y));
    if (alone && blockIdx.x) return;
    const bool stochastic = random.stochastic != 0;
    random = resolved(random);
    const addition_t a =
        addition_of(top_x, finite && counts(x, 0, top_x, n, (int)bits, random), top_y,
                    finite && counts(y, 1, top_y, n, (int)bits, random), (int)bits);
    const int64_t blocks = (n + GROUP - 1) / GROUP * BLOCKS_OF_GROUP;
    uint32_t top = 0;
    for (int64_t block = first_index(); block < blocks; block += alone ? THREADS : stride()) {
        const uint4 words = stochastic ? philox(random, (uint32_t)block) : make_uint4(0, 0, 0, 0);
#pragma unroll 4
        for (int e = 0; e < SERVED; e++) {
            const int64_t i = first_element(block) + distance_of(e);
            if (i >= n) break;
            const float made = add_one(&a, x.x[i], y.x[i], stochastic, bits_of(words, e));
            out[i] = made;
            top = max(top, magnitude_bits(made));
        }
    }
    note_top(top, out_top);
}
